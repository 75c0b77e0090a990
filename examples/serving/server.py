"""Serve a saved model over HTTP.

    python -m examples.serving.server served/digits.qfx --shape 1 32 32 --port 8000

``POST /predict`` takes JSON, ``{"input": [[...], ...]}`` of the model's shape, or an image as its
body (``Content-Type: image/png``, any that Pillow reads), and answers ``{"label", "scores"}``.
``GET /healthz`` says whether requests are taken, ``GET /metrics`` counts them for Prometheus.
SIGTERM answers what waits, then ends.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import torch
from torch import Tensor

import qfx
from examples.serving.batching import MicroBatcher, OverloadedError

try:
    import numpy as np
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request, Response
    from PIL import Image, UnidentifiedImageError
    from prometheus_client import (
        CONTENT_TYPE_LATEST,
        CollectorRegistry,
        Counter,
        Histogram,
        generate_latest,
    )
except ImportError as error:
    if __name__ != "__main__":
        raise
    raise SystemExit(f"{error}: pip install qfx[serving]") from error

MAX_BODY = 4 * 2**20
"""Bytes of a request: larger ones are refused before they are read."""

Model = Callable[[Tensor], Tensor]


def load(path: Path) -> Model:
    """A model of ``qfx.save``, or of ``torch.export.save`` (to compare with)."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    return qfx.load(path)


def create_app(
    model: Model, shape: Sequence[int], *, offset: float = 0.3, max_batch: int = 16
) -> FastAPI:
    """The application.

    Args:
        model: of a batch (N, *shape) to scores (N, classes).
        shape: of one input: channels, height, width.
        offset: subtracted from pixels, which are 0.0 to 1.0, as in training.
        max_batch: samples that run at once.
    """
    registry = CollectorRegistry()
    answers = Counter("requests", "Requests by status", ["status"], registry=registry)
    seconds = Histogram("request_seconds", "Seconds of a request", registry=registry)
    sizes = Histogram(
        "batch_size", "Samples in a batch", buckets=(1, 2, 4, 8, 16, 32), registry=registry
    )

    @torch.inference_mode()
    def run(batch: Tensor) -> Tensor:
        return model(batch).softmax(-1)

    batcher = MicroBatcher(run, max_batch=max_batch, on_batch=sizes.observe)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        run(torch.zeros(1, *shape))  # kernels are made, before the first request waits for them
        batcher.start()
        yield
        await batcher.stop()

    app = FastAPI(title="qfx", lifespan=lifespan)

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, int | list[float]]:
        with seconds.time():
            try:
                scores = await batcher.submit(await read(request, shape, offset))
            except HTTPException as refused:
                answers.labels(refused.status_code).inc()
                raise
            except OverloadedError as full:
                answers.labels(503).inc()
                raise HTTPException(503, str(full), {"Retry-After": "1"}) from full
        answers.labels(200).inc()
        return {"label": int(scores.argmax()), "scores": scores.tolist()}

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


async def read(request: Request, shape: Sequence[int], offset: float) -> Tensor:
    """The input that a request holds."""
    if int(request.headers.get("content-length", 0)) > MAX_BODY:
        raise HTTPException(413, f"a request holds {MAX_BODY} bytes at most")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"a request holds {MAX_BODY} bytes at most")
    kind = request.headers.get("content-type", "").partition(";")[0]
    if kind.startswith("image/"):
        return pixels(bytes(body), shape) - offset
    if kind == "application/json":
        return array(body, shape)
    raise HTTPException(415, f"send application/json or an image, not {kind or 'no content type'}")


def array(body: bytes | bytearray, shape: Sequence[int]) -> Tensor:
    """The numbers of a JSON document."""
    try:
        values = np.asarray(json.loads(body)["input"], dtype=np.float32)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HTTPException(422, 'send {"input": numbers of the model\'s shape}') from error
    if values.shape != tuple(shape):
        raise HTTPException(422, f"the input has shape {values.shape}, the model takes {shape}")
    if not np.isfinite(values).all():
        raise HTTPException(422, "the input holds numbers that are not finite")
    return torch.from_numpy(values)


def pixels(data: bytes, shape: Sequence[int]) -> Tensor:
    """The image (C, H, W) in [0, 1], of the size of ``shape``."""
    channels, height, width = shape
    try:
        image = Image.open(io.BytesIO(data)).convert("L" if channels == 1 else "RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise HTTPException(422, f"no image that can be read: {error}") from error
    resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return (
        torch.from_numpy(resized.astype(np.float32) / 255)
        .reshape(height, width, -1)
        .permute(2, 0, 1)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a file of qfx.save, or a .pt2 of torch.export")
    parser.add_argument("--shape", type=int, nargs=3, default=(1, 32, 32), metavar=("C", "H", "W"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, for one batch")
    parser.add_argument("--max-batch", type=int, default=16)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    app = create_app(load(given.model), tuple(given.shape), max_batch=given.max_batch)
    uvicorn.run(
        app, host=given.host, port=given.port, access_log=False, timeout_graceful_shutdown=30
    )


if __name__ == "__main__":
    main()
