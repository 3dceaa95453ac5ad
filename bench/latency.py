"""One prompt, 1,500 utterances, 150 routes: semroute and semantic-router side by side in one process.

    python bench/latency.py --data DATA

DATA holds clinc150/train_10.jsonl and clinc150/valid.jsonl. The routers take turns over the same prompts, so
that a change of the machine's speed meets all of them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from common import heading, peer_router, rows, seconds_each, write_project

from semroute import load
from semroute.build import build_index
from semroute.vote import head_view, rank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    labelled = rows(arguments.data / "clinc150" / "train_10.jsonl")
    prompts = [row["prompt"] for row in rows(arguments.data / "clinc150" / "valid.jsonl")]
    prompts = prompts[:: len(prompts) // arguments.prompts][: arguments.prompts]

    heading(f"Latency of one prompt: {len(labelled)} utterances, {len(prompts)} prompts x {arguments.rounds}")
    with tempfile.TemporaryDirectory() as scratch:
        routers = {}
        for encoder in ("minilm", "static"):
            folder = Path(scratch) / encoder
            build_index(write_project(folder / "routes", labelled, encoder), folder / "index")
            routers[f"semroute, {encoder}"] = load(folder / "index")
    peer = peer_router(labelled)
    calls = {name: router.route for name, router in routers.items()}
    calls["semantic-router 1.1.1"] = peer
    for name, router in routers.items():
        calls[f"{name}: encoder alone"] = lambda text, r=router: r._snapshot.encoder.encode(
            [text], kind="query"
        )

    times: dict[str, list[np.ndarray]] = {name: [] for name in calls}
    for call in calls.values():
        seconds_each(call, prompts[:20])
    for _ in range(arguments.rounds):
        for name, call in calls.items():
            times[name].append(seconds_each(call, prompts))
    medians = {name: float(np.median(np.concatenate(taken))) * 1e3 for name, taken in times.items()}
    print(f"{'':34}{'median ms':>10}{'p95 ms':>10}{'faster than the peer':>24}")
    for name, taken in times.items():
        p95 = float(np.quantile(np.concatenate(taken), 0.95)) * 1e3
        ratio = medians["semantic-router 1.1.1"] / medians[name]
        print(f"{name:34}{medians[name]:>10.3f}{p95:>10.3f}{ratio:>23.1f}x")
    for name, router in routers.items():
        print(f"{name}: outside the encoder, timed within each call: {rest_of_calls(router, prompts):.3f} ms")
    for encoder in ("minilm", "static"):
        rest = medians[f"semroute, {encoder}"] - medians[f"semroute, {encoder}: encoder alone"]
        print(f"everything but the encoder, {encoder}: {rest:.3f} ms")
    for name, router in routers.items():
        print(f"{name}: what is fitted adds {fitted_part(router, prompts):.3f} ms to the plain vote")


def fitted_part(router, prompts: list[str]) -> float:
    """Median milliseconds of judging a prompt, the words seen by the head included, less those of its neighbours."""
    snapshot = router._snapshot
    vectors = snapshot.encoder.encode(prompts, kind="query")
    judged, counted = [], []
    for found, vector, text in zip(router.index.search(vectors, 20), vectors, prompts, strict=True):
        routes = [snapshot._routes[row] for row in found.rows]
        texts = [snapshot._texts[row] for row in found.rows]
        started = time.perf_counter()
        rank(found.similarities, routes, texts, snapshot._names)
        between = time.perf_counter()
        words = None if snapshot._words is None else snapshot._words.encode([text], kind="query")
        view = head_view(vector[None], words)[0]
        snapshot._judge.vote(found.similarities, routes, texts, vector, None, view)
        judged.append(time.perf_counter() - between)
        counted.append(between - started)
    return float(np.median(np.array(judged) - np.array(counted))) * 1e3


def rest_of_calls(router, prompts: list[str]) -> float:
    """Median milliseconds of a call less those its encoder took, with the caches as the encoder leaves them."""
    snapshot, spent = router._snapshot, []

    class Timed:
        def encode(self, texts, *, kind):
            started = time.perf_counter()
            vectors = encoder.encode(texts, kind=kind)
            spent.append(time.perf_counter() - started)
            return vectors

    encoder, snapshot.encoder = snapshot.encoder, Timed()
    whole = seconds_each(router.route, prompts)
    snapshot.encoder = encoder
    return float(np.median(whole - np.array(spent))) * 1e3


if __name__ == "__main__":
    main()
