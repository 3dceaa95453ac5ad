"""The decision log as a file of JSON Lines, for the processes of one machine.

An entry is a line. Writers append under a lock of the operating system on the file itself, so that lines
never mix; erasing writes the file anew and renames it, so every writer looks whether its file is still the
one at the path. A line that a crash or a full disk has cut is passed over. The key of the prompt hashes
stands in PATH.key.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time as clock
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from semroute.databases import Kept
from semroute.decisionlog.record import (
    Entry,
    LoggedDecision,
    Remembered,
    from_line,
    joined,
    remembered,
    to_line,
)
from semroute.errors import StoreBusy, StoreCorrupt, StoreUnavailable

PATIENCE_S = 10.0
_LOOK_S = 0.02
_KEY_BYTES = 32


class JsonlLog(Kept):
    """The log in the file `path`; see `DecisionLog`. patience: seconds to wait for others, then StoreBusy.

    Places are those of the bytes in the file. Reading joins what was said later, so it reads the file twice.
    """

    def __init__(self, path: Path, *, patience: float = PATIENCE_S) -> None:
        self._path, self._where = path, str(path)
        self._patience = patience
        self._closed = False
        with self._translated():
            _make(path)
            self._key = _stored_key(path.with_name(path.name + ".key"))

    def write(self, entries: Sequence[Entry]) -> None:
        """See `DecisionLog.write`. What a write that failed has left behind is cut off again."""
        data = b"".join(map(to_line, entries))
        with self._locked() as file:
            end = file.seek(0, os.SEEK_END)
            if end and _byte_before(file, end) != b"\n":
                data = b"\n" + data  # somebody's line was cut
            try:
                _write_all(file.fileno(), data)
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(end)
                raise

    def read(self, since: float | None = None, limit: int | None = None) -> Iterator[LoggedDecision]:
        """See `DecisionLog.read`."""
        later = self._later()
        decided = (entry for _, entry in self._entries() if entry.kind == "decided")
        for count, entry in enumerate(entry for entry in decided if entry.time >= (since or 0.0)):
            if limit is not None and count >= limit:
                return
            yield joined(entry, later.get(entry.id, ()), self._where)

    def tail(self, count: int) -> list[LoggedDecision]:
        """See `DecisionLog.tail`."""
        last = deque((e for _, e in self._entries() if e.kind == "decided"), maxlen=count)
        return self._joined(last)

    def find(self, ids: Sequence[str]) -> list[LoggedDecision]:
        """See `DecisionLog.find`."""
        wanted = set(ids)
        return self._joined([e for _, e in self._entries() if e.kind == "decided" and e.id in wanted])

    def recall(self, identity: str) -> Remembered | None:
        """See `DecisionLog.recall`."""
        found = [entry for _, entry in self._entries() if entry.id == identity]
        decided = next((entry for entry in found if entry.kind == "decided"), None)
        return None if decided is None else remembered(decided, found)

    def last(self) -> int:
        """See `DecisionLog.last`."""
        self._check_open()
        with self._translated():
            return self._path.stat().st_size

    def news(self, after: int) -> tuple[int, list[str]]:
        """See `DecisionLog.news`. A file that was written anew is read from its start."""
        end = after
        ids: dict[str, None] = {}
        for end, entry in self._entries(after if after <= self.last() else 0):  # noqa: B007 - the last one counts
            ids[entry.id] = None
        return end, list(ids)

    def forget(self, prompt_hash: bytes) -> int:
        """See `DecisionLog.forget`. The file is written anew; what the disk keeps is beyond its reach."""
        ids = {entry.id for _, entry in self._entries() if entry.prompt_hash == prompt_hash}
        self._erase(lambda entry: entry.id in ids)
        return len(ids)

    def forget_principal(self, principal: str) -> int:
        """See `DecisionLog.forget_principal`."""
        return self._erase(lambda entry: entry.principal == principal)

    def prune(self, before: float) -> int:
        """See `DecisionLog.prune`. A file with nothing to erase is not written anew."""
        return self._erase(lambda entry: entry.time < before)

    def close(self) -> None:
        """See `DecisionLog.close`. Nothing is held open between two calls."""
        self._closed = True

    def _later(self, ids: set[str] | None = None) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = defaultdict(list)
        for _, entry in self._entries():
            if entry.kind != "decided" and (ids is None or entry.id in ids):
                found[entry.id].append(entry)
        return found

    def _joined(self, decided: Iterable[Entry]) -> list[LoggedDecision]:
        entries = list(decided)
        later = self._later({entry.id for entry in entries})
        return [joined(entry, later.get(entry.id, ()), self._where) for entry in entries]

    def _entries(self, after: int = 0) -> Iterator[tuple[int, Entry]]:
        """The entries that begin at the place `after` or later, each with the place of its end."""
        self._check_open()
        seen: set[str] = set()  # a batch that was written again after an error stands there twice
        with self._translated(), self._path.open("rb") as file:
            end = file.seek(after)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # cut, or being written
                end += len(line)
                entry = from_line(line)
                if entry is not None and entry.entry not in seen:
                    seen.add(entry.entry)
                    yield end, entry

    def _erase(self, is_erased: Callable[[Entry], bool]) -> int:
        """Write the file anew without some entries; returns how many. Lines that are none go as well."""
        if not any(is_erased(entry) for _, entry in self._entries()):
            return 0
        erased = 0
        with self._locked():
            fresh = self._path.with_name(self._path.name + ".new")
            with _made_anew(fresh) as target, self._path.open("rb") as source:
                for line in source:
                    entry = from_line(line)
                    if entry is not None and not is_erased(entry):
                        target.write(to_line(entry))
                    erased += entry is not None and is_erased(entry)
                target.flush()
                os.fsync(target.fileno())
            fresh.replace(self._path)
            _sync_folder(self._path.parent)
        return erased

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable(f"{self._path} is closed; open the log again")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        """The file, for this thread of this process alone."""
        import fcntl

        self._check_open()
        deadline = clock.monotonic() + self._patience
        with self._translated():
            while True:
                _make(self._path)
                with self._path.open("rb+", buffering=0) as file:
                    while not _try_lock(fcntl.flock, file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB):
                        if clock.monotonic() > deadline:
                            raise StoreBusy(
                                f"{self._path} was held by others for {self._patience:g} s; try again"
                            )
                        clock.sleep(_LOOK_S)
                    if _is_at(self._path, file.fileno()):  # not if somebody has just written it anew
                        yield file
                        return

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ImportError as error:
            raise StoreUnavailable(
                f"{self._path}: this system cannot lock files; name sqlite:PATH instead"
            ) from error
        except OSError as error:
            raise StoreUnavailable(
                f"{self._path} cannot be read or written: {error.strerror}; its folder must exist and be"
                " writable, and the disk not be full"
            ) from error


def _make(path: Path) -> None:
    """Make the file, for its owner alone."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _made_anew(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb")


def _stored_key(path: Path) -> bytes:
    """The key in `path`, made where there is none: whole at once, so that two processes have the same."""
    if not path.exists():
        fresh = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
        with _made_anew(fresh) as file:
            file.write(secrets.token_hex(_KEY_BYTES).encode())
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
        fresh.unlink()
    try:
        key = bytes.fromhex(path.read_text("ascii"))
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise StoreCorrupt(f"{path} is not a key that semroute has made; restore a backup")
    return key


def _try_lock(flock: Callable[[int, int], None], descriptor: int, how: int) -> bool:
    try:
        flock(descriptor, how)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)


def _byte_before(file: IO[bytes], end: int) -> bytes:
    file.seek(end - 1)
    return file.read(1)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
