"""The shapes of the YAML: what can be said of one mapping alone, key by key.

Messages say what would be right and never repeat a value that may hold a secret or a prompt.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from ipaddress import ip_address
from typing import Annotated, Any, Literal, NoReturn, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from semroute.prices import usd
from semroute.sources import did_you_mean
from semroute.yaml import printable, shorten


def _refuse(message: str, *at: str | int, absent: tuple[str, ...] = ()) -> NoReturn:
    """Refuse a value, or what stands `at` a path inside it; `absent` are keys one of which would cure it."""
    raise PydanticCustomError("semroute", "{message}", {"message": message, "at": at, "absent": absent})


DEFAULT = "default"
"""What people call what serves where no route wins; so no route may be called that."""


# Values


def _text(value: str) -> str:
    if not value.strip():
        _refuse("must not be blank; write the text or delete it")
    return value


def _name(value: str) -> str:
    if not value or value != value.strip():
        _refuse("a name must not be empty, or begin or end with white space")
    if len(value) > 100:
        _refuse(f"a name has at most 100 characters, not {len(value)}")
    if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in value):
        _refuse("a name must not hold control characters, such as a line break")
    return value


def _no_default(name: str) -> str:
    if name == DEFAULT:
        _refuse("`default` is what serves where no route wins; give the route another name")
    return name


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    for index, name in enumerate(names):
        if name in names[:index]:
            _refuse(f"{shorten(name)} is named twice; name it once", index)
    return names


def _no_cycle(names: tuple[str, ...]) -> tuple[str, ...]:
    for index, name in enumerate(names):
        if name in names[:index]:
            _refuse(f"{shorten(name)} is named twice, so that fallbacks go in a circle; name it once", index)
    return names


_ENCODERS = "minilm, static, sentence-transformers:NAME_OR_PATH, onnx:PATH, openai:MODEL"
_ENCODER = re.compile(r"minilm|static|(sentence-transformers|onnx|openai):\s*\S.*", re.DOTALL)


def _encoder(value: str) -> str:
    if value in ("sentence-transformers:", "onnx:", "openai:"):
        _refuse(f"{shorten(value)} lacks what comes after the colon; it is one of {_ENCODERS}")
    if not _ENCODER.fullmatch(value):
        known = [spec.split(":")[0] for spec in _ENCODERS.split(", ")]
        guess = did_you_mean(value.partition(":")[0], known)
        _refuse(f"unknown encoder {shorten(value)};{guess} it is one of {_ENCODERS}")
    return value


def _base_url(value: str) -> str:
    """Messages do not repeat the value: what is pasted here may hold a key."""
    try:
        url = urlsplit(value)
        is_address = url.scheme in ("https", "http") and bool(url.hostname) and url.port != 0
        (url.hostname or "").encode("ascii" if (url.hostname or "").isascii() else "idna")
    except ValueError:
        is_address = False
    if not is_address or re.search(r"\s", value):
        _refuse("must be an address such as https://api.openai.com/v1")
    if url.username is not None or url.password is not None:
        _refuse("must not hold a user or password; name the variable that holds the key under api_key_env")
    if url.query or url.fragment:
        _refuse("must end before the `?` or `#`; name the variable that holds the key under api_key_env")
    return value


def _sends_in_the_clear(base_url: str) -> bool:
    url = urlsplit(base_url)
    return url.scheme == "http" and not _is_loopback(str(url.hostname))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _variable_name(value: str) -> str:
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,99}", value):
        _refuse("must be the NAME of a variable, such as OPENAI_API_KEY, in capitals; never the key itself")
    return value


def _store(value: str) -> str:
    if not re.match(r"sqlite:.|postgres(ql)?://.", value):
        _refuse("must be sqlite:PATH or postgresql://HOST/DATABASE")
    return value


def _log_store(value: str) -> str:
    if not re.match(r"(sqlite|jsonl):.|postgres(ql)?://.", value):
        _refuse("must be sqlite:PATH, jsonl:PATH or postgresql://HOST/DATABASE")
    return value


def _auto_or_up_to(high: float) -> Callable[[object], object]:
    def check(value: object) -> object:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value != "auto" and not (is_number and 0 <= value <= high):  # type: ignore[operator]
            _refuse(f"must be auto, or a number from 0 to {high:g} without quotes")
        return value

    return check


def _metadata_value(value: object) -> object:
    choices = value if isinstance(value, list | tuple) else [value]
    if not choices or not all(isinstance(choice, str | int | float) for choice in choices):
        _refuse("must be a text, number, true or false, or a list of some of those")
    if any(isinstance(choice, float) and not math.isfinite(choice) for choice in choices):
        _refuse("must be a finite number")
    return tuple(choices) if isinstance(value, list) else value


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


_MAX_PATTERN = 1000


def _pattern(value: str) -> str:
    """Refuse what does not compile, and what can take exponential time on a hostile prompt."""
    if len(value) > _MAX_PATTERN:
        _refuse(f"a regex has at most {_MAX_PATTERN:,} characters; write several")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            re.compile(value)
            nested = _repeats_within_repeat(import_module("re._parser").parse(value), within=False)
    except re.error as error:
        where = "" if error.pos is None else f" at character {error.pos + 1} of the regex"
        _refuse(f"not a regex: {printable(error.msg)}{where}")
    except FutureWarning as warning:
        _refuse(f"a regex that later versions of Python read differently: {warning}; escape that character")
    except (OverflowError, RecursionError):
        _refuse("a regex that is nested or repeated beyond what Python can hold; write a simpler one")
    if nested:
        _refuse(
            "a choice or a repetition of varying length inside a repetition, or a backreference, can take for"
            r" ever on a hostile prompt; make it possessive, as in (?:\w++ )+, or write two regexes"
        )
    return value


_MANY = 10
"""From so many repetitions on, a choice inside them multiplies."""


def _repeats_within_repeat(part: Any, *, within: bool) -> bool:
    """Whether `part` of a parsed regex repeats a choice or something of varying length many times.

    Possessive repetitions and atomic groups never give back what they took, so they cannot multiply.
    """
    operator = str(part[0]) if isinstance(part, tuple) and len(part) == 2 else ""
    if operator in ("ATOMIC_GROUP", "POSSESSIVE_REPEAT"):
        return _repeats_within_repeat(part[1], within=False)
    if operator in ("MAX_REPEAT", "MIN_REPEAT"):
        low, high, body = part[1]
        empties = high >= _MANY and body.getwidth()[0] == 0
        varies = within and high > max(low, 1)
        return empties or varies or _repeats_within_repeat(body, within=within or high >= _MANY)
    if operator in ("GROUPREF", "GROUPREF_IGNORE") or (within and _is_ambiguous_choice(operator, part)):
        return True
    if isinstance(part, str | int) or not hasattr(part, "__getitem__"):
        return False
    return any(_repeats_within_repeat(part[index], within=within) for index in range(len(part)))


def _is_ambiguous_choice(operator: str, part: Any) -> bool:
    """Whether more than one alternative may begin with the same character."""
    if operator != "BRANCH":
        return False
    starts = [alternative[0] if len(alternative) else None for alternative in part[1][1]]
    literals = {start[1] for start in starts if start is not None and str(start[0]) == "LITERAL"}
    return len(literals) < len(starts)


Name = Annotated[str, AfterValidator(_name)]
Text = Annotated[str, AfterValidator(_text)]
Texts = Annotated[tuple[Text, ...], Strict(strict=False)]
Names = Annotated[tuple[Name, ...], Strict(strict=False), AfterValidator(_distinct)]
Fallbacks = Annotated[tuple[Name, ...], Strict(strict=False), Field(min_length=1), AfterValidator(_no_cycle)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Distance = Annotated[float, Field(ge=0, le=2)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Api: TypeAlias = Literal["chat", "responses", "messages"]
MetadataScalar: TypeAlias = str | int | float | bool
MetadataValue = Annotated[
    MetadataScalar | Annotated[tuple[MetadataScalar, ...], Strict(strict=False)],
    BeforeValidator(_metadata_value),
]


# Shapes


class Shape(BaseModel):
    """Strict, frozen, and with no key that it does not name."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


