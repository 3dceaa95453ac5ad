"""Where a graph overtakes the exhaustive search: the measured rule behind `FLAT_UP_TO` in semroute/index.py.

    python bench/faiss_kinds.py --data DATA

One thread, one query at a time, 20 neighbours, real vectors (the CLINC150 train split by `minilm`).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import faiss
import numpy as np
from common import heading, rows, seconds_each

from semroute.encoders import open_encoder
from semroute.index import _HNSW_BUILD_WIDTH, _HNSW_NEIGHBORS, _HNSW_SEARCH_WIDTH

SIZES = (500, 1_000, 1_500, 2_000, 3_000, 4_000, 6_000, 8_000, 15_000)


def milliseconds(index, queries: np.ndarray) -> float:
    return float(np.median(seconds_each(lambda query: index.search(query[None], 20), queries))) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    heading("FAISS: exhaustive search and graph")
    encoder = open_encoder("minilm", root=Path.cwd())
    clinc = arguments.data / "clinc150"
    vectors = encoder.encode([row["prompt"] for row in rows(clinc / "train.jsonl")], kind="document")
    queries = encoder.encode([row["prompt"] for row in rows(clinc / "valid.jsonl")][::5], kind="query")
    order = np.random.default_rng(0).permutation(len(vectors))
    print(
        f"{'utterances':>10}{'flat ms':>10}{'graph ms':>10}{'recall@20':>11}{'same nearest':>14}{'graph built s':>15}"
    )
    for size in SIZES:
        part = np.ascontiguousarray(vectors[order[:size]])
        flat = faiss.IndexFlatIP(part.shape[1])
        flat.add(part)
        graph = faiss.IndexHNSWFlat(part.shape[1], _HNSW_NEIGHBORS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction, graph.hnsw.efSearch = _HNSW_BUILD_WIDTH, _HNSW_SEARCH_WIDTH
        started = time.perf_counter()
        graph.add(part)
        built = time.perf_counter() - started
        exact, found = flat.search(queries, 20)[1], graph.search(queries, 20)[1]
        recall = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(exact, found, strict=True)])
        same = np.mean(exact[:, 0] == found[:, 0])
        print(
            f"{size:>10}{milliseconds(flat, queries):>10.3f}{milliseconds(graph, queries):>10.3f}"
            f"{recall:>11.4f}{same:>14.4f}{built:>15.2f}"
        )


if __name__ == "__main__":
    main()
