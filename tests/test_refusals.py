"""Answers that refuse or hedge, beside good ones that begin alike, in nine languages."""

from __future__ import annotations

import time

import pytest

from semroute.refusals import is_hedge, is_refusal

REFUSALS = {
    "en": ["I'm sorry, but I can't help with that.", "As an AI, I have no opinion.", "I’m unable to open links."],
    "de": ["Es tut mir leid, aber ich kann Ihnen dabei nicht helfen.", "Als KI-Modell kann ich keine Meinung haben.",
           "Dabei kann ich dir leider nicht weiterhelfen.", "Ich habe leider keinen Zugriff auf Ihr Konto."],
    "fr": ["Je suis désolé, mais je ne peux pas vous aider.", "En tant qu’IA, je n’ai pas d’avis.",
           "Désolé, je ne suis pas en mesure de répondre à cela."],
    "es": ["Lo siento, pero no puedo ayudarte con eso.", "No puedo proporcionar esa información.",
           "Como modelo de lenguaje, no tengo opiniones."],
    "it": ["Mi dispiace, ma non posso aiutarti.", "Non sono in grado di aprire link.",
           "In quanto IA, non ho opinioni."],
    "pt": ["Desculpe, mas não posso ajudar com isso.", "Sinto muito, não consigo responder a essa pergunta.",
           "Como uma IA, não tenho opiniões."],
    "nl": ["Het spijt me, maar ik kan u daar niet mee helpen.", "Daar kan ik helaas geen antwoord op geven.",
           "Als AI-model heb ik geen mening."],
    "zh": ["抱歉，我无法帮助您完成这个请求。", "对不起，我不能提供这方面的信息。", "作为一个人工智能，我没有个人观点。",
           "很抱歉，无法回答这个问题。"],
    "ja": ["申し訳ありませんが、そのご質問にはお答えできません。", "AIとして、そのような依頼に応じることはできません。",
           "すみません、お手伝いできません。"],
}  # fmt: skip
HEDGES = {
    "en": ["I'm not entirely sure.", "I don't know.", "It’s hard to say."],
    "de": ["Ich bin mir nicht ganz sicher.", "Das weiß ich leider nicht.", "Das ist schwer zu sagen."],
    "fr": ["Je ne suis pas tout à fait sûr.", "Je ne sais pas.", "C'est difficile à dire."],
    "es": ["No estoy seguro.", "Lo siento, no lo sé.", "Es difícil decir."],
    "it": ["Non sono sicuro.", "Non lo so.", "È difficile dirlo."],
    "pt": ["Não tenho certeza.", "Não sei.", "É difícil dizer."],
    "nl": ["Ik weet het niet zeker.", "Dat weet ik niet.", "Het is moeilijk te zeggen."],
    "zh": ["我不太确定。", "这个很难说。", "我需要更多信息。"],
    "ja": ["正確にはわかりません。", "断言はできません。", "情報が不足しています。"],
}
GOOD = {
    "en": ["I'm sorry about the delay. Your refund left on Monday.", "As an AI company, you should register first.",
           "I can help with that.", "Sure.\n\nSubject: Friday\n\n\"I'm sorry, but I can't help you on Friday.\"",
           "Here is a polite reply:\nI'm sorry, but I can't help you move."],
    "de": ["Es tut mir leid, dass Sie warten mussten. Ihr Geld ist unterwegs.", "Ich kann Ihnen dabei gern helfen.",
           "Dabei kann ich dir helfen; vergiss nicht, ein Foto zu schreiben.", "Als KI-Firma brauchen Sie ein Register.",
           "Hier ist der Brief: „Leider kann ich Ihnen nicht helfen.“", "Ich bin sicher, dass es nicht regnet."],
    "fr": ["Je suis désolé pour ce retard. Votre colis est parti.", "Je peux vous aider.",
           "En tant que développeur, vous devez signer.", "« Je ne peux pas vous aider » se dit en anglais ainsi."],
    "es": ["Lo siento por la espera. Su reembolso llegó.", "Puedo ayudarte con eso.",
           "Como modelo de negocio, la suscripción funciona.", "Se dice «No lo sé»."],
    "it": ["Mi dispiace per il ritardo. Il rimborso è partito.", "Posso aiutarti.", "Come modello, il piano è buono.",
           "Non solo il prezzo conta."],
    "pt": ["Desculpe pela demora. O reembolso saiu.", "Posso ajudar com isso.", "Como modelo de negócio, funciona."],
    "nl": ["Het spijt me dat het zo lang duurde. Uw geld is onderweg.", "Ik kan u daarmee helpen.",
           "Als AI-bedrijf moet u zich registreren.", "Helaas is de trein niet gekomen."],
    "zh": ["抱歉给您带来不便，您的退款已寄出。", "对不起，让您久等了。退款已经到账。", "我可以帮助您完成这个请求。",
           "很抱歉，您的包裹无法送达，请更新地址。", "作为一个人工智能公司，您需要先注册。"],
    "ja": ["申し訳ありませんでした。返金は完了しています。", "ご質問にお答えします。", "この操作は元に戻すことができません。",
           "お手伝いできます。", "わからない点があればお知らせください。"],
}  # fmt: skip


@pytest.mark.parametrize("language", REFUSALS)
def test_refusals_and_hedges_are_told_from_good_answers_that_begin_alike(language):
    assert [text for text in REFUSALS[language] if not is_refusal(text)] == []
    assert [text for text in HEDGES[language] if not is_hedge(text)] == []
    assert [text for text in GOOD[language] if is_refusal(text) or is_hedge(text)] == []


def test_what_stands_far_in_is_about_something_else():
    assert not is_refusal("It is four. " * 30 + "I can't help with that.")


def test_a_refusal_inside_json_counts():
    assert is_refusal('{"error": "I\'m sorry, but I can\'t help with that."}')


def test_phrases_of_ones_own_are_text_and_no_patterns():
    more = ["Beklager,  men", "ask (a human)*"]
    assert is_refusal("beklager, men det kan jeg ikke.", more)
    assert is_refusal("Please ASK (A HUMAN)* instead", more)
    assert not is_refusal("Please ask a human", more)
    assert not is_refusal("It is four.", more)


def test_an_opening_is_read_in_no_time_whatever_it_holds():
    hard = [
        text * 100 for text in ("ich kann ", "no, ", "as an ai ", "。我", "ik kan niet ", "抱歉，", " " * 9)
    ]
    began = time.perf_counter()
    for text in hard:
        is_refusal(text)
        is_hedge(text)
    assert time.perf_counter() - began < 0.5  # on a machine that does other things too
