"""Two evaluations of the same cases, prompt by prompt: what changed, and whether that is more than chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from semroute.evaluate import CaseResult, Evaluation


class Changed(NamedTuple):
    """A case that another route or model serves than before, by the results of the old index and the new."""

    before: CaseResult
    after: CaseResult

    @property
    def verdict(self) -> Literal["better", "worse", "same"]:
        """Whether the case passes now and did not, or the reverse; "same" where it passes as it did."""
        if self.before.passed == self.after.passed:
            return "same"
        return "better" if self.after.passed else "worse"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What another index would have done with the same cases.

    baseline: the evaluation of the other index.
    changed: the cases that another route or model serves, in their order.
    p_value: of McNemar's exact test (1947; two-sided, binomial) that as many cases become better as become
        worse; 1 where none does either.
    """

    baseline: Evaluation
    changed: tuple[Changed, ...]
    p_value: float

    @property
    def better(self) -> int:
        """How many cases pass now that did not."""
        return sum(one.verdict == "better" for one in self.changed)

    @property
    def worse(self) -> int:
        """How many cases do not pass now that did."""
        return sum(one.verdict == "worse" for one in self.changed)

    @property
    def worst_first(self) -> tuple[Changed, ...]:
        """The changed cases: those that became worse, then the better ones, then the rest."""
        order = {"worse": 0, "better": 1, "same": 2}
        return tuple(sorted(self.changed, key=lambda one: order[one.verdict]))

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain JSON types; `cases` are those that changed."""
        return {
            "index": self.baseline.index,
            "accuracy": _rounded(self.baseline.accuracy),
            "macro_f1": _rounded(self.baseline.macro_f1),
            "coverage": _rounded(self.baseline.coverage),
            "calibration_error": _rounded(self.baseline.calibration.error),
            "changed": len(self.changed),
            "better": self.better,
            "worse": self.worse,
            "p_value": float(f"{self.p_value:.6g}"),
            "cases": [_changed_dict(one) for one in self.changed],
        }


def compare(before: Evaluation, after: Evaluation) -> Comparison:
    """Hold two evaluations of the same cases, in the same order, against each other.

    Raises ValueError when the cases are not the same.
    """
    pairs = list(zip(before.results, after.results, strict=True))
    if any(old.case != new.case for old, new in pairs):
        raise ValueError("the two evaluations are not of the same cases")
    changed = [Changed(old, new) for old, new in pairs if (old.route, old.model) != (new.route, new.model)]
    better = sum(one.verdict == "better" for one in changed)
    worse = sum(one.verdict == "worse" for one in changed)
    return Comparison(before, tuple(changed), mcnemar(better, worse))


def mcnemar(better: int, worse: int) -> float:
    """The two-sided p-value of McNemar's exact test on the numbers of discordant pairs."""
    if better + worse == 0:
        return 1.0
    from scipy.stats import binomtest  # late: it takes a second to import

    return float(binomtest(better, better + worse, 0.5).pvalue)


def _changed_dict(one: Changed) -> dict[str, Any]:
    case = one.after.case
    expected = {} if case.any_route else {"expected": case.route}
    model = {} if case.model is None else {"expected_model": case.model}
    return {
        "file": case.file,
        "line": case.line,
        "prompt": case.prompt,
        **expected,
        **model,
        "verdict": one.verdict,
        "before": _decided(one.before),
        "after": _decided(one.after),
    }


def _decided(result: CaseResult) -> dict[str, Any]:
    return {
        "route": result.route,
        "model": result.model,
        "reason": result.reason,
        "confidence": round(result.confidence, 4),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
