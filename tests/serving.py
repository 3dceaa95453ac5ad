"""A served router on a real socket, for the tests: uvicorn in a thread, as `semroute serve` runs it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from semroute import Router, index
from semroute.config import ServeSettings, load_config
from semroute.encoders import open_encoder
from semroute.server import create_app

STATIC = open_encoder("static", root=Path())
BILLING = ["where is my refund", "cancel my subscription", "my card was charged twice", "send me an invoice"]
CODING = ["write a python function", "fix this bug in my code", "explain this stack trace", "sort a list"]
HELLO = [{"role": "user", "content": BILLING[0]}]
PATIENT = {"cooldown_s": 0.3, "max_cooldown_s": 2.0}
HURRIED = {
    "connect_s": 0.8,
    "first_content_s": 1.0,
    "answer_s": 1.0,
    "stall_s": 1.0,
    "total_s": 10.0,
    "cooldown_s": 0.3,
    "max_cooldown_s": 2.0,
}


@dataclass
class Served:
    url: str
    app: Any
    router: Router

    def post(self, body: Any, path: str = "/v1/chat/completions", **headers: str) -> httpx2.Response:
        """A client that knows nothing of retries: what came back is what was sent."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        return httpx2.post(self.url + path, content=content, headers=given, timeout=20, trust_env=False)

    def get(self, path: str, **headers: str) -> httpx2.Response:
        given = {key.replace("_", "-"): value for key, value in headers.items()}
        return httpx2.get(self.url + path, headers=given, timeout=10, trust_env=False)

    def ask(
        self, model: str = "semroute/auto", text: str = "where is my refund", **more: Any
    ) -> httpx2.Response:
        return self.post({"model": model, "messages": [{"role": "user", "content": text}], **more})

    def metric(self, name: str, **labels: str) -> float:
        found = 0.0
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(name) and all(f'{key}="{value}"' for key, value in labels.items()):
                head, _, value = line.rpartition(" ")
                if head.partition("{")[0] == name and all(f'{k}="{v}"' in head for k, v in labels.items()):
                    found += float(value)
        return found


def make_router(
    folder: Path,
    models: dict[str, Any],
    billing: dict[str, Any] | None = None,
    coding: dict[str, Any] | None = None,
    **settings: Any,
) -> Router:
    """Two routes: what they name serves billing, `default` the rest."""
    folder.mkdir(exist_ok=True)
    whole = {"encoder": "static", "default": {"model": next(iter(models))}, "models": models, **settings}
    (folder / "semroute.yaml").write_text(json.dumps(whole))
    first = {"model": next(iter(models))} if billing is None else billing
    (folder / "1.yaml").write_text(json.dumps({"name": "billing", "utterances": BILLING, **first}))
    second = {"name": "coding", "utterances": CODING, **(coding or {"model": next(iter(models))})}
    (folder / "2.yaml").write_text(json.dumps(second))
    return Router(index.build(load_config(folder), STATIC).index, STATIC, folder=folder / "index")


@contextlib.contextmanager
def serving(router: Router, **options: Any) -> Iterator[Served]:
    options = {"settings": ServeSettings(**PATIENT), **options}
    app = create_app(router, **options)
    config = uvicorn.Config(app, port=0, log_level="critical", access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(f"http://127.0.0.1:{port}", app, router)
    finally:
        server.should_exit = True
        _LEAVING.append(thread)


_LEAVING: list[threading.Thread] = []


def all_have_stopped() -> None:
    """Wait for the servers of the tests before; a stop takes a fifth of a second, which no test need wait for."""
    while _LEAVING:
        thread = _LEAVING.pop()
        thread.join(10)
        assert not thread.is_alive()
