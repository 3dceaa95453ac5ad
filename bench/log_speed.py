"""What the decision log adds to a prompt, and how fast it is written and read.

    python bench/log_speed.py [--prompts 2000] [--rounds 5] [--postgres postgresql://...]

The routers take turns over the same prompts, so that a change of the machine's speed meets all of them. Events come at
the pace of one busy caller, two decisions and one call a prompt; what is dropped is printed, and should be nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import heading, seconds_each

from semroute import index as route_index
from semroute.decisionlog import open_log
from semroute.decisionlog.savings import savings
from semroute.decisionlog.writer import LogWriter
from semroute.encoders import open_encoder
from semroute.router import Router
from semroute.shapes import LogSettings
from semroute.telemetry import Decided, Feed
from semroute.ulid import new_ulid


class Nobody:
    """A listener that does nothing."""

    def decided(self, event) -> None:
        pass

    served = judged = decided


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--postgres", help="an empty database or schema")
    arguments = parser.parse_args()
    heading("The decision log")
    built = route_index.load(Path(__file__).parent.parent / "index")
    encoder = open_encoder(built.manifest.encoder.name, root=Path())
    prompts = [f"{entry.text} {n}" for n in range(20) for entry in built.entries][: arguments.prompts]
    with tempfile.TemporaryDirectory() as scratch:
        stores = {"SQLite": "sqlite:log.db", "JSON Lines": "jsonl:log.jsonl"}
        if arguments.postgres:
            stores["PostgreSQL"] = arguments.postgres
        routers = {
            "no listener": Router(built, encoder),
            "a listener": Router(built, encoder, listeners=[Nobody()]),
        }
        for name, store in stores.items():
            writer = LogWriter(LogSettings(store=store), root=Path(scratch))
            routers[name] = Router(built, encoder, listeners=[writer])
        print_added(routers, prompts, arguments.rounds)
        print_put(routers["no listener"].route(prompts[0]))
        for name, store in stores.items():
            print_store(name, store, Path(scratch), built.config.settings)


def print_added(routers: dict[str, Router], prompts: list[str], rounds: int) -> None:
    """Each prompt through each router in turn; and what a router does after a decision, timed alone."""
    wall = {name: [] for name in routers}
    added = {name: [] for name in routers}
    told = {name: [] for name in routers}
    for router in routers.values():
        seconds_each(router.route, prompts[:50])
    for _ in range(rounds):
        for prompt in prompts:
            for name, router in routers.items():
                started = time.perf_counter()
                decision = router.route(prompt)
                between = time.perf_counter()
                router.served(decision, prompt_tokens=100, completion_tokens=200)
                wall[name].append(between - started)
                told[name].append(time.perf_counter() - between)
                again = replace(decision, id=new_ulid())
                started = time.perf_counter()
                router.tell(again, prompt)
                added[name].append(time.perf_counter() - started)
    print(f"{'':14}{'route, ms':>12}{'p99':>8}{'added, us':>12}{'served(), us':>14}{'dropped':>9}")
    for name, router in routers.items():
        router.flush(60)
        median, p99 = np.quantile(wall[name], [0.5, 0.99]) * 1e3
        more = (np.median(added[name]) - np.median(added["no listener"])) * 1e6
        served = np.median(told[name]) * 1e6
        print(f"{name:14}{median:>12.3f}{p99:>8.2f}{more:>12.1f}{served:>14.1f}{router.dropped:>9}")
        router.close()


def print_put(decision) -> None:
    """The queue alone."""
    feed = Feed(Nobody())
    event = Decided(decision, time.time(), "a prompt of some length, as they come")
    taken = []
    for _ in range(50):
        taken.append(seconds_each(feed.put, [event] * 200))
        feed.flush()
    print(f"\nputting an event into a queue: {np.median(np.concatenate(taken)) * 1e6:.2f} us")
    feed.close()


def print_store(name: str, store: str, root: Path, settings) -> None:
    """Reading what was written."""
    with open_log(store, root=root) as log:
        started = time.perf_counter()
        found = savings(log.read(), settings.models, settings.default.model_names[0])
        taken = time.perf_counter() - started
    size = ""
    if not store.startswith("postgres"):
        size = f", {(root / store.partition(':')[2]).stat().st_size / found.decisions:.0f} bytes a decision with its call"
    print(
        f"{name}: {found.decisions} decisions read and summed at {found.decisions / taken:,.0f} a second{size}"
    )


if __name__ == "__main__":
    main()
