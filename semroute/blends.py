"""Routers that differ in `vote.blend` alone, to be measured side by side; prompts are embedded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from semroute.index import refit
from semroute.router import Router
from semroute.snapshot import words_for

if TYPE_CHECKING:
    from semroute.encoders.base import Encoder, EncoderIdentity, Kind, Vectors


def at_blends(router: Router, blends: Sequence[float]) -> list[Router]:
    """`router` as it is, and with each of these values of `vote.blend`, all without outcomes and log.

    The heads of the folds are fitted once, which takes as long as at a build. Raises EncoderError.
    """
    index = router.index
    settings = index.config.settings.model_copy(update={"escalations": None, "log": None})
    bare = replace(index, config=replace(index.config, settings=settings))
    encoder = _Remembering(router.encoder)
    indexes = [bare, *refit(bare, words_for(index), blends)]
    return [Router(one, encoder, log=False) for one in indexes]


class _Remembering:
    """An encoder that embeds each text once."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: dict[tuple[str, Kind], Vectors] = {}

    @property
    def identity(self) -> EncoderIdentity:
        return self._encoder.identity

    def encode(self, texts: Sequence[str], *, kind: Kind) -> Vectors:
        missing = [text for text in dict.fromkeys(texts) if (text, kind) not in self._known]
        if missing:
            vectors = self._encoder.encode(missing, kind=kind)
            self._known |= {(text, kind): row for text, row in zip(missing, vectors, strict=True)}
        if not texts:
            return np.empty((0, self.identity.dim), np.float32)
        return np.stack([self._known[text, kind] for text in texts])
