r"""Capture and canonicalize models of torchvision or timm, with random weights, and compare.

    python tools/zoo.py                        # all classifiers of torchvision
    python tools/zoo.py resnet18 swin_t
    python tools/zoo.py --timm vit_tiny_patch16_224 nf_regnet_b0

One line a model: nodes, seconds, the largest error against the model (for the captured batch size
and for another one), and what stayed as it was written.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "passes")]  # so that it runs from a checkout

import torch  # noqa: E402
from torch import Tensor, fx, nn  # noqa: E402

from qfx.manager import run_passes  # noqa: E402
from qfx.vocab import OpDef  # noqa: E402
from qfx_passes.canonicalize import Canonicalize  # noqa: E402
from tools import networks  # noqa: E402


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="zoo.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("names", nargs="*", help="models; all of torchvision when left out")
    found.add_argument("--timm", action="store_true", help="the names are models of timm")
    found.add_argument("--traceback", action="store_true", help="show where a failure comes from")
    return found


def build(name: str, *, timm: bool) -> tuple[nn.Module, tuple[int, ...]]:
    """A model in eval mode, and the shape of one image for it."""
    if not timm:
        size = networks.image_size(name)
        return networks.classifier(name), (3, size, size)
    networks.import_torchvision()
    import timm as library

    torch.manual_seed(0)
    model: nn.Module = library.create_model(name).eval()
    config: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    return model, tuple(config["input_size"])


def examine(model: nn.Module, shape: tuple[int, ...]) -> str:
    """One line about the canonical form of ``model``."""
    start = time.perf_counter()
    graph_module, _ = run_passes(model, [Canonicalize()], torch.randn(2, *shape))
    seconds = time.perf_counter() - start
    errors = [largest_error(graph_module, model, torch.randn(n, *shape)) for n in (2, 3)]
    others = ", ".join(f"{n} {name}" for name, n in as_written(graph_module).most_common())
    shown = " ".join(f"{error:.1e}" for error in errors)
    return f"{len(graph_module.graph.nodes):5} nodes {seconds:5.1f} s  error {shown}  {others}"


def largest_error(graph_module: fx.GraphModule, model: nn.Module, x: Tensor) -> float:
    """Of the graph against the model, relative to the largest value."""
    with torch.no_grad():
        ours, theirs = graph_module(x), model(x)
    return float((ours - theirs).abs().max() / theirs.abs().max())


def as_written(graph_module: fx.GraphModule) -> Counter[str]:
    """How often what is not in the vocabulary occurs."""
    found: Counter[str] = Counter()
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            found[type(graph_module.get_submodule(str(node.target))).__name__] += 1
        elif node.op == "call_method":
            found[f".{node.target}()"] += 1
        elif node.op == "call_function" and not isinstance(node.target, OpDef):
            found[getattr(node.target, "__name__", str(node.target))] += 1
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine models; returns how many failed."""
    options = parser().parse_args(arguments)
    names = options.names or networks.classifier_names()
    failed = 0
    for name in names:
        try:
            line = examine(*build(name, timm=options.timm))
        except Exception as error:
            failed += 1
            line = f"FAILED {type(error).__name__}: {str(error).splitlines()[0]}"
            if options.traceback:
                traceback.print_exc()
        print(f"{name:24} {line}", flush=True)
    print(f"{len(names) - failed} of {len(names)}")
    return failed


if __name__ == "__main__":
    sys.exit(min(main(), 1))
