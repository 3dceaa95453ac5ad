"""What tokens cost."""

from __future__ import annotations


def usd(
    prompt_tokens: int | None,
    completion_tokens: int | None,
    prompt_usd_per_1m: float | None,
    completion_usd_per_1m: float | None,
) -> float | None:
    """US dollars of so many tokens at these prices; None where one of the four numbers is not known."""
    if prompt_tokens is None or completion_tokens is None:
        return None
    if prompt_usd_per_1m is None or completion_usd_per_1m is None:
        return None
    return (prompt_tokens * prompt_usd_per_1m + completion_tokens * completion_usd_per_1m) / 1e6
