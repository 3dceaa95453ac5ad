"""What the headers of a response say of the decision behind it."""

from __future__ import annotations

from urllib.parse import quote

from semroute.decision import Decision

Headers = list[tuple[bytes, bytes]]


def _header(value: str) -> bytes:
    """A name as a header may hold it: what is not plain ASCII is percent-encoded."""
    return quote(value, safe=" !#$&'()*+,/:;=?@[]~").encode()


def described(decision: Decision | None, identity: str, model: str | None) -> Headers:
    """Id, route and reason of a decision, where there was one, and the model that answered, where one did."""
    headers = [(b"x-semroute-id", identity.encode())]
    if decision is not None:
        headers.append((b"x-semroute-route", _header(decision.route or "default")))
        headers.append((b"x-semroute-reason", decision.reason.encode()))
    if model is not None:
        headers.append((b"x-semroute-model", _header(model)))
    return headers
