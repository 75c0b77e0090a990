"""Tensors that another thread computes take the place of what stands for them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, fx, nn

from qfx.graph import meta
from qfx.graph.later_tensors import LaterTensors


def reads(*values: Tensor) -> fx.GraphModule:
    """A graph module that hands out ``values``, or the only one."""
    root, graph = nn.Module(), fx.Graph()
    for i, value in enumerate(values):
        root.register_buffer(f"held{i}", value)
    read = tuple(graph.get_attr(f"held{i}") for i in range(len(values)))
    graph.output(read if len(read) > 1 else read[0])
    return fx.GraphModule(root, graph)


def test_what_was_computed_elsewhere_takes_the_place_of_its_stand_in() -> None:
    where, begun = [], threading.Event()

    def made() -> Tensor:
        where.append(threading.current_thread())
        begun.set()
        return torch.arange(3)

    with LaterTensors() as later:
        graph_module = reads(later.later(made))
        assert begun.wait(60)
        later.settle(graph_module)
    (node, _) = graph_module.graph.nodes
    assert meta.value_of(node) == meta.TensorInfo((3,), torch.int64)
    assert graph_module().tolist() == [0, 1, 2]
    assert where != [threading.current_thread()]


def test_who_waits_computes_what_the_thread_has_not_begun_with() -> None:
    where, begun, done = [], threading.Event(), threading.Event()

    def first() -> Tensor:
        begun.set()
        assert done.wait(60)
        return torch.arange(3)

    def second() -> Tensor:
        where.append(threading.current_thread())
        done.set()
        return torch.arange(2)

    with LaterTensors() as later:
        graph_module = reads(later.later(first), later.later(second))
        assert begun.wait(60)
        later.settle(graph_module)
    assert [each.tolist() for each in graph_module()] == [[0, 1, 2], [0, 1]]
    assert where == [threading.current_thread()]


def test_what_computing_raises_is_raised_where_it_is_wanted() -> None:
    def fails() -> Tensor:
        raise ValueError("no such weight")

    with LaterTensors() as later:
        graph_module = reads(later.later(fails))
        with pytest.raises(ValueError, match="no such weight"):
            later.settle(graph_module)


def test_where_no_thread_can_be_started_it_is_computed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuses(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuses)
    with LaterTensors() as later:
        assert later.later(lambda: torch.arange(2)).tolist() == [0, 1]


def test_as_many_threads_are_used_as_were_set_for_the_process() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with LaterTensors() as later:
            graph_module = reads(later.later(lambda: torch.tensor(torch.get_num_threads())))
            later.settle(graph_module)
    finally:
        torch.set_num_threads(before)
    assert int(graph_module()) == 3
