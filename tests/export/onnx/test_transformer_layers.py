"""PyTorch's own transformer layers ask what dtype masks have, and are written with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(32, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None, pad: Tensor | None = None) -> Tensor:
        return self.head(self.encoder(x, mask=mask, src_key_padding_mask=pad))


def causal(steps: int) -> Tensor:
    return nn.Transformer.generate_square_subsequent_mask(steps)


def padded(batch: int, steps: int) -> Tensor:
    return torch.arange(steps) >= torch.randint(1, steps, (batch, 1))


NAMES = {"causal": ("x", "mask"), "padded": ("x", "pad"), "both": ("x", "mask", "pad")}


@pytest.mark.parametrize("method", ["static", "dynamic"])
@pytest.mark.parametrize("which", NAMES)
def test_encoders(which: str, method: str, tmp_path: Path) -> None:
    def inputs(batch: int, steps: int) -> dict[str, Tensor]:
        mask = causal(steps) < 0 if which == "both" else causal(steps)
        found = {"x": randn(batch, steps, 32, seed=steps), "mask": mask}
        return {
            n: v for n, v in (found | {"pad": padded(batch, steps)}).items() if n in NAMES[which]
        }

    example = inputs(2, 6)
    kwargs = {name: value for name, value in example.items() if name != "x"}
    model = seeded(Encoder).eval()
    qmodel = qfx.quantize(
        model, example["x"], example_kwargs=kwargs, method=method, backend="reference"
    )
    sizes = {"x": {0: "batch", 1: "n"}, "mask": {0: "n", 1: "n"}, "pad": {0: "batch", 1: "n"}}
    shapes = {name: dims for name, dims in sizes.items() if name in example}
    file = qfx.export_onnx(qmodel, tmp_path / "m.onnx", form="exact", dynamic_shapes=shapes)
    for given in (example, inputs(3, 9)):
        assert qfx.check_onnx(qmodel, file, given).sqnr > 35
