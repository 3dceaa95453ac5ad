"""Accuracy of the plain vote with both bundled encoders, on validation splits.

    python bench/accuracy.py --data DATA

Each data set is built as a project from its few-shot split and asked for the prompts of its validation split; test
splits are not touched. `nearest` is the route of the nearest utterance, `vote` the route with the best score, `served`
the share of prompts for which the fitted distance let that route serve and it was right, `refused` the share of CLINC150's
100 out-of-scope validation prompts that went to the default.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common import heading, rows, write_project

from semroute import load
from semroute.build import build_index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    heading("Accuracy on validation prompts")
    print(f"{'':36}{'nearest':>9}{'vote':>9}{'served':>9}{'refused':>9}")
    for encoder in ("minilm", "static"):
        for name in ("clinc150", "banking77"):
            for split in ("train_10", "train_5"):
                print_row(data / name, split, encoder)
    print_examples(Path(__file__).parent.parent / "index")


def print_examples(index: Path) -> None:
    """How the project's own example routes serve their heldout prompts."""
    router = load(index)
    config = router.index.config
    cases = [(text, route.name) for route in config.routes for text in route.heldout]
    decisions = router.route_many(text for text, _ in cases)
    served = sum(d.route == name for d, (_, name) in zip(decisions, cases, strict=True))
    voted = sum(next(iter(d.scores), d.route) == name for d, (_, name) in zip(decisions, cases, strict=True))
    outside = router.route_many(config.settings.default.heldout)
    refused = sum(d.route is None for d in outside)
    print(
        f"example routes: {served} of {len(cases)} heldout prompts served by their route, the vote right on {voted};"
    )
    print(f"{refused} of {len(outside)} default heldout prompts went to the default")


def print_row(folder: Path, split: str, encoder: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        project = write_project(Path(scratch) / "routes", rows(folder / f"{split}.jsonl"), encoder)
        build_index(project, Path(scratch) / "index")
        router = load(Path(scratch) / "index")
    cases = rows(folder / "valid.jsonl")
    decisions = router.route_many(row["prompt"] for row in cases)
    wanted = [row["route"] for row in cases]
    nearest = [decision.neighbors[0].route for decision in decisions]
    voted = [next(iter(decision.scores)) for decision in decisions]
    served = [decision.route for decision in decisions]
    shares = [agreement(found, wanted) for found in (nearest, voted, served)]
    outside = folder / "oos_valid.jsonl"
    if outside.exists():
        refused = router.route_many(row["prompt"] for row in rows(outside))
        shares.append(sum(decision.route is None for decision in refused) / len(refused))
    print(f"{f'{encoder}, {folder.name} {split}':36}" + "".join(f"{share:>9.1%}" for share in shares))


def agreement(found: list, wanted: list) -> float:
    return sum(one == other for one, other in zip(found, wanted, strict=True)) / len(wanted)


if __name__ == "__main__":
    main()
