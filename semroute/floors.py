"""What an evaluation must reach, as the settings say, and whether it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from semroute.config import Floors
from semroute.evaluate import Evaluation

CEILING = "max_calibration_error"
"""The one of the floors that is a ceiling."""

_ROUNDING = 1e-9  # 1 - 0.07 is a little less than 0.93 to a computer


class Floor(NamedTuple):
    """A floor and what was found.

    name: its key in the settings, or "tags.TAG".
    wanted: the least share, or of `CEILING` the most.
    value: what was found; None where the cases have nothing to take a share of.
    interval: 95 % by bootstrap; None without a value.
    cases: how many cases `value` is a share of.
    """

    name: str
    wanted: float
    value: float | None
    interval: tuple[float, float] | None
    cases: int

    @property
    def holds(self) -> bool:
        """Whether it is reached. What cannot be measured does not hold: no case must not read as no error."""
        if self.value is None:
            return False
        over = self.value - self.wanted
        return over <= _ROUNDING if self.name == CEILING else over >= -_ROUNDING

    def __str__(self) -> str:
        """One sentence: what was wanted, what was found, and by how much it is missed."""
        bound = "at most" if self.name == CEILING else "at least"
        wanted = f"{self.name} must be {bound} {self.wanted:g}"
        if self.value is None:
            return f"{wanted}, and no case measures it"
        low, high = self.interval or (self.value, self.value)
        cases = "1 case" if self.cases == 1 else f"{self.cases} cases"
        found = f"is {self.value:.4f} ({low:.3f} to {high:.3f} with 95 % confidence, {cases})"
        if self.holds:
            return f"{wanted} and {found}"
        side = "above" if self.name == CEILING else "below"
        return f"{wanted} and {found}: {abs(self.value - self.wanted):.2g} {side}"

    def to_dict(self) -> dict[str, Any]:
        """The floor as plain JSON types."""
        return {
            "name": self.name,
            "wanted": self.wanted,
            "value": None if self.value is None else round(self.value, 6),
            "interval": None if self.interval is None else [round(end, 6) for end in self.interval],
            "cases": self.cases,
            "holds": self.holds,
        }


def check_floors(evaluation: Evaluation, floors: Floors | None, *, tags: bool = True) -> tuple[Floor, ...]:
    """Every floor that is set, in the order of the settings.

    tags: whether the cases can carry tags; those of heldout lists cannot, and floors on tags are then left
        out.
    """
    if floors is None:
        return ()
    found = [*_of_measures(evaluation, floors)]
    return (*found, *_of_tags(evaluation, floors)) if tags else tuple(found)


def _of_measures(evaluation: Evaluation, floors: Floors) -> Iterator[Floor]:
    inside = evaluation.in_scope
    served = sum(cases for label, found, cases in evaluation.confusion if label and found)
    measured: dict[str, tuple[float | None, int]] = {
        "accuracy": (evaluation.accuracy, evaluation.cases),
        "macro_f1": (evaluation.macro_f1, evaluation.cases),
        "top1": (evaluation.top1, inside),
        "coverage": (evaluation.coverage, inside),
        "right_of_served": (evaluation.right_of_served, served),
        "refused_out_of_scope": (evaluation.refused_out_of_scope, evaluation.out_of_scope),
        CEILING: (evaluation.calibration.error, evaluation.calibration.decisions),
    }
    for name, (value, cases) in measured.items():
        wanted = getattr(floors, name)
        if wanted is not None:
            interval = evaluation.intervals.get(name.removeprefix("max_"))
            yield Floor(name, wanted, value, interval if value is not None else None, cases)


def _of_tags(evaluation: Evaluation, floors: Floors) -> Iterator[Floor]:
    found = {one.tag: one for one in evaluation.tags}
    for tag, wanted in floors.tags.items():
        one = found.get(tag)
        if one is None:
            yield Floor(f"tags.{tag}", wanted, None, None, 0)
        else:
            yield Floor(f"tags.{tag}", wanted, one.share, one.interval, one.cases)
