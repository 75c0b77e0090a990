"""Checks of what users pass to the four calls of the API, before any work is done."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence

from qfx.backends.table_checks import METHODS
from qfx.errors import ConfigError
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass, PatternPass, works_as_written
from qfx.framework.pipeline import CALIBRATE, Pipeline
from qfx.graph.copying import check_told_apart
from qfx.private_attributes import schema_of
from qfx.runtime.prepared import PreparedModel
from qfx.runtime.quantized import QuantizedModel
from qfx.runtime.regions import regions_of

METHODS_OF_USERS = (*METHODS, "qat")
"""What ``method=`` may be; training ends in static quantization."""


def check_method(method: str, *, trains: bool = True) -> None:
    """ConfigError unless ``method`` is one that exists; "qat" only where it can be trained."""
    if method == "qat" and not trains:
        raise ConfigError(
            "method 'qat' needs training between its two halves: prepared = qfx.prepare(model, "
            'example_inputs, method="qat"), train prepared, then qfx.convert(prepared)'
        )
    if method not in METHODS_OF_USERS:
        known = ", ".join(map(repr, METHODS_OF_USERS))
        raise ConfigError(f"method {method!r} does not exist; choose one of: {known}")


def check_pipeline(pipeline: object, method: str) -> None:
    """ConfigError unless ``pipeline`` is None, or a Pipeline for ``method``."""
    if isinstance(pipeline, Pipeline):
        made_for = pipeline.method or method
        if made_for != method:
            raise ConfigError(
                f"the pipeline was made for method {made_for!r} and the call asks for {method!r}: "
                f"say method={made_for!r}, or start from qfx.pipelines.{method}()"
            )
        return
    if pipeline is None:
        return
    raise ConfigError(
        f"pipeline is {type(pipeline).__name__}, not a qfx.Pipeline. To add a pass to the method's "
        f'own: qfx.pipelines.{method}().insert_after("canonicalize", MyPass()); to write a whole '
        "pipeline: qfx.Pipeline((MyPass(), ...)). Passes alone run with qfx.run_passes."
    )


def check_example_inputs(
    example_inputs: object, example_kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword example arguments; a single value stands for a tuple of one."""
    if example_kwargs is not None and not isinstance(example_kwargs, Mapping):
        raise ConfigError(
            f"example_kwargs is {type(example_kwargs).__name__}; give a dict of keyword arguments"
        )
    kwargs = dict(example_kwargs or {})
    if isinstance(example_inputs, list):
        raise ConfigError(
            "example_inputs is a list; give a tensor, or a tuple of the positional arguments. "
            "If the model takes one list, write example_inputs=(the_list,)."
        )
    args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    if isinstance(example_inputs, PackedSequence):
        args = (example_inputs,)
    if example_inputs is None and kwargs:
        args = ()
    return args, kwargs


def check_keywords(model: nn.Module, example_inputs: object) -> None:
    """ConfigError if ``example_inputs`` is a dict of the model's keyword arguments."""
    if not isinstance(example_inputs, Mapping) or not example_inputs:
        return
    parameters = inspect.signature(model.forward).parameters.values()
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if names.issuperset(example_inputs):
        raise ConfigError(
            f"example_inputs is a dict of keyword arguments ({', '.join(example_inputs)}); give it "
            "as example_kwargs=, with None as example_inputs. If the model takes one dict, write "
            "example_inputs=(the_dict,)."
        )


def check_calibrates(pipeline: Pipeline) -> None:
    """ConfigError if ``pipeline`` never stops to calibrate on its way to the reference form."""
    if CALIBRATE in pipeline.passes or pipeline.end < Level.REFERENCE:
        return
    readers = (p.name for p in pipeline.passes if getattr(p, "requires", None) == Level.OBSERVED)
    raise ConfigError(
        "the pipeline has no step `calibrate`, where data runs through the model before its "
        "observers are read. Put it back: pipeline.insert_before("
        f'"{next(readers, "reference")}", qfx.framework.pipeline.CALIBRATE)'
    )


