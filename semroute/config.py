"""Every YAML shape, and `load_config`: a folder in, a frozen `Config` out, or every problem as file:line:col.

The shapes hold what can be said of one value or one mapping; what can only be said across files (names that
must exist, texts that must differ) stands below them. A `Config` comes from a folder of YAML or from the
canonical JSON inside an index, and both go through the same checks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    ValidationError,
)

from semroute.errors import ConfigError, Problem

NonNegative = Annotated[float, Field(ge=0)]
Texts = Annotated[tuple[str, ...], Strict(False)]


class Shape(BaseModel):
    """Strict, frozen, and nothing that it does not know."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Served(Shape):
    """Something that models serve: exactly one of `model` and `models`."""

    model: str | None = None
    models: Texts | None = None

    @property
    def model_names(self) -> tuple[str, ...]:
        """The models in order of preference, also where only one is named."""
        return (self.model,) if self.model is not None else self.models or ()


class ModelCard(Shape):
    id: str | None = None
    provider: str = "openai"
    base_url: str | None = None
    api_key_env: str | None = None
    prompt_usd_per_1m: NonNegative | None = None
    completion_usd_per_1m: NonNegative | None = None
    ttft_ms: NonNegative | None = None
    itl_ms: NonNegative | None = None
    context_tokens: Annotated[int, Field(gt=0)] | None = None
    capabilities: Texts | None = None
    quality: Annotated[float, Field(ge=0, le=1)] | None = None


class Weights(Shape):
    quality: NonNegative = 1.0
    cost: NonNegative = 0.0
    ttft: NonNegative = 0.0
    itl: NonNegative = 0.0


class DefaultSettings(Served):
    heldout: Texts = ()


class VoteSettings(Shape):
    neighbors: Annotated[int, Field(ge=1, le=1000)] = 20
    max_distance: Literal["auto"] | Annotated[float, Field(ge=0, le=2)] = "auto"
    min_confidence: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = "auto"


class EscalationSettings(Shape):
    store: str | None = None
    max_risk: Annotated[float, Field(ge=0, le=1)] = 0.5
    min_support: NonNegative = 3.0
    half_life_days: Annotated[float, Field(gt=0)] = 90.0


MetadataScalar: TypeAlias = str | int | float | bool


class RuleCondition(Shape):
    min_chars: Annotated[int, Field(ge=0)] | None = None
    max_chars: Annotated[int, Field(ge=0)] | None = None
    has_code: bool | None = None
    any_regex: Texts = ()
    multi_step: bool | None = None
    metadata: dict[str, MetadataScalar | Annotated[tuple[MetadataScalar, ...], Strict(False)]] = {}
    step: Annotated[Texts, BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)] = ()


class Rule(Served):
    name: str
    when: RuleCondition
    route: str | None = None
    only: Texts = ()


def _select_tag(value: object) -> str | None:
    if value == "first":
        return "<first>"
    return "<weights>" if isinstance(value, dict | Weights) else None


class Settings(Shape):
    encoder: str = "minilm"
    default: DefaultSettings
    vote: VoteSettings = VoteSettings()
    escalations: EscalationSettings | None = None
    select: Annotated[
        Annotated[Literal["first"], Tag("<first>")] | Annotated[Weights, Tag("<weights>")],
        Discriminator(_select_tag),
    ] = "first"
    models: dict[str, ModelCard] = {}
    rules: Annotated[tuple[Rule, ...], Strict(False)] = ()


class Route(Served):
    name: str
    description: str = ""
    utterances: Texts = ()
    heldout: Texts = ()
    max_distance: Annotated[float, Field(ge=0, le=2)] | None = None
    min_confidence: Annotated[float, Field(ge=0, le=1)] | None = None


class Place(NamedTuple):
    """Where something stands. `line` and `column` count from 1."""

    file: str
    line: int
    column: int


@dataclass(frozen=True)
class Config:
    settings: Settings
    routes: tuple[Route, ...]
    warnings: tuple[Problem, ...] = field(default=(), compare=False)

    @cached_property
    def _by_name(self) -> dict[str, Route]:
        return {route.name: route for route in self.routes}

    def route(self, name: str) -> Route:
        return self._by_name[name]

    def canonical(self) -> dict[str, Any]:
        return {
            "settings": self.settings.model_dump(mode="json"),
            "routes": [route.model_dump(mode="json") for route in self.routes],
        }

    @classmethod
    def from_canonical(cls, data: dict[str, Any]) -> Config:
        try:
            return cls(Settings(**data["settings"]), tuple(Route(**route) for route in data["routes"]))
        except ValidationError as error:
            raise ConfigError((Problem("config", 0, 0, str(error)),)) from error

    def place(self, route: str | None, kind: Literal["utterances", "heldout"], index: int) -> Place | None:
        return None


def load_config(folder: Path) -> Config:
    """First version: good input only."""
    import yaml

    def read(file: Path) -> Any:
        return yaml.safe_load(file.read_text(encoding="utf-8"))

    files: Iterable[Path] = sorted(Path(folder).glob("*.yaml"))
    routes: list[Any] = []
    settings: Any = None
    try:
        for file in files:
            data = read(file)
            if file.name == "semroute.yaml":
                settings = Settings(**data)
            else:
                routes += [Route(**one) for one in data.get("routes", [data])]
    except ValidationError as error:
        raise ConfigError((Problem(str(file), 0, 0, str(error)),)) from error
    return Config(settings, tuple(routes))


def json_schemas() -> dict[str, dict[str, Any]]:
    return {"semroute": Settings.model_json_schema(), "route": Route.model_json_schema()}
