"""The folder `index/` as bytes: a manifest, files named by their digest, atomic writes, verified reads.

Knows nothing of vectors or routes. A reader sees the old build or the new one, never a mixture: data files
never change under their name, and the manifest that lists them is replaced last, in one step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from semroute.errors import (
    ArtifactCorrupt,
    ArtifactMismatch,
    ArtifactMissing,
    ArtifactNotWritten,
)

FORMAT = 3
READABLE_FORMATS = (1, 2, FORMAT)
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
_READ_ATTEMPTS = 3
_NAME = re.compile(r"^(config|utterances|vectors|fitted)-[0-9a-f]{16}\.(json|jsonl|faiss|npz)$")
_LEFTOVER = re.compile(r"^\.building-[0-9]+-")


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class FileRecord(_Part):
    """One data file: its name in the folder, its SHA-256 in hex and its size in bytes."""

    name: str = Field(pattern=_NAME.pattern)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class EncoderRecord(_Part):
    """The identity of the encoder that made the vectors; see `EncoderIdentity`."""

    name: str
    revision: str
    dim: int = Field(ge=1, le=1 << 16)
    preprocessing: str


class CountsRecord(_Part):
    """How much is in the index."""

    routes: int = Field(ge=0)
    utterances: int = Field(ge=0)
    heldout: int = Field(ge=0)


class VectorsRecord(_Part):
    """How the vectors are stored, and the measured rule that chose it."""

    kind: str
    metric: str
    dtype: str
    rule: str


class FittedRecord(_Part):
    """What was fitted at build, on what.

    `words` is the revision of the token table whose vectors the head sees beside those of the encoder, None
    where it sees the encoder's alone.
    """

    max_distance: float = Field(ge=0, le=2)
    min_confidence: float = Field(ge=0, le=1)
    method: str = "vote alone"  # format 1 had nothing else
    on: str
    words: str | None = None  # format 2 had none


class Manifest(_Part):
    """`manifest.json`: what the folder holds. Written last, and never without what it lists."""

    format: int
    fingerprint: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    encoder: EncoderRecord
    counts: CountsRecord
    vectors: VectorsRecord
    fitted: FittedRecord
    files: dict[str, FileRecord]
    built_with: dict[str, str]


def build_command(folder: Path, routes: Path | None = None) -> str:
    """The command that makes the index in `folder`; what it would take by itself is left out.

    routes: the folder of YAML; None means the one beside `folder` where there is one.
    """
    if routes is None:
        beside = folder.parent / "routes"
        routes = beside if beside.is_dir() else Path("routes")
    given = [("--routes", routes), ("--index", folder)]
    named = [f"{option} {shlex.quote(str(path))}" for option, path in given if path != Path(option[2:])]
    return " ".join(["semroute build", *named])


def digest(data: bytes) -> str:
    """SHA-256 of `data` in hex."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: object) -> bytes:
    """`value` as JSON with one possible spelling: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8")


def file_record(role: str, suffix: str, data: bytes) -> FileRecord:
    """The record of a data file: its name carries the first 16 hex digits of its digest."""
    sha256 = digest(data)
    return FileRecord(name=f"{role}-{sha256[:16]}.{suffix}", sha256=sha256, size=len(data))


def read(folder: Path) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the bytes of every file it lists, keyed by role, each of the promised size and digest.

    A build that replaces the folder meanwhile is noticed, and the new state is read instead.

    Raises ArtifactMissing, ArtifactCorrupt or ArtifactMismatch.
    """
    attempts_left = _READ_ATTEMPTS
    while True:
        before = _read_manifest_bytes(folder)
        manifest = _parse_manifest(folder, before)
        try:
            return manifest, {role: _read_file(folder, record) for role, record in manifest.files.items()}
        except ArtifactCorrupt:
            # The same manifest does not prove that nothing was built: two builds may have led back to it.
            attempts_left -= _read_manifest_bytes(folder) == before
            if attempts_left == 0:
                raise
            time.sleep(0.01)