def _exactly_one_of(*keys: str) -> dict[str, Any]:
    return {"oneOf": [{"required": [key]} for key in keys]}


class NamesModels(Shape):
    """Something that may name the models that serve it."""

    model: Name | None = Field(
        default=None, description="The model that serves, by its name under `models:`."
    )
    models: Fallbacks | None = Field(
        default=None,
        description="The models that serve: the first is preferred, errors and evidence lead to the rest.",
        validate_default=True,
    )

    @property
    def model_names(self) -> tuple[str, ...]:
        """The models in order of preference, however they were given."""
        return (self.model,) if self.model is not None else self.models or ()


class Accept(Shape):
    """What an answer must be for a cascade to end with it."""

    reject: Annotated[
        tuple[Literal["refusal", "hedge", "empty", "cut", "json"], ...], Strict(strict=False)
    ] = Field(
        default=("refusal", "hedge", "empty", "cut", "json"),
        description="What sends an answer up: a refusal, a hedge, no text, an answer cut short,"
        " or no JSON where JSON was asked for.",
    )
    refusals: Texts = Field(
        default=(),
        description="Phrases that make an answer a refusal where they stand in its opening,"
        " besides those that are known; plain text, in any case.",
    )
    min_token_probability: Share | None = Field(
        default=None,
        description="An answer whose tokens have a lower geometric mean probability is sent up;"
        " only where the caller asks for logprobs.",
    )
    judge: Name | None = Field(
        default=None, description="The model that is asked whether an answer is good enough."
    )


