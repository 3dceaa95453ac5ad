"""The seam between text and vectors: one protocol, one identity."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from semroute.errors import EncodingFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[np.float32]

Kind = Literal["query", "document"]
"""A prompt is a query, an utterance is a document; some models embed the two differently."""


@dataclass(frozen=True, slots=True)
class EncoderIdentity:
    """What makes two encoders interchangeable; part of the fingerprint of an index.

    `name` is the spec as written in YAML, `revision` changes whenever the weights do, `dim` is the length
    of a vector, `preprocessing` names every step between text and network that changes a vector.
    """

    name: str
    revision: str
    dim: int
    preprocessing: str


@dataclass(frozen=True, slots=True)
class KnownIdentity:
    """What can be told of an encoder without loading its model; None is what only the model can tell.

    A field that is not None equals the same field of the `EncoderIdentity` of the opened encoder.
    """

    name: str
    revision: str | None
    dim: int | None
    preprocessing: str | None


class Encoder(Protocol):
    """Turns texts into unit vectors. Implementations are safe to call from several threads at once."""

    @property
    def identity(self) -> EncoderIdentity:
        """What this encoder is. Two encoders of equal identity give the same vectors."""
        ...

    def encode(self, texts: Sequence[str], *, kind: Kind) -> Vectors:
        """Embed `texts`.

        Returns an array of shape (len(texts), dim), float32, C-contiguous, each row of length 1. A row
        depends on its own text only, never on the texts beside it.

        Raises EncodingFailed.
        """
        ...


def clip(text: str, limit: int) -> str:
    """Cut `text` to about `limit` characters, before any tokeniser sees it.

    Text longer than `limit` characters keeps its first `limit` // 2 and its last `limit` // 2 characters,
    joined by one newline: people say what they want at the start or at the end. The time this takes does
    not depend on the length of the text. Half of a surrogate pair, which no tokeniser accepts, becomes
    U+FFFD.
    """
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}\n{text[-half:]}"
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def unit_rows(raw: NDArray[np.floating], *, name: str, dim: int | None = None) -> Vectors:
    """Scale every row of `raw`, shape (n, dim), to length 1: float32, C-contiguous, a new array.

    Raises EncodingFailed when `raw` is no matrix of `dim` columns, or when a row holds NaN or infinity or
    has no direction.
    """
    import numpy as np

    if raw.ndim != 2 or (dim is not None and raw.shape[1] != dim):
        expected = "(texts, dim)" if dim is None else f"(texts, {dim})"
        raise EncodingFailed(f"encoder {name}: vectors of shape {raw.shape}, expected {expected}")
    doubles = raw.astype(np.float64)
    squares = np.einsum("ij,ij->i", doubles, doubles)
    if not all(map(math.isfinite, squares.tolist())):
        raise EncodingFailed(f"encoder {name}: a vector holds NaN or infinity")
    if not squares.all():
        raise EncodingFailed(f"encoder {name}: a vector is all zeros, so it has no direction")
    scaled: Vectors = (doubles / np.sqrt(squares)[:, None]).astype(np.float32)
    return scaled


def usable_cores() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
