"""What past outcomes add to a prompt, and what fake ones can do.

    python bench/outcomes_speed.py [--largest 100000]

Outcomes are clusters on a sphere of 384 dimensions, seeded. `feedback` are outcomes by a thousand principals, compared by
likeness; `imported` are graded prompts, learnt as a trend. Then escalations by one attacker, and by a crowd of as many
as it takes, close to a prompt on which ten good outcomes are stored: does the decision flip?
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import time

import numpy as np
from common import heading

from semroute.escalations import OPERATOR, Outcome
from semroute.escalations.estimate import Estimator, Prompt, Trust
from semroute.escalations.trend import FEATURE_COUNT
from semroute.ulid import ulid_of

DIM, NOW = 384, 1.8e9
PRIORS = {"small": 0.6, "big": 0.9}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--largest", type=int, default=100_000)
    arguments = parser.parse_args()
    heading("Outcomes: speed and flips")
    print(f"{'outcomes':>10}  {'kind':10}{'made in s':>10}{'ms a prompt':>12}{'p95':>8}{'peak MB':>9}")
    for count in (1_000, 10_000, arguments.largest):
        for kind in ("feedback", "import"):
            print_speed(count, kind)
    print_flips()


def outcomes(count: int, kind: str, seed: int = 0) -> list[Outcome]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(500, DIM)).astype(np.float32)
    found = []
    for number in range(count):
        vector = centres[number % 500] + rng.normal(size=DIM).astype(np.float32)
        by = OPERATOR if kind == "import" else f"user {number % 1000}"
        found.append(outcome(number, vector, float(number % 3 > 0), by, kind))
    return found


def outcome(number: int, vector: np.ndarray, score: float, by: str, kind: str) -> Outcome:
    name = number.to_bytes(16, "big")
    return Outcome(
        id=ulid_of(name), model="small", score=score, vector=vector / np.linalg.norm(vector),
        features=np.zeros(FEATURE_COUNT, np.float32), prompt_hash=hashlib.sha256(name + by.encode()).digest(), encoder="bench",
        by=by, time=NOW, origin=kind,
    )  # fmt: skip


def print_speed(count: int, kind: str) -> None:
    known = outcomes(count, kind)
    started = time.perf_counter()
    estimator = Estimator(known, PRIORS)
    made = time.perf_counter() - started
    asked = [Prompt(each.vector, each.features, None) for each in outcomes(500, kind, seed=2)]
    taken = []
    for prompt in asked:
        began = time.perf_counter()
        estimator.estimate(prompt, list(PRIORS), NOW)
        taken.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    median, p95 = np.quantile(taken, [0.5, 0.95]) * 1e3
    print(f"{count:>10}  {kind:10}{made:>10.2f}{median:>12.3f}{p95:>8.3f}{peak:>9.0f}", flush=True)


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
