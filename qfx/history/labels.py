"""A captured operation in one word, as reports print it."""

from __future__ import annotations


def label(node: str, module_path: str) -> str:
    """A site in one word: ``layer1.0.conv1`` for a module, ``layer1.0:add`` for a call in one.

    A module that is called again is ``layer1.0.relu:relu_1``. Of a node that is addressed with its
    region, ``region:node``, it says the same.
    """
    region, colon, inner = node.rpartition(":")
    if colon:
        path = module_path.removeprefix(region).removeprefix(".")
        return f"{region}{'.' if path else ':'}{label(inner, path)}"
    flat, name = module_path.replace(".", "_"), node.lstrip("_")
    if not module_path or name == flat:
        return module_path or node
    again = name.removeprefix(f"{flat}_")
    if again != name and again.isdigit():
        return f"{module_path}:{module_path.rpartition('.')[2]}_{again}"
    return f"{module_path}:{node}"
