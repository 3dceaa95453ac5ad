"""A model server on a real socket that behaves as badly as real ones: the model's id says how.

An id is a mode and its arguments, separated by colons, such as `ok`, `status:500`, `say:some text`, `stall:2`.
`then:N:MODE:...` fails N times by MODE and is well afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes
    began: float
    ended: float | None = None
    hung_up: bool = False

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass
class FakeUpstream:
    """`with FakeUpstream() as fake:` serves at `fake.url` until the end of the block."""

    requests: list[Received] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    open: int = 0
    tls: ssl.SSLContext | None = None

    def __enter__(self) -> FakeUpstream:
        self._loop = asyncio.new_event_loop()
        started = threading.Event()

        async def main():
            self._server = await asyncio.start_server(
                self._connection, "127.0.0.1", 0, limit=1 << 26, ssl=self.tls
            )
            self.port = self._server.sockets[0].getsockname()[1]
            started.set()

        self._tasks: set = set()
        self._loop.create_task(main())
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        started.wait(5)
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/v1"
        return self

    def __exit__(self, *_):
        async def stop():
            self._server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0.05)  # in which the transports close
            self._loop.stop()

        asyncio.run_coroutine_threadsafe(stop(), self._loop)
        self._thread.join(5)
        self._loop.close()

    def forget(self) -> None:
        """Forget what was asked."""
        self.requests.clear()
        self.counts.clear()

    def models_for(self, modes, cards=None) -> dict[str, dict]:
        """Cards of models that misbehave by these modes; `cards` holds what more is known of some."""
        return {mode: {"base_url": self.url, **(cards or {}).get(mode, {})} for mode in modes}

    def models(self) -> list[str]:
        """The ids that were asked, in order."""
        return [request.json["model"] for request in self.requests]

    async def _connection(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        self.open += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self.open -= 1
            writer.close()

    async def _one(self, reader, writer) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if line)
        headers = {name.lower(): value for name, value in headers.items()}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        got = Received(first.split(" ")[1], headers, body, time.monotonic())
        self.requests.append(got)
        answering = asyncio.create_task(self._answer(got, writer))
        try:
            while not answering.done():
                await asyncio.wait((answering,), timeout=0.02)
                if not answering.done() and reader.at_eof():
                    got.hung_up = True
                    return False
            return answering.result()
        finally:
            got.ended = time.monotonic()
            answering.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await answering

    async def _answer(self, got, writer) -> bool:
        request = got.json
        mode, *arguments = request["model"].split(":")
        if mode == "then":
            count = self.counts[request["model"]] = self.counts.get(request["model"], 0) + 1
            mode, *arguments = arguments[1:] if count <= int(arguments[0]) else ["ok"]
        stream = bool(request.get("stream"))
        serve = getattr(self, "_" + mode.replace("-", "_"), None)
        if serve is not None:
            return await serve(_Exchange(got, writer, stream), *arguments)
        return await self._say(_Exchange(got, writer, stream), f"I am {request['model']}.")

    # Good ones

    async def _say(self, exchange, *text) -> bool:
        words = ":".join(text)
        if not exchange.stream:
            return await exchange.json(exchange.answer(words))
        await exchange.events(exchange.deltas(words))
        return await exchange.end()

    async def _slow(self, exchange, seconds) -> bool:
        await asyncio.sleep(float(seconds))
        return await self._say(exchange, "slowly")

    async def _tool(self, exchange, identity) -> bool:
        call = {"id": identity, "type": "function", "function": {"name": "look", "arguments": "{}"}}
        if not exchange.stream:
            body = exchange.answer("")
            body["choices"][0]["message"] = {"role": "assistant", "content": None, "tool_calls": [call]}
            body["choices"][0]["finish_reason"] = "tool_calls"
            return await exchange.json(body)
        await exchange.events(
            [
                exchange.delta({"role": "assistant", "content": None}),
                exchange.delta({"tool_calls": [{"index": 0, **call}]}),
                exchange.delta({}, finish="tool_calls"),
                b"data: [DONE]\n\n",
            ]
        )
        return await exchange.end()

    async def _finish(self, exchange, reason, *text) -> bool:
        body = exchange.answer(":".join(text))
        body["choices"][0]["finish_reason"] = reason
        return await exchange.json(body)

    async def _unsure(self, exchange, logprob) -> bool:
        body = exchange.answer("It is four.")
        body["choices"][0]["logprobs"] = {"content": [{"token": "It", "logprob": float(logprob)}]}
        return await exchange.json(body)

    async def _usage(self, exchange, sent, received) -> bool:
        """A good answer whose counts of tokens are these."""
        body = exchange.answer("It is four.")
        body["usage"] = {"prompt_tokens": int(sent), "completion_tokens": int(received)}
        return await exchange.json(body)

    async def _no_usage(self, exchange, *text) -> bool:
        body = exchange.answer(":".join(text))
        del body["usage"]
        return await exchange.json(body)

    async def _half(self, exchange) -> bool:
        """Text with half of a surrogate pair, as where an answer was cut in the middle of a character."""
        return await exchange.json(exchange.answer("It is \ud83d"))

    async def _whole(self, exchange, seconds, *text) -> bool:
        """One JSON body after a while, also where a stream was asked for."""
        await asyncio.sleep(float(seconds))
        return await exchange.json(exchange.answer(":".join(text)))

    async def _flood(self, exchange) -> bool:
        """Content without end, as fast as it is taken."""
        event = exchange.delta({"content": "x" * 1_000_000})
        while True:
            await exchange.events([event] * 4)

    async def _bytewise(self, exchange, newline) -> bool:
        """Every event split at every byte, with another kind of line break, and letters of several bytes."""
        ends = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}[newline]
        whole = b"".join([b": hello\n\n", *exchange.deltas("Grüße, 你好 😀")]).replace(b"\n", ends)
        for place in range(len(whole)):
            await exchange.events([whole[place : place + 1]])
        return await exchange.end()

    async def _many(self, exchange, count, pause) -> bool:
        """Numbered words, with a pause between them."""
        await exchange.events([exchange.delta({"role": "assistant", "content": ""})])
        for number in range(int(count)):
            await exchange.events([exchange.delta({"content": f"{number} "})])
            await asyncio.sleep(float(pause))
        await exchange.events([exchange.delta({}, finish="stop"), b"data: [DONE]\n\n"])
        return await exchange.end()

    async def _no_done(self, exchange) -> bool:
        await exchange.events(exchange.deltas("all said")[:-1])
        return await exchange.end()

    async def _unended(self, exchange, choices, how) -> bool:
        """Everything is said of so many choices; the end is lacking, and the connection stays or breaks."""
        for index in range(int(choices)):
            for delta, finish in (({"content": f"choice {index}"}, None), ({}, "stop")):
                choice = {"index": index, "delta": delta, "finish_reason": finish}
                chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
                await exchange.events([f"data: {json.dumps(chunk | {'choices': [choice]})}\n\n".encode()])
        await asyncio.sleep(30 if how == "stays" else 0.05)
        exchange.writer.transport.abort()
        return False

    async def _late_end(self, exchange) -> bool:
        """Everything is said, and the connection stays open."""
        await exchange.events(exchange.deltas("all said"))
        await asyncio.sleep(30)
        return False

    # Bad ones

    async def _status(self, exchange, status, *headers) -> bool:
        """`status:429:retry-after=2`."""
        given = [tuple(header.replace("|", ":").split("=", 1)) for header in headers]
        error = {"error": {"message": f"SECRET of {status}", "type": "x", "code": f"fake_{status}"}}
        return await exchange.json(error, int(status), given)

    async def _slow_status(self, exchange, seconds, status) -> bool:
        await asyncio.sleep(float(seconds))
        return await self._status(exchange, status)

    async def _too_long(self, exchange) -> bool:
        error = {"error": {"message": "maximum context length", "code": "context_length_exceeded"}}
        return await exchange.json(error, 400)

    async def _body(self, exchange, kind) -> bool:
        """Status 200 and something that is no answer."""
        bodies = {
            "error": (b'{"error": {"message": "SECRET"}}', "application/json"),
            "html": (b"<html>502</html>", "text/html"),
            "empty": (b"", "application/json"),
            "broken": (b'{"choices": [', "application/json"),
            "other": (b'{"detail": "?"}', "application/json"),
            "list": (b"[1]", "application/json"),
        }
        content, content_type = bodies[kind]
        return await exchange.raw(content, content_type)

    async def _reset(self, exchange) -> bool:
        exchange.writer.transport.abort()
        return False

    async def _silent(self, exchange) -> bool:
        await asyncio.sleep(60)
        return False

    async def _heads_only(self, exchange) -> bool:
        await exchange.events([])
        await asyncio.sleep(60)
        return False

    async def _comments(self, exchange) -> bool:
        while True:
            await exchange.events([b": ping\n\n"])
            await asyncio.sleep(0.05)

    async def _roles(self, exchange) -> bool:
        while True:
            await exchange.events([exchange.delta({"role": "assistant", "content": ""})])
            await asyncio.sleep(0.05)

    async def _trickle(self, exchange) -> bool:
        """A byte now and then."""
        for byte in b"data: " + b"x" * 1000:
            await exchange.events([bytes([byte])])
            await asyncio.sleep(0.05)
        return False

    async def _stall(self, exchange, count) -> bool:
        """So many words, then nothing."""
        words = [exchange.delta({"content": f"{number} "}) for number in range(int(count))]
        await exchange.events([exchange.delta({"role": "assistant"}), *words])
        await asyncio.sleep(60)
        return False

    async def _cut(self, exchange, count) -> bool:
        """So many words, then the connection is gone in the middle of an event."""
        words = [exchange.delta({"content": f"{number} "}) for number in range(int(count))]
        await exchange.events([exchange.delta({"role": "assistant"}), *words, b'data: {"choices": [{"del'])
        await asyncio.sleep(0.05)
        exchange.writer.transport.abort()
        return False

    async def _drip(self, exchange, count) -> bool:
        """So many words, then an event that comes a byte at a time and has no end."""
        words = [exchange.delta({"content": f"{number} "}) for number in range(int(count))]
        await exchange.events([exchange.delta({"role": "assistant"}), *words])
        return await self._trickle(exchange)

    async def _pings_after(self, exchange, count) -> bool:
        """So many words, then comments for ever."""
        words = [exchange.delta({"content": f"{number} "}) for number in range(int(count))]
        await exchange.events([exchange.delta({"role": "assistant"}), *words])
        return await self._comments(exchange)

    async def _breaks(self, exchange, count) -> bool:
        """What opens an answer in the API that was called, so many words, then half an event, and a reset."""
        opening = {"chat/completions": 1, "responses": 3, "messages": 3}[exchange.api]
        await exchange.events(exchange.deltas("a b c d e f")[: opening + int(count)])
        await exchange.events([b'event: half\ndata: {"type": "ha'])
        await asyncio.sleep(0.05)
        exchange.writer.transport.abort()
        return False

    async def _half_head(self, exchange) -> bool:
        """A few bytes of an answer, and the connection is gone."""
        exchange.writer.write(b"HTTP/1.1 20")
        await exchange.writer.drain()
        return False

    async def _eof(self, exchange, count) -> bool:
        """So many words, then the body ends properly, without finish_reason and [DONE]."""
        words = [exchange.delta({"content": f"{number} "}) for number in range(int(count))]
        await exchange.events([exchange.delta({"role": "assistant"}), *words])
        return await exchange.end()

    async def _error_after(self, exchange, count) -> bool:
        words = [exchange.delta({"content": f"{number} "}) for number in range(int(count))]
        error = b'data: {"error": {"message": "SECRET", "code": 500}}\n\n'
        await exchange.events([exchange.delta({"role": "assistant"}), *words, error])
        return await exchange.end()

    async def _big_event(self, exchange, megabytes) -> bool:
        size = int(float(megabytes) * (1 << 20))
        await exchange.events([exchange.delta({"content": "x" * size}), exchange.delta({}, finish="stop")])
        await exchange.events([b"data: [DONE]\n\n"])
        return await exchange.end()

    async def _bomb(self, exchange) -> bool:
        body = gzip.compress(b"\0" * (50 << 20))
        return await exchange.raw(body, "application/json", [("content-encoding", "gzip")])

    async def _endless(self, exchange) -> bool:
        exchange.head("application/json", [])
        while True:
            await exchange.events([b" " * (1 << 20)])

    async def _many_headers(self, exchange) -> bool:
        return await exchange.json({}, 200, [(f"x-{n}", "y") for n in range(100_000)])

    async def _redirect(self, exchange, target) -> bool:
        return await exchange.json({}, 307, [("location", target.replace("|", ":"))])

    async def _close_after(self, exchange) -> bool:
        """Answers, and closes the connection a little later without a word."""
        await self._say(exchange, "goodbye")
        return False


class _Exchange:
    def __init__(self, got: Received, writer, stream: bool) -> None:
        self.got, self.writer, self.stream = got, writer, stream
        self.api = got.path.removeprefix("/v1/")
        self._headed = False

    def delta(self, delta: dict, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
        return b"data: " + json.dumps(chunk | {"choices": [choice]}, ensure_ascii=False).encode() + b"\n\n"

    def answer(self, text: str) -> dict[str, Any]:
        if self.api == "messages/count_tokens":
            return {"input_tokens": 12}
        usage = {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19}
        if self.api == "messages":
            return {
                "id": "msg_1", "type": "message", "role": "assistant", "model": "fake",
                "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None,
                "usage": {"input_tokens": 12, "output_tokens": 7},
            }  # fmt: skip
        if self.api == "responses":
            content = [{"type": "output_text", "text": text, "annotations": []}]
            item = {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": content,
            }
            return {
                "id": f"resp_{self.got.json['model']}", "object": "response", "created_at": 1, "model": "fake",
                "status": "completed", "output": [item], "parallel_tool_calls": True, "tool_choice": "auto",
                "tools": [], "usage": {"input_tokens": 12, "output_tokens": 7, "total_tokens": 19},
            }  # fmt: skip
        message = {"role": "assistant", "content": text}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "fake", "choices": choices,
            "usage": usage, "x_unknown": 0.10,
        }  # fmt: skip

    def deltas(self, text: str) -> list[bytes]:
        words = [word + " " for word in text.split(" ")]
        if self.api == "messages":
            start = self.answer("") | {"content": [], "stop_reason": None}
            block = {"type": "text", "text": ""}
            return [
                named("message_start", message=start),
                named("content_block_start", index=0, content_block=block),
                named("ping"),
                *[
                    named("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
                    for word in words
                ],
                named("content_block_stop", index=0),
                named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 7}),
                named("message_stop"),
            ]
        if self.api == "responses":
            whole = self.answer(text)
            place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
            part = {**place, "logprobs": []}
            empty = {"type": "output_text", "text": "", "annotations": []}
            item = whole["output"][0] | {"content": [], "status": "in_progress"}
            return [
                named(
                    "response.created",
                    response=whole | {"status": "in_progress", "output": []},
                    sequence_number=0,
                ),
                named("response.output_item.added", item=item, output_index=0, sequence_number=0),
                named("response.content_part.added", part=empty, sequence_number=0, **place),
                *[
                    named("response.output_text.delta", delta=word, sequence_number=number, **part)
                    for number, word in enumerate(words, 1)
                ],
                named("response.completed", response=whole, sequence_number=99),
            ]
        events = [self.delta({"role": "assistant", "content": ""})]
        events += [self.delta({"content": word}) for word in words]
        events.append(self.delta({}, finish="stop"))
        if (self.got.json.get("stream_options") or {}).get("include_usage"):
            chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
            usage = self.answer("")["usage"]
            events.append(b"data: " + json.dumps(chunk | {"choices": [], "usage": usage}).encode() + b"\n\n")
        return [*events, b"data: [DONE]\n\n"]

    def head(self, content_type: str, headers: list, status: int = 200, length: int | None = None) -> None:
        size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
        lines = [f"HTTP/1.1 {status} X", f"content-type: {content_type}", size]
        lines += [f"{name}: {value}" for name, value in headers]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        self._headed = True

    async def raw(self, body: bytes, content_type: str, headers=(), status: int = 200) -> bool:
        self.head(content_type, list(headers), status, len(body))
        self.writer.write(body)
        await self.writer.drain()
        return True

    async def json(self, body: Any, status: int = 200, headers=()) -> bool:
        return await self.raw(json.dumps(body).encode(), "application/json", headers, status)

    async def events(self, events: list[bytes]) -> None:
        if not self._headed:
            self.head("text/event-stream; charset=utf-8", [])
        for event in events:
            self.writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            await self.writer.drain()

    async def end(self) -> bool:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()
        return True


def named(name: str, **fields: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()
