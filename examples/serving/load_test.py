"""Measure servers of a float and of a quantized model on loopback, and check every answer.

    python -m examples.serving.load_test served/digits.pt2 served/digits.qfx --requests 400

Each model has a server process of its own. Both get the same images of scikit-learn's digits, half
of them as PNG files, half as arrays, ``--clients`` at a time, in turns; every answer is compared
with what the model says when it is called here.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qfx.table import table
from tools import demo_data

try:
    import aiohttp
    from PIL import Image

    from examples.serving import server
except ImportError as error:
    if __name__ != "__main__":
        raise
    raise SystemExit(f"{error}: pip install qfx[serving]") from error

ROOT = Path(__file__).parents[2]
AGREE = 1e-5
"""Scores differ by this at most: batches of other sizes make float sums in another order."""


@dataclass
class Served:
    """A server, and what it answered."""

    path: Path
    url: str
    process: subprocess.Popen[bytes]
    seconds: list[float] = field(default_factory=list)
    wrong: int = 0


@contextmanager
def serving(path: Path, *options: str) -> Iterator[Served]:
    """A server process of one model, ended by SIGTERM."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "examples.serving.server", str(path), "--port", str(port)]
    process = subprocess.Popen([*command, *options], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        yield Served(path, f"http://127.0.0.1:{port}", process)
    finally:
        process.terminate()
        process.wait(timeout=60)


async def wait_until_up(session: aiohttp.ClientSession, served: Served) -> None:
    for _ in range(600):
        try:
            async with session.get(f"{served.url}/healthz") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.1)
        if served.process.poll() is not None:
            raise SystemExit(f"the server of {served.path} ended: run it alone to see why")
    raise SystemExit(f"the server of {served.path} does not come up")


async def ask(session: aiohttp.ClientSession, url: str, pixels: Tensor, as_png: bool) -> Tensor:
    """The scores of an image u8[32, 32]."""
    if as_png:
        file = io.BytesIO()
        Image.fromarray(pixels.numpy()).save(file, "PNG")
        sent: dict[str, Any] = {"data": file.getvalue(), "headers": {"Content-Type": "image/png"}}
    else:
        sent = {"json": {"input": normal(pixels).tolist()}}
    async with session.post(f"{url}/predict", **sent) as answer:
        answer.raise_for_status()
        return torch.tensor((await answer.json())["scores"])


def normal(pixels: Tensor) -> Tensor:
    """The model's input f32[1, 32, 32] of an image."""
    return (pixels.float() / 255)[None] - 0.3


async def load(
    session: aiohttp.ClientSession, served: Served, images: Tensor, expected: Tensor, clients: int
) -> None:
    """Send all images, so many at a time."""
    waiting = iter(enumerate(images))

    async def client() -> None:
        for index, pixels in waiting:
            begun = time.perf_counter()
            scores = await ask(session, served.url, pixels, as_png=index % 2 == 0)
            served.seconds.append(time.perf_counter() - begun)
            served.wrong += not torch.allclose(scores, expected[index], rtol=0, atol=AGREE)

    await asyncio.gather(*(client() for _ in range(clients)))


async def compare(servers: Sequence[Served], requests: int, clients: int, rounds: int) -> None:
    images, _ = demo_data.load().test
    pixels = ((images[:, 0] + 0.3) * 255).round().to(torch.uint8)
    pixels = pixels.repeat(-(-requests // len(pixels)), 1, 1)[:requests]
    expected = {}
    for served in servers:
        model = server.load(served.path)
        with torch.inference_mode():
            inputs = torch.stack([normal(p) for p in pixels])
            expected[served.url] = torch.cat([model(part).softmax(-1) for part in inputs.split(64)])
    async with aiohttp.ClientSession() as session:
        for served in servers:
            await wait_until_up(session, served)
            await load(session, served, pixels[:32], expected[served.url], clients)
            served.seconds.clear()
        for _ in range(rounds):
            for served in servers:
                await load(session, served, pixels, expected[served.url], clients)


def show(servers: Sequence[Served]) -> None:
    header = ["model", "requests", "wrong", "p50 ms", "p95 ms", "p99 ms"]
    rows = []
    for served in servers:
        cuts = statistics.quantiles(served.seconds, n=100)
        times = (f"{1e3 * cuts[p - 1]:.1f}" for p in (50, 95, 99))
        rows.append([served.path.name, str(len(served.seconds)), str(served.wrong), *times])
    print(table(header, rows, right=header[1:]))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--requests", type=int, default=400, help="a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16, help="requests at a time")
    given = parser.parse_args(arguments)
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(path)) for path in given.models]
        asyncio.run(compare(servers, given.requests, given.clients, given.rounds))
    show(servers)
    return int(any(served.wrong for served in servers))


if __name__ == "__main__":
    sys.exit(main())
