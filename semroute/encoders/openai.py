"""Any server that speaks OpenAI's /embeddings: bounded batches, bounded waiting, answers checked.

OPENAI_API_KEY is the key, OPENAI_BASE_URL the address (https://api.openai.com/v1). Redirects are not
followed, proxies of the environment are not used, and a key is sent in the clear to this machine only.
"""

from __future__ import annotations

import ipaddress
import json
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple

from semroute.encoders.base import EncoderIdentity, Kind, clip, unit_rows
from semroute.errors import EncoderUnavailable, EncodingFailed

if TYPE_CHECKING:
    import numpy as np
    from httpx2 import URL, Client, Response
    from numpy.typing import NDArray

    from semroute.encoders.base import Vectors

MAX_CHARS = 8_000
PREPROCESSING = f"clip={MAX_CHARS} empty=space"

_BASE_URL = "https://api.openai.com/v1"
_BATCH_TEXTS = 256
_BATCH_CHARS = 400_000
_ANSWER_BYTES = 64 << 20
_CURES = {
    400: "check that the model takes this much text",
    401: "check OPENAI_API_KEY",
    403: "check what OPENAI_API_KEY may use",
    404: "check the name of the model and OPENAI_BASE_URL",
    413: "check that the server takes this much text",
    422: "check that the model takes this much text",
}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server, in seconds.

    `query` and `document` bound all attempts for one batch of that kind together; `connect` and `read`
    bound one step of one attempt. Between attempts it waits `first_pause`, then twice as long each time,
    or what Retry-After asks for, never longer than `longest_pause`.
    """

    query: float = 10.0
    document: float = 120.0
    connect: float = 5.0
    read: float = 30.0
    first_pause: float = 0.5
    longest_pause: float = 20.0


class OpenAIEncoder:
    """Vectors of `model` from the server in the environment.

    `dim` is the length of the vectors if known; otherwise the first answer tells, and asking for
    `identity` before that costs one request. Safe to use from several threads. Raises EncoderUnavailable
    when the key is missing or the address is not acceptable.
    """

    def __init__(
        self, model: str, *, name: str, dim: int | None = None, patience: Patience | None = None
    ) -> None:
        import httpx2

        self._model = model
        self._name = name
        self._dim = dim
        self._patience = patience or Patience()
        self._lock = threading.Lock()
        self._url = f"{_base_url(name)}/embeddings"
        self._client: Client = httpx2.Client(
            headers={"Authorization": f"Bearer {_api_key(name)}", "Accept-Encoding": "identity"},
            timeout=httpx2.Timeout(self._patience.read, connect=self._patience.connect),
            follow_redirects=False,
            trust_env=False,
        )
        weakref.finalize(self, self._client.close)

    @property
    def identity(self) -> EncoderIdentity:
        """The revision is the name of the model: the API tells no more. Raises EncodingFailed."""
        dim = self._dim or self.encode(["a"], kind="document").shape[1]
        return EncoderIdentity(self._name, self._model, dim, PREPROCESSING)

    def encode(self, texts: Sequence[str], *, kind: Kind) -> Vectors:
        """Embed `texts`: shape (len(texts), dim), float32, C-contiguous, rows of length 1.

        Raises EncodingFailed.
        """
        import numpy as np

        if not texts:
            return np.empty((0, self.identity.dim), dtype=np.float32)
        # The API refuses an empty input.
        prepared = [clip(text, MAX_CHARS) or " " for text in texts]
        patience = self._patience.query if kind == "query" else self._patience.document
        return np.concatenate([self._embed(batch, patience) for batch in _batches(prepared)])

    def _embed(self, texts: list[str], patience: float) -> Vectors:
        """One batch; the first one tells the length of the vectors."""
        vectors = unit_rows(self._parse(self._answer(texts, patience), len(texts)), name=self._name)
        with self._lock:
            self._dim = self._dim or vectors.shape[1]
        if vectors.shape[1] != self._dim:
            raise EncodingFailed(
                f"encoder {self._name}: {self._url} answered vectors of length {vectors.shape[1]}, expected "
                f"{self._dim}; check the model and OPENAI_BASE_URL, then build the index again"
            )
        return vectors

    def _answer(self, texts: list[str], patience: float) -> bytes:
        """The body of the first good answer; tries again after what may pass, until `patience` is over."""
        deadline = time.monotonic() + patience
        pause = self._patience.first_pause
        while True:
            answer = self._attempt(texts, deadline)
            if isinstance(answer, bytes):
                return answer
            wanted = pause if answer.retry_after is None else answer.retry_after
            wait = min(wanted, self._patience.longest_pause)
            if time.monotonic() + wait >= deadline:
                raise EncodingFailed(
                    f"encoder {self._name}: no vectors from {self._url} within {patience:g} s, the last "
                    f"attempt ended with {answer.reason}; try again later or check OPENAI_BASE_URL"
                )
            time.sleep(wait)
            pause *= 2

    def _attempt(self, texts: list[str], deadline: float) -> bytes | _Transient:
        import httpx2

        body = {"model": self._model, "input": texts, "encoding_format": "float"}
        try:
            patience = max(0.001, deadline - time.monotonic())
            limits = httpx2.Timeout(
                min(self._patience.read, patience), connect=min(self._patience.connect, patience)
            )
            with self._client.stream("POST", self._url, json=body, timeout=limits) as response:
                if response.status_code == 200:
                    return self._read(response, deadline)
                return self._refusal(response)
        except httpx2.TransportError as error:
            return _Transient(type(error).__name__)

    def _read(self, response: Response, deadline: float) -> bytes | _Transient:
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise self._failed("a compressed body nobody asked for; check OPENAI_BASE_URL")
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > _ANSWER_BYTES:
                raise self._failed(f"more than {_ANSWER_BYTES >> 20} MiB; check OPENAI_BASE_URL")
            if time.monotonic() > deadline:
                return _Transient("an answer that came too slowly")
        return bytes(body)

    def _refusal(self, response: Response) -> _Transient:
        """What may pass; raises EncodingFailed for what will not. The body may hold secrets: never shown."""
        status = response.status_code
        if status in {408, 409, 429} or status >= 500:
            return _Transient(f"HTTP {status}", _retry_after(response))
        if response.is_redirect:
            raise self._failed(f"a redirect (HTTP {status}), which is not followed; correct OPENAI_BASE_URL")
        raise self._failed(f"HTTP {status}; {_CURES.get(status, 'check OPENAI_BASE_URL')}")

    def _parse(self, body: bytes, count: int) -> NDArray[np.float64]:
        """The embeddings in `body` in the order of the texts, shape (count, dim)."""
        import numpy as np

        try:
            items = json.loads(body)["data"]
            rows = {item["index"]: item["embedding"] for item in items}
            if len(items) != count or set(rows) != set(range(count)):
                raise self._failed(f"{len(items)} embeddings for {count} texts, or wrong numbers for them")
            vectors: NDArray[np.float64] = np.array([rows[index] for index in range(count)], dtype=np.float64)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            # Without its cause, whose message may quote the body.
            raise self._failed("no list of embeddings in JSON; check OPENAI_BASE_URL") from None
        return vectors

    def _failed(self, what: str) -> EncodingFailed:
        return EncodingFailed(f"encoder {self._name}: {self._url} answered {what}")


class _Transient(NamedTuple):
    """A failure that may pass. `retry_after` is the wait in seconds that the server asks for."""

    reason: str
    retry_after: float | None = None


def _batches(texts: list[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    chars = 0
    for text in texts:
        if len(batch) == _BATCH_TEXTS or (batch and chars + len(text) > _BATCH_CHARS):
            yield batch
            batch, chars = [], 0
        batch.append(text)
        chars += len(text)
    yield batch


def _retry_after(response: Response) -> float | None:
    """Seconds the server asks to wait, at least 0; None when it does not say or says nonsense."""
    headers = response.headers
    for header, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers[header]) * unit
        except (KeyError, ValueError):
            continue
        return seconds if 0 <= seconds < float("inf") else None
    try:
        moment = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _api_key(name: str) -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key:
        raise EncoderUnavailable(
            f"encoder {name}: the environment variable OPENAI_API_KEY is not set; set it to the key of the "
            "server, or to any word for a server that needs none"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise EncoderUnavailable(
            f"encoder {name}: OPENAI_API_KEY holds characters that no key has; copy the key again"
        )
    return key


def _base_url(name: str) -> str:
    from httpx2 import URL, InvalidURL

    text = os.environ.get("OPENAI_BASE_URL", "").strip() or _BASE_URL
    try:
        url = URL(text)
    except InvalidURL as error:
        raise EncoderUnavailable(f"encoder {name}: OPENAI_BASE_URL is no address; {_EXPECTED_URL}") from error
    if not url.host or url.scheme not in {"http", "https"} or url.userinfo or url.query or url.fragment:
        raise EncoderUnavailable(f"encoder {name}: OPENAI_BASE_URL is not usable; {_EXPECTED_URL}")
    if url.scheme == "http" and not _is_loopback(url):
        raise EncoderUnavailable(
            f"encoder {name}: OPENAI_BASE_URL would send the key to {url.host} in the clear; use https"
        )
    return str(url).rstrip("/")


_EXPECTED_URL = "give https://HOST/PATH, without user, password, query or fragment"


def _is_loopback(url: URL) -> bool:
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return url.host == "localhost"
