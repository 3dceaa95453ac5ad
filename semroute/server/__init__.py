"""`create_app`: one OpenAI-compatible endpoint that chooses the model. Pure ASGI, no state but the app's.

    request -> gate (host, key, limits) -> body read -> decision -> Upstreams.answer -> bytes of the answer

    gate         who may ask                       budgets    what a client may spend
    completion   a request that calls a model      ledger     what is written down while it is served
    endpoints    a request that does not           books      what may wait for a disk
    service      what all of them share            asgi       bodies in, answers out; headers

Routing is the router's, calling models is `upstream`'s; here a request becomes a `Call`, and an `Answer` a
response.
"""

from __future__ import annotations

import asyncio
import functools
import os
import ssl
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route

from semroute import wire
from semroute.access import Keys
from semroute.config import Api, ServeSettings
from semroute.server.asgi import Endpoint, api_of
from semroute.server.completion import Completion
from semroute.server.endpoints import Endpoints
from semroute.server.gate import OPEN, Gate
from semroute.server.service import AUTO, Service
from semroute.tracing import Tracing

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from semroute.router import Router

__all__ = ["AUTO", "create_app"]

_PATHS: dict[str, Api] = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
}
_COUNT = "/v1/messages/count_tokens"
_START_S = 3.0  # a store that does not answer must not keep the server from starting
_SMALL = {"/v1/models", "/v1/route", "/v1/feedback", "/metrics", "/live", "/live/map", "/live/place"}


def create_app(
    router: Router,
    *,
    keys: Mapping[str, str] | Iterable[str] = (),
    feedback_keys: Mapping[str, str] | Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
    settings: ServeSettings | None = None,
    hosts: Collection[str] | None = None,
    watch: Path | None = None,
    tls: ssl.SSLContext | None = None,
    tracer_provider: TracerProvider | None = None,
) -> Starlette:
    """The ASGI app over `router`.

    keys: what clients must present, by name; without any, everybody may ask: bind to the loopback only.
    feedback_keys: what POST /v1/feedback asks for; with `keys` and without these, feedback is closed.
    environ: where the keys of the models are; the process's environment if left out. Read now, never again.
    settings: in place of those under `serve:` in the index.
    hosts: the names by which the server may be called; None for any.
    watch: the folder of the index, to load it again when it changes.
    tls: for upstreams with certificates of their own, in place of the usual authorities.
    tracer_provider: where OpenTelemetry's spans go; the global one if left out.
    """
    clients = Keys(keys)
    service = Service(router, os.environ if environ is None else environ, settings, tls, clients.names)
    small = functools.partial(Endpoint, settings=lambda: service.settings)
    does = Endpoints(service)
    routes = [Route(path, Completion(service, api), methods=["POST"]) for path, api in _PATHS.items()]
    routes += [
        Route(_COUNT, Completion(service, "messages", counts=True), methods=["POST"]),
        Route("/v1/models", small(does.models), methods=["GET"]),
        Route("/v1/models/{name:path}", small(does.model), methods=["GET"]),
        Route("/v1/route", small(does.route), methods=["POST"]),
        Route("/v1/feedback", small(does.feedback), methods=["POST"]),
        Route("/healthz", small(does.healthz), methods=["GET"]),
        Route("/readyz", small(does.readyz), methods=["GET"]),
        Route("/metrics", small(does.show_metrics), methods=["GET"]),
        Route("/live", small(does.show_live), methods=["GET"]),
        Route("/live/map", small(does.show_map), methods=["GET"]),
        Route("/live/place", small(does.place), methods=["POST"]),
        Route("/", small(does.page), methods=["GET"]),
    ]
    allowed = None if hosts is None else frozenset(host.lower() for host in hosts)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with suppress(TimeoutError):  # what was spent before the start counts from the first request on
            async with asyncio.timeout(_START_S):
                await service.budgets.share()
        tasks = [asyncio.create_task(work) for work in (service.poll(watch), service.budgets.keep_sharing())]
        yield
        for task in tasks:
            task.cancel()
        await service.close()

    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(
                Gate,
                service=service,
                keys=clients,
                feedback_keys=Keys(feedback_keys),
                hosts=allowed,
                tracing=Tracing(tracer_provider),
                paths={*_PATHS, *OPEN, *_SMALL, _COUNT},
                traced={*_PATHS, "/v1/route"},
                listed=_PATHS,
            ),
        ],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect would be to the name and scheme that a proxy hides
    app.state.service = service
    return app


_NO_PATH = (
    "There is no such path. Served are POST /v1/chat/completions, /v1/responses, /v1/messages, "
    "/v1/messages/count_tokens, /v1/route and /v1/feedback, and GET /v1/models. OpenAI's clients take this "
    "server's address with /v1 as their base URL, Anthropic's the address alone."
)


async def _http_error(request: Any, error: Exception) -> Response:
    """What Starlette itself refuses: unknown paths and methods."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None  # such as Allow
    said = {404: _NO_PATH, 405: "This path takes another method."}
    body = wire.error(api_of(request.scope), status, said.get(status, "The request failed."))
    return Response(body, status, headers=headers, media_type="application/json")
