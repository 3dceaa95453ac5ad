"""The folder that `semroute init` writes: a small, commented project to start from."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from semroute.errors import ConfigError, Problem


def write_starter(folder: Path) -> list[Path]:
    """Write the starter YAML files into `folder` and return their paths.

    Raises ConfigError, having written nothing, when one of the files exists or the folder cannot be made.
    """
    templates = sorted(
        (item for item in resources.files(__package__).iterdir() if item.name.endswith(".yaml")),
        key=lambda item: item.name,
    )
    present = [folder / item.name for item in templates if (folder / item.name).exists()]
    if present:
        raise ConfigError(
            tuple(Problem(str(path), 0, 0, "exists; nothing was written over it.") for path in present)
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for item in templates:
            (folder / item.name).write_bytes(item.read_bytes())
    except OSError as error:
        reason = f"the starter could not be written: {error.strerror or error}."
        raise ConfigError((Problem(str(folder), 0, 0, reason),)) from error
    return [folder / item.name for item in templates]
