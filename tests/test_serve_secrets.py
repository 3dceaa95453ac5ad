"""A secret in every place for one, and everything done that can be: none of them shows up anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx2
import pytest
from fake_upstream import FakeUpstream
from serving import BILLING, CODING, HELLO
from test_serve import Command

from semroute.build import build_index

CANARY = "canary-7f3a"
SECRETS = {
    name: f"sk-{CANARY}-{name.lower()}"
    for name in ("KEY_GOOD", "KEY_DENIED", "KEY_BROKEN", "KEY_JUDGE", "KEY_ARBITER", "KEY_NEVER")
}
CLIENT, LIMITED, FEEDBACK, FILED, WRONG = (
    f"{CANARY}-{name}" for name in ("client", "limited", "feedback", "filed", "wrong")
)
PASSWORD = f"{CANARY}-password"

# As the command runs, with every logger of the process at DEBUG.
AT_DEBUG = """
import logging, semroute.cli, semroute.cli.serving as serving
quiet = serving._log_to_stderr
def loud(_):
    quiet(False)
    logging.getLogger().setLevel(logging.DEBUG)
    for name in ("semroute", "uvicorn.error", "semroute.access"):
        logging.getLogger(name).setLevel(logging.DEBUG)
serving._log_to_stderr = loud
"""


class Collector(HTTPServer):
    """Keeps what is sent to it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        super().__init__(("127.0.0.1", 0), Keeps)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Keeps(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.bodies.append(str(self.headers).encode() + body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def project(folder: Path, fake: FakeUpstream, other: FakeUpstream, store: str) -> None:
    """Models with a key each, a cascade with a judge, an arbiter, a log and a store of outcomes."""

    def card(server, key, **more):
        return {"base_url": server.url, "api_key_env": key, "apis": ["chat", "responses", "messages"], **more}

    priced = {"prompt_usd_per_1m": 1e6, "completion_usd_per_1m": 1e6}
    arbiter = 'say:{"route": null}'
    models = {
        "ok": card(fake, "KEY_GOOD", **priced),
        "status:401": card(fake, "KEY_DENIED"),
        "error-after:2": card(fake, "KEY_BROKEN"),
        "say:No.": card(other, "KEY_JUDGE"),
        arbiter: card(other, "KEY_ARBITER"),
        "reset": card(fake, "KEY_NEVER"),
    }
    settings = {
        "encoder": "static",
        "default": {"models": ["status:401", "reset", "ok"]},
        "models": models,
        "log": {"store": "sqlite:log.db"},
        "escalations": {"store": store},
        "serve": {
            "grace_s": 1,
            "regenerate": True,
            "clients": {"limited": {"usd_per_day": 0.001}},
            "arbiter": {"model": arbiter, "min_confidence": 0.01, "max_confidence": 0.99},
        },
        "vote": {"min_confidence": 0.99},
    }
    folder.mkdir()
    (folder / "semroute.yaml").write_text(json.dumps(settings))
    rising = {"models": ["ok"], "cascade": {"to": ["status:401", "reset"], "accept": {"judge": "say:No."}}}
    routes = [
        {"name": "billing", "utterances": BILLING, **rising},
        {"name": "coding", "utterances": CODING, "models": ["status:401", "ok"]},
    ]
    for place, route in enumerate(routes):
        (folder / f"{place}.yaml").write_text(json.dumps(route))


MODELS = ("semroute/auto", "ok", "status:401", "error-after:2", "reset", "none", "router@q:1")


def use(url: str, models: tuple[str, ...]) -> tuple[str, list[int]]:
    """Ask for everything, well and badly; all that came back, and the statuses."""
    shown, statuses = [], []

    def tell(response):
        shown.append(f"{response.status_code} {response.headers} {response.text}")
        statuses.append(response.status_code)
        return response

    with httpx2.Client(base_url=url, timeout=30, trust_env=False) as client:

        def post(path, body, key=CLIENT, **headers):
            headers["authorization"] = f"Bearer {key}"
            return tell(client.post(path, json=body, headers=headers))

        for model in models:
            for stream in (False, True):
                body = {"model": model, "messages": HELLO, "stream": stream}
                post("/v1/chat/completions", body)
            post("/v1/messages", {"model": model, "max_tokens": 5, "messages": HELLO})
            post("/v1/responses", {"model": model, "input": "fix this bug in my code"})
        hello = {"model": "semroute/auto", "messages": HELLO}
        identity = post("/v1/chat/completions", hello).headers["x-semroute-id"]
        post("/v1/messages/count_tokens", {"model": "ok", "messages": HELLO})
        for key in (WRONG, LIMITED, LIMITED, FILED, FEEDBACK):
            post("/v1/chat/completions", hello, key)
        tell(client.post("/v1/chat/completions", json=hello, headers={"x-api-key": WRONG}))
        tell(client.post("/v1/chat/completions", content=b"{", headers={"x-api-key": CLIENT}))
        post("/v1/chat/completions", {**hello, "api_key": "x"})
        post("/v1/route", {"prompt": "my invoice function has a bug"})
        for key in (FEEDBACK, CLIENT):
            post("/v1/feedback", {"id": identity, "score": 0.0, "by": "ann"}, key)
            post("/v1/feedback", {"id": identity, "to": "status:401", "by": "bob"}, key)
        post("/live/place", {"prompt": "refund"})
        for path in ("/", "/live", "/live/map", "/metrics", "/v1/models", "/healthz", "/readyz", "/nowhere"):
            for key in (CLIENT, WRONG):
                tell(client.get(path, headers={"authorization": f"Bearer {key}"}))
    return "\n".join(shown), statuses


def commands(root: Path, environ: dict[str, str], most: int) -> str:
    """What the first `most` of the other commands print of the same project; the last writes the report."""
    printed = ""
    for command in (
        ["doctor"], ["route", "where is my refund", "--index", "index"],
        ["escalations", "list", "--index", "index"], ["escalations", "export", "--index", "index"],
        ["log", "export", "--index", "index"], ["log", "savings", "--index", "index"], ["validate"], ["lint"],
        ["report", "--index", "index", "--output", "report.html"],
    )[:most]:  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "semroute", *command],
            cwd=root,
            env=os.environ | environ,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        printed += f"{command}\n{done.stdout}\n{done.stderr}\n"
    return printed


def sent_to(server: FakeUpstream) -> set[str]:
    """The secrets that reached a server of models, of clients' keys too."""
    everything = " ".join(f"{one.path} {one.headers} {one.body!r}" for one in server.requests)
    clients = (CLIENT, LIMITED, FEEDBACK, FILED, WRONG, PASSWORD)
    return {secret for secret in (*SECRETS.values(), *clients) if secret in everything}


@pytest.mark.parametrize("kind", ["sqlite", "a server that is not there"])
def test_no_secret_shows_up_anywhere(tmp_path, kind):
    dsn = f"postgresql://me:{PASSWORD}@127.0.0.1:1/db?connect_timeout=1"
    store = "sqlite:outcomes.db" if kind == "sqlite" else dsn
    with FakeUpstream() as fake, FakeUpstream() as other:
        project(tmp_path / "routes", fake, other, store)
        build_index(tmp_path / "routes", tmp_path / "index")
        (tmp_path / "keys").write_text(f"filed={FILED}\n")
        collector = Collector()
        environ = SECRETS | {
            "SEMROUTE_KEYS": f"me={CLIENT},limited={LIMITED}",
            "SEMROUTE_FEEDBACK_KEYS": f"me={FEEDBACK}",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        }
        (tmp_path / "sitecustomize.py").write_text(AT_DEBUG)
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        with Command(tmp_path, "--keys-file", "keys", **environ, PYTHONPATH=path) as command:
            shown, statuses = use(command.url, MODELS if kind == "sqlite" else MODELS[1:6])
            time.sleep(1.0)
            command.process.terminate()
            assert command.process.wait(30) == 0
            log = "".join(command.log)
        (tmp_path / "sitecustomize.py").unlink()
        collector.shutdown()
        collector.server_close()
        # Everything has happened: what was asked for was answered, refused, and failed.
        assert {200, 400, 401, 404, 429, 503} <= set(statuses)
        assert '"level": "debug"' in log
        assert b"chat ok" in b"".join(collector.bodies)
        # Each key was sent to its own server, and to no other.
        assert sent_to(fake) == {
            SECRETS[name] for name in SECRETS if name not in ("KEY_JUDGE", "KEY_ARBITER")
        }
        assert sent_to(other) == {SECRETS["KEY_JUDGE"], SECRETS["KEY_ARBITER"]}
    told = {
        "answers": shown,
        "log": log,
        "spans": repr(collector.bodies),
        "commands": commands(tmp_path, environ, 20 if kind == "sqlite" else 3),
    }
    for name in ("log.db", "outcomes.db", "report.html"):
        if (tmp_path / name).exists():
            told[name] = (tmp_path / name).read_bytes().decode("latin-1")
    for place, text in told.items():
        at = text.find(CANARY)
        assert at < 0, f"{place}: {text[max(0, at - 300) : at + 60]}"
        assert "SECRET" not in text, place  # what an upstream says of itself when it fails
