"""The closed vocabulary: every canonical operation, and every spelling that maps to it.

A canonical operation (:class:`OpDef`) is itself the ``target`` of a ``call_function`` node, so
patterns, passes and backend tables compare targets by identity: ``node.target is vocab.CONV2D``.
Its Python signature fixes the canonical form: tensor operands by position, attributes by keyword,
attributes at their default left out.

Spellings are data, three columns per row: module types, functions, and Tensor methods. A trailing
underscore or ``inplace=True`` is the same operation. Modules are read through the signature: an
attribute of the module with a parameter's name supplies it.

A row stands in the file of its kind, and is a name of this package by that alone.
"""

from typing import TYPE_CHECKING

from qfx.vocab.arithmetic import *
from qfx.vocab.definition import Kind as Kind
from qfx.vocab.definition import OpDef as OpDef
from qfx.vocab.definition import define as define
from qfx.vocab.definition import has as has
from qfx.vocab.definition import lookup as lookup
from qfx.vocab.definition import ops as ops
from qfx.vocab.elementwise import *
from qfx.vocab.groups import *
from qfx.vocab.losses import *
from qfx.vocab.matrices import *
from qfx.vocab.movement import *
from qfx.vocab.nodes import bound as bound
from qfx.vocab.nodes import bound_plainly as bound_plainly
from qfx.vocab.nodes import is_op as is_op
from qfx.vocab.ordering import *
from qfx.vocab.post_ops import bounds_of_post_op as bounds_of_post_op
from qfx.vocab.post_ops import call_of_post_op as call_of_post_op
from qfx.vocab.post_ops import post_op_of_call as post_op_of_call
from qfx.vocab.products import *
from qfx.vocab.quantization import *
from qfx.vocab.reductions import *
from qfx.vocab.sizes import *
from qfx.vocab.training import *

if not TYPE_CHECKING:  # names that are written out are checked

    def __getattr__(name: str) -> OpDef:
        """An operation that has no name here by itself, as those of numbers: for pickled code."""
        if name.isupper() and has(name.lower()):
            return lookup(name.lower())
        raise AttributeError(f"qfx.vocab has no operation {name}")
