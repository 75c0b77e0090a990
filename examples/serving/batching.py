"""Requests that arrive within a moment of each other run through the model as one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

Waiting = tuple[Tensor, "asyncio.Future[Tensor]"]


class OverloadedError(Exception):
    """More requests wait than may."""


class MicroBatcher:
    """Runs samples of many requests in batches, on threads of its own.

    A batch holds what waits when a thread is free, ``max_batch`` samples at most; after the first
    it is held open for ``max_wait`` seconds. So a lone request waits that long, and a busy server
    fills its batches without waiting.

    Args:
        run: the model, of a batch (N, ...) to results (N, ...); called on several threads at once.
        max_batch: samples in a batch.
        max_wait: seconds that the first sample of a batch waits for others.
        max_queue: samples that may wait; one more is :class:`OverloadedError`.
        threads: batches that run at once.
        on_batch: told the size of each batch.
    """

    def __init__(
        self,
        run: Callable[[Tensor], Tensor],
        *,
        max_batch: int = 16,
        max_wait: float = 0.002,
        max_queue: int = 512,
        threads: int = 1,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._run, self._on_batch = run, on_batch
        self._max_batch, self._max_wait = max_batch, max_wait
        self._queue: asyncio.Queue[Waiting | None] = asyncio.Queue()
        self._max_queue, self._count = max_queue, threads
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="model")
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._count)]

    async def stop(self) -> None:
        """Answer all that wait, then end."""
        for _ in self._workers:
            self._queue.put_nowait(None)
        await asyncio.gather(*self._workers)
        self._threads.shutdown()

    async def submit(self, sample: Tensor) -> Tensor:
        """The result of one sample, without the dim of the batch."""
        if self._queue.qsize() >= self._max_queue:
            raise OverloadedError(f"{self._max_queue} requests wait already")
        done: asyncio.Future[Tensor] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((sample, done))
        return await done

    async def _work(self) -> None:
        while (first := await self._queue.get()) is not None:
            await self._answer(await self._batch(first))

    async def _batch(self, first: Waiting) -> list[Waiting]:
        batch, loop = [first], asyncio.get_running_loop()
        closes = loop.time() + self._max_wait
        while len(batch) < self._max_batch:
            try:
                left = closes - loop.time()
                item = (
                    self._queue.get_nowait()
                    if left <= 0
                    else await asyncio.wait_for(self._queue.get(), left)
                )
            except (asyncio.QueueEmpty, asyncio.TimeoutError):
                break
            if item is None:  # the end, for the next turn
                self._queue.put_nowait(None)
                break
            batch.append(item)
        return batch

    async def _answer(self, batch: list[Waiting]) -> None:
        wanted = [(sample, done) for sample, done in batch if not done.done()]  # clients may leave
        if not wanted:
            return
        self._on_batch(len(wanted))
        loop = asyncio.get_running_loop()
        try:
            samples = torch.stack([sample for sample, _ in wanted])
            results = await loop.run_in_executor(self._threads, self._run, samples)
        except Exception as error:
            for _, done in wanted:
                if not done.done():
                    done.set_exception(error)
            return
        for (_, done), result in zip(wanted, results, strict=True):
            if not done.done():
                done.set_result(result)
