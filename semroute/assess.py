"""Everything that `semroute eval` finds out about an index, in one value for everything that prints it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from semroute.compare import Comparison, compare
from semroute.evaluate import Case, Evaluation, evaluate
from semroute.floors import Floor, check_floors
from semroute.robustness import Steadiness, robustness

if TYPE_CHECKING:
    from semroute.router import Router

Steps = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Assessment:
    """An evaluation, the floors that the settings in the index set, and what else was asked for."""

    evaluation: Evaluation
    floors: tuple[Floor, ...] = ()
    comparison: Comparison | None = None
    robustness: tuple[Steadiness, ...] = ()

    @property
    def missed(self) -> tuple[Floor, ...]:
        """The floors that do not hold."""
        return tuple(floor for floor in self.floors if not floor.holds)

    def to_dict(self) -> dict[str, Any]:
        """That of the evaluation, and `floors`; `baseline` and `robustness` where they were asked for."""
        compared = {} if self.comparison is None else {"baseline": self.comparison.to_dict()}
        steady = {"robustness": [one.to_dict() for one in self.robustness]} if self.robustness else {}
        floors = [floor.to_dict() for floor in self.floors]
        return {**self.evaluation.to_dict(), "floors": floors, **compared, **steady}


def assess(
    router: Router,
    cases: Sequence[Case],
    *,
    baseline: Router | None = None,
    perturbed: bool = False,
    tagged: bool = True,
    progress: Steps | None = None,
) -> Assessment:
    """Evaluate `router` on `cases` and hold it against the floors in its index.

    baseline: another router to compare with, prompt by prompt; cases may expect its routes and models, too.
    perturbed: whether to perturb the prompts as well, which takes seven times as long again.
    tagged: whether the cases can carry tags, see `check_floors`.

    Raises ConfigError, naming each case that expects what neither index knows.
    """
    theirs, ours = _known_to(baseline), _known_to(router)
    evaluation = evaluate(router, cases, progress, also=theirs.routes, also_models=theirs.models)
    before = None
    if baseline is not None:
        before = evaluate(baseline, cases, progress, also=ours.routes, also_models=ours.models)
    return Assessment(
        evaluation,
        check_floors(evaluation, router.index.config.settings.floors, tags=tagged),
        None if before is None else compare(before, evaluation),
        robustness(router, evaluation, progress) if perturbed else (),
    )


class _Known(NamedTuple):
    """Routes and models that cases may expect because another router knows them."""

    routes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


def _known_to(router: Router | None) -> _Known:
    if router is None:
        return _Known()
    return _Known(router.index.route_names, tuple(router.index.config.settings.models))
