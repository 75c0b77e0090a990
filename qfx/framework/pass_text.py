"""The text of passes: ``name{option=value, ...}``, written and read without evaluating anything.

Values are true, false, none, numbers (inf and nan too), quoted strings, tuples, lists, dicts, torch
dtypes (``torch.int8``) and members of the enums that a field's default or annotation names.
"""

from __future__ import annotations

import ast
import re
from enum import Enum

import torch

from qfx.errors import ConfigError

_TEXT = re.compile(r"\s*(?P<name>[A-Za-z0-9_.:-]+)\s*(?:\{(?P<body>.*)\})?\s*", re.DOTALL)
_WORDS: dict[str, object] = {
    "true": True,
    "false": False,
    "none": None,
    "True": True,
    "False": False,
    "None": None,
    "inf": float("inf"),
    "nan": float("nan"),
}


def format_value(value: object) -> str:
    """``value`` as :func:`parse_value` reads it; ``<Type>`` for what has no text."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, (int, float, str, torch.dtype)):
        return repr(value)
    if isinstance(value, tuple):
        inner = ", ".join(map(format_value, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, list):
        return f"[{', '.join(map(format_value, value))}]"
    if isinstance(value, dict):
        items = (f"{format_value(k)}: {format_value(v)}" for k, v in value.items())
        return f"{{{', '.join(items)}}}"
    return f"<{type(value).__name__}>"


_PIECES = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|.""", re.DOTALL)
"""Quoted texts, whatever is in them, and single characters."""


_UNTOLD = re.compile(r"<\w+>")
"""What :func:`format_value` writes where a value has no text."""


def steps(text: str) -> list[str]:
    """The texts of the passes in that of a pipeline: cut at line ends and commas outside braces."""
    if not isinstance(text, str):
        raise ConfigError(f"a pipeline is read from text, as str(pipeline) prints it, not {text!r}")
    parts, depth = [""], 0
    for piece in _PIECES.findall(text):
        depth += (piece in "{([") - (piece in "])}")
        if piece in ",\n" and depth == 0:
            parts.append("")
        else:
            parts[-1] += piece
    return [part.strip() for part in parts if part.strip()]


def split(text: str) -> tuple[str, dict[str, ast.expr]]:
    """Name and unevaluated options of the text of a pass."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ConfigError(f"cannot read {text!r} as a pass; write name{{option=value, ...}}")
    body = found["body"] or ""
    try:
        call = ast.parse(f"f({body})", mode="eval").body
    except SyntaxError as error:
        untold = _UNTOLD.search(body)
        why = f"{untold[0]} stands for a value that has no text" if untold else error.msg
        raise ConfigError(f"cannot read the options of {text!r}: {why}") from error
    if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
        raise ConfigError(f"cannot read the options of {text!r}; write option=value, ...")
    return found["name"], {str(k.arg): k.value for k in call.keywords}


def parse_value(node: ast.expr, enums: tuple[type[Enum], ...] = ()) -> object:
    """The value of an option.

    Raises:
        ConfigError: it is none of the kinds that options may have.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str)):
        return node.value
    if isinstance(node, ast.Tuple):
        return tuple(parse_value(e, enums) for e in node.elts)
    if isinstance(node, ast.List):
        return [parse_value(e, enums) for e in node.elts]
    if isinstance(node, ast.Dict) and all(k is not None for k in node.keys):
        pairs = zip(node.keys, node.values, strict=True)
        return {parse_value(k, enums): parse_value(v, enums) for k, v in pairs if k is not None}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = parse_value(node.operand, enums)
        if isinstance(value, (int, float)):
            return -value
    return _parse_word(ast.unparse(node), enums)


def _parse_word(word: str, enums: tuple[type[Enum], ...]) -> object:
    if word in _WORDS:
        return _WORDS[word]
    for enum in enums:
        if word in enum.__members__:
            return enum[word]
    prefix, _, name = word.partition(".")
    dtype = getattr(torch, name, None) if prefix == "torch" and name.isidentifier() else None
    if isinstance(dtype, torch.dtype):
        return dtype
    raise ConfigError(f"{word!r} is no value of an option; strings stand in quotes")
