"""The endpoints that answer at once."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import resources
from typing import Any

from semroute import arbiter, wire
from semroute.decision import Decision
from semroute.errors import (
    NoStore,
    OutcomeConflict,
    OutcomeInvalid,
    QuotaExceeded,
    StoreError,
    UnknownDecision,
)
from semroute.escalations import OWN_NAMES
from semroute.livemap import LiveMap
from semroute.metrics import CONTENT_TYPE
from semroute.numeric import finite
from semroute.request import read_request
from semroute.server.asgi import Asked, Reply
from semroute.server.headers import described
from semroute.server.ledger import Aside
from semroute.server.service import AUTO, Service, unknown_model
from semroute.wire import BadRequest

_log = logging.getLogger("semroute.serve")
_LONGEST_ID = 200
_NO_DECISION = "a request that names its model itself is no decision, so there is none of its id"
_NO_STORE = (
    "Feedback needs a store, and semroute.yaml names none: "
    "write `escalations: {store: sqlite:semroute.db}`, say, and build."
)


def _is_names(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


_KEYWORDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "exclude": (_is_names, "a list of models"),
    "needs": (_is_names, "a list of capabilities"),
    "models": (lambda value: isinstance(value, list) and _is_names(value), "a list of models"),
    "max_usd_per_1m": (lambda value: (finite(value) or -1.0) >= 0 or value == 0, "a number of dollars"),
    "weights": (
        lambda value: isinstance(value, dict | str),
        "quality, cost, ttft and itl, each a number of 0 or more, or router@q:1|c:0.005",
    ),
    "step": (lambda value: isinstance(value, str), "text"),
    "metadata": (lambda value: isinstance(value, dict), "an object"),
}
"""What may be asked beside a prompt: whether a value can be that, and what it must be."""


class Endpoints:
    """A method for each; what they share is the service's."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._map = LiveMap(service.router)

    async def models(self, _: Asked) -> Reply:
        """The virtual model and those of the config."""
        cards = self._service.router.index.config.settings.models
        listed = [_model_entry(AUTO, "semroute")] + [
            _model_entry(name, card.provider) for name, card in cards.items()
        ]
        return Reply(200, {"object": "list", "data": listed})

    async def model(self, asked: Asked) -> Reply:
        """One of them."""
        if asked.name == AUTO:
            return Reply(200, _model_entry(AUTO, "semroute"))
        name = self._service.upstreams.find(asked.name)
        card = self._service.router.index.config.settings.models.get(name or "")
        if card is None:
            raise unknown_model("There is no such model.")
        return Reply(200, _model_entry(asked.name, card.provider))

    async def route(self, asked: Asked) -> Reply:
        """A decision, and no model called."""
        body = wire.read_body(asked.raw)
        fields = body.fields
        given = next((key for key in ("prompt", "messages", "input") if key in fields), "prompt")
        prompt = fields.get(given)
        if not isinstance(prompt, str | list) or not (prompt or isinstance(prompt, str)):
            raise BadRequest(400, "Give a `prompt`, or `messages`.", param=given)
        if isinstance(prompt, list) and not all(isinstance(message, dict) for message in prompt):
            raise BadRequest(400, f"Each of `{given}` must be a message, which is an object.", param=given)
        request = self._asked_beside(fields)
        model = fields.get("model", AUTO)
        if not isinstance(model, str):
            raise BadRequest(400, "`model` must be the name of a model.", param="model")
        if model.startswith("router@"):
            weights, models = self._service.choice(model)
            request |= {"weights": weights} if weights is not None else {}
            request |= {"models": models} if models else {}
        is_logged = fields.get("log", True)
        if not isinstance(is_logged, bool):
            raise BadRequest(400, "`log` must be true or false.", param="log")
        if not is_logged:
            return _decided(await self._tried(prompt, request))
        if self._service.settings.arbiter is not None:
            self._service.budgets.limits_of(asked.owner)  # it costs
        aside = Aside(self._service, asked.owner, asked.trace)
        decision = await self._service.decide(prompt, request, aside)
        asked.trace.decided(decision)
        for attempt in aside.attempts:
            self._service.called(decision, attempt)
        return _decided(decision)

    async def _tried(self, prompt: Any, request: Mapping[str, Any]) -> Decision:
        """A decision that nobody else hears of, and that costs nothing."""
        decision = await self._service.decide(prompt, request, tell=False)
        chooser = self._service.settings.arbiter
        if chooser is not None and arbiter.is_grey(decision, chooser):
            return replace(decision, detail=f"{decision.detail} The arbiter would be asked.".lstrip())
        return decision

    def _asked_beside(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords of `Router.route` in a body. Raises BadRequest for one that is not what it must be."""
        request = {key: fields[key] for key in _KEYWORDS if fields.get(key) is not None}
        for key, value in request.items():
            fits, must = _KEYWORDS[key]
            if not fits(value):
                raise BadRequest(400, f"`{key}` must be {must}.", param=key)
        if read_request(weights=request.get("weights"))[1]:
            raise BadRequest(400, f"`weights` must be {_KEYWORDS['weights'][1]}.", param="weights")
        for name in request.get("models", ()):
            if self._service.upstreams.find(name) is None:
                raise BadRequest(400, "`models` names a model that is not known.", param="models")
        return request

    async def feedback(self, asked: Asked) -> Reply:
        """How good the model of a decision was, or which one was needed in its place."""
        identity, call = self._judgement(asked)
        try:
            outcome = await self._service.books.ask(call)
        except UnknownDecision as error:
            raise BadRequest(404, f"{error}; {_NO_DECISION}.", code="unknown_decision", param="id") from None
        except OutcomeInvalid as error:
            # The model that is not declared is the one that the caller names.
            param = "to" if error.field in ("model", "escalated_to") else error.field
            raise BadRequest(400, str(error), param=param) from None
        except QuotaExceeded as error:
            raise BadRequest(429, str(error), code="quota_exceeded", retry_after=3_600) from None
        except OutcomeConflict as error:
            raise BadRequest(409, str(error)) from None
        except NoStore:
            raise BadRequest(501, _NO_STORE, code="no_store") from None
        except StoreError as error:
            _log.warning("Feedback could not be stored: %s", error)
            message = "The feedback could not be stored; try again later."
            raise BadRequest(503, message, code="store_unavailable") from None
        return Reply(200, {"id": outcome, "decision_id": identity})

    def _judgement(self, asked: Asked) -> tuple[str, Callable[[], str]]:
        """The id of the decision that is judged, and what stores the judgement. Raises BadRequest."""
        fields = wire.read_body(asked.raw).fields
        identity = fields.get("decision_id") or fields.get("id")
        score, to, why, by = (fields.get(key) for key in ("score", "to", "why", "by"))
        if not isinstance(identity, str) or not 0 < len(identity) <= _LONGEST_ID:
            raise BadRequest(400, "`id` must be the id of a decision (x-semroute-id).", param="id")
        for name, value in (("to", to), ("why", why), ("by", by)):
            if value is not None and not isinstance(value, str):
                raise BadRequest(400, f"`{name}` must be text.", param=name)
        who = by or asked.owner or "client"
        if who in OWN_NAMES:
            raise BadRequest(400, f"`by` must not be {who}: that is the router's own.", param="by")
        router = self._service.router
        if to is not None and score in (None, 0):
            return identity, functools.partial(router.escalate, identity, to=to, by=who, why=why)
        if to is None and (level := finite(score)) is not None and 0 <= level <= 1:
            return identity, functools.partial(router.feedback, identity, level, by=who)
        message = "Give a `score` from 0 to 1, or `to`, the model that was needed."
        raise BadRequest(400, message, param="score")

    async def healthz(self, _: Asked) -> Reply:
        """The process answers."""
        return Reply(200, {"status": "ok"})

    async def readyz(self, _: Asked) -> Reply:
        """Whether requests should be sent here."""
        if self._service.draining:
            return Reply(503, {"status": "stopping"})
        return Reply(200, {"status": "ready", "index": self._service.router.index.fingerprint})

    async def show_metrics(self, _: Asked) -> Reply:
        """What is counted."""
        self._service.metrics.in_flight(self._service.in_flight)
        return Reply(200, self._service.metrics.text(), content_type=CONTENT_TYPE.encode())

    async def show_live(self, _: Asked) -> Reply:
        """What the page shows."""
        health = self._service.upstreams.health()
        resting = {name: self._service.upstreams.is_resting(name) for name in health}
        keyless = {name: self._service.upstreams.lacks_key(name) for name in health}
        index = {"index": self._service.router.index.fingerprint}
        return Reply(200, self._service.live.to_dict(health, resting, keyless) | index)

    async def show_map(self, _: Asked) -> Reply:
        """Where the utterances stand, for the page."""
        return Reply(200, await asyncio.to_thread(self._map.to_dict))

    async def place(self, asked: Asked) -> Reply:
        """Where a prompt stands among them."""
        prompt = wire.read_body(asked.raw).fields.get("prompt")
        if not isinstance(prompt, str):
            raise BadRequest(400, "Give a `prompt`.", param="prompt")
        return Reply(200, await asyncio.to_thread(self._map.place, prompt))

    async def page(self, _: Asked) -> Reply:
        """The page for people; it holds nothing until it is given a key, where there are any."""
        html, headers = _page()
        return Reply(200, html, headers, b"text/html; charset=utf-8")


@functools.cache
def _page() -> tuple[bytes, tuple[tuple[bytes, bytes], ...]]:
    """The page, and headers that let it run its own script and nothing else."""
    html = resources.files("semroute").joinpath("live.html").read_bytes()
    script = html.partition(b"<script>")[2].partition(b"</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script).digest())
    policy = b"default-src 'none'; connect-src 'self'; img-src data:; style-src 'unsafe-inline'; script-src "
    policy += b"'sha256-%s'" % digest
    shut = b"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return html, ((b"content-security-policy", policy + shut), (b"referrer-policy", b"no-referrer"))


def _decided(decision: Decision) -> Reply:
    return Reply(200, decision.to_dict(), tuple(described(decision, decision.id, decision.model)))


def _model_entry(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}
