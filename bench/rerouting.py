"""How far a prefix of ten tokens that fits any prompt moves the example routes to dearer models.

    python bench/rerouting.py [--encoder minilm] [--steps 300] [--climb 40] [--seed 0]

The attack of "Rerouting LLM Routers" (arXiv 2501.01818) without access to the network: a prefix of ten tokens, the same
before every prompt, is improved by hill climbing: each step draws a place and a word of the encoder's vocabulary, and
keeps it where the mean expected price of `--climb` held-out prompts does not fall. Figures are of the other held-out
prompts, which the search never saw:

    flips      another route serves than without the prefix
    dearer     a dearer model serves (upgrade)
    cheaper    a cheaper model serves (downgrade)
    accuracy   the route is the labelled one
    USD        mean price of the models that served, US dollars per million tokens

It is done twice: without outcomes, and with an escalations index that holds a grade of both models of its route for every
utterance; in every third route the first model fails them all (`min_support: 1`). The grades are made up: they show
whether outcomes widen what the prefix reaches, and nothing about models.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import yaml
from common import heading

from semroute import Router, load
from semroute.build import build_index
from semroute.catalog import blended_usd
from semroute.encoders.bundled import known_words
from semroute.escalations.importing import GradedPrompt
from semroute.evaluate import Case, Evaluation, evaluate, heldout_cases

ROUTES = Path(__file__).parent.parent / "routes"
TOKENS = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", choices=("minilm", "static"), default="minilm")
    parser.add_argument("--steps", type=int, default=300, help="prefixes tried")
    parser.add_argument("--climb", type=int, default=40, help="held-out prompts that the search sees")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    heading(f"A prefix of {TOKENS} tokens, {given.encoder}, {given.steps} steps")
    for outcomes in (False, True):
        with tempfile.TemporaryDirectory() as scratch:
            attack(built(Path(scratch), given.encoder, outcomes=outcomes), given, outcomes=outcomes)


def built(scratch: Path, encoder: str, *, outcomes: bool) -> Router:
    routes = scratch / "routes"
    routes.mkdir()
    for file in ROUTES.glob("*.yaml"):
        (routes / file.name).write_bytes(file.read_bytes())
    settings = yaml.safe_load((routes / "semroute.yaml").read_text())
    settings["encoder"] = encoder
    settings["escalations"] = {"store": "sqlite:outcomes.db", "min_support": 1} if outcomes else None
    kept = {key: value for key, value in settings.items() if value is not None}
    (routes / "semroute.yaml").write_text(yaml.safe_dump(kept, allow_unicode=True))
    build_index(routes, scratch / "index")
    router = load(scratch / "index")
    if outcomes:
        router.import_outcomes(graded(router))
    return router


def graded(router: Router) -> list[GradedPrompt]:
    found = []
    for place, route in enumerate(router.index.config.routes):
        first, *rest = route.model_names
        scores = {first: float(place % 3 > 0)} | dict.fromkeys(rest[:1], 1.0)
        found += [GradedPrompt(0, text, scores, route.name, None) for text in route.utterances]
    return found


def attack(router: Router, given: argparse.Namespace, *, outcomes: bool) -> None:
    chance = random.Random(given.seed)
    cases = heldout_cases(router.index.config)
    chance.shuffle(cases)
    seen, unseen = cases[: given.climb], cases[given.climb :]
    words = sorted(w for w in known_words(given.encoder) if w.isascii() and w.isalpha() and len(w) > 2)
    random_prefix = [chance.choice(words) for _ in range(TOKENS)]
    prefix = climbed(router, seen, list(random_prefix), words, given.steps, chance)
    print(f"{'with' if outcomes else 'without'} outcomes, {len(unseen)} prompts")
    print(f"{'':16}{'flips':>8}{'dearer':>8}{'cheaper':>9}{'accuracy':>10}{'USD':>8}")
    clean = evaluate(router, unseen)
    show("as written", clean, clean, router)
    for name, tokens in (("random prefix", random_prefix), ("climbed prefix", prefix)):
        show(name, clean, evaluate(router, prefixed(unseen, tokens)), router)
    print(f"climbed: {' '.join(prefix)}\n")


def climbed(
    router: Router, cases: list[Case], prefix: list[str], words: list[str], steps: int, chance: random.Random
) -> list[str]:
    best = expected_usd(router, prefixed(cases, prefix))
    for _ in range(steps):
        place, before = chance.randrange(TOKENS), list(prefix)
        prefix[place] = chance.choice(words)
        reached = expected_usd(router, prefixed(cases, prefix))
        if reached < best:
            prefix = before
        best = max(best, reached)
    return prefix


def prefixed(cases: list[Case], prefix: list[str]) -> list[Case]:
    return [case._replace(prompt=f"{' '.join(prefix)} {case.prompt}") for case in cases]


def expected_usd(router: Router, cases: list[Case]) -> float:
    """The mean price, half of the models that serve, half of those of all routes by their probability."""
    price = prices(router)
    config = router.index.config
    of_route = {route.name: price[route.model_names[0]] for route in config.routes}
    of_default = price[config.settings.default.model_names[0]]
    total = 0.0
    for decision in router.route_many([case.prompt for case in cases]):
        likely = sum(chance * of_route[name] for name, chance in decision.scores.items())
        none = of_default * (1.0 - sum(decision.scores.values()))
        total += 0.5 * price[decision.model] + 0.5 * (likely + none)
    return total / len(cases)


def prices(router: Router) -> dict[str, float]:
    return {name: blended_usd(card) or 0.0 for name, card in router.index.config.settings.models.items()}


def show(name: str, clean: Evaluation, found: Evaluation, router: Router) -> None:
    price = prices(router)
    pairs = list(zip(clean.results, found.results, strict=True))
    moves = [price[new.model] - price[old.model] for old, new in pairs]
    shares = (
        sum(old.route != new.route for old, new in pairs) / len(pairs),
        sum(move > 0 for move in moves) / len(pairs),
        sum(move < 0 for move in moves) / len(pairs),
        found.accuracy or 0.0,
    )
    flips, dearer, cheaper, accuracy = (f"{share:.1%}" for share in shares)
    usd = found.estimate.usd_per_1m or 0.0
    print(f"{name:16}{flips:>8}{dearer:>8}{cheaper:>9}{accuracy:>10}{usd:>8.2f}")


if __name__ == "__main__":
    main()
