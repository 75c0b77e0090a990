"""ONNX files as ONNX Runtime and OpenVINO run them, against the models that they are of; and why.

    python -m benchmarks.onnx_agreement [vgg16_bn swin_t fpn ...] [--backend x86] [--form exact]
    python -m benchmarks.onnx_agreement --methods static dynamic weight_only [minilm bert lstm fpn]

For each model: the SQNR of each engine against the reference graph; that of the reference against
itself if each number that it rounds is moved to the next float, up or down ("itself"); and, with
the reference's codes given to every layer, at how many sites the codes that come of it are a step
off, at how many more than a step ("1 / more"), and the largest share of codes. A file that is a
step off in a small share of codes, of a model that is no nearer to itself, does what the model
does: the rest is what the model's depth makes of sums in another order ("depth"). In the integer
form, what is rounded more is a difference, too ("rounding").

With ``--methods`` each model is quantized in each way, and its file (form "auto" unless another is
asked for) stands beside that of ONNX Runtime's own quantizer: which kernels run in integers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import qfx
from benchmarks import models, onnx_methods
from benchmarks.onnx_engines import build, onnx_runtime, openvino
from qfx.export.onnx import model as onnx_model
from qfx.export.onnx.export import FORMS
from qfx.export.onnx.site_checks import SiteCheck, given_codes, moved_by_an_ulp
from qfx.numerics.measures import sqnr
from qfx.table import markdown

NAMES = (*models.CLASSIFIERS, "swin_t", "fpn")
HEADER = ("model, form", "engine", "dB", "itself", "1 / more", "% of codes", "below 35: why")
AGREES, NEAR, FEW = 35.0, 3.0, 0.01
"""From how many dB on a file agrees; how near to what the model makes of itself; a small share."""

Engine = Callable[[Path, Sequence[Tensor]], "dict[str, Tensor]"]
ENGINES: Mapping[str, Engine] = {"ONNX Runtime": onnx_runtime, "OpenVINO": openvino}


def rows(name: str, backend: str, form: str) -> Iterator[list[str]]:
    """A row for each engine."""
    x = models.images(name, 1, seed=99)
    calibration = models.calibration(name, batches=2)
    qmodel = qfx.quantize(build(name), x, calibration_data=calibration, backend=backend)
    (placeholder,) = qmodel.reference.graph.find_nodes(op="placeholder")
    arguments = {str(placeholder.target): x}
    with torch.no_grad():
        wanted: list[Tensor] = pytree.tree_leaves(qmodel.reference(x))
    own = moved_by_an_ulp(qmodel.reference, arguments)
    with TemporaryDirectory() as folder:
        path, cut = Path(folder) / "m.onnx", Path(folder) / "cut.onnx"
        file = qfx.export_onnx(qmodel, path, form=form, example_inputs=calibration[0])
        given = given_codes(qmodel.reference, path, arguments)
        onnx_model.save(given.model, cut)
        for engine, call in ENGINES.items():
            made = list(call(path, [x]).values())
            decibels = min(sqnr(want, have) for want, have in zip(wanted, made, strict=True))
            sites = given.compare(call(cut, [x, *given.codes.values()]))
            one, more = (sum(s.steps == 1 for s in sites), sum(s.steps > 1 for s in sites))
            share = max((site.share for site in sites), default=0.0)
            figures = [f"{decibels:.1f}", f"{own:.1f}", f"{one} / {more}", f"{100 * share:.2g}"]
            yield [f"{name} {file.form}", engine, *figures, _why(decibels, own, sites, file.form)]


def _why(decibels: float, own: float, sites: Sequence[SiteCheck], form: str) -> str:
    """What a file that does not agree owes it to."""
    if decibels >= AGREES:
        return ""
    alike = all(site.steps <= 1 and site.share < FEW for site in sites)
    if alike and decibels >= own - NEAR:
        return "depth"
    return "rounding" if form != "exact" else "the file"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.onnx_agreement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--methods", nargs="+", choices=onnx_methods.METHODS)
    parser.add_argument("--backend", default="x86")
    parser.add_argument("--form", choices=FORMS, help='"exact"; with --methods "auto"')
    options = parser.parse_args(arguments)
    found: list[list[str]] = []
    for name in options.models or (onnx_methods.NAMES if options.methods else NAMES):
        found += _rows_of(name, options)
        header = onnx_methods.HEADER if options.methods else HEADER
        print(markdown(header, found) + "\n", flush=True)


def _rows_of(name: str, options: argparse.Namespace) -> Iterator[list[str]]:
    if options.methods:
        form = options.form or "auto"
        return onnx_methods.rows(name, options.methods, options.backend, form)
    return rows(name, options.backend, options.form or "exact")


if __name__ == "__main__":
    main()
