"""Building 15,000 utterances, and building again with one more.

    python bench/build.py --data DATA [--encoder minilm]

The encoder's own throughput is measured on the same texts in the same run, before and after the build.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import heading, rows, write_project

from semroute.build import build_index
from semroute.encoders import open_encoder


def throughput(encoder, texts: list[str]) -> float:
    """Texts a second of one call."""
    started = time.perf_counter()
    encoder.encode(texts, kind="document")
    return len(texts) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", default="minilm")
    arguments = parser.parse_args()
    labelled = rows(arguments.data / "clinc150" / "train.jsonl")
    texts = list(dict.fromkeys(row["prompt"] for row in labelled))
    heading(f"Build of {len(labelled)} utterances, {arguments.encoder}")
    encoder = open_encoder(arguments.encoder, root=Path.cwd())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_project(folder / "routes", labelled, arguments.encoder)
        before = throughput(encoder, texts)
        started = time.perf_counter()
        built = build_index(folder / "routes", folder / "index")
        seconds = time.perf_counter() - started
        after = throughput(encoder, texts)
        own = (before + after) / 2
        rate = built.embedded / seconds
        print(f"encoder alone: {before:.0f} and {after:.0f} texts/s")
        print(
            f"build, all of it: {seconds:.2f} s, {rate:.0f} utterances/s = {rate / own:.1%} of the encoder alone"
        )

        more = [
            *labelled,
            {"prompt": "please reserve me a seat by the window", "route": labelled[0]["route"]},
        ]
        write_project(folder / "routes", more, arguments.encoder)
        started = time.perf_counter()
        built = build_index(folder / "routes", folder / "index")
        print(
            f"one more utterance, in process: {time.perf_counter() - started:.2f} s, {built.embedded} embedded"
        )

        write_project(
            folder / "routes",
            [*more, {"prompt": "aisle seat please", "route": labelled[0]["route"]}],
            arguments.encoder,
        )
        command = [
            str(Path(sys.executable).with_name("semroute")),
            "build",
            "--routes",
            str(folder / "routes"),
            "--index",
            str(folder / "index"),
        ]
        started = time.perf_counter()
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"one more utterance, `semroute build` as a process: {time.perf_counter() - started:.2f} s")
        print(f"  {printed.strip()}")
        started = time.perf_counter()
        subprocess.run([*command, "--check"], check=True, capture_output=True)
        print(f"`semroute build --check` as a process: {time.perf_counter() - started:.2f} s")


if __name__ == "__main__":
    main()