def write(folder: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> None:
    """Store a build: `contents` by role, as recorded in `manifest.files`, then the manifest.

    Each file is written under a passing name, flushed to the disk, read back and compared, and renamed. On
    any failure the new files are removed and the old index stands as it was.

    Raises ArtifactNotWritten.
    """
    created: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            _remove_leftovers(folder)
            for role, record in manifest.files.items():
                _store(folder / record.name, contents[role], created)
            _sync_folder(folder)
            _store(folder / MANIFEST, _manifest_bytes(manifest), [])
            created.clear()
            # The new index stands. What is only tidying may fail without calling that into question.
            with contextlib.suppress(OSError):
                _sync_folder(folder)
                _remove_unlisted(folder, manifest)
    except OSError as error:
        raise ArtifactNotWritten(
            f"{folder}: the index could not be stored: {error.strerror or error}. "
            "The index that was there is unchanged. Free space or make the folder writable, then build again."
        ) from error
    finally:
        # Also on KeyboardInterrupt: what no manifest lists must not stay.
        for path in created:
            path.unlink(missing_ok=True)


def _manifest_bytes(manifest: Manifest) -> bytes:
    return (json.dumps(manifest.model_dump(), indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def _read_manifest_bytes(folder: Path) -> bytes:
    path = folder / MANIFEST
    try:
        with _open_inside(folder, MANIFEST) as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError as error:
        raise ArtifactMissing(
            f"{path}: there is no index here. Run `{build_command(folder)}` to make one."
        ) from error
    except OSError as error:
        raise ArtifactCorrupt(f"{path}: cannot be read: {error.strerror or error}.") from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise _corrupt(path, f"larger than {MAX_MANIFEST_BYTES} bytes")
    return data


def _parse_manifest(folder: Path, data: bytes) -> Manifest:
    path = folder / MANIFEST
    try:
        content: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, "not JSON") from error
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(found, int) and found not in READABLE_FORMATS:
        raise ArtifactMismatch(
            f"{path}: index format {found}, and this semroute reads up to {FORMAT}. "
            "Build the index again with the version of semroute that serves it."
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise _corrupt(path, f"{where}: {first['msg']}") from error


def _read_file(folder: Path, record: FileRecord) -> bytes:
    path = folder / record.name
    try:
        with _open_inside(folder, record.name) as file:
            size = os.fstat(file.fileno()).st_size
            if size != record.size:
                raise _corrupt(path, f"{size} bytes, and the manifest promises {record.size}")
            data = file.read()
    except FileNotFoundError as error:
        raise _corrupt(path, "listed in the manifest and not there") from error
    except OSError as error:
        raise _corrupt(path, f"cannot be read: {error.strerror or error}") from error
    if len(data) != record.size or digest(data) != record.sha256:
        raise _corrupt(path, "its bytes differ from those that were built (SHA-256)")
    return data


def _corrupt(path: Path, reason: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(f"{path}: {reason}. Run `{build_command(path.parent)}` to make the index again.")


def _open_inside(folder: Path, name: str) -> BinaryIO:
    """Open a regular file that lies in `folder`; links that lead out of it are refused."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise _corrupt(path, "a link that leads out of the index folder")
    if path.exists() and not path.is_file():
        raise _corrupt(path, "not a regular file")
    return path.open("rb")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One build at a time stores into `folder`; a lock on the folder itself leaves no file behind."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock; concurrent builds into one folder are the caller's care
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _store(path: Path, data: bytes, created: list[Path]) -> None:
    passing = path.with_name(f".building-{os.getpid()}-{path.name}")
    try:
        with passing.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # A full disk or a bad one must be noticed now, while the old index still stands.
        if passing.read_bytes() != data:
            raise OSError(None, f"{path.name} reads back differently from what was written")
        is_new = not path.exists()
        passing.replace(path)
        if is_new:
            created.append(path)
    finally:
        passing.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.iterdir():
        if _LEFTOVER.match(path.name):
            path.unlink(missing_ok=True)


def _remove_unlisted(folder: Path, manifest: Manifest) -> None:
    listed = {record.name for record in manifest.files.values()}
    for path in folder.iterdir():
        if _NAME.match(path.name) and path.name not in listed:
            path.unlink(missing_ok=True)


__all__ = [
    "FORMAT",
    "READABLE_FORMATS",
    "CountsRecord",
    "EncoderRecord",
    "FileRecord",
    "FittedRecord",
    "Manifest",
    "VectorsRecord",
    "canonical_json",
    "digest",
    "file_record",
    "read",
    "write",
]