class Cascade(Shape):
    """The cheap model answers first; an answer that is not accepted is given anew by a stronger one."""

    to: Fallbacks = Field(description="The stronger models, in the order in which they are asked.")
    accept: Accept = Field(default=Accept(), description="What an answer must be to be accepted.")


def _off(value: object) -> object:
    return None if value is False else value


def _is_none(value: object) -> bool:
    return value is None


class Served(NamesModels):
    """Something that models serve: exactly one of `model` and `models` is given."""

    model_config = ConfigDict(json_schema_extra=_exactly_one_of("model", "models"))

    cascade: Annotated[
        Cascade | None, BeforeValidator(_off, json_schema_input_type=Cascade | Literal[False] | None)
    ] = Field(
        default=None,
        description="Where an answer goes that is not good enough; false for nowhere.",
        exclude_if=_is_none,
    )

    @field_validator("models")
    @classmethod
    def _one_of_two(cls, value: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        # `model` stands before `models`, so it is among the data unless it is itself refused.
        if "model" in info.data:
            _refuse_unless_one({"model": info.data["model"], "models": value})
        return value


def _refuse_unless_one(given: Mapping[str, object]) -> None:
    keys = [key for key, value in given.items() if value]
    if not keys:
        wanted = " or ".join(f"`{key}`" for key in given)
        _refuse(f"{wanted} is missing; give exactly one", absent=tuple(given))
    if len(keys) > 1:
        _refuse(f"{' and '.join(f'`{key}`' for key in keys)} are given; keep one of them")


class ModelCard(Shape):
    """What is known of a model. Everything is optional."""

    id: Text | None = Field(
        default=None, description="What the provider calls the model, if not by its name here."
    )
    provider: Text = Field(default="openai", description="Whose API the model speaks.")
    base_url: Annotated[str, AfterValidator(_base_url)] | None = Field(
        default=None,
        description="Address of the API, such as https://api.openai.com/v1; http where no key is sent.",
    )
    api_key_env: Annotated[str, AfterValidator(_variable_name)] | None = Field(
        default=None,
        description="NAME of the environment variable that holds the key; without it none is sent.",
    )
    prompt_usd_per_1m: NonNegative | None = Field(
        default=None, description="US dollars per million prompt tokens."
    )
    completion_usd_per_1m: NonNegative | None = Field(
        default=None, description="US dollars per million completion tokens."
    )
    ttft_ms: NonNegative | None = Field(default=None, description="Milliseconds until the first token.")
    itl_ms: NonNegative | None = Field(default=None, description="Milliseconds between tokens.")
    context_tokens: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="Tokens that prompt and completion may have together."
    )
    capabilities: Annotated[Texts, AfterValidator(_distinct)] | None = Field(
        default=None, description="What the model can do, such as tools, vision, json."
    )
    quality: Share | None = Field(
        default=None, description="Expected quality from 0 to 1, before any evidence."
    )
    apis: Annotated[tuple[Api, ...], Strict(strict=False), Field(min_length=1)] | None = Field(
        default=None,
        description="What its server answers: chat, responses, messages; by default chat, and what the"
        " provider's own server has.",
        exclude_if=_is_none,
    )

    @model_validator(mode="after")
    def _keep_the_key_covered(self) -> Self:
        if self.base_url and self.api_key_env and _sends_in_the_clear(self.base_url):
            _refuse("must begin with https://, or the key of `api_key_env` travels in the clear", "base_url")
        return self

    def usd(self, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
        """US dollars of so many tokens; None where a count or a price is not known."""
        return usd(prompt_tokens, completion_tokens, self.prompt_usd_per_1m, self.completion_usd_per_1m)


class Weights(Shape):
    """How much each property counts when models are ranked."""

    quality: NonNegative = Field(
        default=1.0, description="Weight of the expected quality, which is from 0 to 1."
    )
    cost: NonNegative = Field(default=0.0, description="Weight of a US dollar per million tokens.")
    ttft: NonNegative = Field(default=0.0, description="Weight of a millisecond until the first token.")
    itl: NonNegative = Field(default=0.0, description="Weight of a millisecond between tokens.")


class DefaultSettings(Served):
    """What serves a prompt that no route wins."""

    heldout: Texts = Field(default=(), description="Prompts that must land on the default; never indexed.")


class VoteSettings(Shape):
    """How the nearest utterances decide."""

    neighbors: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=20, description="How many of the nearest utterances vote."
    )
    max_distance: Annotated[Literal["auto"] | Distance, BeforeValidator(_auto_or_up_to(2))] = Field(
        default="auto",
        description="Cosine distance to the nearest utterance above which the default serves;"
        " auto = fitted at build.",
    )
    min_confidence: Annotated[Literal["auto"] | Share, BeforeValidator(_auto_or_up_to(1))] = Field(
        default="auto", description="Probability below which the default serves; auto = fitted at build."
    )
    min_margin: Share = Field(
        default=0.0,
        description="How far the probability of the best route must lead that of the next, or the default"
        " serves.",
    )
    blend: Annotated[Literal["auto"] | Share, BeforeValidator(_auto_or_up_to(1))] = Field(
        default="auto",
        description="Share of the head in what ranks the routes: 0 = the neighbours alone, 1 = the head"
        " alone; auto = fitted at build.",
    )


