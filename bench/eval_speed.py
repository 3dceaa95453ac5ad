"""How fast `semroute eval` gets through 10,000 prompts, beside the encoder's own batch throughput.

    python bench/eval_speed.py --data DATA [--encoder minilm static] [--prompts 10000] [--rounds 3]

CLINC150 at ten utterances a route; the prompts are those of its training split (test splits are not touched), which the
routes hold a tenth of. `encoder` is one call of `encode` on all of them, as they are. `evaluate` is the whole
evaluation, intervals included. The two take turns, so that a machine whose speed drifts treats them alike. Rates are
those of the best rounds; the ratio is the median of the ratios of rounds that follow each other.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

from common import heading, rows, write_project

from semroute import load
from semroute.build import build_index
from semroute.encoders import open_encoder
from semroute.evaluate import Case, evaluate


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", nargs="+", default=["minilm", "static"])
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    heading(f"semroute eval, {given.prompts} prompts")
    folder = given.data / "clinc150"
    asked = list(itertools.islice(itertools.cycle(rows(folder / "train.jsonl")), given.prompts))
    cases = [Case(row["prompt"], row["route"]) for row in asked]
    print(f"{'':10}{'encoder':>14}{'evaluate':>14}{'ratio':>9}")
    for name in given.encoder:
        with tempfile.TemporaryDirectory() as scratch:
            project = write_project(Path(scratch) / "routes", rows(folder / "train_10.jsonl"), name)
            build_index(project, Path(scratch) / "index")
            router = load(Path(scratch) / "index")
        compare(name, router, cases, given.rounds)


def compare(name: str, router, cases: list[Case], rounds: int) -> None:
    encoder = open_encoder(name, root=Path())
    texts = [case.prompt for case in cases]
    alone, whole = [], []
    for _ in range(rounds):
        alone.append(seconds(lambda: encoder.encode(texts, kind="query")))
        whole.append(seconds(lambda: evaluate(router, cases)))
    rates = [len(cases) / min(times) for times in (alone, whole)]
    ratio = statistics.median(one / other for one, other in zip(alone, whole, strict=True))
    print(f"{name:10}{rates[0]:>12,.0f}/s{rates[1]:>12,.0f}/s{ratio:>9.1%}")


def seconds(call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
