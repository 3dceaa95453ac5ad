"""What `semroute serve` adds to a call: beside no proxy at all and LiteLLM's proxy, in one run, in turns.

    python bench/serve.py [--litellm PATH_TO_PYTHON] [--seconds 5] [--rounds 5] [--memory 20000] [--streams 500]
    python bench/serve.py --soak

--soak: no times, only what must hold for long, with `static`: memory and descriptors over 100,000 requests, and 500
streams at once for a minute, none lost and none twice.

PATH_TO_PYTHON is that of an environment with litellm[proxy]. The model is bench/fake_model.py on this machine, so that
what is measured is the proxy, its client and the load, which share the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from common import heading

from semroute.build import build_index

HERE = Path(__file__).parent
KEY = "sk-0123456789abcdef0123456789abcdef0123456789abcdef"
PROMPTS = ["where is my refund?", "my code throws a KeyError", "write a haiku about rain", "what is 17 * 23?"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--litellm", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, default=20_000)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--stream-seconds", type=float, default=60.0)
    parser.add_argument("--soak", action="store_true")
    arguments = parser.parse_args()
    if arguments.soak:
        arguments.memory = max(arguments.memory, 100_000)
    import uvloop

    heading("semroute serve, side by side")
    with contextlib.ExitStack() as stack:
        upstream = free_port()
        stack.enter_context(process([sys.executable, str(HERE / "fake_model.py"), str(upstream)], upstream))
        subjects = {"no proxy": (upstream, "fast", None)}
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for encoder in ("static",) if arguments.soak else ("static", "minilm"):
            port, running = stack.enter_context(semroute(scratch / encoder, encoder, upstream))
            subjects[f"semroute, {encoder}"] = (port, "semroute/auto", running)
        if arguments.litellm:
            port, running = stack.enter_context(litellm(arguments.litellm, scratch, upstream))
            subjects["LiteLLM"] = (port, "fast", running)
        uvloop.run((soak if arguments.soak else measure)(subjects, arguments))


async def measure(subjects: dict, arguments: argparse.Namespace) -> None:
    for port, model, _ in subjects.values():
        await sequential(port, model, 50, stream=False)
        await sequential(port, model, 20, stream=True)
    latency: dict[str, list[float]] = {name: [] for name in subjects}
    first: dict[str, list[float]] = {name: [] for name in subjects}
    rate: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(arguments.rounds):
        for name, (port, model, _) in subjects.items():
            latency[name] += await sequential(port, model, 100, stream=False)
            first[name] += await sequential(port, model, 50, stream=True)
    for _ in range(2):
        for name, (port, model, _) in subjects.items():
            rate[name].append(await throughput(port, model, arguments.seconds, 32))
    base, base_first = statistics.median(latency["no proxy"]), statistics.median(first["no proxy"])
    print(f"{'':20}{'ms a call':>11}{'added':>9}{'p95':>9}{'first byte':>12}{'added':>9}{'requests/s':>12}")
    for name in subjects:
        middle, byte = statistics.median(latency[name]), statistics.median(first[name])
        p95 = statistics.quantiles(latency[name], n=20)[-1]
        print(
            f"{name:20}{middle * 1e3:>11.2f}{(middle - base) * 1e3:>9.2f}{p95 * 1e3:>9.2f}"
            f"{byte * 1e3:>12.2f}{(byte - base_first) * 1e3:>9.2f}{max(rate[name]):>12.0f}"
        )
    await soak(subjects, arguments)


async def soak(subjects: dict, arguments: argparse.Namespace) -> None:
    for name, (port, model, running) in subjects.items():
        if running is None:
            continue
        await many(port, model, 2_000, 32)  # pools and caches are full before anything is measured
        descriptors = psutil.Process(running.pid).num_fds()
        count = arguments.memory if name != "LiteLLM" else min(arguments.memory, 2_000)
        sizes = [memory(running)]
        for _ in range(4):
            await many(port, model, count // 4, 32)
            sizes.append(memory(running))
        grown = ", ".join(f"{size:.0f}" for size in sizes)
        print(f"{name}: MB before, and after each quarter of {count:,} requests: {grown}")
        now = psutil.Process(running.pid).num_fds()
        print(f"{name}: descriptors before {descriptors}, afterwards {now}", flush=True)
    if arguments.streams:
        for name in [name for name in subjects if name != "LiteLLM"]:
            await streams(name, subjects[name][0], arguments)


# The load: raw sockets, because a client library would be most of what is measured


def request(port: int, model: str, prompt: str, *, stream: bool) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": stream}
    encoded = json.dumps(body).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        f"host: 127.0.0.1:{port}",
        "content-type: application/json",
        f"authorization: Bearer {KEY}",
        f"content-length: {len(encoded)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + encoded


async def exchange(reader, writer, data: bytes, *, stream: bool) -> tuple[float, bytes]:
    """Seconds until the first content of a stream, or until the whole; and the body."""
    started = time.perf_counter()
    writer.write(data)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise RuntimeError(head.decode())
    if b"content-length:" in head:
        body = await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        return time.perf_counter() - started, body
    chunks, first = [], 0.0
    while size := int(await reader.readuntil(b"\r\n"), 16):
        chunks.append((await reader.readexactly(size + 2))[:-2])
        if not first and b'"content": "0 "' in chunks[-1].replace(b'":"', b'": "'):
            first = time.perf_counter() - started
    await reader.readexactly(2)
    return (first if stream else time.perf_counter() - started), b"".join(chunks)


async def sequential(port: int, model: str, count: int, *, stream: bool) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    times = []
    for number in range(count):
        prompt = PROMPTS[number % len(PROMPTS)]
        times.append(
            (await exchange(reader, writer, request(port, model, prompt, stream=stream), stream=stream))[0]
        )
    writer.close()
    return times


async def throughput(port: int, model: str, seconds: float, clients: int) -> float:
    until = time.perf_counter() + seconds
    done = 0

    async def client() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = [request(port, model, prompt, stream=False) for prompt in PROMPTS]
        while time.perf_counter() < until:
            await exchange(reader, writer, data[done % len(data)], stream=False)
            done += 1
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return done / (time.perf_counter() - started)


async def many(port: int, model: str, count: int, clients: int) -> None:
    await asyncio.gather(*(sequential(port, model, count // clients, stream=False) for _ in range(clients)))


async def streams(name: str, port: int, arguments: argparse.Namespace) -> None:
    """So many streams at once, each of numbered words: none lost, none twice."""
    words = max(2, int(arguments.stream_seconds / 0.5))
    expected = "".join(f"{number} " for number in range(words))

    async def one() -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = request(port, f"words:{words}:0.5", "hello", stream=True)
        _, body = await exchange(reader, writer, data, stream=True)
        writer.close()
        events = [line[6:] for line in body.split(b"\n\n") if line.startswith(b"data: {")]
        said = "".join(json.loads(each)["choices"][0]["delta"].get("content") or "" for each in events)
        return said == expected and body.rstrip().endswith(b"data: [DONE]")

    started = time.perf_counter()
    found = await asyncio.gather(*(one() for _ in range(arguments.streams)), return_exceptions=True)
    good = sum(result is True for result in found)
    print(f"{name}: {good} of {arguments.streams} streams whole, in {time.perf_counter() - started:.1f} s")


# The subjects


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def process(command: list[str], port: int, seconds: float = 120.0, **more) -> Iterator[subprocess.Popen]:
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if running.poll() is not None:
                raise RuntimeError(f"{command[:4]} ended with {running.returncode}")
            time.sleep(0.1)
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()


@contextlib.contextmanager
def semroute(folder: Path, encoder: str, upstream: int) -> Iterator[tuple[int, subprocess.Popen]]:
    routes = folder / "routes"
    routes.mkdir(parents=True)
    url = f"http://127.0.0.1:{upstream}/v1"
    models = {"fast": {"base_url": url}, "words": {"base_url": url, "id": f"words:{120}:0.5"}}
    settings = {"encoder": encoder, "default": {"model": "fast"}, "models": models}
    for count in (20, 40, 120, 240):
        models[f"words:{count}:0.5"] = {"base_url": url}
    (routes / "semroute.yaml").write_text(json.dumps(settings))
    import yaml

    for path in (HERE.parent / "routes").glob("*.yaml"):
        route = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.name == "semroute.yaml":
            continue
        kept = {key: route[key] for key in ("name", "description", "utterances") if key in route}
        (routes / path.name).write_text(json.dumps(kept | {"model": "fast"}), encoding="utf-8")
    build_index(routes, folder / "index")
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "semroute",
        "serve",
        "--index",
        str(folder / "index"),
        "--port",
        str(port),
    ]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    with process([*command, "--quiet"], port, env=environ) as running:
        yield port, running


@contextlib.contextmanager
def litellm(python: Path, folder: Path, upstream: int) -> Iterator[tuple[int, subprocess.Popen]]:
    parameters = {"model": "openai/fast", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "sk-none"}
    config = {"model_list": [{"model_name": "fast", "litellm_params": parameters}]}
    (folder / "litellm.yaml").write_text(json.dumps(config))
    port = free_port()
    command = [str(python.parent / "litellm"), "--config", str(folder / "litellm.yaml"), "--port", str(port)]
    environ = os.environ | {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    environ["LITELLM_MASTER_KEY"] = KEY
    environ.pop("PYTHONPATH", None)
    found = subprocess.run(
        [str(python), "-c", "from importlib.metadata import version; print(version('litellm'))"],
        capture_output=True, text=True, check=True, env=environ,
    )  # fmt: skip
    print(f"LiteLLM {found.stdout.strip()}\n")
    with process([*command, "--host", "127.0.0.1", "--num_workers", "1"], port, env=environ) as running:
        yield port, running


def memory(running: subprocess.Popen) -> float:
    """Resident megabytes of a process and its children."""
    parent = psutil.Process(running.pid)
    return sum(one.memory_info().rss for one in [parent, *parent.children(recursive=True)]) / 1e6


if __name__ == "__main__":
    main()