class EscalationSettings(Shape):
    """Where outcomes are stored, and when they pass a model over."""

    store: Annotated[str, AfterValidator(_store)] | None = Field(
        default=None, description="sqlite:PATH, taken from the folder that holds index/, or postgresql://..."
    )
    max_risk: Share = Field(
        default=0.5,
        description="A model whose estimated quality on such prompts is below 1 - max_risk is passed over.",
    )
    min_support: NonNegative = Field(
        default=3.0, description="Effective number of outcomes that it takes to pass a model over."
    )
    half_life_days: Annotated[float, Field(gt=0)] = Field(
        default=90.0, description="Days after which an outcome counts half."
    )
    mode: Literal["on", "shadow"] = Field(
        default="on",
        description="on, or shadow: decisions stay as they are and say what outcomes would have done.",
    )
    keep_text: bool = Field(
        default=False, description="Store the prompt beside its vector; without it no text is kept."
    )
    max_principal_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5,
        description="Of the weight of what is said near a prompt, the most that one principal may have.",
    )
    min_principals: Annotated[int, Field(ge=1)] = Field(
        default=2,
        description="How many principals other than the operator must agree before any of them counts.",
    )
    quota_per_day: Annotated[int, Field(ge=1)] = Field(
        default=100, description="Outcomes that a principal other than the operator may store in 24 hours."
    )


class LogSettings(Shape):
    """Where every decision is written, with what it cost and what came of it."""

    store: Annotated[str, AfterValidator(_log_store)] = Field(
        description="sqlite:PATH or jsonl:PATH, taken from the folder that holds index/, or postgresql://...;"
        " may be the store of the escalations."
    )
    keep_text: bool = Field(
        default=False, description="Store the prompt; without it a hash under a secret key is kept."
    )
    max_age_days: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Days after which a decision is erased."
    )


class Floors(Shape):
    """What an evaluation must reach; they change no decision."""

    accuracy: Share | None = Field(
        default=None, description="Least share of all cases that are routed as their label says."
    )
    macro_f1: Share | None = Field(default=None, description="Least mean F1 of the routes.")
    top1: Share | None = Field(
        default=None, description="Least share of the cases in scope whose best-scoring route is right."
    )
    coverage: Share | None = Field(
        default=None, description="Least share of the cases in scope that a route serves."
    )
    right_of_served: Share | None = Field(
        default=None, description="Least share of the cases in scope served by a route that it is right for."
    )
    refused_out_of_scope: Share | None = Field(
        default=None, description="Least share of the cases out of scope that the default serves."
    )
    max_calibration_error: Share | None = Field(
        default=None, description="A ceiling: the most that the expected calibration error may be."
    )
    tags: dict[Name, Share] = Field(
        default={}, description="Least share of the cases with each tag that pass, such as {smoke: 1.0}."
    )


