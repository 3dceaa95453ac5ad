"""A table of token vectors: a text is the sum over its tokens. numpy only, some 0.03 ms a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from semroute.encoders.base import EncoderIdentity, Kind, clip
from semroute.encoders.wordpiece import WordPiece
from semroute.errors import EncoderUnavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from semroute.encoders.base import Vectors

MAX_CHARS = 2000
PREPROCESSING = f"clip={MAX_CHARS} uncased wordpiece"


class StaticEncoder:
    """Vectors from `table.npy`, `scales.npy` and `vocab.txt` in `folder`.

    The table is (tokens, dim) int8, the scales are (tokens,) float32, the vocabulary is one token a line;
    the vector of a token is its row times its scale. Tokens outside the vocabulary do not count, and a text
    without any other has the vector of `[UNK]`. Safe to use from several threads. Raises EncoderUnavailable.
    """

    def __init__(self, folder: Path, *, name: str, revision: str) -> None:
        import numpy as np

        try:
            tokens = (folder / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
            mapped = np.load(folder / "table.npy", mmap_mode="r", allow_pickle=False)
            self._table: NDArray[np.int8] = np.asarray(mapped)  # still mapped, less slowly indexed
            self._scales: NDArray[np.float32] = np.load(folder / "scales.npy", allow_pickle=False)
            self._tokenizer = WordPiece(tokens)
        except (OSError, ValueError, KeyError) as error:
            raise EncoderUnavailable(
                f"encoder {name}: cannot read {folder}: {error}; reinstall semroute-router"
            ) from error
        self._identity = EncoderIdentity(name, revision, self._table.shape[1], PREPROCESSING)

    @property
    def identity(self) -> EncoderIdentity:
        """The name and the revision as given."""
        return self._identity

    def encode(self, texts: Sequence[str], *, kind: Kind) -> Vectors:
        """Embed `texts`: shape (len(texts), dim), float32, C-contiguous, rows of length 1.

        Queries and documents are embedded alike.
        """
        import numpy as np

        vectors = np.empty((len(texts), self._identity.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._embed(text)
        return vectors

    def _embed(self, text: str) -> NDArray[np.float32]:
        unknown = self._tokenizer.unknown
        ids = [token for token in self._tokenizer.encode(clip(text, MAX_CHARS)) if token != unknown]
        vector, length = self._sum(ids or [unknown])
        if not length:
            vector, length = self._sum([unknown])
        return vector / length

    def _sum(self, ids: list[int]) -> tuple[NDArray[np.float32], np.float32]:
        """The sum of the vectors of the tokens `ids`, shape (dim,), and its length."""
        import numpy as np

        rows = np.array(ids)
        vector: NDArray[np.float32] = self._scales[rows] @ self._table[rows].astype(np.float32)
        return vector, np.sqrt(vector @ vector)
