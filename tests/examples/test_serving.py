"""The example server: answers under load are the model's, mistakes are refused, stops graceful."""

from __future__ import annotations

import asyncio
import io
import signal
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from examples.serving.batching import MicroBatcher, OverloadedError
from tests.cases.flow import randn, seeded

SHAPE = (1, 32, 32)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3, stride=2), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def load_test() -> Any:
    """The program that sends requests: seconds to import, so not where tests are collected."""
    for needed in ("aiohttp", "fastapi"):
        pytest.importorskip(needed)
    return import_module("examples.serving.load_test")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = qfx.quantize(seeded(Net), randn(4, *SHAPE), backend="reference")
    return qfx.save(model, tmp_path_factory.mktemp("served") / "net.qfx")


@pytest.fixture(scope="module")
def served(load_test: Any, saved: Path) -> Any:
    with load_test.serving(saved) as process:
        yield process


def run(load_test: Any, served: Any, use: Callable[[Any], Awaitable[Any]]) -> Any:
    """Use a session of requests, once the server is up."""

    async def within() -> Any:
        async with load_test.aiohttp.ClientSession() as session:
            await load_test.wait_until_up(session, served)
            return await use(session)

    return asyncio.run(within())


@pytest.mark.slow
def test_every_answer_under_load_is_the_model_s(load_test: Any, served: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 32, 32), generator=generator).to(torch.uint8)
    model = qfx.load(served.path)
    with torch.no_grad():
        expected = model(torch.stack([load_test.normal(i) for i in images])).softmax(-1)
    ask = lambda session: load_test.load(session, served, images, expected, clients=12)  # noqa: E731
    run(load_test, served, ask)
    assert (len(served.seconds), served.wrong) == (60, 0)

    async def metrics(session: Any) -> str:
        async with session.get(f"{served.url}/metrics") as answer:
            return str(await answer.text())

    told = [
        line for line in run(load_test, served, metrics).splitlines() if not line.startswith("#")
    ]
    lines = dict(line.rsplit(" ", 1) for line in told if not line.startswith("#"))
    assert float(lines['requests_total{status="200"}']) == 60
    assert float(lines["batch_size_sum"]) == 60
    assert float(lines["batch_size_count"]) < 60  # some ran together


PNG = {"Content-Type": "image/png"}
REFUSED = {
    "shape": ({"json": {"input": [[1.0]]}}, 422, "the model takes"),
    "no input": ({"json": [1.0]}, 422, "numbers of the model's shape"),
    "no json": ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 422, "send"),
    "nan": ({"json": {"input": [32 * [[float("nan")] + 31 * [0.0]]]}}, 422, "not finite"),
    "no image": ({"data": b"\x89PNG", "headers": PNG}, 422, "no image"),
    "kind": ({"data": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "text/plain"),
    "size": ({"data": io.BytesIO(bytes(5 * 2**20)), "headers": PNG}, 413, "4194304 bytes"),
}  # fmt: skip


@pytest.mark.slow
def test_mistakes_are_refused_with_what_is_wrong(load_test: Any, served: Any) -> None:
    async def post(session: Any) -> dict[str, tuple[int, str]]:
        found = {}
        for name, (sent, _, _) in REFUSED.items():
            async with session.post(f"{served.url}/predict", **sent) as answer:
                found[name] = (answer.status, (await answer.json())["detail"])
        return found

    for name, (status, detail) in run(load_test, served, post).items():
        assert status == REFUSED[name][1], name
        assert REFUSED[name][2] in detail, name


@pytest.mark.slow
def test_a_stop_answers_what_waits(load_test: Any, saved: Path) -> None:
    async def stopped(session: Any) -> Tensor:
        url = ending.url
        pixels = torch.full((32, 32), 7, dtype=torch.uint8)
        asked = [asyncio.create_task(load_test.ask(session, url, pixels, False)) for _ in range(24)]
        await asked[0]
        ending.process.terminate()
        return torch.stack(await asyncio.gather(*asked))

    with load_test.serving(saved) as ending:
        answers = run(load_test, ending, stopped)
    assert ending.process.returncode in (0, -signal.SIGTERM)  # uvicorn raises it again, at the end
    assert torch.equal(answers, answers[:1].expand(24, 10))


def test_batches_fill_and_errors_reach_each_request() -> None:
    sizes: list[int] = []

    def twice(batch: Tensor) -> Tensor:
        if batch.min() < 0:
            raise ValueError("negative")
        return batch * 2

    async def work() -> None:
        batcher = MicroBatcher(
            twice, max_batch=4, max_wait=0.05, max_queue=8, on_batch=sizes.append
        )
        asked = [asyncio.create_task(batcher.submit(torch.tensor([float(i)]))) for i in range(8)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="8 requests wait already"):
            await batcher.submit(torch.ones(1))
        batcher.start()
        results = await asyncio.gather(*asked)
        assert [r.item() for r in results] == [2.0 * i for i in range(8)]
        wrong = [batcher.submit(torch.tensor([-1.0])), batcher.submit(torch.tensor([1.0]))]
        errors = await asyncio.gather(*wrong, return_exceptions=True)
        assert [str(e) for e in errors] == ["negative", "negative"]
        last = asyncio.create_task(batcher.submit(torch.ones(1)))
        await asyncio.sleep(0)
        await batcher.stop()
        assert (await last).item() == 2.0

    asyncio.run(work())
    assert sizes == [4, 4, 2, 1]
