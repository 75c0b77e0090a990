"""Train a small CNN on scikit-learn's digits, quantize it, and save what the server loads.

    python -m examples.serving.make_model --out served

writes ``digits.qfx`` (the quantized model) and ``digits.pt2`` (the float model, to compare with).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import qfx
from tools import demo, demo_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("served"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    data = demo_data.load()
    model = demo.DigitsNet()
    demo.train(model, data)
    model.eval()

    images, _ = data.train
    quantized = qfx.quantize(model, images[:8], calibration_data=images[:512].split(64))
    qfx.save(quantized, out / "digits.qfx")
    batch = torch.export.Dim("batch", min=1, max=1024)
    exported = torch.export.export(model, (images[:2],), dynamic_shapes=({0: batch},))
    torch.export.save(exported, out / "digits.pt2")

    for name, each in (("float", model), ("quantized", quantized)):
        print(f"{name:10} {demo_data.accuracy(each, *data.test):.2%} of the test images are right")


if __name__ == "__main__":
    main()
