"""Importing, and `semroute route` as a fresh process: seconds and memory, beside semantic-router.

    python bench/startup.py --data DATA

Runs each command in turn as a process of its own and reads the kernel's accounting of it. This process stays
small, since the kernel counts the memory of a parent at the fork as the child's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import heading, rows, write_project

HEAVY = ("torch", "faiss", "onnxruntime", "httpx2", "sklearn", "scipy", "numpy", "pydantic")
PROMPT = "what is the exchange rate between dollars and yen"
PEER = """
import json, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from common import peer_router, rows
print(peer_router(rows(Path(sys.argv[1]))).__call__(sys.argv[3]))
"""


def run(command: list[str], times: int, **environment: str) -> tuple[float, float]:
    """Median seconds and largest resident MB of `command` over `times` fresh processes."""
    seconds, megabytes = [], []
    for _ in range(times):
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | environment
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds.append(time.perf_counter() - started)
        megabytes.append(usage.ru_maxrss / 1024)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"{command} failed with {process.returncode}")
    return statistics.median(seconds), max(megabytes)


def import_seconds(module: str) -> float:
    """Seconds that importing `module` takes inside a fresh interpreter."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    printed = [subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(7)]
    return statistics.median(float(text) for text in printed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--times", type=int, default=7)
    arguments = parser.parse_args()
    heading("Start-up")
    loaded = subprocess.check_output(
        [sys.executable, "-c", "import semroute, sys, json; print(json.dumps(sorted(sys.modules)))"],
        text=True,
    )
    roots = {name.split(".")[0] for name in json.loads(loaded)}
    print(
        f"import semroute: {import_seconds('semroute') * 1e3:.1f} ms; loads of {', '.join(HEAVY)}: "
        f"{', '.join(sorted(roots & set(HEAVY))) or 'none'}"
    )
    print(f"import semantic_router: {import_seconds('semantic_router') * 1e3:.0f} ms\n")

    clinc = arguments.data / "clinc150" / "train_10.jsonl"
    command = Path(sys.executable).with_name("semroute")
    with tempfile.TemporaryDirectory() as scratch:
        print(f"{'fresh process, one prompt, 1,500 utterances':50}{'seconds':>9}{'MB':>7}")
        for encoder in ("minilm", "static"):
            folder = Path(scratch) / encoder
            project = write_project(folder / "routes", rows(clinc), encoder)
            index = ["--index", str(folder / "index")]
            subprocess.run([command, "build", "--routes", project, *index], check=True, capture_output=True)
            taken = run([str(command), "route", PROMPT, *index], arguments.times)
            print(f"{'semroute route, ' + encoder:50}{taken[0]:>9.2f}{taken[1]:>7.0f}")
    here = str(Path(__file__).parent)
    taken = run([sys.executable, "-c", PEER, str(clinc), here, PROMPT], 2, HF_HUB_OFFLINE="1")
    print(f"{'semantic-router 1.1.1 (embeds again at each start)':50}{taken[0]:>9.2f}{taken[1]:>7.0f}")


if __name__ == "__main__":
    main()
