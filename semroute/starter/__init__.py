"""The folder that `semroute init` writes: a small, commented project to start from, and its schemas."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from semroute.config import json_schemas, schema_text
from semroute.errors import ConfigError, Problem


def write_starter(folder: Path) -> list[Path]:
    """Write the starter YAML files, and the JSON Schemas that they name, into `folder`; return their paths.

    Raises ConfigError, having written nothing, when one of the files exists or the folder cannot be made.
    """
    files = _files()
    present = [folder / name for name in files if (folder / name).exists()]
    if present:
        raise ConfigError(
            tuple(Problem(str(path), 0, 0, "exists; nothing was written over it.") for path in present)
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        reason = f"the starter could not be written: {error.strerror or error}."
        raise ConfigError((Problem(str(folder), 0, 0, reason),)) from error
    return [folder / name for name in files]


def _files() -> dict[str, bytes]:
    """What is written, by name; the files first that people read."""
    templates = {
        item.name: item.read_bytes()
        for item in resources.files(__package__).iterdir()
        if item.name.endswith(".yaml")
    }
    schemas = {f"{name}.schema.json": schema_text(schema) for name, schema in json_schemas().items()}
    return {**dict(sorted(templates.items())), **{name: text.encode() for name, text in schemas.items()}}
