"""Tuning: how long a sweep takes, and whether what is promised holds on prompts that nobody has seen.

    python bench/tune.py --data DATA [--encoder static] [--splits 10]

The sweep: 10,000 decisions as the log keeps them, made up from a seeded generator.

The margin: what a limit on it would add to `min_confidence`, on CLINC150 and BANKING77.

The blend: what `vote.blend` as tuned on some prompts adds to `auto`, on the same.

The promise: RouteLLM's MMLU outcomes (DATA/routellm_mmlu/outcomes.jsonl), gpt-4-1106 against Mixtral-8x7B, split at random
in two halves, equal prompts in one. `select.cost` is tuned on one half, as `semroute tune --outcomes` does it, for the
largest saving at 95 % of the quality of gpt-4. Then the outcomes of that half are what the router knows, and each prompt of
the other half goes where it sends it. A split counts when saving and quality both lie in the intervals that were promised.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from common import heading, write_project
from common import rows as rows_of

from semroute.blends import at_blends
from semroute.build import build_index
from semroute.catalog import rank
from semroute.config import Weights
from semroute.crossfit import ANSWER_TOKENS, crossfit, graded_rows
from semroute.decision import Candidate
from semroute.escalations.estimate import Estimator, Prompt
from semroute.escalations.importing import parse_graded
from semroute.logged import LoggedRow
from semroute.router import Router
from semroute.sweep import Goal
from semroute.tune import BLENDS, COST_WEIGHT, MAX_RISK, MIN_CONFIDENCE, tune_log, tune_models

WEAK, STRONG = "mixtral-8x7b-instruct", "gpt-4-1106-preview"
USD = {WEAK: (0.24, 0.24), STRONG: (10.0, 30.0)}  # per million tokens, prompt and completion
GOAL = Goal("saving", "quality_share", 0.95)
LOGGED = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", default="static")
    parser.add_argument("--splits", type=int, default=10)
    arguments = parser.parse_args()
    heading(f"Tuning, {arguments.encoder}")
    with tempfile.TemporaryDirectory() as folder:
        router = project(Path(folder), arguments.encoder)
        sweeps(router)
        margins(arguments.data, arguments.encoder)
        blends(arguments.data, arguments.encoder)
        promises(router, arguments.data / "routellm_mmlu" / "outcomes.jsonl", arguments.splits)


def project(folder: Path, encoder: str) -> Router:
    """A router between the two models, with a route to the weak one for the limits to decide on."""
    routes = folder / "routes"
    routes.mkdir()
    settings = {
        "encoder": encoder,
        "default": {"models": [STRONG, WEAK]},
        "select": {"quality": 1, "cost": 0.01},
        "models": {
            name: {"prompt_usd_per_1m": usd[0], "completion_usd_per_1m": usd[1]} for name, usd in USD.items()
        },
    }
    (routes / "semroute.yaml").write_text(json.dumps(settings), encoding="utf-8")
    route = {"name": "easy", "model": WEAK, "utterances": ["what is two plus two", "spell the word house"]}
    (routes / "easy.yaml").write_text(json.dumps(route), encoding="utf-8")
    build_index(routes, folder / "index")
    return Router.load(folder / "index")


def sweeps(router: Router) -> None:
    generator = np.random.default_rng(0)
    quality, confidence = generator.random((LOGGED, 2)), generator.random(LOGGED).round(6).tolist()
    rows = [logged(place, each, confidence[place], generator) for place, each in enumerate(quality.tolist())]
    for setting in (COST_WEIGHT, MAX_RISK, MIN_CONFIDENCE):
        started = time.perf_counter()
        found = tune_log(router, rows, setting=setting, goal=GOAL)
        seconds = time.perf_counter() - started
        print(
            f"{setting:24} {LOGGED:,} logged prompts, {len(found.curve):>6,} points  {seconds:.2f} s",
            flush=True,
        )


def logged(place: int, quality: list[float], confidence: float, generator: np.random.Generator) -> LoggedRow:
    """A decision and its outcome, each on a prompt of its own."""
    model = (WEAK, STRONG)[place % 2]
    score = float(generator.random() < quality[place % 2])
    candidates = (Candidate(name, one, 9.0, *USD[name]) for name, one in zip(USD, quality, strict=True))
    return LoggedRow(
        id=str(place),
        time=0.0,
        route=(None, "easy")[confidence > 0.5],
        best="easy",
        model=model,
        reason="match",
        confidence=confidence,
        similarity=0.5,
        margin=0.0,
        candidates=tuple(candidates),
        prompt_tokens=100,
        completion_tokens=200,
        score=score,
        scores_of={model: score},
        prompt_hash=f"{place:064x}",
    )


def promises(router: Router, file: Path, splits: int) -> None:
    lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line]
    rows, _ = parse_graded(str(file), lines, set(USD), set())
    texts = list(dict.fromkeys(row.prompt for row in rows))
    print(
        f"\n{'split':5} {'weight':>9}  {'saving promised':24} {'unseen':>7}  {'quality promised':24} {'unseen':>7}"
    )
    held = 0
    for seed in range(splits):
        generator = np.random.default_rng(1_000 + seed)
        known = {texts[place] for place in generator.permutation(len(texts))[: len(texts) // 2]}
        seen = graded_rows(router, [row for row in rows if row.prompt in known], "seen")
        unseen = graded_rows(router, [row for row in rows if row.prompt not in known], "unseen")
        found = tune_models(
            router, crossfit(router, seen, ANSWER_TOKENS, "seen"), setting=COST_WEIGHT, goal=GOAL
        )
        real = routed(router, seen, unseen, found.value)
        promised = [found.promised.saving, found.promised.quality]
        within = [one.low <= value <= one.high for one, value in zip(promised, real, strict=True)]
        held += all(within)
        shown = [f"{one.value:.4f} ({one.low:.4f} to {one.high:.4f})" for one in promised]
        marks = [f"{value:.4f}{'' if good else '!'}" for value, good in zip(real, within, strict=True)]
        print(
            f"{seed:5} {found.value:>9.5f}  {shown[0]:24} {marks[0]:>7}  {shown[1]:24} {marks[1]:>7}",
            flush=True,
        )
    print(f"both within what was promised: {held} of {splits} splits")


def margins(data: Path, encoder: str) -> None:
    """Whether a limit on the margin, or on distance beside confidence, would refuse better than confidence alone.

    Each limit is chosen on a random half of the prompts for the best accuracy, which is read off the other half.
    """
    print(
        f"\n{'accuracy, in and out of scope':30}{'confidence':>12}{'margin':>12}{'with margin':>13}{'with distance':>15}"
    )
    for name in ("clinc150", "banking77"):
        cases = [*rows_of(data / name / "valid.jsonl"), *rows_of(data / "clinc150" / "oos_valid.jsonl")]
        with tempfile.TemporaryDirectory() as folder:
            written = write_project(Path(folder) / "routes", rows_of(data / name / "train_10.jsonl"), encoder)
            build_index(written, Path(folder) / "index")
            made = Router.load(Path(folder) / "index").route_many([case["prompt"] for case in cases])
        seen = np.array([(one.confidence, one.margin, -one.distance) for one in made]).T
        right = np.array(
            [next(iter(one.scores), None) == case["route"] for one, case in zip(made, cases, strict=True)]
        )
        out = np.array([case["route"] is None for case in cases])
        grids = [np.quantile(values, np.linspace(0, 1, 101)) for values in seen]
        found = []
        for seed in range(20):
            half = np.random.default_rng(seed).random(len(made)) < 0.5
            row = []
            for used in ((0,), (1,), (0, 1), (0, 2)):
                served = {
                    limits: np.all([seen[k] >= limit for k, limit in zip(used, limits, strict=True)], axis=0)
                    for limits in itertools.product(*(grids[k][:: len(used) * 2 - 1] for k in used))
                }
                best = max(served.values(), key=lambda one: np.where(one, right, out)[half].mean())
                row.append(np.where(best, right, out)[~half].mean())
            found.append(row)
        means = np.mean(found, axis=0)
        print(
            f"{name + ', 10 utterances a route':30}{means[0]:>12.4f}{means[1]:>12.4f}{means[2]:>13.4f}{means[3]:>15.4f}",
            flush=True,
        )


def blends(data: Path, encoder: str) -> None:
    """Whether a blend that is chosen on a random half of the prompts beats `auto` on the other half."""
    print(
        f"\n{'accuracy, in and out of scope':30}{'auto':>12}{'tuned':>12}{'vote alone':>13}{'head alone':>15}"
    )
    for name in ("clinc150", "banking77"):
        cases = [*rows_of(data / name / "valid.jsonl"), *rows_of(data / "clinc150" / "oos_valid.jsonl")]
        with tempfile.TemporaryDirectory() as folder:
            written = write_project(Path(folder) / "routes", rows_of(data / name / "train_10.jsonl"), encoder)
            build_index(written, Path(folder) / "index")
            router = Router.load(Path(folder) / "index")
            right = np.array(
                [
                    [
                        decision.route == case["route"]
                        for decision, case in zip(
                            one.route_many([case["prompt"] for case in cases]), cases, strict=True
                        )
                    ]
                    for one in at_blends(router, BLENDS)
                ]
            )
        found = []
        for seed in range(20):
            half = np.random.default_rng(seed).random(len(cases)) < 0.5
            tuned = 1 + right[1:, half].mean(axis=1).argmax()
            found.append(right[[0, tuned, 1, -1]][:, ~half].mean(axis=1))
        means = np.mean(found, axis=0)
        print(
            f"{name + ', 10 utterances a route':30}{means[0]:>12.4f}{means[1]:>12.4f}{means[2]:>13.4f}{means[3]:>15.4f}",
            flush=True,
        )


def routed(router: Router, seen, unseen, weight: float) -> tuple[float, float]:
    """Saving and quality on unseen prompts, chosen as the router does when the outcomes of `seen` are known."""
    cards = router.index.config.settings.models
    estimator = Estimator(seen.outcomes, dict.fromkeys(cards))
    names, weights, now = (STRONG, WEAK), Weights(quality=1, cost=weight), time.time()
    spent, always, scores, asked = 0.0, 0.0, 0.0, 0
    for place, graded in enumerate(unseen.scores):
        prompt = Prompt(unseen.vectors[place], unseen.features[place], None)
        found = estimator.estimate(prompt, names, now)
        known = {name: each.quality for name, each in found.items() if each.support >= 3.0}
        chosen = rank(names, cards, weights, known)[0]
        times, tokens = max(map(len, graded.values())), unseen.characters[place] / 4
        price = {name: times * (tokens * usd[0] + ANSWER_TOKENS * usd[1]) for name, usd in USD.items()}
        spent, always = spent + price[chosen], always + price[STRONG]
        scores, asked = scores + times * float(np.mean(graded[chosen])), asked + times
    return 1.0 - spent / always, scores / asked


if __name__ == "__main__":
    main()
