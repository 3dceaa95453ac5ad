"""What our stores need of a database: to open it, to bring its tables up to date, to say what failed.

A database holds the tables of several stores: outcomes, the decision log. Each has its own migrations, a
family: `0001_log`, `0002_...` are those of the outcomes, `decisions_0001`, ... those of the decision log. A
store looks at those of its family only, so that stores may share a file or a schema, made in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from semroute.errors import StoreMismatch

__all__ = ["done"]


def done(found: Iterable[str], migrations: Sequence[tuple[str, object]], where: str, other: str) -> int:
    """How many of `migrations`, all of one family, are among the names `found` in the database `where`.

    other: what one may name instead, for the message. Raises StoreMismatch when the database has others.
    """
    names = [name for name, _ in migrations]
    family = _family(names[0])
    ours = sorted(name for name in found if _family(name) == family)
    if ours != names[: len(ours)]:
        raise StoreMismatch(
            f"{where} was made by a newer semroute; upgrade semroute, or name another {other}"
        )
    return len(ours)


def _family(name: str) -> str:
    """The letters that a migration's name begins with; none for the outcomes."""
    return "" if name[:1].isdigit() else name.partition("_")[0]
