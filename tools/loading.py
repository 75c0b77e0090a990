"""Models and inputs named on a command line, for the tools."""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tools.networks import import_torchvision

_COMMANDS = Path(__file__).resolve().parent

MODEL_HELP = """\
package.module:factory, where the factory is called without arguments (or with those of --set) and
returns an nn.Module; a module class or a ready module will do too. The current directory is
searched first.
"""


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that :func:`load` reads."""
    parser.add_argument("model", metavar="package.module:factory", help=MODEL_HELP)
    parser.add_argument(
        "--shape",
        action="append",
        required=True,
        metavar="N,C,H,W[:dtype]",
        help="shape of an input, as in 1,3,224,224 or 1,16:int64; repeat it for several inputs. "
        "Floats are normal random numbers, integers are 0 and 1, from a fixed seed",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="keyword argument of the factory, as a Python literal; may be repeated",
    )


def load(arguments: argparse.Namespace) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The model, in eval mode, and its inputs.

    Raises:
        SystemExit: something cannot be found or read; the message says what.
    """
    torch.manual_seed(0)
    inputs = tuple(make_input(text) for text in arguments.shape)
    model = build(arguments.model, dict(map(_setting, arguments.set)))
    return model.eval(), inputs


def build(spec: str, settings: dict[str, Any]) -> nn.Module:
    """Import and call what ``spec`` names."""
    module_name, _, attribute = spec.partition(":")
    if not attribute:
        raise SystemExit(f"{spec!r} names no factory; write package.module:factory")
    # Python puts the folder of the command first, where zoo.py would hide a module of the user's.
    apart = (Path.cwd(), _COMMANDS)
    sys.path[:] = [str(Path.cwd()), *(p for p in sys.path if Path(p).resolve() not in apart)]
    found: Any = None
    try:
        if module_name.partition(".")[0] == "torchvision":
            import_torchvision()
        module = found = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        file = getattr(module, "__file__", None)
        there = f" ({module_name} is {file})" if file else ""
        raise SystemExit(f"cannot load {spec!r}: {error}{there}") from error
    except (ImportError, OSError, RuntimeError) as error:
        raise SystemExit(f"cannot load {spec!r}: {error}") from error
    model = found if isinstance(found, nn.Module) else found(**settings)
    if not isinstance(model, nn.Module):
        raise SystemExit(f"{spec!r} gave {type(model).__name__}, not an nn.Module")
    return model


def make_input(text: str) -> Tensor:
    """A random tensor for ``1,3,224,224`` or ``1,16:int64``."""
    sizes, _, kind = text.partition(":")
    dtype = getattr(torch, kind or "float32", None)
    try:
        shape = [int(size) for size in sizes.split(",") if size.strip()]
    except ValueError as error:
        raise SystemExit(f"--shape {text!r} is no shape; write it like 1,3,224,224") from error
    if not isinstance(dtype, torch.dtype):
        raise SystemExit(f"--shape {text!r}: torch has no dtype {kind!r}")
    if dtype.is_floating_point:
        return torch.randn(shape, dtype=dtype)
    return torch.randint(0, 2, shape).to(dtype)


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SystemExit(f"--set {text!r} has no value; write NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def colored(text: str, enabled: bool) -> str:
    """The text of a diff or an IR in the colours of a terminal."""
    return "\n".join(map(_colored_line, text.splitlines())) if enabled else text.rstrip("\n")


def _colored_line(line: str) -> str:
    codes = {"#": "1", "@": "36", "-": "31", "+": "32", ">": "34"}
    code = codes.get(line[:1])
    if code is None:
        code_part, mark, comment = line.partition("   # ")
        return f"{code_part}\033[2m{mark}{comment}\033[0m" if mark else line
    return f"\033[{code}m{line}\033[0m"
