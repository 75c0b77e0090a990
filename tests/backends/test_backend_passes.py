"""Passes that a backend brings: where they run, what they may not be, and that none are needed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx.backends import Backend, resolve_backend
from qfx.errors import BackendError
from qfx.framework.levels import Level
from qfx.framework.pass_context import PassContext
from tests.backends.test_schemes import Net, X, npu, npu_linear
from tests.cases.flow import randn

ENDS = ("keep-contiguous", "flatten-constants")
"""What ends every pipeline."""


class Looks(qfx.Pass):
    """Does nothing, after lowering."""

    name = "looks"
    requires = Level.LOWERED

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        assert ctx.level is Level.LOWERED


class Follows(Looks):
    name = "follows"


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def stages(backend: Backend, pipeline: qfx.Pipeline | None = None) -> list[str]:
    history = qfx.quantize(net(), randn(4, 8), backend=backend, pipeline=pipeline).history
    names = [stage.name for stage in history]
    return names[names.index("lower") :]


def with_passes(name: str, *passes: qfx.Pass) -> Backend:
    return replace(resolve_backend(name), passes=passes)


@pytest.mark.parametrize("name", ["fbgemm", "reference", "x86"])
def test_they_run_right_after_lowering(name: str) -> None:
    backend = with_passes(name, Looks(), Follows())
    assert stages(backend) == ["lower", "looks", "follows", *ENDS]


@pytest.mark.parametrize("name", ["fbgemm", "reference", "x86"])
def test_none_are_needed(name: str) -> None:
    assert stages(with_passes(name)) == ["lower", *ENDS]


def test_passes_of_the_user_come_after_those_of_the_backend() -> None:
    pipeline = qfx.pipelines.static().insert_after("lower", Follows())
    assert stages(with_passes("x86", Looks()), pipeline)[:3] == ["lower", "looks", "follows"]


def test_a_pipeline_that_names_one_says_where_it_runs() -> None:
    pipeline = qfx.pipelines.static().insert_after("keep-contiguous", Looks())
    assert stages(with_passes("x86", Looks()), pipeline) == [
        "lower",
        "keep-contiguous",
        "looks",
        "flatten-constants",
    ]


def test_a_pipeline_that_does_not_lower_has_none() -> None:
    pipeline = qfx.pipelines.static().without("keep-contiguous").without("lower")
    kept = pipeline.with_passes_at(Level.LOWERED, (Looks(),))
    assert kept == pipeline


def test_run_passes_runs_them_where_it_lowers() -> None:
    names = ("annotate", "place-observers", "record-input-means")
    passes = [qfx.get_pass(name) for name in ("insert-stubs", *names)]
    _, history = qfx.run_passes(net(), passes, randn(4, 8), backend=with_passes("x86", Looks()))
    assert "looks" not in [stage.name for stage in history]


@pytest.mark.parametrize("wrong", [[Looks()], (Looks,), ("looks",), Looks()])
def test_anything_else_is_refused(wrong: object) -> None:
    with pytest.raises(BackendError, match="give a tuple of passes"):
        replace(resolve_backend("x86"), passes=wrong)  # type: ignore[arg-type]


def test_they_are_printed_where_they_will_run() -> None:
    backend = with_passes("x86", Looks(), Follows())
    lines = str(qfx.pipelines.static(backend=backend)).splitlines()
    assert lines[lines.index("lower") :] == ["lower", "looks", "follows", *ENDS]
    assert "looks" not in str(qfx.pipelines.static())


def test_one_that_is_left_out_stays_out() -> None:
    backend = with_passes("x86", Looks(), Follows())
    pipeline = qfx.pipelines.static(backend=backend).without("looks")
    assert "looks" not in str(pipeline)
    assert stages(backend, pipeline) == ["lower", "follows", *ENDS]


def test_a_pipeline_is_edited_at_one_of_them() -> None:
    backend = with_passes("x86", Looks())
    pipeline = qfx.pipelines.static(backend=backend).insert_after("looks", Follows())
    assert stages(backend, pipeline) == ["lower", "looks", "follows", *ENDS]


# -- passes that replace kernels ------------------------------------------------------------------
def faster(x: Tensor, weight: Tensor, bias: Tensor | None, shift: float) -> Tensor:
    return npu_linear(x, weight, bias, shift)


def wrong(x: Tensor, weight: Tensor, bias: Tensor | None, shift: float) -> Tensor:
    return npu_linear(x, weight, bias, 2 * shift)


class Swap(qfx.Pass):
    """Calls another kernel, which it makes with plain fx or through the rewriter."""

    name = "swap"
    requires = Level.LOWERED
    by: str = "faster"
    plain: bool = False

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        kernel = {"faster": faster, "wrong": wrong}[self.by]
        for node in [n for n in graph.nodes if n.target is npu_linear]:
            if self.plain:
                with graph.inserting_before(node):
                    made = graph.call_function(kernel, node.args)
                node.replace_all_uses_with(made)
                graph.erase_node(node)
                continue
            with ctx.rewriter.at(node):
                ctx.rewriter.replace(node, ctx.rewriter.call(kernel, *node.args))


@pytest.mark.parametrize("plain", [True, False])
def test_what_replaces_a_kernel_is_reported_and_checked_as_that_kernel(plain: bool) -> None:
    qmodel = qfx.quantize(Net().eval(), X, backend=npu(passes=(Swap(plain=plain),)))
    assert any(node.target is faster for node in qmodel.graph.nodes)
    (site,) = qmodel.report.sites
    assert (site.kernel, site.macs, qmodel.report.coverage) == ("npu.linear", 96, 1.0)
    assert site.step in {node.name for node in qmodel.graph.nodes if node.target is faster}
    assert qmodel.report.checked is not None
    assert qmodel.report.checked.calls == 1
    with pytest.raises(qfx.PassError, match=r"pass swap.* changes what the model computes"):
        qfx.quantize(Net().eval(), X, backend=npu(passes=(Swap(by="wrong", plain=plain),)))


def test_what_computes_in_float_where_a_kernel_was_is_not_called_a_kernel() -> None:
    class Undo(Looks):
        name = "undo"

        def run(self, graph: fx.Graph, ctx: PassContext) -> None:
            (codes,) = (n for n in graph.nodes if n.target is npu_linear)
            (value,) = codes.users
            rw, fc = ctx.rewriter, Net().fc
            with rw.at(value):
                held = [rw.constant("float.w", t.detach()) for t in (fc.weight, fc.bias)]
                x = graph.find_nodes(op="placeholder")[0]
                rw.replace(value, rw.call(vocab.LINEAR, x, *held, origins=(codes,)))
            rw.erase(codes)

    with pytest.raises(qfx.CoverageError, match="nothing was quantized"):
        qfx.quantize(Net().eval(), X, backend=npu(passes=(Undo(),)), check=False)
