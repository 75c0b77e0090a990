"""How large anything in a file may be; what is larger is refused before memory is taken for it."""

from __future__ import annotations

HEADER_BYTES = 100_000_000
"""Of the header of tensors: what the safetensors library reads, too."""

DOCUMENT_BYTES = 256 << 20
"""Of a JSON document."""

TENSORS = 1_000_000
NODES = 5_000_000
REGIONS = 10_000
DIMS = 64
NUMEL = 1 << 48
"""Elements of a tensor, or of a value that is only described."""

DEPTH = 48
"""Containers within containers, in arguments and in what is known of values."""

DIGITS = 20
"""Of an integer as text."""

GEOMETRY = 1 << 16
"""Stride, padding, dilation and groups of a convolution."""

OPTION = 1 << 20
"""An integer option of an observer: bins of a histogram, say."""

INTEGERS = (-(1 << 63), (1 << 63) - 1)

INFLATED_ANYWAY = 2**20
INFLATED = 100
"""A document has so many bytes, and so many more for each byte that it has in the file; what qfx
writes of models has 5 to 20."""

PACKED_ANYWAY = 256 << 20
PACKED = 16
"""Layers take so many bytes when they are packed, and so many more for each byte of the file: a
weight is packed for each geometry at which layers read it."""