class ClientLimits(Shape):
    """What the holder of a client key may spend."""

    usd_per_day: NonNegative | None = Field(
        default=None,
        description="US dollars a day, by UTC and the prices of the models; processes with a store share it.",
    )
    max_usd_per_1m: NonNegative | None = Field(
        default=None,
        description="US dollars per million prompt tokens that a model may cost at most; one without a price"
        " is not used.",
    )


class Arbiter(Shape):
    """A small model that picks the route where the vote is unsure. Off unless it is named."""

    model: Name = Field(description="The model that is asked.")
    min_confidence: Share = Field(
        default=0.1, description="It is asked from this confidence of the best route on ..."
    )
    max_confidence: Share = Field(default=0.6, description="... and below this one.")
    routes: Annotated[int, Field(ge=1, le=20)] = Field(
        default=4, description="How many of the likeliest routes it may pick from."
    )
    patience_s: Seconds = Field(
        default=0.8, description="Seconds after which the vote decides as if it had not been asked."
    )


class ServeSettings(Shape):
    """How `semroute serve` calls models. Times are seconds."""

    connect_s: Seconds = Field(default=5.0, description="Until a connection stands.")
    first_content_s: Seconds = Field(
        default=60.0, description="Until the first content of a stream; comments and roles are none."
    )
    answer_s: Seconds = Field(default=300.0, description="Until an answer that is not streamed.")
    stall_s: Seconds = Field(default=60.0, description="Between two events of a stream.")
    total_s: Seconds = Field(default=900.0, description="For all attempts at a request together.")
    keep_alive_s: Seconds = Field(
        default=10.0, description="Between comments that keep a client's connection while a stream is held."
    )
    cooldown_s: Seconds = Field(
        default=5.0, description="A failing model rests so long, then twice as long each time."
    )
    max_cooldown_s: Seconds = Field(
        default=300.0, description="And no longer than this, whatever its Retry-After says."
    )
    body_s: Seconds = Field(default=60.0, description="Until the body of a request is here; then it is 408.")
    routing_s: Seconds = Field(default=1.0, description="A prompt not routed by then goes to the default.")
    sticky_s: NonNegative = Field(
        default=0.0,
        description="A session, as its metadata.session_id names it, keeps its model so long; 0 for no time.",
    )
    max_body_mb: Annotated[float, Field(gt=0, le=1024)] = Field(
        default=20.0, description="Megabytes that the body of a request may have."
    )
    max_concurrency: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1000, description="Requests at once; more are answered 503."
    )
    grace_s: Seconds = Field(default=30.0, description="What a stop leaves to the streams under way.")
    arbiter: Arbiter | None = Field(
        default=None, description="Which model picks the route where the vote is unsure, if any."
    )
    clients: dict[Name, ClientLimits] = Field(
        default={}, description="Limits by the name of a client's key; `*` is for all others."
    )
    regenerate: bool = Field(
        default=False,
        description="The same conversation again within a minute is a weak sign that the answer was bad.",
    )


