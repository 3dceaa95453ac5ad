"""The seam between text and vectors: one protocol, one identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

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
