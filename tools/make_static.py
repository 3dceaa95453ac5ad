"""Make the bundled encoder `static`: a table of token vectors distilled from all-MiniLM-L6-v2.

    pip install -r tools/requirements.txt
    python tools/make_static.py [--out FOLDER]

Takes about five minutes on two cores and writes the same bytes every time on one machine.

No text is trained on. Every entry of the vocabulary goes through the network inside five neutral sentences.
What it adds to a sentence (its own output and the mean output, less the average over all tokens in the same
sentence) becomes its vector; then PCA to 256 with half whitening, and a weight that falls with the frequency
of the token. Chosen on the validation splits of CLINC150 and BANKING77, never on a test split.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from source import ASSETS, model_folder, quantize, write_asset

DIM = 256
CONTEXTS = (
    "what is {}",
    "how do i {} it",
    "i have a {} in my",
    "can you tell me {} please",
    "{} and i need to know",
)
BATCH = 512
WHITENING = 0.5
SIF = 1e-3
FIRST_WORD_ID = 1996
"""From here on BERT's vocabulary is ordered by frequency: "the" comes first."""
CHARACTER_RANK = 20
"""Punctuation, digits and single letters are as frequent as the 20th word."""

Matrix = NDArray[np.float32]


def main() -> None:
    """Write the asset and print its revision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ASSETS / "static")
    arguments = parser.parse_args()
    source = model_folder()
    vocabulary = (source / "vocab.txt").read_bytes()
    tokens = vocabulary.decode("utf-8").rstrip("\n").split("\n")
    vectors = reduced(contributions(source)) * frequency_weights(tokens)[:, None]
    table, scales = quantize(vectors.astype(np.float32), axis=1)
    files = {
        "table.npy": npy_bytes(table),
        "scales.npy": npy_bytes(scales.reshape(-1)),
        "vocab.txt": vocabulary,
    }
    print(write_asset(arguments.out, files, revision_of=tuple(files), dim=DIM))


def contributions(source: Path) -> NDArray[np.float64]:
    """What each token adds to a sentence, shape (tokens, 384), averaged over the contexts."""
    from tokenizers import Tokenizer
    from transformers import AutoModel

    torch.use_deterministic_algorithms(mode=True)
    network = AutoModel.from_pretrained(str(source)).eval()
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    means, outputs = [], []
    for context in CONTEXTS:
        before, after = (tokenizer.encode(part, add_special_tokens=False).ids for part in context.split("{}"))
        mean, output = in_context(network, before, after, tokenizer.get_vocab_size())
        means.append(mean - mean.mean(axis=0))
        outputs.append(output - output.mean(axis=0))
        print(f"context done: {context}", flush=True)
    return unit_mean_length(np.mean(means, axis=0)) + unit_mean_length(np.mean(outputs, axis=0))


def in_context(network: Any, before: list[int], after: list[int], size: int) -> tuple[Matrix, Matrix]:
    """Mean output and output at the token for every token id below `size`, each of shape (size, 384)."""
    left, right = torch.tensor([101, *before]), torch.tensor([*after, 102])
    means, outputs = [], []
    for start in range(0, size, BATCH):
        ids = torch.arange(start, min(size, start + BATCH))
        rows = torch.cat([left.expand(len(ids), -1), ids[:, None], right.expand(len(ids), -1)], dim=1)
        with torch.inference_mode():
            hidden = network(input_ids=rows, attention_mask=torch.ones_like(rows)).last_hidden_state
        means.append(hidden.mean(dim=1).numpy())
        outputs.append(hidden[:, len(left)].numpy())
    return np.concatenate(means), np.concatenate(outputs)


def unit_mean_length(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale all `vectors` alike so that their mean length is 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1).mean(), dtype=np.float64)


def reduced(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first 256 principal components, each divided by its variance to the power WHITENING / 2."""
    centred = vectors - vectors.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    variances, axes = variances[::-1][:DIM], axes[:, ::-1][:, :DIM]
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(DIM)])
    return np.asarray(centred @ (axes * signs) / variances ** (WHITENING / 2), dtype=np.float64)


def frequency_weights(tokens: list[str]) -> NDArray[np.float64]:
    """Square root of the smooth inverse frequency SIF / (SIF + p), p by Zipf's law over the ranks."""
    count = len(tokens) - FIRST_WORD_ID
    ranks = np.maximum(np.arange(len(tokens)) - FIRST_WORD_ID + 2, 2).astype(np.float64)
    ranks[:FIRST_WORD_ID] = len(tokens)
    ranks[[len(token) == 1 and token.isascii() for token in tokens]] = CHARACTER_RANK
    frequencies = 1 / ranks / (1 / np.arange(2, count + 2)).sum()
    return np.asarray(np.sqrt(SIF / (SIF + frequencies)), dtype=np.float64)


def npy_bytes(array: NDArray[np.generic]) -> bytes:
    """`array` in numpy's own format, without pickles."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
