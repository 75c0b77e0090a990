"""How a batch is nested differently from the example inputs, in a sentence.

A graph holds what the examples say of containers: which arguments are tuples, lists and dicts, of
how many elements, under which keys. What a batch has elsewhere is the model's to judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import Signature
from typing import TypeAlias

from torch import Tensor

Call: TypeAlias = "tuple[tuple[object, ...], Mapping[str, object]]"
"""Arguments by position and by keyword."""


def misfit(signature: Signature, examples: Call, given: Call) -> str:
    """The first difference of a batch from the examples, and what to do; "" if there is none.

    Args:
        signature: of the model's forward.
        examples: example arguments, by position and by keyword.
        given: those of the batch.
    """
    unknown = [name for name in given[1] if not _takes(signature, name)]
    if unknown:
        return _unknown(signature, examples[0], given[1], unknown)
    known, found = _named(signature, examples), _named(signature, given)
    if found is None:
        return ""  # the model says it better
    for name, example in (known or {}).items():
        if name in found:
            difference = next(_differences(example, found[name], f"argument {name}"), "")
        elif isinstance(example, Tensor) and signature.parameters[name].default is None:
            difference = _lacks(signature, name, found)
        else:
            difference = ""
        if difference:
            return difference
    return ""


def stranger(signature: Signature, examples: Call, given: Call) -> str:
    """What of a batch on which the model raised is another thing than in the examples, likewise.

    A model may take numbers for tensors, or tensors on several devices: where it runs all is well.
    """
    known, found = _named(signature, examples), _named(signature, given)
    if known is None or found is None:
        return ""
    both = [(known[name], found[name], f"argument {name}") for name in known if name in found]
    return next((text for each in both for text in _strangers(*each)), "")


def _named(signature: Signature, call: Call) -> Mapping[str, object] | None:
    try:
        return signature.bind_partial(*call[0], **call[1]).arguments
    except TypeError:
        return None


def _lacks(signature: Signature, name: str, found: Mapping[str, object]) -> str:
    """What to do about a tensor of the examples that a batch leaves out."""
    remedy = "Give one in each batch"
    parameter = signature.parameters[name]
    if parameter.kind is parameter.KEYWORD_ONLY:
        names = [each for each in signature.parameters if each in found or each == name]
        remedy = f"Make each batch a dict, {_form(dict.fromkeys(names))}"
    return (
        f"it lacks argument {name}, which is a tensor in the example inputs. {remedy}, or leave it "
        "out of the example inputs too."
    )


def _takes(signature: Signature, name: str) -> bool:
    parameters = signature.parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _unknown(
    signature: Signature,
    examples: tuple[object, ...],
    given: Mapping[str, object],
    unknown: list[str],
) -> str:
    """What to do about keys of a batch that are no arguments."""
    parameters = signature.parameters.values()
    names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    alone = examples[0] if len(examples) == 1 else None
    if isinstance(alone, Mapping) and set(given) == set(alone):
        return (
            f"it is a dict of arguments, and forward takes {', '.join(names)}. If the dict is "
            f"argument {names[0]} itself, put it in a tuple of its own, as in "
            f"calibration_data=[({_form(alone)},)]."
        )
    return (
        f"it has {', '.join(map(repr, unknown))}, which forward does not take. The keys of a batch "
        f"that is a dict are names of arguments ({', '.join(names)}). Rename them, and leave out "
        "what is no input, labels say: ({'x': batch['image']} for batch in loader)."
    )


def _differences(example: object, given: object, name: str) -> Iterator[str]:
    if isinstance(example, Tensor):
        if given is None or isinstance(given, (tuple, list, Mapping)):
            yield (
                f"it has {_kind(given)} for {name}, which is a tensor in the example inputs. Give "
                "a tensor there, or example inputs that are nested alike."
            )
        return
    if not isinstance(example, (tuple, list, Mapping)):
        return
    same_kind = isinstance(given, Mapping) == isinstance(example, Mapping)
    if not isinstance(given, (tuple, list, Mapping)) or not same_kind:
        seen = f"it has {_kind(given)} for {name}, which is {_kind(example)} in the example inputs"
        remedy = "Give one there."
        if "[" not in name:
            remedy = (
                "A batch is a tuple of arguments; put an argument that is one itself in a tuple of "
                f"its own, as in calibration_data=[({_form(example)},)]."
            )
        yield f"{seen}. {remedy}"
    elif isinstance(example, Mapping) and isinstance(given, Mapping):
        yield from _differences_of_dicts(example, given, name)
    elif len(example) != len(given):
        yield (
            f"it has {_kind(given)} for {name}, which is {_kind(example)} in the example inputs: "
            "the graph is for that length. Give as many, or capture the model anew with so many."
        )
    else:
        for i, (ours, theirs) in enumerate(zip(example, given, strict=True)):
            yield from _differences(ours, theirs, f"{name}[{i}]")


def _differences_of_dicts(
    example: Mapping[object, object], given: Mapping[object, object], name: str
) -> Iterator[str]:
    if set(example) != set(given):
        yield (
            f"it has the keys {sorted(map(str, given))} in {name}, and the example inputs have "
            f"{sorted(map(str, example))}. Give those, and no others."
        )
        return
    for key, value in example.items():
        yield from _differences(value, given[key], f"{name}[{key!r}]")


def _strangers(example: object, given: object, name: str) -> Iterator[str]:
    if isinstance(example, Mapping) and isinstance(given, Mapping):
        for key in example.keys() & given.keys():
            yield from _strangers(example[key], given[key], f"{name}[{key!r}]")
    elif isinstance(example, (tuple, list)) and isinstance(given, (tuple, list)):
        for i, (ours, theirs) in enumerate(zip(example, given, strict=False)):
            yield from _strangers(ours, theirs, f"{name}[{i}]")
    elif isinstance(example, Tensor) and not isinstance(given, Tensor):
        yield (
            f"it has {_kind(given)} for {name}, which is a tensor in the example inputs. Give "
            "tensors, as torch.as_tensor(x) makes of arrays and numbers."
        )
    elif isinstance(example, Tensor) and isinstance(given, Tensor):
        yield from _other_tensors(example, given, name)


def _other_tensors(example: Tensor, given: Tensor, name: str) -> Iterator[str]:
    if given.is_nested != example.is_nested or given.layout != example.layout:
        kind = "nested" if given.is_nested else str(given.layout).removeprefix("torch.")
        yield (
            f"it has a tensor that is {kind} for {name}, which is another in the example inputs. "
            "Give tensors like those, or example inputs like these."
        )
    elif given.device != example.device:
        yield (
            f"it has a tensor on {given.device} for {name}, which is on {example.device} in the "
            f"example inputs. Move the batches, as in x.to({str(example.device)!r})."
        )
    elif given.is_floating_point() and not example.is_floating_point():
        yield (
            f"it has {_kind(given)} for {name}, which is {_kind(example)} in the example inputs. "
            f"Convert the batches, as in x.to({example.dtype})."
        )


def _kind(value: object) -> str:
    if isinstance(value, (tuple, list, Mapping)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Tensor):
        return f"a tensor, {str(value.dtype).removeprefix('torch.')}{list(value.shape)},"
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _form(example: object) -> str:
    """A nest as one writes it: (a, b), [a], {'k': ...}."""
    if isinstance(example, Mapping):
        return "{" + ", ".join(f"{key!r}: ..." for key in example) + "}"
    assert isinstance(example, (tuple, list))
    names = ", ".join("abcdefgh"[: len(example)]) + (", ..." if len(example) > 8 else "")
    if isinstance(example, list):
        return f"[{names}]"
    return f"({names},)" if len(example) == 1 else f"({names})"
