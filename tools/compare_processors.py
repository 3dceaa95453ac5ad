"""Compare the vectors of `minilm` between processors, for instance with one that QEMU emulates.

    python tools/compare_processors.py --save /tmp/here.npy
    qemu-x86_64 -cpu Haswell $(which python) tools/compare_processors.py --against /tmp/here.npy

Prints the cosine of each text's vector with the saved one, with onnxruntime's default kernels and as semroute
runs the graph. QEMU 7.2 or later emulates AVX2; it is slow: a few minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from semroute.config import load_config
from semroute.encoders.onnx import OnnxEncoder, runtime_saturates

ROOT = Path(__file__).parent.parent
MINILM = ROOT / "semroute" / "encoders" / "assets" / "minilm"


def main() -> None:
    """Save the vectors of this processor, or compare with saved ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--texts", type=int, default=50)
    arguments = parser.parse_args()
    routes = load_config(ROOT / "routes").routes
    texts = [text for row in zip(*(route.utterances for route in routes), strict=False) for text in row]
    texts = texts[: arguments.texts]
    encoder = OnnxEncoder(MINILM, name="minilm")
    vectors = encoder.encode(texts, kind="document")
    if arguments.save:
        np.save(arguments.save, vectors)
    if arguments.against:
        saved = np.load(arguments.against, allow_pickle=False)
        print(f"sums of 8-bit products saturate here: {runtime_saturates()}")
        show("as semroute runs it", vectors, saved)
        show("default kernels", by_default_kernels(encoder, texts), saved)


def by_default_kernels(encoder: OnnxEncoder, texts: list[str]) -> NDArray[np.float32]:
    """The vectors that onnxruntime gives when it is left to its defaults, shape (len(texts), dim)."""
    session = onnxruntime.InferenceSession(str(MINILM / "model.onnx"), providers=["CPUExecutionProvider"])
    feeds = [{"input_ids": np.array([encoder._tokens(text)], np.int64)} for text in texts]
    return np.concatenate([session.run(None, feed)[0] for feed in feeds])


def show(name: str, vectors: NDArray[np.float32], saved: NDArray[np.float32]) -> None:
    """Print mean and least cosine, row by row."""
    cosines = np.einsum("ij,ij->i", vectors, saved)
    print(f"{name}: mean {cosines.mean():.7f}, least {cosines.min():.7f}")


if __name__ == "__main__":
    main()
