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
    `-- StoreError           the store of outcomes did not do what was asked; nothing of it was stored
        |-- OutcomeInvalid       an outcome or event that no store takes; carries the field
        |   `-- UnknownDecision      no decision of that id is remembered here
        |-- QuotaExceeded        this principal has said enough for today
        |-- OutcomeConflict      something else is stored under this id
        |-- StoreUnavailable     cannot be opened, reached or written: driver, path, server, rights
        |   `-- NoStore              the settings name none
        |-- StoreBusy            others held it for longer than we wait; try again
        |-- StoreCorrupt         it holds what semroute has not written
        `-- StoreMismatch        intact, but not a store of ours or made by a newer semroute

Raised while building and loading, and by a store when it is written or read. At request time
`Router.route()` answers with the default instead.
"""

from __future__ import annotations

from dataclasses import dataclass

THE_STORE, THE_LOG, THE_CASES, THE_SETTINGS = NO_FILES = (
    "the store",
    "the decision log",
    "the cases",
    "the settings",
)
"""Where a problem is that stands in no file: such a place has no lines."""


class SemrouteError(Exception):
    """Base of every error that semroute raises on purpose."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong in a configuration, where it stands, and what would be right.

    `line` and `column` count from 1; 0 means the whole file or folder, or one that is not there.
    """

    file: str
    line: int
    column: int
    message: str

    @property
    def where(self) -> str:
        """`file:line:column`; the beginning where there is no line to name, as of a missing file.

        Of what is no file, such as a store, its name alone.
        """
        if self.file in NO_FILES and not self.line:
            return self.file
        return f"{self.file}:{self.line or 1}:{self.column or 1}"

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


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
    """The store of outcomes did not do what was asked. A write that raises this has stored nothing.

    The one exception is a connection that breaks while it commits: then nobody knows. Appending the same
    outcomes again is right in every case, because a store keeps an id once.
    """


class OutcomeInvalid(StoreError):  # noqa: N818
    """An outcome or an event is not what a store takes. `field` names what is wrong; no value is quoted."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        self.message = message
        super().__init__(field, message)

    def __str__(self) -> str:
        return f"{self.field} {self.message}"


class UnknownDecision(OutcomeInvalid):
    """No decision of that id is remembered by this router."""


class QuotaExceeded(StoreError):  # noqa: N818
    """The principal has stored as many outcomes in 24 hours as one may."""


class OutcomeConflict(StoreError):  # noqa: N818
    """An id is stored already, with other content. The same content again is no error."""


class StoreUnavailable(StoreError):  # noqa: N818
    """The store cannot be opened, reached or written: a driver, a path, a server or a right is missing."""


class NoStore(StoreUnavailable):
    """The settings name no store of outcomes."""


class StoreReplaced(StoreUnavailable):
    """The file of a store was moved, deleted or replaced while it was open."""


class StoreBusy(StoreError):  # noqa: N818
    """Others held the store for longer than we wait. Try again later."""


class StoreCorrupt(StoreError):  # noqa: N818
    """The store holds what semroute has not written: damaged bytes, changed tables, values out of range."""


class StoreMismatch(StoreError):  # noqa: N818
    """The store is intact, but it is not one of semroute's or a newer version has made it."""


def install_extra(extra: str) -> str:
    """How to install an optional part, whether semroute came from a clone or from a package index."""
    return f"install the extra `{extra}` of semroute-router; in a clone: pip install '.[{extra}]'"
