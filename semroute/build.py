"""The two folders of a project: `routes/`, which people write, and `index/`, which is deployed."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from semroute import freshness
from semroute.config import Config, load_config
from semroute.encoders import identify, open_encoder, open_words
from semroute.errors import (
    ArtifactCorrupt,
    ArtifactError,
    ArtifactMismatch,
    ArtifactMissing,
    ArtifactNotWritten,
    ConfigError,
    EncoderError,
)

if TYPE_CHECKING:
    from semroute.encoders.base import Encoder
    from semroute.index import Progress, RouteIndex


@dataclass(frozen=True, slots=True)
class Built:
    """What a build did.

    embedded, reused: utterances embedded now, and vectors taken from the index that was there.
    discarded: why the index that was there could not be used, or None.
    unchanged: the index was up to date already, and nothing was written.
    """

    index: RouteIndex
    embedded: int
    reused: int
    discarded: str | None = None
    unchanged: bool = False


def build_index(
    routes: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    encoder: Encoder | None = None,
    progress: Progress | None = None,
    fitting: Progress | None = None,
) -> Built:
    """Build the index of the config in `routes` and store it in `folder`.

    encoder: in place of the one the settings name, opened otherwise; its relative paths start at the folder
        that holds `folder`.
    progress, fitting: called as texts are embedded, and as heads are fitted.

    Raises ConfigError, EncoderError or ArtifactNotWritten; the index that was there then still stands.
    """
    # FAISS takes a while to import, and `check_index` needs none of it.
    from semroute import index as route_index

    routes, folder = Path(routes), Path(folder)
    config = load_config(routes)
    _refuse_sources(folder)
    previous, discarded = _previous(folder)
    if previous is not None and encoder is None and _is_built_from(config, folder, previous):
        fresh = replace(previous, config=config)  # equal but for floors, and knows file and line of each text
        unchanged = not _changes(config, folder)
        stored = fresh if unchanged else route_index.save(fresh, folder)
        return Built(stored, embedded=0, reused=len(fresh.entries), unchanged=unchanged)
    opened = encoder or open_encoder(config.settings.encoder, root=_root(folder))
    report = route_index.build(
        config,
        opened,
        words=open_words(opened.identity.name),
        previous=previous,
        progress=progress,
        fitting=fitting,
    )
    stored = route_index.save(report.index, folder)
    return Built(stored, report.embedded, report.reused, discarded)


def _refuse_sources(folder: Path) -> None:
    """Raise ArtifactNotWritten where people write: what belongs to an index could not be told from theirs."""
    written = sorted(path.name for path in (*folder.glob("*.yaml"), *folder.glob("*.yml")))
    if written:
        raise ArtifactNotWritten(
            f"{folder}: holds YAML ({written[0]}), and an index takes a folder of its own. "
            "Name another with --index, such as --index index."
        )


def check_index(routes: Path, folder: Path) -> list[str]:
    """What makes the index in `folder` stale, in words; empty when it is up to date. Needs no model.

    Raises ConfigError. A missing or damaged index is stale, and named.
    """
    config = load_config(routes)
    try:
        return _changes(config, folder)
    except ArtifactError as error:
        return [str(error)]


def staleness(index: RouteIndex, folder: Path) -> str | None:
    """In a few words why `index`, loaded from `folder`, is stale against `routes/` beside it.

    None where it is up to date, where there is no such folder, and where nothing can be said. Reads the YAML
    alone. Raises nothing that semroute raises.
    """
    routes = folder.parent / "routes"
    if not routes.is_dir():
        return None
    try:
        config = load_config(routes)
        known = identify(config.settings.encoder, root=_root(folder))
        changes = freshness.differences(
            config, known, index.manifest, lambda: index.config, lambda: index.config.settings.floors
        )
    except ConfigError as error:
        return f"stale against {routes}, of which {error.problems[0]}"
    except EncoderError:
        return None
    if not changes:
        return None
    more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
    return f"stale against {routes} ({changes[0]}{more})"


def config_beside(folder: Path) -> Config | None:
    """The config in `routes/` beside the index in `folder`, where there is one that can be read."""
    return config_in(folder.parent / "routes")


def config_in(routes: Path) -> Config | None:
    """The config in the folder `routes`, where there is one that can be read."""
    try:
        return load_config(routes) if routes.is_dir() else None
    except ConfigError:
        return None


def _changes(config: Config, folder: Path) -> list[str]:
    known = identify(config.settings.encoder, root=_root(folder))
    return freshness.check(config, known, folder)


def _is_built_from(config: Config, folder: Path, index: RouteIndex) -> bool:
    known = identify(config.settings.encoder, root=_root(folder))
    return freshness.is_built_from(config, known, index.manifest)


def _previous(folder: Path) -> tuple[RouteIndex | None, str | None]:
    from semroute import index as route_index

    try:
        return route_index.load(folder), None
    except ArtifactMissing:
        return None, None
    except (ArtifactCorrupt, ArtifactMismatch) as error:
        return None, str(error)


def _root(folder: Path) -> Path:
    return folder.absolute().parent
