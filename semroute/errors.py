"""Everything semroute raises on purpose.

    SemrouteError
    |-- ConfigError          the YAML is wrong; carries every problem as file:line:col
    |-- ArtifactError        index/ is not what it should be; carries file and reason
    |   |-- ArtifactMissing      nothing there to load
    |   |-- ArtifactCorrupt      bytes differ from what the manifest promises
    |   |-- ArtifactMismatch     intact, but not for this encoder or this version
    |   `-- ArtifactNotWritten   a build could not store its result; the old one stands
    |-- EncoderError         text could not become vectors
    |   |-- EncoderUnavailable   the encoder cannot be opened: package, file or key missing
    |   `-- EncodingFailed       it was open and did not answer as it must
    `-- StoreError           an outcome was not stored or not read
        |-- StoreUnavailable     the store cannot be opened, is gone, or holds what is not ours
        |-- StoreBusy            others held it for too long; nothing was written, try again
        `-- OutcomeRefused       the outcome itself is wrong; names the field
            |-- UnknownDecision      no decision of that id is remembered here
            `-- QuotaExceeded        this principal has said enough for today

Raised while building and loading. At request time `Router.route()` answers with the default instead.
"""

from __future__ import annotations

from dataclasses import dataclass


class SemrouteError(Exception):
    """Base of every error that semroute raises on purpose."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong in a configuration, where it stands, and what would be right.

    `line` and `column` count from 1; 0 means the whole file or folder.
    """

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class ConfigError(SemrouteError):
    """The configuration is wrong. `problems` holds every fault found, not only the first."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class ArtifactError(SemrouteError):
    """The index folder cannot be used or written."""


class ArtifactMissing(ArtifactError):  # noqa: N818 - the tree reads better without the suffix
    """There is no index to load."""


class ArtifactCorrupt(ArtifactError):  # noqa: N818
    """A file is absent, cut, changed or not what its manifest says."""


class ArtifactMismatch(ArtifactError):  # noqa: N818
    """The index is intact but was built for another encoder or another version of semroute."""


class ArtifactNotWritten(ArtifactError):  # noqa: N818
    """A build could not be stored. What was there before is still there."""


class EncoderError(SemrouteError):
    """Text could not be turned into vectors."""


class EncoderUnavailable(EncoderError):  # noqa: N818
    """The encoder cannot be opened: a package, a file or a key is missing."""


class EncodingFailed(EncoderError):  # noqa: N818
    """The encoder is open but failed on these texts, or answered something that is no embedding."""


class StoreError(SemrouteError):
    """An outcome could not be stored or read."""


class StoreUnavailable(StoreError):  # noqa: N818
    """The store cannot be opened, is gone, or is not one of ours."""


class StoreBusy(StoreError):  # noqa: N818
    """Other writers held the store for too long. Nothing was written."""


class OutcomeRefused(StoreError):  # noqa: N818
    """The outcome is not one: a score outside [0, 1], an unknown model, a vector of another encoder."""


class UnknownDecision(OutcomeRefused):
    """No decision of that id is remembered by this router."""


class QuotaExceeded(OutcomeRefused):
    """The principal has stored as many outcomes in 24 hours as one may."""
