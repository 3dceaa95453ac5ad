"""Connections for httpcore2, the engine of httpx2, straight on asyncio's transports.

Its own backend goes through AnyIO, which gives the event loop a turn and opens a cancel scope at every read
and write: about a third of what passing a request on costs. This one does the same without; besides, a
cancelled TLS handshake leaves no socket open.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import httpcore2


@dataclass(slots=True)
class Wire:
    """What became of a request: whether a connection was made for it, and whether a byte came back."""

    connected: bool = False
    answered: bool = False


WIRE: ContextVar[Wire | None] = ContextVar("semroute_wire", default=None)
"""The request that the running task sends, where somebody wants to know."""

_HIGH_WATER = 256 << 10  # bytes that wait to be read before the peer is held back
_FILLED = 8  # requests of a pool before the next one is used
_MOST_POOLS = 64


class Pool:
    """A pool of connections, and how many requests are under way in it."""

    def __init__(self, engine: httpcore2.AsyncConnectionPool) -> None:
        self.engine = engine
        self.busy = 0


class Pools:
    """Pools of connections, filled one after the other.

    At each request httpcore2 looks at every connection of its pool, so that a hundred in one pool cost more
    than the requests themselves. With little to do all goes through the first, whose connections are warm.

    make: makes an empty pool.
    """

    def __init__(self, make: Callable[[], httpcore2.AsyncConnectionPool]) -> None:
        self._make = make
        self._pools: list[Pool] = []

    def take(self) -> Pool:
        """The pool for one more request; give it back when that has ended."""
        found = next((pool for pool in self._pools if pool.busy < _FILLED), None)
        if found is None and len(self._pools) < _MOST_POOLS:
            found = Pool(self._make())
            self._pools.append(found)
        found = found or min(self._pools, key=lambda pool: pool.busy)
        found.busy += 1
        return found

    def give_back(self, pool: Pool) -> None:
        """A request of `pool` has ended."""
        pool.busy -= 1

    @property
    def busy(self) -> int:
        """How many requests are under way."""
        return sum(pool.busy for pool in self._pools)

    @property
    def connections(self) -> list[httpcore2.AsyncConnectionInterface]:
        """All that are open, or about to be."""
        return [one for pool in self._pools for one in pool.engine.connections]

    async def aclose(self) -> None:
        """Close every connection."""
        for pool in self._pools:
            await pool.engine.aclose()


class Backend(httpcore2.AsyncNetworkBackend):
    """Opens TCP connections on the running asyncio loop."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """A stream to `host`. Raises ConnectTimeout or ConnectError."""
        loop = asyncio.get_running_loop()
        if (wire := WIRE.get()) is not None:
            wire.connected = True
        try:
            async with asyncio.timeout(timeout):
                _, protocol = await loop.create_connection(_Protocol, host, port)
        except TimeoutError:
            raise httpcore2.ConnectTimeout("no connection in time") from None
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(type(error).__name__) from None
        return _Stream(protocol)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class _Protocol(asyncio.Protocol):
    """What has arrived and was not read, and who waits for what."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport  # there from the moment on when it is connected
        self.received: deque[bytes] = deque()
        self.size = 0
        self.at_end = False
        self.error: Exception | None = None
        self.reading: asyncio.Future[None] | None = None
        self.writing: asyncio.Future[None] | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.received.append(data)
        self.size += len(data)
        if self.size > _HIGH_WATER and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self.at_end = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.at_end, self.error = True, exc
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        self.writing = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self.writing is not None and not self.writing.done():
            self.writing.set_result(None)
        self.writing = None

    def take(self, most: int) -> bytes:
        """Up to `most` bytes of what has arrived."""
        data = self.received.popleft()
        if len(data) > most:
            self.received.appendleft(data[most:])
            data = data[:most]
        self.size -= len(data)
        if self._paused and self.size <= _HIGH_WATER // 2:
            self._paused = False
            self.transport.resume_reading()
        return data

    def _wake(self) -> None:
        if self.reading is not None and not self.reading.done():
            self.reading.set_result(None)


class _Stream(httpcore2.AsyncNetworkStream):
    def __init__(self, protocol: _Protocol) -> None:
        self._protocol = protocol

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        protocol = self._protocol
        if not protocol.received and not protocol.at_end:
            protocol.reading = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(timeout):
                    await protocol.reading
            except TimeoutError:
                raise httpcore2.ReadTimeout("no bytes in time") from None
            finally:
                protocol.reading = None
        if protocol.received:
            if (wire := WIRE.get()) is not None:
                wire.answered = True
            return protocol.take(max_bytes)
        if protocol.error is not None:
            raise httpcore2.ReadError(type(protocol.error).__name__)
        return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        protocol = self._protocol
        if protocol.at_end and protocol.transport.is_closing():
            raise httpcore2.WriteError("the connection is closed")
        if buffer:
            protocol.transport.write(buffer)
        if protocol.writing is not None:
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.shield(protocol.writing)
            except TimeoutError:
                raise httpcore2.WriteTimeout("the peer does not read") from None
            if protocol.error is not None:
                raise httpcore2.WriteError(type(protocol.error).__name__)

    async def aclose(self) -> None:
        # Nothing is left to be said: what was not sent belongs to a request that was given up.
        self._protocol.transport.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        protocol, plain = self._protocol, self._protocol.transport
        try:
            async with asyncio.timeout(timeout):
                secured = await asyncio.get_running_loop().start_tls(
                    plain, protocol, ssl_context, server_hostname=server_hostname
                )
        except TimeoutError:
            plain.abort()
            raise httpcore2.ConnectTimeout("no TLS in time") from None
        except (OSError, ValueError) as error:
            plain.abort()
            raise httpcore2.ConnectError(type(error).__name__) from None
        except BaseException:
            plain.abort()
            raise
        if secured is None:
            raise httpcore2.ConnectError("closed during the TLS handshake")
        protocol.transport = secured
        return self

    def get_extra_info(self, info: str) -> Any:
        protocol = self._protocol
        if info == "is_readable":  # of an idle connection: it is about to close, or speaks out of turn
            return protocol.at_end or bool(protocol.received) or protocol.transport.is_closing()
        return protocol.transport.get_extra_info(info)
