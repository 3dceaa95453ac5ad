"""The labelled prompts that a command works on: a file, or the heldout lists in the index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from semroute.cli.output import refuse

if TYPE_CHECKING:
    from semroute.evaluate import Case
    from semroute.router import Router


def written_routes(given: Path | None, index: Path) -> Path:
    """The folder of the YAML: the one `given`, which must be there, else `routes/` beside `index`."""
    if given is None:
        return index.parent / "routes"
    if not given.is_dir():
        refuse(f"--routes {given}: {'not a folder' if given.exists() else 'no such folder'}.")
    return given


def labelled_cases(
    source: str | None, router: Router, routes: Path, baseline: Router | None = None
) -> list[Case]:
    """The cases of the file `source` ("-" is stdin), or without one the heldout lists.

    They may expect what either index knows. routes: the folder of the YAML, to say where a heldout prompt
    stands; it need not be there. Raises ConfigError with every problem.
    """
    from semroute.build import config_in
    from semroute.evaluate import heldout_cases, read_cases

    if source is None:
        return heldout_cases(router.index.config, config_in(routes))
    known = [router] if baseline is None else [router, baseline]
    names = dict.fromkeys(name for one in known for name in one.index.route_names)
    models = dict.fromkeys(name for one in known for name in one.index.config.settings.models)
    return read_cases(source, tuple(names), tuple(models))
