"""The command that serves HTTP: address, keys, signals, logs. What is served is in `semroute/server/`."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semroute.cli.output import IndexOption, print_json, print_line, refuse
from semroute.errors import THE_SETTINGS, ConfigError, Problem, install_extra
from semroute.tracing import provider_of_environment

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider
    from starlette.applications import Starlette
    from uvicorn import Config

    from semroute.router import Router

_BACKLOG = 2048
_SHOWN_AS = {"uvicorn.error": "server"}  # uvicorn's name for its log of everything but requests


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.command()(serve)


def serve(
    index: IndexOption = Path("index"),
    host: Annotated[
        str,
        typer.Option(envvar="SEMROUTE_HOST", help="The address to bind; keys are needed beyond loopback."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65_535, envvar="SEMROUTE_PORT", help="The port; 0 for any that is free.")
    ] = 8080,
    share_port: Annotated[
        bool,
        typer.Option(
            "--share-port",
            envvar="SEMROUTE_SHARE_PORT",
            help="Let other workers, started alike, serve at this port; the system deals out connections.",
        ),
    ] = False,
    keys_file: Annotated[
        Path | None,
        typer.Option(
            envvar="SEMROUTE_KEYS_FILE",
            help="A file of client keys, NAME=KEY a line; or give them in SEMROUTE_KEYS.",
            show_default=False,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            envvar="SEMROUTE_ALLOW_HOST",
            help="A name by which clients may call this server; any, where keys are set.",
            show_default=False,
        ),
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload/--no-reload", help="Take a new index when the folder changes.")
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="Log no requests.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print where it serves as JSON.")] = False,
) -> None:
    """Serve one OpenAI-compatible endpoint that chooses the model."""
    _log_to_stderr(quiet)
    traces = provider_of_environment()
    app = _app(index, host, keys_file, allow_host, reload, traces)
    config = _config(app, app.state.service.settings.grace_s)
    listening = _bind(host, port, share_port)
    url = _url(listening)
    if as_json:
        print_json({"url": url, "index": app.state.service.router.index.fingerprint, "pid": os.getpid()})
    else:
        print_line(f"Serving {index} at {url} (POST {url}/v1/chat/completions, model semroute/auto)")
    started = _run(config, app, listening)
    if traces is not None:
        traces.shutdown()  # sends what waits
    if not started:
        refuse("The server could not start; the log above says why.")


def _app(
    index: Path,
    host: str,
    keys_file: Path | None,
    allow_host: list[str] | None,
    reload: bool,
    traces: TracerProvider | None,
) -> Starlette:
    """The app over the index, with the keys of the environment. Exits where that would not be safe."""
    try:
        import uvicorn  # noqa: F401 - to say early what is missing

        from semroute.server import create_app
    except ImportError as error:
        refuse(f"semroute serve needs {error.name}; {install_extra('serve')}.")
    from semroute.access import LOOPBACK_HOSTS, is_loopback, parse_keys
    from semroute.router import Router

    keys = parse_keys(os.environ.get("SEMROUTE_KEYS", ""), "SEMROUTE_KEYS")
    if keys_file is not None:
        try:
            listed = parse_keys(keys_file.read_text(encoding="utf-8"), str(keys_file))
        except (OSError, UnicodeDecodeError) as error:
            refuse(f"The keys could not be read from {keys_file}: {_unread(error)}.")
        if twice := sorted(name for name in listed if name in keys and keys[name] != listed[name]):
            refuse(f"{twice[0]} is a key in SEMROUTE_KEYS and another in {keys_file}: name them apart.")
        keys |= listed
    if not keys and not is_loopback(host):
        cure = "give keys by SEMROUTE_KEYS or --keys-file, or bind to 127.0.0.1"
        refuse(f"{host} can be reached from outside: {cure}.")
    router = Router.load(index)
    _check_clients(router, index, keys)
    # A page in a browser can reach this machine under a name of its own; keys it does not have.
    hosts = set(allow_host or ()) | (set() if keys else LOOPBACK_HOSTS)
    return create_app(
        router,
        keys=keys,
        feedback_keys=parse_keys(os.environ.get("SEMROUTE_FEEDBACK_KEYS", ""), "SEMROUTE_FEEDBACK_KEYS"),
        hosts=hosts or None,
        watch=index if reload else None,
        tracer_provider=traces,
    )


def _check_clients(router: Router, index: Path, keys: Collection[str]) -> None:
    """Raise ConfigError where limits are for a client without a key: they would hold for nobody."""
    from semroute.server.budgets import strangers
    from semroute.sources import read_folder

    serve = router.index.config.settings.serve
    unknown = {} if serve is None else strangers(serve.clients, keys)
    if not unknown:
        return
    written = read_folder(index.parent / "routes")[0].settings  # where the index has no places of its own
    problems = []
    for name, message in unknown.items():
        place = ("serve", "clients", name)
        if written is not None and written.get(*place) is not None:
            problems.append(written.problem(message, *place, key=True))
        else:
            problems.append(Problem(THE_SETTINGS, 0, 0, f"serve.clients: {message}"))
    router.close()
    raise ConfigError(tuple(problems))


def _unread(error: OSError | UnicodeDecodeError) -> str:
    """Why a file of keys cannot be read; nothing of what it holds."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    why = error.strerror or type(error).__name__
    return f"{why[:1].lower()}{why[1:]}"


def _config(app: Starlette, grace: float) -> Config:
    import uvicorn

    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(grace)),
        backlog=_BACKLOG,
    )


def _bind(host: str, port: int, share: bool) -> socket.socket:
    if share and not hasattr(socket, "SO_REUSEPORT"):
        refuse("--share-port: this system cannot share a port; put a balancer before several ports.")
    try:
        return socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=_BACKLOG,
            reuse_port=share,
        )
    except OSError as error:
        # Python's own text names the address once more, the system's does not.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        cure = (
            "; choose another with --port, 0 for any that is free" if error.errno == errno.EADDRINUSE else ""
        )
        refuse(f"{host}:{port} cannot be bound: {why[:1].lower()}{why[1:]}{cure}.")


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _run(config: Config, app: Starlette, listening: socket.socket) -> bool:
    """Serve until a signal; whether it ever started. Not ready from the signal on, while streams go on."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            # Unlike uvicorn's own, this does not end the process by the signal: a stop in peace exits with 0.
            app.state.service.draining = True
            self.force_exit = self.should_exit
            self.should_exit = True

    server = Server(config)
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is signal.SIG_DFL:  # not where nohup ignores it
        signal.signal(hangup, server.handle_exit)
    server.run(sockets=[listening])
    return server.started


class _JsonLines(logging.Formatter):
    """One JSON object a line. The log of requests writes its own."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for `record`."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        if record.name == "semroute.access":
            told |= {"event": "request", **json.loads(record.getMessage())}
        else:
            told |= {"event": _SHOWN_AS.get(record.name, record.name), "message": record.getMessage()}
            if record.exc_info and record.exc_info[0] is not None:
                told["error"] = record.exc_info[0].__name__
        return json.dumps(told, ensure_ascii=False)


def _log_to_stderr(quiet: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("semroute", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("semroute.access").setLevel(logging.WARNING if quiet else logging.INFO)
