"""A model folder somebody else made: what it must hold, what it must not, and what identifies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from semroute.errors import EncoderUnavailable

CHARS_PER_TOKEN = 4
"""Text is cut to this many characters for each token a model takes: about the average of English."""

_DEFAULT_TOKENS = 512
_ABSURD_TOKENS = 100_000
_WHOLE_BYTES = 4 << 20
_BLOCK_BYTES = 64 << 10
_BLOCKS = 16


def require_folder(path: Path, *, name: str) -> Path:
    """Return `path` if it is a folder without Python files, which could run; raises EncoderUnavailable."""
    if not path.is_dir():
        raise EncoderUnavailable(f"encoder {name}: {path} is no folder; give the path of a model folder")
    for file in path.rglob("*.py"):
        raise EncoderUnavailable(
            f"encoder {name}: {file} is Python code; a model folder must not bring code, remove it"
        )
    return path


def read_json(file: Path, *, name: str) -> dict[str, Any]:
    """The JSON object in `file`, {} when there is no such file; raises EncoderUnavailable."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise EncoderUnavailable(f"encoder {name}: cannot read {file}: {error}; fetch it again") from error
    if not isinstance(content, dict):
        raise EncoderUnavailable(f"encoder {name}: {file} holds no JSON object; fetch it again")
    return content


def max_tokens(folder: Path, *, name: str) -> int:
    """How many tokens the model in `folder` takes: its own settings, else its tokenizer's, else 512.

    Raises EncoderUnavailable for a file that cannot be read.
    """
    values = (
        read_json(folder / "sentence_bert_config.json", name=name).get("max_seq_length"),
        read_json(folder / "tokenizer_config.json", name=name).get("model_max_length"),
    )
    for value in values:
        if isinstance(value, int) and 0 < value < _ABSURD_TOKENS:
            return value
    return _DEFAULT_TOKENS


def folder_digest(folder: Path, *, name: str) -> str:
    """`sha256:...` over the relative name, the size and the content of every file in `folder`.

    Of a file above 4 MiB only 16 blocks of 64 KiB, spread evenly from the first byte to the last, are
    read, so that the digest takes milliseconds: it notices other weights, not a few flipped bits. Hidden
    files and folders do not count. Raises EncoderUnavailable for a file that cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for file in _visible_files(folder):
            size = file.stat().st_size
            digest.update(f"{file.relative_to(folder).as_posix()}\0{size}\0".encode())
            for block in _blocks(file, size):
                digest.update(block)
    except OSError as error:
        raise EncoderUnavailable(f"encoder {name}: cannot read the model folder: {error}") from error
    return f"sha256:{digest.hexdigest()}"


def _visible_files(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(
        (path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)),
        key=lambda path: path.relative_to(folder).as_posix(),
    )


def _blocks(file: Path, size: int) -> Iterator[bytes]:
    if size <= _WHOLE_BYTES:
        yield file.read_bytes()
        return
    with file.open("rb") as stream:
        for number in range(_BLOCKS):
            stream.seek((size - _BLOCK_BYTES) * number // (_BLOCKS - 1))
            yield stream.read(_BLOCK_BYTES)