class RuleCondition(Shape):
    """When a rule holds: every condition that is given must hold, and at least one must be given."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    min_chars: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="The prompt has at least this many characters."
    )
    max_chars: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="The prompt has at most this many characters."
    )
    has_code: bool | None = Field(
        default=None, description="The prompt holds code, or, with false, holds none."
    )
    any_regex: Annotated[tuple[Annotated[str, AfterValidator(_pattern)], ...], Strict(strict=False)] = Field(
        default=(), description="At least one of these Python regexes is found in the prompt."
    )
    multi_step: bool | None = Field(
        default=None, description="The prompt asks for work in several steps, or not."
    )
    metadata: dict[str, MetadataValue] = Field(
        default={}, description="The caller's metadata holds this value, or one of these, under each key."
    )
    step: Annotated[Texts, BeforeValidator(_one_or_many, json_schema_input_type=str | list[str])] = Field(
        default=(),
        description="The caller names this step, or one of these, of its pipeline.",
        validate_default=True,
    )

    @field_validator("max_chars")
    @classmethod
    def _not_below_min_chars(cls, value: int | None, info: ValidationInfo) -> int | None:
        low = info.data.get("min_chars")
        if value is not None and low is not None and value < low:
            _refuse(f"must be at least min_chars, which is {low}; as it is the rule never holds")
        return value

    @field_validator("step")
    @classmethod
    def _one_at_least(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        # `step` is the last field, so every other is among the data unless it is itself refused.
        others = [info.data.get(key, "refused") for key in cls.model_fields if key != "step"]
        if not value and all(other in (None, (), {}) for other in others):
            _refuse(
                f"a rule needs a condition; give one of {', '.join(cls.model_fields)}",
                absent=tuple(cls.model_fields),
            )
        return value


class Rule(NamesModels):
    """Asked before the vote, in order: the first whose conditions hold decides."""

    model_config = ConfigDict(json_schema_extra=_exactly_one_of("route", "model", "models", "only"))

    name: Name = Field(description="What a decision calls the rule.")
    when: RuleCondition = Field(description="The conditions, all of which must hold.")
    route: Name | None = Field(default=None, description="The route that wins.")
    only: Names = Field(
        default=(),
        description="The only routes that may still win; the vote goes on.",
        validate_default=True,
    )

    @field_validator("only")
    @classmethod
    def _one_of_four(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        # `only` is the last field, so the other three are among the data unless they are themselves refused.
        others: dict[str, object] = {
            key: info.data[key] for key in ("route", "model", "models") if key in info.data
        }
        if len(others) == 3:
            _refuse_unless_one({**others, "only": value})
        return value


def _nothing_known(value: object) -> object:
    return {} if value is None else value


def _select_tag(value: object) -> str | None:
    if value == "first":
        return "<first>"
    return "<weights>" if isinstance(value, dict | Weights) else None


class Settings(Shape):
    """How semroute decides, and the models it may choose from."""

    encoder: Annotated[str, AfterValidator(_encoder)] = Field(
        default="minilm", description=f"What turns text into vectors: {_ENCODERS}."
    )
    default: DefaultSettings = Field(description="What serves a prompt that no route wins.")
    vote: VoteSettings = Field(default=VoteSettings(), description="How the nearest utterances decide.")
    escalations: EscalationSettings | None = Field(
        default=None, description="Where outcomes are stored, and when they pass a model over."
    )
    log: LogSettings | None = Field(
        default=None, description="Where every decision is written; without it none is."
    )
    select: Annotated[
        Annotated[Literal["first"], Tag("<first>")] | Annotated[Weights, Tag("<weights>")],
        Discriminator(
            _select_tag,
            custom_error_type="semroute",
            custom_error_message="must be first, or weights such as {quality: 1, cost: 0.005}",
        ),
    ] = Field(
        default="first",
        description="How one of several models is chosen: first = the order in which they are named;"
        " or weights of quality, cost, ttft and itl.",
    )
    models: dict[Name, Annotated[ModelCard, BeforeValidator(_nothing_known)]] = Field(
        description="The models that may serve, by name."
    )
    rules: Annotated[tuple[Rule, ...], Strict(strict=False)] = Field(
        default=(), description="Asked before the vote, in order; the first that holds decides."
    )
    floors: Floors | None = Field(
        default=None, description="What `semroute eval` must find; it exits 1 below."
    )
    serve: ServeSettings | None = Field(
        default=None, description="How `semroute serve` calls models.", exclude_if=_is_none
    )


class Route(Served):
    """An intent: example utterances, and the models that serve it."""

    name: Annotated[Name, AfterValidator(_no_default)] = Field(
        description="What a decision calls the route; unique.",
        json_schema_extra={"not": {"const": DEFAULT}},
    )
    description: str = Field(default="", description="What the route is about, in one sentence.")
    utterances: Texts = Field(
        default=(), description="Example prompts, indexed: the more varied the better.", validate_default=True
    )
    heldout: Texts = Field(default=(), description="Labelled prompts to evaluate with; never indexed.")
    max_distance: Distance | None = Field(
        default=None, description="Overrides vote.max_distance for this route."
    )
    min_confidence: Share | None = Field(
        default=None, description="Overrides vote.min_confidence for this route."
    )

    @field_validator("utterances")
    @classmethod
    def _utterances_or_description(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not value and not info.data.get("description", "refused").strip():
            _refuse(
                "a route needs utterances, or at least a description", absent=("utterances", "description")
            )
        return value


class RouteList(Shape):
    """Several routes in one file."""

    routes: Annotated[tuple[Route, ...], Strict(strict=False), Field(min_length=1)] = Field(
        description="The routes, in order."
    )
