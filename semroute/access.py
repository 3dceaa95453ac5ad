"""Who may ask: keys, and the names by which this server may be called."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address

from semroute.errors import ConfigError, Problem

Headers = Sequence[tuple[bytes, bytes]]

_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


class Keys:
    """The keys that open something, each with a name for the log. Only digests are kept."""

    def __init__(self, keys: Mapping[str, str] | Iterable[str] = ()) -> None:
        named = keys if isinstance(keys, Mapping) else {f"key-{n}": key for n, key in enumerate(keys, 1)}
        self._digests = [(name, _digest(key.encode())) for name, key in named.items()]

    def __bool__(self) -> bool:
        return bool(self._digests)

    @property
    def names(self) -> tuple[str, ...]:
        """What the keys are called."""
        return tuple(name for name, _ in self._digests)

    def owner(self, presented: bytes | None) -> str | None:
        """The name of the key that was presented; None where it is none. The time taken tells nothing."""
        if presented is None:
            return None
        digest, found = _digest(presented), None
        for name, known in self._digests:
            if hmac.compare_digest(digest, known):
                found = name
        return found


def parse_keys(text: str, source: str) -> dict[str, str]:
    """Keys from text, separated by commas or line breaks, each `NAME=KEY` or `KEY`.

    Raises ConfigError, which names `source` and quotes nothing.
    """
    found: dict[str, str] = {}
    problems = []
    lines = ("" if line.lstrip().startswith("#") else line for line in text.split("\n"))
    for place, part in enumerate(re.split(r"[,\n]", "\n".join(lines)), 1):
        name, equals, key = part.strip().partition("=")
        if not equals:
            name, key = f"key-{len(found) + 1}", name
        if not part.strip() or part.strip().startswith("#"):
            continue
        if not (key.isascii() and key.isprintable()) or " " in key or len(key) < 8 or name in found:
            what = "must be NAME=KEY, each name once, each key of 8 ASCII characters or more without spaces"
            problems.append(Problem(source, place, 0, what))
        found[name] = key
    if problems:
        raise ConfigError(tuple(problems))
    return found


def presented_key(headers: Headers) -> bytes | None:
    """What a client gives as its key: `Authorization: Bearer KEY`, or Anthropic's `x-api-key`.

    An `Authorization` of another kind is a proxy's, and counts only where there is nothing else.
    """
    given = dict(headers)
    scheme, _, key = given.get(b"authorization", b"").strip().partition(b" ")
    if scheme.lower() == b"bearer":
        return key.strip()
    if b"x-api-key" in given:
        return given[b"x-api-key"].strip()
    return b"" if b"authorization" in given else None


def request_id(headers: Headers) -> bytes | None:
    """The client's own id of the request, where it is a reasonable one."""
    given = [value for name, value in headers if name == b"x-request-id"]
    return given[0] if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]) else None


def is_good_host(headers: Headers, allowed: frozenset[str] | None) -> bool:
    """Whether there is one well-formed Host header, and where `allowed` is given, one of those names."""
    given = [value for name, value in headers if name == b"host"]
    if len(given) != 1 or _HOST.fullmatch(given[0]) is None:
        return False
    return allowed is None or host_name(given[0].decode()) in allowed


def is_good_origin(headers: Headers, allowed: frozenset[str] | None) -> bool:
    """Whether no page of another site made a browser send this; every page may where `allowed` is None."""
    origins = [value for name, value in headers if name == b"origin"]
    if allowed is None:
        return True
    return all(
        host_name(origin.decode("latin-1").partition("://")[2].partition("/")[0]) in allowed
        for origin in origins
    )


def host_name(host: str) -> str:
    """The name in a Host header, without its port, in small letters."""
    if host.startswith("["):
        return host.partition("]")[0][1:].lower()
    return host.partition(":")[0].lower()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that is bound to `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
"""What a browser's page cannot make another name stand for."""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
