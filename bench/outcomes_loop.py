"""The loop of outcomes: import against the encoder alone, a start over many, and how soon others see an escalation.

    python bench/outcomes_loop.py [--encoder static] [--rows 20000] [--postgres URL]

Prompts are sentences of the example routes, recombined so that each is new. `import` is `Router.import_outcomes` into
a SQLite file of a temporary folder: encoding, storing durably, and learning the trend. `seen` is the time from
`escalate` of one router to the first decision of another, with a store of its own over the same database, that
differs; the other one routes all the while.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tempfile
import time
from pathlib import Path

import numpy as np
from common import heading
from stores import server

from semroute.build import build_index
from semroute.config import load_config
from semroute.encoders import open_encoder
from semroute.escalations.importing import GradedPrompt
from semroute.router import Router

EXAMPLES = Path(__file__).parents[1] / "routes"
_BATCH = 512


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="static")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--postgres", metavar="URL")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server(arguments.postgres) as url:
        heading(f"Outcomes: import and start, {arguments.encoder}, {arguments.rows:,} prompts of two models")
        print_import(Path(folder) / "sqlite", arguments.encoder, arguments.rows)
        heading("Outcomes: from one replica to another")
        for name, store in (("SQLite", "sqlite:outcomes.db"), ("PostgreSQL", url)):
            print_seen(Path(folder) / name, name, store)


def router_of(folder: Path, encoder: str, store: str) -> Router:
    """A router with two models and a store, over a part of the example routes."""
    routes = folder / "routes"
    routes.mkdir(parents=True, exist_ok=True)
    settings = {
        "encoder": encoder, "default": {"model": "big"}, "models": {"small": {}, "big": {}},
        "escalations": {"store": store, "min_support": 1},
    }  # fmt: skip
    (routes / "semroute.yaml").write_text(json.dumps(settings), encoding="utf-8")
    examples = load_config(EXAMPLES).routes[:4]
    text = [
        {"name": each.name, "models": ["small", "big"], "utterances": list(each.utterances)}
        for each in examples
    ]
    (routes / "routes.yaml").write_text(json.dumps({"routes": text}), encoding="utf-8")
    build_index(routes, folder / "index")
    return Router.load(folder / "index")


def prompts(count: int) -> list[str]:
    texts = [text for route in load_config(EXAMPLES).routes for text in route.utterances]
    rng = random.Random(0)
    return [f"{rng.choice(texts)} and {rng.choice(texts)} {number}" for number in range(count)]


def print_import(folder: Path, encoder_name: str, count: int) -> None:
    router = router_of(folder, encoder_name, "sqlite:outcomes.db")
    encoder, texts = open_encoder(encoder_name, root=folder), prompts(count)
    rng = np.random.default_rng(0)
    graded = [
        GradedPrompt(line, text, {"small": float(rng.integers(2)), "big": 1.0}, None, None)
        for line, text in enumerate(texts)
    ]
    started = time.perf_counter()
    for start in range(0, count, _BATCH):
        encoder.encode(texts[start : start + _BATCH], kind="query")
    encoded = time.perf_counter() - started
    started = time.perf_counter()
    stored = router.import_outcomes(graded)
    imported = time.perf_counter() - started
    started = time.perf_counter()
    Router.load(folder / "index")
    loaded = time.perf_counter() - started
    print(f"encoder alone {encoded:.1f} s, {count / encoded:,.0f} prompts a second")
    print(f"import {imported:.1f} s, {count / imported:,.0f} prompts a second, {stored:,} outcomes")
    print(f"a router over them starts in {loaded:.1f} s")


def print_seen(folder: Path, name: str, store: str) -> None:
    one = router_of(folder, "static", store)
    other = Router.load(folder / "index")
    texts = [each.utterances for each in one.index.config.routes]
    other.route(texts[0][0])  # from here on it follows the store
    taken = []
    for text in itertools.islice(itertools.chain.from_iterable(zip(*texts, strict=False)), 20):
        decision = one.route(text)
        one.escalate(decision, to="big")
        started = time.perf_counter()
        while other.route(text).model == decision.model and time.perf_counter() - started < 5.0:
            time.sleep(0.002)
        taken.append(time.perf_counter() - started)
    median, worst = np.quantile(taken, [0.5, 1.0]) * 1e3
    print(f"{name}: seen after {median:.0f} ms (median of {len(taken)}), {worst:.0f} ms (worst)")


if __name__ == "__main__":
    main()
