"""Forgetting a prompt everywhere: among the outcomes and in the decision log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from semroute.config import Settings


def forget_prompt(prompt: str, settings: Settings, root: Path) -> dict[str, int]:
    """Erase what is stored on `prompt`; returns how many `outcomes` and `decisions`. Raises StoreError."""
    return {
        "outcomes": _outcomes(prompt, settings, root),
        "decisions": forget_decisions(prompt, settings, root),
    }


def forget_decisions(prompt: str, settings: Settings, root: Path) -> int:
    """Erase the logged decisions on `prompt`; returns how many. Raises StoreError."""
    from semroute.decisionlog import is_there, open_log
    from semroute.escalations import prompt_hash

    if settings.log is None or not is_there(settings.log.store, root=root):
        return 0
    with open_log(settings.log.store, root=root) as log:
        return log.forget(prompt_hash(prompt, log.key))


def forget_principal(principal: str, settings: Settings, root: Path) -> int:
    """Erase what `principal` said of logged decisions; returns how many. Raises StoreError."""
    from semroute.decisionlog import is_there, open_log

    if settings.log is None or not is_there(settings.log.store, root=root):
        return 0
    with open_log(settings.log.store, root=root) as log:
        return log.forget_principal(principal)


def _outcomes(prompt: str, settings: Settings, root: Path) -> int:
    from time import time

    from semroute.escalations import OPERATOR, is_there, open_store, prompt_hash

    store = None if settings.escalations is None else settings.escalations.store
    if store is None or not is_there(store, root=root):
        return 0
    with open_store(store, root=root) as opened:
        return opened.forget(by=OPERATOR, time=time(), prompt_hash=prompt_hash(prompt, opened.key))
