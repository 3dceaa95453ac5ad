"""Accuracy, refusals and calibration of both bundled encoders, beside the rules that others use.

    python bench/accuracy.py --data DATA [--split valid] [--encoder minilm ...] [--peer]

Each data set is built as a project from its utterances alone, with the thresholds at `auto` and no negative given to the
build, and asked for the prompts of a split; `--split test` for the figures that are published. Columns:

    nearest   the route of the nearest utterance
    centroid  the route whose mean vector is nearest
    vote      the route with the largest share of the softmax-weighted vote of 20 neighbours
    top-1     the route with the highest score of semroute, accepted or not
    served    prompts in scope that their own route served
    together  prompts in scope and out of scope, in scope right when served by their route, out of scope when refused
    best cut  `together` at the one confidence threshold that is best on these very prompts
    AUROC     of the confidence, in scope against out of scope
    ECE       expected calibration error of the confidence in 15 bins, over all these prompts
    negatives `together` when the out-of-scope validation prompts are given to the build as default heldout

`--peer` adds semantic-router 1.1.1 over the 10-shot utterances and the same weights: at its defaults, and after its own
`fit`; it takes 20 ms a prompt.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from common import heading, peer_router, rows, write_project

from semroute import load
from semroute.build import build_index
from semroute.evaluate import Case, evaluate
from semroute.vote import rank

SETS = (("clinc150", ("train", "train_10", "train_5")), ("banking77", ("train", "train_10", "train_5")))
COLUMNS = (
    "nearest",
    "centroid",
    "vote",
    "top-1",
    "served",
    "together",
    "best cut",
    "AUROC",
    "ECE",
    "negatives",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="valid", choices=["valid", "test"])
    parser.add_argument("--encoder", nargs="+", default=["minilm", "static"])
    parser.add_argument("--peer", action="store_true")
    arguments = parser.parse_args()
    heading(f"Accuracy on the {arguments.split} prompts")
    print(f"{'':30}" + "".join(f"{column:>10}" for column in COLUMNS) + f"{'fitted in':>11}")
    for encoder in arguments.encoder:
        for name, splits in SETS:
            for utterances in splits:
                print_row(arguments.data / name, utterances, encoder, arguments.split)
    print_examples(Path(__file__).parent.parent / "index")
    if arguments.peer:
        print_peer(arguments.data, arguments.split)


def prompts_of(folder: Path, split: str) -> tuple[list[dict], list[dict]]:
    """The prompts in scope and those out of scope, the latter empty where there are none."""
    outside = folder / f"oos_{split}.jsonl"
    return rows(folder / f"{split}.jsonl"), rows(outside) if outside.exists() else []


def print_row(folder: Path, utterances: str, encoder: str, split: str) -> None:
    labelled = rows(folder / f"{utterances}.jsonl")
    inside, outside = prompts_of(folder, split)
    negatives = folder / "oos_valid.jsonl"
    with tempfile.TemporaryDirectory() as scratch:
        project = write_project(Path(scratch) / "routes", labelled, encoder)
        router, seconds = built_router(project, Path(scratch) / "index")
        figures = baselines(router, inside) | measured(router, inside, outside)
        if negatives.exists() and split == "test":
            heldout = [row["prompt"] for row in rows(negatives)]
            write_project(project, labelled, encoder, heldout=heldout)
            router, _ = built_router(project, Path(scratch) / "index")
            figures["negatives"] = measured(router, inside, outside)["together"]
    cells = "".join(f"{figures[c]:>10.1%}" if c in figures else f"{'':10}" for c in COLUMNS)
    print(f"{f'{encoder}, {folder.name} {utterances}':30}{cells}{seconds:>9.1f} s", flush=True)


def built_router(project: Path, index: Path):
    """The router over a fresh index, and the seconds that all fitting took."""
    fitted: list[float] = []
    embedded: list[float] = [time.perf_counter()]
    build_index(
        project,
        index,
        progress=lambda *_: embedded.append(time.perf_counter()),
        fitting=lambda *_: fitted.append(time.perf_counter()),
    )
    return load(index), fitted[-1] - embedded[-1]


def measured(router, inside: list[dict], outside: list[dict]) -> dict[str, float]:
    cases = [Case(row["prompt"], row["route"]) for row in [*inside, *outside]]
    evaluation = evaluate(router, cases)
    decisions = router.route_many(row["prompt"] for row in [*inside, *outside])
    confidence = np.array([decision.confidence for decision in decisions])
    best = [next(iter(decision.scores), None) for decision in decisions]
    right = np.array([found == case.route for found, case in zip(best, cases, strict=True)])
    in_scope = np.array([case.route is not None for case in cases])
    served = np.mean(
        [d.route == c.route for d, c in zip(decisions, cases, strict=True) if c.route is not None]
    )
    figures = {"top-1": right[in_scope].mean(), "served": served, "ECE": evaluation.calibration.error}
    if outside:
        figures["together"] = evaluation.accuracy
        figures["AUROC"] = evaluation.calibration.auroc
        figures["best cut"] = best_cut(confidence, right & in_scope, ~in_scope)
    return figures


def best_cut(confidence: np.ndarray, right: np.ndarray, outside: np.ndarray) -> float:
    """The highest share of right answers over all thresholds on the confidence."""
    order = np.argsort(-confidence, kind="stable")
    served, refused = np.cumsum(right[order]), outside.sum() - np.cumsum(outside[order])
    ends = np.append(np.diff(confidence[order]) != 0, True)
    return float(max(outside.sum(), (served + refused)[ends].max()) / len(confidence))


def baselines(router, inside: list[dict]) -> dict[str, float]:
    """Nearest utterance, nearest centroid and plain vote over the vectors of the index."""
    index = router.index
    vectors = router._snapshot.encoder.encode([row["prompt"] for row in inside], kind="query")
    stored, names = index.reconstruct(), index.route_names
    centroids = np.stack([stored[index.routes == place].mean(axis=0) for place in range(len(names))])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    by_centroid = [names[place] for place in (vectors @ centroids.T).argmax(axis=1)]
    nearest, voted = [], []
    for found in index.search(vectors, 20):
        routes = index.routes[found.rows].tolist()
        shares = rank(found.similarities, routes, [""] * len(routes), names).shares
        nearest.append(names[routes[0]])
        voted.append(names[max(shares, key=shares.__getitem__)])
    wanted = [row["route"] for row in inside]
    columns = {"nearest": nearest, "centroid": by_centroid, "vote": voted}
    return {name: agreement(found, wanted) for name, found in columns.items()}


def print_peer(data: Path, split: str) -> None:
    """semantic-router: top-1 at its defaults; after `fit` on the utterances; with calibration where it refuses."""
    for name, splits in SETS:
        for utterances in splits[1:2]:
            labelled = rows(data / name / f"{utterances}.jsonl")
            inside, outside = prompts_of(data / name, split)
            router = peer_router(labelled)
            print_peer_row(router, inside, outside, f"semantic-router, {name} {utterances}")
            router.fit([row["prompt"] for row in labelled], [row["route"] for row in labelled])
            print_peer_row(router, inside, outside, "  after its fit")


def print_peer_row(router, inside: list[dict], outside: list[dict], label: str) -> None:
    found = [router(row["prompt"]).name for row in inside]
    refused = [router(row["prompt"]).name is None for row in outside]
    right = sum(one == row["route"] for one, row in zip(found, inside, strict=True))
    together = f", together {(right + sum(refused)) / (len(inside) + len(outside)):.1%}" if outside else ""
    print(f"{label:42} served right {right / len(inside):.1%}{together}", flush=True)


def print_examples(index: Path) -> None:
    """How the project's own example routes serve their heldout prompts."""
    router = load(index)
    config = router.index.config
    cases = [(text, route.name) for route in config.routes for text in route.heldout]
    decisions = router.route_many(text for text, _ in cases)
    served = sum(d.route == name for d, (_, name) in zip(decisions, cases, strict=True))
    best = sum(next(iter(d.scores), d.route) == name for d, (_, name) in zip(decisions, cases, strict=True))
    outside = router.route_many(config.settings.default.heldout)
    refused = sum(d.route is None for d in outside)
    print(
        f"example routes: {served} of {len(cases)} heldout prompts served by their route, top-1 right on {best};"
    )
    print(f"{refused} of {len(outside)} default heldout prompts went to the default")


def agreement(found: list, wanted: list) -> float:
    return sum(one == other for one, other in zip(found, wanted, strict=True)) / len(wanted)


if __name__ == "__main__":
    main()
