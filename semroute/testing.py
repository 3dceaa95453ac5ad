"""Encoders for tests, ours and yours: no model, no download, the same vectors everywhere."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from semroute.encoders.base import EncoderIdentity, Kind, clip, unit_rows
from semroute.errors import EncodingFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from semroute.encoders.base import Vectors

_MAX_CHARS = 2000


class HashEncoder:
    """Hashes words and their three-character pieces into `dim` dimensions.

    Texts that share words or parts of words are similar; nothing else is meant by it. Safe to use from
    several threads.
    """

    def __init__(self, dim: int = 64) -> None:
        self._identity = EncoderIdentity(f"hash:{dim}", "1", dim, f"clip={_MAX_CHARS} lower-case")

    @property
    def identity(self) -> EncoderIdentity:
        """`hash:DIM`; not a spec that YAML may name."""
        return self._identity

    def encode(self, texts: Sequence[str], *, kind: Kind) -> Vectors:
        """Embed `texts`: shape (len(texts), dim), float32, C-contiguous, rows of length 1.

        Queries and documents are embedded alike.
        """
        import numpy as np

        raw = np.zeros((len(texts), self._identity.dim), dtype=np.float64)
        for row, text in zip(raw, texts, strict=True):
            self._add_features(row, text)
        return unit_rows(raw, name=self._identity.name)

    def _add_features(self, row: NDArray[np.float64], text: str) -> None:
        row[0] = 1e-3  # gives a text without words a direction
        for feature in _features(clip(text, _MAX_CHARS).lower()):
            code = zlib.crc32(feature.encode())
            row[code % len(row)] += 1.0 if code & 0x8000_0000 else -1.0


class FailingEncoder:
    """Fails on every text, as an encoder whose server is gone; `identity` is that of `HashEncoder(dim)`."""

    def __init__(self, dim: int = 64) -> None:
        self._identity = HashEncoder(dim).identity

    @property
    def identity(self) -> EncoderIdentity:
        """Equal to the identity of `HashEncoder(dim)`, so that an index built by that one is accepted."""
        return self._identity

    def encode(self, texts: Sequence[str], *, kind: Kind) -> Vectors:
        """Raise EncodingFailed."""
        raise EncodingFailed("encoder hash: this one always fails")


def _features(text: str) -> Iterator[str]:
    for word in re.findall(r"\w+", text):
        yield word
        padded = f"<{word}>"
        for start in range(len(padded) - 2):
            yield padded[start : start + 3]
