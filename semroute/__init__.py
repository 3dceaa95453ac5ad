"""semroute decides, before the call, which model serves a prompt, and says why and how sure it is.

    import semroute
    decision = semroute.route("where is my refund?")
    decision.model, decision.route, decision.reason

Importing is cheap: numpy, FAISS and the encoders are loaded with the first index.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from semroute.errors import (
    ArtifactCorrupt,
    ArtifactError,
    ArtifactMismatch,
    ArtifactMissing,
    ArtifactNotWritten,
    ConfigError,
    EncoderError,
    EncoderUnavailable,
    EncodingFailed,
    OutcomeInvalid,
    Problem,
    QuotaExceeded,
    SemrouteError,
    StoreError,
    StoreUnavailable,
    UnknownDecision,
)

if TYPE_CHECKING:
    from semroute._default import aroute, route, route_many
    from semroute.decision import Candidate, Decision, Neighbor, PastOutcome
    from semroute.encoders.base import Encoder
    from semroute.router import Router
    from semroute.telemetry import Listener

__all__ = [
    "ArtifactCorrupt",
    "ArtifactError",
    "ArtifactMismatch",
    "ArtifactMissing",
    "ArtifactNotWritten",
    "Candidate",
    "ConfigError",
    "Decision",
    "Encoder",
    "EncoderError",
    "EncoderUnavailable",
    "EncodingFailed",
    "Listener",
    "Neighbor",
    "OutcomeInvalid",
    "PastOutcome",
    "Problem",
    "QuotaExceeded",
    "Router",
    "SemrouteError",
    "StoreError",
    "StoreUnavailable",
    "UnknownDecision",
    "__version__",
    "aroute",
    "load",
    "route",
    "route_many",
]

__version__ = "0.1.0"

_LAZY = {
    "Candidate": "semroute.decision",
    "Decision": "semroute.decision",
    "Encoder": "semroute.encoders.base",
    "Listener": "semroute.telemetry",
    "Neighbor": "semroute.decision",
    "PastOutcome": "semroute.decision",
    "Router": "semroute.router",
    "aroute": "semroute._default",
    "route": "semroute._default",
    "route_many": "semroute._default",
}


def load(
    folder: str | os.PathLike[str],
    *,
    encoder: Encoder | None = None,
    listeners: Iterable[Listener] = (),
    log: bool = True,
) -> Router:
    """Load an index folder and make a `Router`; see `Router.load`. Raises ArtifactError or EncoderError."""
    from semroute.router import Router

    return Router.load(folder, encoder=encoder, listeners=listeners, log=log)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'semroute' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
