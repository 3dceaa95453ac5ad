"""The router behind `semroute.route`: loaded once, from SEMROUTE_INDEX or ./index, on first use."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import Any

from semroute.decision import Decision
from semroute.router import Router
from semroute.text import Prompt

_routers: dict[str, Router] = {}
_loading = threading.Lock()


def default_router() -> Router:
    """The router over SEMROUTE_INDEX, else ./index. Raises ArtifactError or EncoderError."""
    folder = os.environ.get("SEMROUTE_INDEX") or "index"
    key = os.path.abspath(folder)  # noqa: PTH100 - the same folder by another working directory is another index
    router = _routers.get(key)
    if router is None:
        with _loading:
            router = _routers.get(key) or _routers.setdefault(key, Router.load(folder))
    return router


def route(prompt: Prompt, **request: Any) -> Decision:
    """Decide which model serves `prompt`; see `Router.route` for the keywords."""
    return default_router().route(prompt, **request)


def route_many(prompts: Iterable[Prompt], **request: Any) -> list[Decision]:
    """Decide for many prompts at once; see `Router.route_many`."""
    return default_router().route_many(prompts, **request)


async def aroute(prompt: Prompt, **request: Any) -> Decision:
    """`route` without blocking the event loop, the first loading included."""
    import asyncio

    return await asyncio.to_thread(route, prompt, **request)
