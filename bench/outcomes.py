"""Choosing models from graded outcomes: RouteLLM's data and measure, and nine models with prices.

    python bench/outcomes.py --data DATA [--encoder minilm] [--seeds 5]

DATA holds routellm_mmlu/outcomes.jsonl and llmrouter9/outcomes.jsonl. Equal prompts are on one side of every split.

Two models: 500, 1,500 and 7,000 graded prompts are given to the trend that `semroute escalations import` fits; all others
are asked. PGR is the share of the gap between the models that is won at a share of calls to the strong one; APGR, CPT, AIQ and
CostSave are defined in semroute/measures.py.

Nine models, five-fold cross-validation: a prompt costs its characters / 4 in tokens and 200 tokens of answer, at the
model's price. The choice is the best estimated quality less a weight times the cost, the weight swept. `quality at the
cost of the best single` is the highest reached for no more than the best single model costs; AIQ is taken over the range
of costs of single models.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from common import heading

from semroute import measures
from semroute.encoders import open_encoder
from semroute.escalations.trend import Graded, Trend, features

WEAK, STRONG = "mixtral-8x7b-instruct", "gpt-4-1106-preview"
PUBLISHED = "RouteLLM's best with 1,500 labels, as published"
ANSWER_TOKENS = 200
CHEAP, USUAL, DEAR = 0.1, 0.2, 0.9  # US dollars per million tokens


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    heading(f"Models chosen from outcomes, {arguments.encoder}")
    two_models(arguments.data, arguments.encoder, arguments.seeds)
    nine_models(arguments.data, arguments.encoder)


def read(file: Path, encoder: str):
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    prompts = [row["prompt"] for row in rows]
    vectors = open_encoder(encoder, root=Path()).encode(prompts, kind="query")
    models = list(rows[0]["scores"])
    scores = np.array([[row["scores"][model] for model in models] for row in rows], np.float32)
    seen = np.array([features(prompt) for prompt in prompts])
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    return (
        rows,
        models,
        Graded(vectors, seen, scores, np.ones(len(rows), np.float32)),
        np.array([places[prompt] for prompt in prompts]),
    )


def take(graded: Graded, rows: np.ndarray) -> Graded:
    return Graded(*(column[rows] for column in graded))


def two_models(data: Path, encoder: str, seeds: int) -> None:
    rows, models, graded, groups = read(data / "routellm_mmlu" / "outcomes.jsonl", encoder)
    weak, strong = models.index(WEAK), models.index(STRONG)
    gains = graded.scores[:, strong] - graded.scores[:, weak]
    subjects = np.array([row["subject"] for row in rows])
    lengths = np.array([len(row["prompt"]) for row in rows], float)
    print(f"\n{'two models, MMLU':52}{'APGR':>8}{'CPT50':>8}{'CPT80':>8}")
    for count in (500, 1_500, 7_000):
        found: dict[str, list[tuple[float, float, float]]] = {}
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(groups.max() + 1)
            ranked = np.argsort(np.argsort(order)[groups], kind="stable")
            known, asked = ranked[:count], ranked[count:]
            asked = asked[~np.isin(groups[asked], groups[known])]
            predicted = Trend(take(graded, known)).predict_many(graded.vectors[asked], graded.features[asked])
            mean = {s: gains[known][subjects[known] == s].mean() for s in set(subjects[known])}
            scores = {
                "random": np.random.default_rng(seed).random(len(asked)),
                "longer prompt to the strong": lengths[asked],
                "task label": np.array([mean.get(s, gains[known].mean()) for s in subjects[asked]]),
                f"semroute, {count:,} graded prompts": predicted[:, strong] - predicted[:, weak],
                "oracle": gains[asked].astype(float),
            }
            for name, score in scores.items():
                found.setdefault(name, []).append(
                    gap_won(score, graded.scores[asked, weak], graded.scores[asked, strong])
                )
        for name, values in found.items():
            a, b, c = np.mean(values, axis=0)
            spread = (
                f"  ({min(v[0] for v in values):.3f} to {max(v[0] for v in values):.3f})"
                if "semroute" in name
                else ""
            )
            print(f"{name:52}{a:>8.3f}{b:>8.3f}{c:>8.3f}{spread}", flush=True)
    print(f"{PUBLISHED:52}{0.603:>8.3f}{0.354:>8.3f}{0.716:>8.3f}")


def gap_won(score: np.ndarray, weak: np.ndarray, strong: np.ndarray) -> tuple[float, float, float]:
    """APGR, CPT50 and CPT80 of sending prompts to the strong model by descending score."""
    curve = measures.call_curve(score, weak, strong)
    return measures.apgr(curve), measures.cpt(curve, 0.5), measures.cpt(curve, 0.8)


def nine_models(data: Path, encoder: str) -> None:
    rows, models, graded, groups = read(data / "llmrouter9" / "outcomes.jsonl", encoder)
    prices = np.array([price(model) for model in models]) / 1e6
    tokens = np.array([len(row["prompt"]) / 4 for row in rows]) + ANSWER_TOKENS
    costs = tokens[:, None] * prices
    trend, nearest = np.zeros(graded.scores.shape), np.zeros(graded.scores.shape)
    folds = np.random.default_rng(0).permutation(groups.max() + 1)[groups] % 5
    for fold in range(5):
        known, asked = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        trend[asked] = Trend(take(graded, known)).predict_many(graded.vectors[asked], graded.features[asked])
        near = np.argpartition(-(graded.vectors[asked] @ graded.vectors[known].T), 40, axis=1)[:, :40]
        nearest[asked] = graded.scores[known][near].mean(axis=1)
    single_quality, single_cost = graded.scores.mean(axis=0), costs.mean(axis=0)
    best, span = int(single_quality.argmax()), (single_cost.min(), single_cost.max())
    print(
        f"\nnine models: the best single one, {models[best]}, has quality {single_quality[best]:.4f} at {single_cost[best] * 1e3:.4f} USD / 1,000"
    )
    print(f"{'':34}{'at its cost':>14}{'CostSave':>10}{'AIQ':>8}")
    for name, quality in (("semroute", trend), ("nearest 40, alike", nearest), ("oracle", graded.scores)):
        curve = swept(quality, graded.scores, costs)
        within = curve[curve[:, 0] <= single_cost[best] * (1 + 1e-9)]
        gain = within[:, 1].max() - single_quality[best]
        saving = measures.cost_save(*curve.T, single_cost, single_quality)
        print(f"{name:34}{gain:>+14.4f}{saving:>10.1%}{measures.aiq(*curve.T, *span):>8.4f}", flush=True)
    print(
        f"{'single models':34}{0.0:>+14.4f}{0.0:>10.1%}{measures.aiq(single_cost, single_quality, *span):>8.4f}"
    )


def price(model: str) -> float:
    if "gemma" in model:
        return CHEAP
    return DEAR if "nemotron" in model or ("chatqa" in model and "70b" in model) else USUAL


def swept(quality: np.ndarray, scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """(weights, 2) mean cost and mean score of the choices at each weight of cost."""
    rows, found = np.arange(len(scores)), []
    for weight in [0.0, *np.geomspace(1.0, 1e6, 200)]:
        chosen = (quality - weight * costs).argmax(axis=1)
        found.append((costs[rows, chosen].mean(), scores[rows, chosen].mean()))
    return np.array(found)


if __name__ == "__main__":
    main()
