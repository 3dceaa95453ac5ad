"""What a caller asks beside the prompt, in one form, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from semroute import catalog
from semroute.catalog import Need
from semroute.config import Weights

_Parsed = TypeVar("_Parsed")
_RIGHT_WEIGHTS = "there are quality, cost, ttft and itl, each a number of 0 or more"


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller asks beside the prompt, in one form."""

    need: Need
    weights: Weights | None
    step: str | None
    metadata: Mapping[str, Any]


PLAIN = Request(Need(), None, None, {})
"""Nothing is asked beside the prompt."""


def read_request(
    exclude: Collection[str] | None = None,
    needs: Collection[str] | None = None,
    max_usd_per_1m: float | None = None,
    weights: Weights | Mapping[str, float] | str | None = None,
    step: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    models: Collection[str] | None = None,
) -> tuple[Request, str]:
    """The arguments of a call in one form; and what is wrong with them, empty where nothing is.

    The others hold all the same: a model that is excluded must not serve because a weight was misspelt.
    """
    if all(value is None for value in (exclude, needs, max_usd_per_1m, weights, metadata, models)):
        return (PLAIN if step is None else replace(PLAIN, step=step)), ""
    faults: list[str] = []
    need = Need(
        exclude=_parsed("exclude", _names, exclude, faults) or frozenset(),
        capabilities=_parsed("needs", _names, needs, faults) or frozenset(),
        max_usd_per_1m=_parsed("max_usd_per_1m", float, max_usd_per_1m, faults),
        models=_parsed("models", tuple, models, faults) or (),
    )
    request = Request(
        need,
        _parsed("weights", _weights, weights, faults),
        step,
        _parsed("metadata", _mapping, metadata, faults) or {},
    )
    return request, f"The default serves: {'; '.join(faults)}." if faults else ""


def _parsed(name: str, parse: Callable[[Any], _Parsed], value: Any, faults: list[str]) -> _Parsed | None:
    """`value` in its one form; None, and a fault, where it cannot be had."""
    if value is None:
        return None
    try:
        return parse(value)
    except Exception as error:  # noqa: BLE001 - an argument is whatever a caller hands in
        faults.append(f"bad {name} ({_first_line(error)})")
        return None


def _weights(weights: Weights | Mapping[str, float] | str) -> Weights:
    try:
        if isinstance(weights, str):
            return catalog.parse_weights(weights)
        return weights if isinstance(weights, Weights) else Weights.model_validate(dict(weights))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{_first_line(error)}; {_RIGHT_WEIGHTS}") from error


def _mapping(metadata: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(metadata, Mapping):
        raise ValueError(f"must be a mapping such as {{'plan': 'vip'}}, not {type(metadata).__name__}")  # noqa: TRY004
    return dict(metadata)


def _names(names: Collection[str]) -> frozenset[str]:
    return frozenset((names,) if isinstance(names, str) else names)


def _first_line(error: Exception) -> str:
    """What is wrong with an argument, on one line: pydantic's errors take several."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return f"{kind}{error}".split("\n", 1)[0]
