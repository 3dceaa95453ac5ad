"""The public surface, what importing must not load, and which way imports may go."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import semroute

PACKAGE = Path(semroute.__file__).parent

# Who may import whom inside the package; `errors` and `text` import nothing of ours.
ALLOWED = {
    "__init__": {"_default", "decision", "encoders", "errors", "router", "telemetry"},
    "__main__": {"cli"},
    "_default": {"decision", "router", "text"},
    "access": {"errors"},
    "affinity": {"health"},
    "answers": {"config", "numeric", "sse"},
    "arbiter": {"config", "decision"},
    "artifact": {"errors"},
    "assess": {"compare", "evaluate", "floors", "robustness", "router"},
    "blends": {"encoders", "index", "router", "snapshot"},
    "bootstrap": set(),
    "build": {"config", "encoders", "errors", "freshness", "index"},
    "calibrate": {"encoders", "vote"},
    "cascade": {"answers", "config", "refusals", "text"},
    "catalog": {"config", "decision"},
    "changes": {"artifact", "config", "encoders"},
    "choices": {"catalog", "config", "sweep"},
    "cli": {
        "__init__",
        "access",
        "artifact",
        "assess",
        "build",
        "config",
        "crossfit",
        "decision",
        "decisionlog",
        "doctor",
        "edit",
        "encoders",
        "errors",
        "escalations",
        "evaluate",
        "formats",
        "freshness",
        "index",
        "jsonl",
        "lint",
        "logged",
        "report",
        "router",
        "server",
        "sources",
        "starter",
        "summary",
        "sweep",
        "text",
        "tracing",
        "tune",
        "ulid",
    },
    "compare": {"evaluate"},
    "config": {"editors", "errors", "shapes", "sources", "yaml"},
    "crossfit": {"choices", "config", "errors", "escalations", "router", "sweep", "ulid"},
    "databases": {"errors"},
    "deciding": {"decision", "router"},
    "decision": {"prices"},
    "decisionlog": {
        "catalog",
        "config",
        "databases",
        "decision",
        "errors",
        "escalations",
        "telemetry",
        "text",
        "ulid",
    },
    "doctor": {"artifact", "build", "config", "encoders", "errors", "router", "text"},
    "edit": {"config", "errors", "sources", "yaml"},
    "editors": {"shapes"},
    "encoders": {"errors"},
    "errors": set(),
    "escalations": {
        "config",
        "databases",
        "decision",
        "encoders",
        "errors",
        "jsonl",
        "numeric",
        "text",
        "ulid",
    },
    "evaluate": {
        "bootstrap",
        "catalog",
        "config",
        "decision",
        "errors",
        "jsonl",
        "router",
        "sources",
        "text",
        "yaml",
    },
    "floors": {"config", "evaluate"},
    "formats": {"assess", "compare", "evaluate", "floors", "lint", "text"},
    "freshness": {"artifact", "changes", "config", "encoders", "errors"},
    "health": set(),
    "index": {"artifact", "calibrate", "config", "encoders", "errors", "freshness", "vote"},
    "jsonl": {"errors", "yaml"},
    "lint": {
        "config",
        "decision",
        "encoders",
        "errors",
        "freshness",
        "index",
        "router",
        "snapshot",
        "sources",
        "yaml",
    },
    "logged": {"telemetry", "decision", "errors", "jsonl", "numeric", "sources", "yaml"},
    "measures": set(),
    "metrics": {"decision", "health", "upstream"},
    "livemap": {"errors", "index", "report", "router"},
    "live": {"config", "decision", "health", "upstream"},
    "network": set(),
    "numeric": set(),
    "perturb": set(),
    "refusals": set(),
    "report": {
        "__init__",
        "catalog",
        "config",
        "decision",
        "decisionlog",
        "encoders",
        "evaluate",
        "index",
        "router",
        "text",
        "vote",
    },
    "request": {"catalog", "config"},
    "robustness": {"catalog", "config", "evaluate", "perturb", "router", "text"},
    "router": {
        "config",
        "decision",
        "decisionlog",
        "encoders",
        "errors",
        "escalations",
        "index",
        "request",
        "snapshot",
        "telemetry",
        "text",
        "ulid",
        "vote",
    },
    "snapshot": {
        "catalog",
        "config",
        "decision",
        "decisionlog",
        "encoders",
        "errors",
        "escalations",
        "index",
        "request",
        "rules",
        "text",
        "ulid",
        "vote",
        "wording",
    },
    "rules": {"config"},
    "server": {
        "spending",
        "escalations",
        "access",
        "affinity",
        "arbiter",
        "artifact",
        "catalog",
        "config",
        "deciding",
        "decision",
        "errors",
        "live",
        "livemap",
        "metrics",
        "numeric",
        "request",
        "router",
        "sources",
        "telemetry",
        "text",
        "tracing",
        "ulid",
        "upstream",
        "wire",
        "yaml",
    },
    "prices": set(),
    "shapes": {"prices", "sources", "yaml"},
    "sources": {"errors", "yaml"},
    "spending": {"databases", "errors"},
    "sse": set(),
    "starter": {"config", "errors"},
    "summary": {"assess", "compare", "evaluate", "robustness", "text"},
    "sweep": set(),
    "telemetry": {"decision", "errors", "numeric", "text"},
    "testing": {"encoders", "errors"},
    "text": set(),
    "tracing": {"__init__", "decision", "errors", "upstream"},
    "tune": {
        "blends",
        "catalog",
        "choices",
        "config",
        "crossfit",
        "decision",
        "errors",
        "evaluate",
        "jsonl",
        "measures",
        "router",
        "sweep",
        "text",
    },
    "ulid": set(),
    "upstream": {"answers", "cascade", "config", "health", "network", "sse", "wire"},
    "vote": {"decision"},
    "wire": {"config", "text"},
    "wording": {"text"},
    "yaml": {"errors"},
}
HEAVY = {
    "torch",
    "faiss",
    "onnxruntime",
    "httpx",
    "httpx2",
    "sklearn",
    "scipy",
    "numpy",
    "pydantic",
    "starlette",
    "uvicorn",
    "prometheus_client",
    "tokenizers",
    "psycopg",
    "sqlite3",
    "opentelemetry",
}


def part_of(path: Path) -> str:
    """The first name below the package: a module, or a sub-package as one."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module]
            if node.module == "semroute":
                names = [f"semroute.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] == "semroute":
                inner = name.split(".")[1] if "." in name else "__init__"
                known = (PACKAGE / inner).is_dir() or (PACKAGE / f"{inner}.py").exists()
                found.add(inner if known else "__init__")
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_go_one_way(path):
    part = part_of(path)
    assert imported_parts(path) - {part} <= ALLOWED[part]


def test_the_allowed_imports_have_no_cycle():
    done: set[str] = set()
    waiting = dict(ALLOWED)
    while waiting:
        free = [part for part, needs in waiting.items() if needs <= done]
        assert free, f"a cycle among {sorted(waiting)}"
        for part in free:
            done.add(part)
            del waiting[part]


def test_what_is_exported():
    assert semroute.__all__ == sorted(semroute.__all__)
    assert set(semroute.__all__) == {
        "ArtifactCorrupt",
        "ArtifactError",
        "ArtifactMismatch",
        "ArtifactMissing",
        "ArtifactNotWritten",
        "Candidate",
        "ConfigError",
        "Decision",
        "Encoder",
        "EncoderError",
        "EncoderUnavailable",
        "EncodingFailed",
        "Listener",
        "Neighbor",
        "OutcomeInvalid",
        "PastOutcome",
        "Problem",
        "QuotaExceeded",
        "Router",
        "SemrouteError",
        "StoreError",
        "StoreUnavailable",
        "UnknownDecision",
        "__version__",
        "aroute",
        "load",
        "route",
        "route_many",
    }
    assert all(getattr(semroute, name) is not None for name in semroute.__all__)
    assert dir(semroute) == sorted(semroute.__all__)
    with pytest.raises(AttributeError, match="semroute"):
        semroute.nothing  # noqa: B018


def test_every_error_is_a_semroute_error():
    errors = [
        getattr(semroute, name) for name in semroute.__all__ if isinstance(getattr(semroute, name), type)
    ]
    errors = [error for error in errors if issubclass(error, Exception)]
    assert len(errors) == 15
    assert all(issubclass(error, semroute.SemrouteError) for error in errors)


@pytest.mark.parametrize(
    "module",
    [
        "semroute",
        "semroute.encoders",
        "semroute.encoders.base",
        "semroute.errors",
        "semroute.escalations",
        "semroute.telemetry",
        "semroute.decisionlog",
    ],
)
def test_importing_loads_nothing_heavy(module):
    code = f"import {module}, sys, json; print(json.dumps(list(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert {name.split(".")[0] for name in json.loads(printed)} & HEAVY == set()


def test_routing_loads_no_build_time_library():
    index = Path(__file__).parent.parent / "index"
    code = (
        "import semroute, sys, json; semroute.load(sys.argv[1]).route('hello');"
        "print(json.dumps(list(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(index)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    loaded = {name.split(".")[0] for name in json.loads(printed)}
    assert loaded & {"torch", "httpx", "httpx2", "sklearn", "scipy", "transformers", "typer", "rich"} == set()


def test_checking_an_index_loads_no_model_and_no_faiss():
    root = Path(__file__).parent.parent
    code = (
        "import sys, json; from pathlib import Path; from semroute.build import check_index;"
        "assert check_index(Path(sys.argv[1]), Path(sys.argv[2])) == [];"
        "print(json.dumps(list(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(root / "routes"), str(root / "index")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    loaded = {name.split(".")[0] for name in json.loads(printed)}
    assert loaded & {"faiss", "onnxruntime", "tokenizers", "numpy", "torch", "sklearn"} == set()


def test_no_module_reads_pickles_or_runs_what_it_reads():
    forbidden = (
        "import pickle",
        "joblib",
        "torch.load",
        "allow_pickle=True",
        "trust_remote_code=True",
        "eval(",
    )
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert not [word for word in forbidden if word in source], path


def test_the_version_is_one():
    from importlib.metadata import version

    changelog = (PACKAGE.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = next(line for line in changelog.splitlines() if line.startswith("## "))
    assert version("semroute-router") == semroute.__version__
    assert newest.removeprefix("## ").split()[0] == semroute.__version__


def test_nobody_is_told_to_install_another_project():
    """The package index has an unrelated project under the shorter name."""
    root = PACKAGE.parent
    files = [*PACKAGE.rglob("*.py"), *root.glob("*.md"), *root.glob("docs/*.md"), root / "Makefile"]
    for path in files:
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.replace("'", " ").replace('"', " ").replace("`", " ").replace("[", " ").split()
            if "install" in words and "pip" in line:
                assert "semroute" not in words, f"{path}: {line}"


def test_no_hint_presumes_that_the_package_stands_on_an_index():
    root = PACKAGE.parent
    for path in [*PACKAGE.rglob("*.py"), *root.glob("*.md"), *root.glob("docs/*.md")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            said = line.partition("pip install")[2]
            assert "semroute-router" not in said, f"{path}: {line}"
