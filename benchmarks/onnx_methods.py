"""Files of each method beside those of ONNX Runtime's own quantizer: encoders, an LSTM, an FPN.

``python -m benchmarks.onnx_agreement --methods static dynamic weight_only`` prints its table.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import qfx
from benchmarks import models
from benchmarks.onnx_engines import build, openvino
from qfx.errors import QfxError
from qfx.export.onnx.check import INTEGER_KERNELS, open_session
from qfx.numerics.measures import sqnr
from tools import minilm, networks

METHODS = ("static", "dynamic", "weight_only")
HEADER = (
    "model, method",
    "form",
    "ONNX Runtime / OpenVINO, dB",
    "integer kernels",
    "its own quantizer",
)


@dataclass(frozen=True)
class Subject:
    """A model and the arguments that calibrate it, and on which its files are compared."""

    model: nn.Module
    args: tuple[Tensor, ...] = ()
    kwargs: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[Tensor, ...] | dict[str, Tensor]:
        """As ``export_onnx`` takes them."""
        return self.args or dict(self.kwargs)

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in order."""
        return [*self.args, *self.kwargs.values()]


class _Recurrent(nn.Module):
    """Classifies a sequence of tokens by the last output of two LSTM layers, in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(100, 32)
        self.lstm = nn.LSTM(32, 32, num_layers=2, bidirectional=True, batch_first=True)
        self.classify = nn.Linear(64, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """f32[batch, 5] of i64[batch, tokens]."""
        found, _ = self.lstm(self.rows(tokens))
        classes: Tensor = self.classify(found[:, -1])
        return classes


def _minilm() -> Subject:
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, 8:] = 0
    model = minilm.load()
    return Subject(model, (torch.randint(5, 2000, (2, 12)), mask))


def _bert() -> Subject:
    networks.import_torchvision()  # transformers imports it, if it is there
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 200}
    config = BertConfig(num_hidden_layers=2, num_attention_heads=4, **sizes)
    model = BertForSequenceClassification(config).eval()
    mask = torch.ones(2, 16, dtype=torch.long)
    tokens = torch.randint(0, 200, (2, 16))
    return Subject(model, kwargs={"input_ids": tokens, "attention_mask": mask})


def _lstm() -> Subject:
    model = _Recurrent().eval()
    return Subject(model, (torch.randint(0, 100, (2, 9)),))


_OWN: Mapping[str, Callable[[], Subject]] = {"minilm": _minilm, "bert": _bert, "lstm": _lstm}
NAMES = (*_OWN, "fpn")


def subject(name: str) -> Subject:
    """One of the table, or an image model of the benchmarks."""
    torch.manual_seed(0)
    if name in _OWN:
        return _OWN[name]()
    return Subject(build(name), (models.images(name, 1, seed=99),))


def rows(name: str, methods: Sequence[str], backend: str, form: str) -> Iterator[list[str]]:
    """A row for each method."""
    made = subject(name)
    for method in methods:
        with TemporaryDirectory() as folder:
            cells = _agreement(made, method, backend, form, Path(folder))
            own = _own_kernels(made, method, Path(folder))
        yield [f"{name} {method}", *cells, own]


def _agreement(
    made: Subject, method: str, backend: str, form: str, folder: Path
) -> tuple[str, str, str]:
    """The form of a file, how near it is to the model in two engines, and its integer kernels."""
    import onnx

    path = folder / "m.onnx"
    try:
        qmodel = qfx.quantize(
            made.model, made.args, example_kwargs=made.kwargs, method=method, backend=backend
        )
        file = qfx.export_onnx(qmodel, path, form=form, example_inputs=made.inputs)
    except qfx.CoverageError:
        return "refused: nothing to quantize", "", ""
    except qfx.ExportError as error:
        return f"refused: {_reason(error)}", "", ""
    onnx.checker.check_model(str(path), full_check=True)
    check = qfx.check_onnx(qmodel, path, made.inputs)
    with torch.no_grad():
        wanted: list[Tensor] = pytree.tree_leaves(qmodel.reference(*made.args, **made.kwargs))
    found = openvino(path, made.tensors)
    pairs = zip(wanted, check.outputs, strict=True)
    theirs = min(sqnr(want, found[row.name]) for want, row in pairs)
    return file.form, f"{check.sqnr:.0f} / {theirs:.0f}", _counts(check.kernels)


def _reason(error: QfxError) -> str:
    """Why the last site can't be said, without its place and what to do about it."""
    _, _, said = str(error).splitlines()[-1].partition("): ")
    return said.split(". ")[0]


def _counts(kernels: Mapping[str, int]) -> str:
    integers = (k for k in kernels.items() if any(part in k[0] for part in INTEGER_KERNELS))
    each = [f"{n} {kind}" for kind, n in integers]
    return ", ".join(each) or "none"


def _own_kernels(made: Subject, method: str, folder: Path) -> str:
    """Integer kernels of the file that ONNX Runtime's own quantizer makes of the same model."""
    if method == "weight_only":
        return "has none of this method"
    try:
        path = _own_file(made, method, folder)
        _, kernels = open_session(str(path))
    except qfx.FormatError:
        return "ONNX Runtime does not load it"
    return _counts(kernels)


def _own_file(made: Subject, method: str, folder: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.getLogger().setLevel(logging.ERROR)
    floating, prepared, quantized = (folder / f"{stage}.onnx" for stage in ("f", "p", "q"))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        kwargs = dict(made.kwargs)
        torch.onnx.export(
            made.model, made.args, floating, kwargs=kwargs, dynamo=False, opset_version=17
        )
    quant_pre_process(floating, prepared, skip_symbolic_shape=True)
    if method == "dynamic":
        quantize_dynamic(prepared, quantized)
        return quantized
    quantize_static(
        prepared,
        quantized,
        _reader(prepared, made.tensors),
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return quantized


def _reader(path: Path, tensors: Sequence[Tensor]) -> object:
    """Reads the example once, under the names of a file's inputs."""
    from onnxruntime.quantization import CalibrationDataReader

    session, _ = open_session(str(path))
    names = [given.name for given in session.get_inputs()]
    feeds: dict[str, object] = {
        name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)
    }

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Yields it, then nothing."""

        def __init__(self) -> None:
            self._batches = iter([feeds])

        def get_next(self) -> dict[str, object] | None:
            return next(self._batches, None)

    return Reader()
