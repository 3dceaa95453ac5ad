"""What an operator checks first: packages, the bundled encoders, the processor, the index, the keys."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from semroute.artifact import build_command
from semroute.errors import ArtifactMissing, ConfigError, SemrouteError
from semroute.text import counted

if TYPE_CHECKING:
    from semroute.router import Router

Status = Literal["ok", "note", "broken"]

_PACKAGES = ("numpy", "faiss-cpu", "onnxruntime", "tokenizers", "pydantic", "PyYAML", "httpx2")
_SAMPLE_PROMPT = "can you help me find a good way to organise the photos from my last holiday"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. What is `broken` needs the cure that `detail` names; a `note` may not."""

    check: str
    status: Status
    detail: str


def examine(routes: Path, index: Path, named: Collection[Path] = ()) -> list[Finding]:
    """Look at the installation and at the project in `routes` and `index`. Never raises SemrouteError.

    named: those of the two that somebody asked for, and that are broken where they are not there; of folders
        that are only looked for where they usually are, it is a note.
    """
    absent: Status = "broken" if routes in named else "note"
    findings = [
        Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}"),
        *_packages(),
        _guarded("processor", _processor),
        _guarded("bundled encoders", _assets),
        _guarded("routes", lambda: _routes(routes, absent)),
        _guarded("index freshness", lambda: _freshness(routes, index)),
    ]
    return [*findings, *_serving(index, "broken" if index in named else "note")]


def _guarded(check: str, look: Callable[[], tuple[Status, str]]) -> Finding:
    try:
        status, detail = look()
    except ConfigError as error:
        first, more = error.problems[0], len(error.problems) - 1
        return Finding(check, "broken", f"{first}" + (f" (and {more} more)" if more else ""))
    except SemrouteError as error:
        return Finding(check, "broken", str(error))
    return Finding(check, status, detail)


def _packages() -> Iterator[Finding]:
    for package in _PACKAGES:
        try:
            yield Finding(package, "ok", version(package))
        except PackageNotFoundError:
            yield Finding(
                package, "broken", "not installed: install semroute-router again, with its dependencies"
            )


def _processor() -> tuple[Status, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return "ok", f"{platform.machine()}, {cores} usable cores"
    flags = cpuinfo.read_text(encoding="utf-8", errors="replace")
    vnni = any(flag in flags for flag in ("avx512_vnni", "avx_vnni", "asimddp"))
    said = f"{platform.machine()}, {cores} usable cores"
    if vnni:
        return "ok", f"{said}, with instructions for 8-bit products"
    return "note", f"{said}, without instructions for 8-bit products: `minilm` is slower here, not less exact"


def _assets() -> tuple[Status, str]:
    from semroute.encoders import verify_assets

    problems = verify_assets()
    return ("broken", " ".join(problems)) if problems else ("ok", "minilm and static are intact")


def _routes(routes: Path, absent: Status) -> tuple[Status, str]:
    if not routes.exists():
        return absent, f"{routes} is not here: needed to build only (`semroute init` writes a starter)"
    from semroute.config import load_config

    config = load_config(routes)
    unset = sorted(
        {card.api_key_env for card in config.settings.models.values() if card.api_key_env}
        - {name for name in os.environ if os.environ[name]}
    )
    said = f"{routes}: {counted(len(config.routes), 'route')}, {counted(len(config.warnings), 'warning')}"
    if unset:
        return "note", f"{said}; not set here: {', '.join(unset)} (needed to call models, not to route)"
    return "ok", said


def _freshness(routes: Path, index: Path) -> tuple[Status, str]:
    if not routes.exists() or not index.exists():
        return "note", "nothing to compare"
    from semroute.build import check_index

    changes = check_index(routes, index)
    if changes:
        said = "; ".join(change.rstrip(".") for change in changes[:3])
        return "broken", f"{index} is stale: {said}. Run `{build_command(index, routes)}`."
    return "ok", f"{index} is up to date with {routes}"


def _serving(index: Path, absent: Status) -> Iterator[Finding]:
    from semroute.router import Router

    try:
        started = time.perf_counter()
        router = Router.load(index, log=False)
        seconds = time.perf_counter() - started
    except ArtifactMissing as error:
        yield Finding("index", absent, str(error))
        return
    except SemrouteError as error:
        yield Finding("index", "broken", str(error))
        return
    manifest = router.index.manifest
    counts = manifest.counts
    yield Finding(
        "index",
        "ok",
        f"{counted(counts.utterances, 'utterance')} of {counted(counts.routes, 'route')}, "
        f"{manifest.vectors.kind}, encoder {manifest.encoder.name}, loaded in {seconds:.2f} s",
    )
    yield _timed(router)


def _timed(router: Router) -> Finding:
    decisions = [router.route(_SAMPLE_PROMPT) for _ in range(20)]
    if any(decision.reason == "error" for decision in decisions):
        return Finding("routing", "broken", decisions[-1].detail)
    median = statistics.median(decision.elapsed_ms for decision in decisions)
    return Finding("routing", "ok", f"{median:.2f} ms a prompt (median of 20)")