def idle_passes(pipeline: Pipeline) -> Iterator[str]:
    """For every pass whose rules can't fire where it stands, what is wrong."""
    passes = [step for step in pipeline.passes if isinstance(step, Pass)]
    at = next((i for i, p in enumerate(passes) if p.produces is Level.CANONICAL), 0)
    for step in passes[:at]:
        if isinstance(step, PatternPass) and not works_as_written(step):
            yield (
                f"pass {step.name} has patterns of canonical operations and stands before "
                f"{passes[at].name}, which makes them, so that no rule of it fires. Put it after: "
                f'pipeline.insert_after("{passes[at].name}", ...)'
            )


def check_mode(model: object, method: str) -> None:
    """ConfigError unless ``model`` is a module in the mode that ``method`` wants."""
    if not isinstance(model, nn.Module):
        raise ConfigError(_no_module(model))
    if getattr(model.forward, "__func__", None) is nn.Module.forward:
        raise ConfigError(
            f"the model is a {type(model).__name__}, which has no forward to capture: quantize "
            "the modules in it one by one, or the module that calls them"
        )
    _check_not_of_torch_ao(model)
    if is_exported(model):
        _check_exported(model)
    elif model.training and method != "qat":
        raise ConfigError(
            f"the model is in training mode, and method={method!r} quantizes what runs in "
            "inference (batch-norm and dropout differ): call model.eval() first"
        )


def _no_module(model: object) -> str:
    if isinstance(model, type) and issubclass(model, nn.Module):
        return (
            f"model is the class {model.__name__}; give an instance, as {model.__name__}(...) makes"
        )
    start = f"model is {type(model).__name__}, not a torch.nn.Module"
    if isinstance(model, Mapping):
        return f"{start}; if it is a state_dict, load it into the model, and give that"
    return f"{start}; wrap a function in a module"


_OF_TORCH_AO = ("torch.ao.nn.", "torch.nn.quantized.", "torch.nn.intrinsic.quantized.")
_FLOAT_ALL_THE_SAME = ("FloatFunctional", "FXFloatFunctional")


def _check_not_of_torch_ao(model: nn.Module) -> None:
    """ConfigError if torch.ao quantized a part of it; known by names, as torch.ao is not imported.

    Its stubs, and what only holds float operations, are taken.
    """
    for path, module in model.named_modules():
        home, name = type(module).__module__, type(module).__qualname__
        named = home.startswith(_OF_TORCH_AO) and "quantized" in home.split(".")
        if named and name not in _FLOAT_ALL_THE_SAME:
            which = f"module {path!r}" if path else "the model"
            raise ConfigError(
                f"{which} is a {home}.{name}: torch.ao quantized it already. Start again from the "
                "float model"
            )


def is_exported(model: nn.Module) -> TypeGuard[fx.GraphModule]:
    """Whether ``model`` comes from ``torch.export``: its mode is fixed, and eval() refuses."""
    return isinstance(model, fx.GraphModule) and "eval" in vars(model)


def _check_exported(model: fx.GraphModule) -> None:
    for node in model.graph.nodes:
        names = [a.name for a in getattr(schema_of(node.target), "arguments", ())]
        given = dict(zip(names, node.args, strict=False)) | node.kwargs
        if True in (given.get("training"), given.get("train")):
            raise ConfigError(
                f"the model was exported in training mode ({node.name} trains), and that can't be "
                "changed afterwards: call model.eval() before torch.export.export(model, ...)"
            )


def check_device(model: nn.Module) -> None:
    """ConfigError if the model is spread over several devices, or has tensors without values."""
    homes: dict[torch.device, str] = {}  # and a tensor that lives there
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        homes.setdefault(tensor.device, name)
    for device, name in homes.items():
        if device.type == "meta":
            raise ConfigError(
                f"{name} is on the meta device, where tensors have no values to quantize; build "
                "the model on a real device and load its weights first"
            )
    if len(homes) > 1:
        found = " and ".join(f"{device} ({name})" for device, name in homes.items())
        raise ConfigError(
            f"the model is spread over {found}; move it to one of them with model.to(...)"
        )


