"""How long all fitting takes, cross-validation included, on vectors of any size.

    python bench/fitting.py

Vectors are clusters on a sphere of 384 dimensions, seeded, and the head sees 256 more beside them, as that of minilm
does: only their number matters here.
"""

from __future__ import annotations

import resource
import time

import numpy as np
from common import heading

from semroute import calibrate
from semroute.calibrate import Examples
from semroute.vote import head_view

SIZES = ((2, 2), (20, 20), (150, 10), (150, 100), (1_000, 20), (1_000, 200))


def examples(routes: int, each: int, seed: int) -> Examples:
    owners = np.repeat(np.arange(routes), each)
    vectors = clusters(owners, 384, seed)
    return Examples(vectors, owners, head_view(vectors, clusters(owners, 256, seed)))


def clusters(owners: np.ndarray, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(owners.max() + 1, dim))
    vectors = np.empty((len(owners), dim), np.float32)
    for start in range(0, len(owners), 10_000):
        part = owners[start : start + 10_000]
        vectors[start : start + 10_000] = centres[part] + 1.5 * rng.normal(size=(len(part), dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def main() -> None:
    heading("Fitting")
    print(f"{'routes':>8}{'utterances':>12}{'seconds':>10}{'peak MB':>10}  what was fitted")
    for routes, each in SIZES:
        known, labels = examples(routes, each, 1), examples(routes, 1, 2)
        nothing = known.take(np.empty(0, np.int64))
        started = time.perf_counter()
        fitted = calibrate.fit(known, labels, nothing, routes, 20)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{routes:>8}{len(known):>12}{seconds:>10.2f}{peak:>10.0f}  {fitted.method}", flush=True)


if __name__ == "__main__":
    main()
