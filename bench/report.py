"""The report of 5,000 utterances: how long it takes, and how large the page is.

    python bench/report.py --data DATA [--encoder static]

1,500 labelled prompts in scope and 100 out of scope are the cases. The processor's time stands beside the
wall's: on a busy machine the latter says little.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import heading, rows, write_project

from semroute.build import build_index

UTTERANCES, CASES = 5_000, 1_500


def chosen(labelled: list[dict], total: int) -> list[dict]:
    """`total` of the rows, the same number of each route, or one more."""
    by_route: dict[str, list[dict]] = {}
    for row in labelled:
        by_route.setdefault(row["route"], []).append(row)
    found: list[dict] = []
    for place in range(max(map(len, by_route.values()))):
        found += [group[place] for group in by_route.values() if place < len(group)]
    seen: set[str] = set()
    distinct = [row for row in found if not (row["prompt"] in seen or seen.add(row["prompt"]))]
    return distinct[:total]


def children_seconds() -> float:
    """Processor time of the processes that ended, in seconds."""
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", default="static")
    arguments = parser.parse_args()
    data = arguments.data / "clinc150"
    heading(f"Report of {UTTERANCES:,} utterances, {arguments.encoder}")
    cases = [*chosen(rows(data / "valid.jsonl"), CASES), *rows(data / "oos_valid.jsonl")[:100]]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_project(folder / "routes", chosen(rows(data / "train.jsonl"), UTTERANCES), arguments.encoder)
        build_index(folder / "routes", folder / "index")
        lines = [json.dumps({"prompt": row["prompt"], "route": row.get("route")}) for row in cases]
        (folder / "cases.jsonl").write_text("\n".join(lines), encoding="utf-8")
        command = [sys.executable, "-m", "semroute", "report", "--index", str(folder / "index")]
        command += ["--cases", str(folder / "cases.jsonl"), "--output", str(folder / "report.html")]
        for attempt in range(3):
            before, started = children_seconds(), time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            wall, used = time.perf_counter() - started, children_seconds() - before
            size = (folder / "report.html").stat().st_size
            print(
                f"{attempt + 1}. {len(cases)} cases: {wall:.1f} s, {used:.1f} s of processor, {size / 1e6:.2f} MB"
            )


if __name__ == "__main__":
    main()
