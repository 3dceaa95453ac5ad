"""What past outcomes add to a prompt, and what fake ones can do.

    python bench/outcomes_speed.py [--largest 1000000]

Outcomes are clusters on a sphere of 384 dimensions, seeded, given to the estimator by the thousand. `MB` is what it
holds, `peak MB` the most that the process ever had. `feedback` are outcomes by a thousand principals, compared by
likeness; of `crowded` ones two principals have said all that is near any prompt; `import` are graded prompts, learnt as a
trend. Then escalations by one attacker, and by a crowd of as many
as it takes, close to a prompt on which ten good outcomes are stored: does the decision flip?
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import heading

from semroute.escalations import OPERATOR, Outcome
from semroute.escalations.estimate import Estimator, Prompt, Trust
from semroute.escalations.trend import FEATURE_COUNT
from semroute.ulid import ulid_of

DIM, NOW, BATCH = 384, 1.8e9, 1_000
PRIORS = {"small": 0.6, "big": 0.9}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--largest", type=int, default=100_000)
    parser.add_argument("--only", nargs=2, metavar=("COUNT", "KIND"), help="one row, in this process")
    arguments = parser.parse_args()
    if arguments.only:
        print_speed(int(arguments.only[0]), arguments.only[1])
        return
    heading("Outcomes: speed and flips")
    print(
        f"{'outcomes':>10}  {'kind':10}{'made in s':>10}{'ms a prompt':>12}{'p95':>8}{'MB':>8}{'peak MB':>9}",
        flush=True,
    )
    for count in sorted({1_000, 10_000, 100_000, arguments.largest}):
        for kind in ("feedback", "crowded", "import"):
            subprocess.run(
                [sys.executable, __file__, "--only", str(count), kind], check=True
            )  # for its own peak
    print_flips()


def batches(count: int, kind: str, seed: int = 0) -> Iterator[list[Outcome]]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(500, DIM)).astype(np.float32)
    for start in range(0, count, BATCH):
        numbers = range(start, min(count, start + BATCH))
        noise = rng.normal(size=(len(numbers), DIM)).astype(np.float32)
        people = rng.integers(1_000, size=len(numbers))
        yield [
            outcome(
                number,
                centres[number % 500] + noise[number - start],
                float(number % 3 > 0),
                principal(kind, number, people[number - start]),
                "import" if kind == "import" else "feedback",
            )
            for number in numbers
        ]


def principal(kind: str, number: int, person: int) -> str:
    """`crowded`: all that is near a prompt was said by two principals, so the search goes wider."""
    if kind == "import":
        return OPERATOR
    return f"user {number % 1000 if kind == 'crowded' else person}"


def outcome(number: int, vector: np.ndarray, score: float, by: str, kind: str) -> Outcome:
    name = number.to_bytes(16, "big")
    return Outcome(
        id=ulid_of(name), model="small", score=score, vector=vector / np.linalg.norm(vector),
        features=np.zeros(FEATURE_COUNT, np.float32), prompt_hash=hashlib.sha256(name + by.encode()).digest(), encoder="bench",
        by=by, time=NOW, origin=kind,
    )  # fmt: skip


def print_speed(count: int, kind: str) -> None:
    estimator, made = Estimator([], PRIORS), 0.0
    before = memory()
    for batch in batches(count, kind):
        started = time.perf_counter()
        estimator = estimator.with_more(batch).settled()
        made += time.perf_counter() - started
    started = time.perf_counter()
    estimator = estimator.learnt()
    made += time.perf_counter() - started
    held = memory() - before
    taken = []
    for each in next(batches(500, kind, seed=2)):
        prompt = Prompt(each.vector, each.features, None)
        began = time.perf_counter()
        estimator.estimate(prompt, list(PRIORS), NOW)
        taken.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    median, p95 = np.quantile(taken, [0.5, 0.95]) * 1e3
    print(
        f"{count:>10}  {kind:10}{made:>10.2f}{median:>12.3f}{p95:>8.3f}{held:>8.0f}{peak:>9.0f}", flush=True
    )


def memory() -> float:
    """What this process holds, in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def print_flips() -> None:
    rng = np.random.default_rng(3)
    victim = rng.normal(size=DIM).astype(np.float32)
    good = [outcome(n, victim, 1.0, f"user {n}", "feedback") for n in range(10)]
    prompt = Prompt(good[0].vector, good[0].features, None)
    print(f"\n{'fake escalations':>18}{'one principal':>24}{'as many principals':>24}")
    print(f"{'':>18}{'defended':>12}{'open':>12}{'defended':>12}{'open':>12}")
    for count in (1, 3, 10, 30, 100, 300, 1_000):
        cells = []
        for crowd in (1, count):
            fake = [
                outcome(
                    1000 + n,
                    victim + 0.1 * rng.normal(size=DIM).astype(np.float32),
                    0.0,
                    f"fake {n % crowd}",
                    "feedback",
                )
                for n in range(count)
            ]
            for trust in (Trust(), Trust(1.0, 1)):
                found = Estimator(good + fake, PRIORS, trust=trust).estimate(prompt, ["small"], NOW)["small"]
                flips = found.quality < 0.5 and found.support >= 3.0
                cells.append(f"{found.quality:.2f} {'flips' if flips else 'stays'}")
        print(f"{count:>18}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
