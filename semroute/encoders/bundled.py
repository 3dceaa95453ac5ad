"""The encoders that come with the package: their folders, and whether those are intact."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from semroute.errors import EncoderUnavailable

ASSETS = Path(__file__).parent / "assets"
NAMES = ("minilm", "static")


@dataclass(frozen=True, slots=True)
class Asset:
    """A bundled folder as its asset.json describes it.

    `files` maps the name of each file to its size in bytes and its SHA-256 in hexadecimal.
    """

    folder: Path
    revision: str
    dim: int
    files: Mapping[str, tuple[int, str]]

    @classmethod
    def open(cls, name: str) -> Asset:
        """Read the description of the bundled encoder `name`; raises EncoderUnavailable."""
        file = ASSETS / name / "asset.json"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            files = {
                key: (int(entry["bytes"]), str(entry["sha256"])) for key, entry in content["files"].items()
            }
            return cls(file.parent, str(content["revision"]), int(content["dim"]), files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise EncoderUnavailable(
                f"encoder {name}: cannot read {file}: {error}; reinstall semroute-router"
            ) from error

    def verified(self) -> Asset:
        """Return this asset if every file is as described; raises EncoderUnavailable."""
        problems = self.problems()
        if problems:
            raise EncoderUnavailable(f"encoder {self.folder.name}: {'; '.join(problems)}")
        return self

    def problems(self) -> list[str]:
        """What is wrong with the files, one sentence each; [] when every byte is as described."""
        found = (_problem(self.folder / name, *expected) for name, expected in self.files.items())
        return [problem for problem in found if problem is not None]


def verify_assets() -> list[str]:
    """What is wrong with the bundled encoders, one sentence each; [] when they are intact.

    Reads every byte of them: about 32 MB.
    """
    problems: list[str] = []
    for name in NAMES:
        try:
            problems += Asset.open(name).problems()
        except EncoderUnavailable as error:
            problems.append(str(error))
    return problems


def words_revision(name: str) -> str | None:
    """The revision of the token table whose vectors the head sees beside those of the encoder `name`.

    None where it sees those of the encoder alone: for all but `minilm`. A sentence of the network and the sum
    of its words err differently, which is worth half a point of accuracy; `static` is such a sum itself, and
    what language another encoder is for is not known. Raises EncoderUnavailable.
    """
    return Asset.open("static").revision if name == "minilm" else None


def known_words(name: str) -> frozenset[str]:
    """The whole words of the vocabulary of a bundled encoder; empty for any other encoder.

    Raises EncoderUnavailable.
    """
    if name not in NAMES:
        return frozenset()
    file = ASSETS / "static" / "vocab.txt"  # both encoders have the same vocabulary
    try:
        tokens = file.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise EncoderUnavailable(f"cannot read {file}: {error}; reinstall semroute-router") from error
    return frozenset(token for token in tokens if token.isascii() and token.isalpha())


def _problem(file: Path, size: int, sha256: str) -> str | None:
    try:
        if file.stat().st_size != size:
            return f"{file} has {file.stat().st_size} bytes, expected {size}; reinstall semroute-router"
        with file.open("rb") as stream:
            intact = hashlib.file_digest(stream, "sha256").hexdigest() == sha256
    except OSError as error:
        return f"cannot read {file}: {error.strerror}; reinstall semroute-router"
    return None if intact else f"{file} was changed; reinstall semroute-router"