def check_dtype(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """ConfigError if the model computes in a dtype other than float32 throughout."""
    tensors = (*model.parameters(), *model.buffers(), *args, *kwargs.values())
    dtypes = {t.dtype for t in tensors if isinstance(t, Tensor) and t.dtype.is_floating_point}
    if not dtypes or torch.float32 in dtypes:
        return
    found = ", ".join(sorted(map(str, dtypes)))
    raise ConfigError(
        f"the model computes in {found}; quantization starts from torch.float32: call "
        "model.float() and give float32 example inputs"
    )


def check_coverage(least: object) -> None:
    """ConfigError unless ``least`` is None or a fraction."""
    if least is None or (isinstance(least, (int, float)) and 0 <= least <= 1):
        return
    raise ConfigError(f"min_coverage={least!r} is no fraction; choose a number from 0 to 1")


def check_types(types: object) -> frozenset[type[nn.Module]] | None:
    """``types`` as a set; ConfigError unless it is None or an iterable of module types."""
    if types is None:
        return None
    kinds = list(types) if isinstance(types, Iterable) else []
    if kinds and all(isinstance(k, type) and issubclass(k, nn.Module) for k in kinds):
        return frozenset(kinds)
    raise ConfigError(f"types={types!r} is no set of module types; write types={{nn.Linear, ...}}")


def check_float(model: object) -> None:
    """ConfigError if ``model`` is quantized or prepared already, or a part of it is."""
    if not isinstance(model, nn.Module):
        return
    check_told_apart(model)
    for path, module in model.named_modules():
        if isinstance(module, (PreparedModel, QuantizedModel)):
            done = "quantized" if isinstance(module, QuantizedModel) else "prepared"
            which = f"module {path!r}" if path else "the model"
            raise ConfigError(f"{which} is {done} already; start again from the float model")


def check_regions(regions: object) -> str | tuple[str, ...]:
    """``regions`` as "auto", "whole" or a tuple of patterns; ConfigError if it is none of them."""
    if regions in ("auto", "whole"):
        return str(regions)
    if isinstance(regions, str):
        raise ConfigError(
            f'regions={regions!r}: give "auto", "whole", or names of submodules as a tuple, '
            f"regions=({regions!r},)"
        )
    patterns = tuple(regions) if isinstance(regions, (tuple, list, set, frozenset)) else ()
    if patterns and all(isinstance(pattern, str) and pattern for pattern in patterns):
        return patterns
    raise ConfigError(
        f'regions={regions!r}: give "auto", "whole", or a tuple of names of submodules, in which '
        '"*" stands for anything'
    )


def check_start(qparams_from: object, method: str) -> None:
    """ConfigError unless ``qparams_from`` is None, or where training may start."""
    if qparams_from is None:
        return
    if method != "qat":
        raise ConfigError(f'qparams_from is where method="qat" starts; method={method!r} has none')
    if not isinstance(qparams_from, QuantizedModel):
        raise ConfigError(
            f"qparams_from is {type(qparams_from).__name__}; give what qfx.quantize returned"
        )


def check_prepared(prepared: object, taker: str) -> None:
    """ConfigError unless ``prepared`` is what qfx.prepare returned, for the call ``taker``."""
    if isinstance(prepared, QuantizedModel):
        raise ConfigError(
            f"{taker} takes what qfx.prepare returned, and this model is quantized already: use it "
            "as it is, or start again from the float model"
        )
    regions = regions_of(prepared)
    if regions is not None and any(isinstance(r, QuantizedModel) for r in regions.values()):
        raise ConfigError(
            f"{taker} takes what qfx.prepare returned, and the regions of this model are quantized "
            "already: use it as it is, or start again from the float model"
        )
    if regions is None and not isinstance(prepared, PreparedModel):
        inner = prepared.named_children() if isinstance(prepared, nn.Module) else ()
        for name, child in inner:
            if isinstance(child, PreparedModel):
                raise ConfigError(
                    f"{taker} takes what qfx.prepare returned: give .{name} of the "
                    f"{type(prepared).__name__}"
                )
        raise ConfigError(
            f"{taker} takes what qfx.prepare returned, not a {type(prepared).__name__}. "
            "Call qfx.prepare(model, example_inputs) first, or qfx.quantize for all in one."
        )
