"""What several test files need: small projects on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent

ROUTES = {
    "billing": [
        "where is my refund",
        "cancel my subscription",
        "my card was charged twice",
        "send me an invoice",
    ],
    "coding": [
        "write a python function",
        "fix this bug in my code",
        "explain this stack trace",
        "sort a list",
    ],
    "smalltalk": ["hello there", "how are you today", "thanks a lot", "good morning"],
}
SETTINGS = {
    "encoder": "static",
    "default": {"model": "big"},
    "models": {
        "small": {"prompt_usd_per_1m": 0.25, "completion_usd_per_1m": 2.0, "capabilities": ["json"]},
        "big": {"prompt_usd_per_1m": 5.0, "completion_usd_per_1m": 25.0, "capabilities": ["json", "tools"]},
    },
}


@pytest.fixture(scope="module")
def fake() -> Iterator[Any]:
    """A model server on loopback that behaves as the name of the model says; it outlives the routers before it."""
    from fake_upstream import FakeUpstream
    from serving import all_have_stopped

    with FakeUpstream() as server:
        yield server
        all_have_stopped()


@pytest.fixture
def router_of(fake: Any, tmp_path: Path) -> Callable[..., Any]:
    """A router over modes of the fake: `billing` is served by `billing`, everything else by the first mode."""
    from serving import make_router

    fake.forget()

    def make(*modes: str, billing: Any = None, cards: Any = None, **settings: Any) -> Any:
        models = fake.models_for(modes, cards)
        return make_router(tmp_path / "routes", models, billing or {"models": list(modes)}, **settings)

    return make


WriteProject = Callable[..., Path]


@pytest.fixture
def write_project(tmp_path: Path) -> WriteProject:
    """Write a folder of routes; JSON is YAML, so the files are written as JSON."""

    def write(
        routes: dict[str, Any] | None = None, settings: dict[str, Any] | None = None, name: str = "routes"
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for old in folder.glob("*.yaml"):
            old.unlink()
        (folder / "semroute.yaml").write_text(json.dumps(SETTINGS | (settings or {})), encoding="utf-8")
        for place, (route, content) in enumerate((ROUTES if routes is None else routes).items()):
            more = content if isinstance(content, dict) else {"utterances": content}
            serving = {} if "models" in more else {"model": "small"}
            row = {"name": route, **serving, **more}
            (folder / f"{place:03}.yaml").write_text(json.dumps(row), encoding="utf-8")
        return folder

    return write
