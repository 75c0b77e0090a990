"""Load what quantizing loads and probe the kernels once, for the processes that are forked.

Importing this module does it, so that ``forkserver`` can: no model pays for it then, and the
seconds of the table are those of a second call in one process.
"""

from __future__ import annotations

import torch
from torch import nn

import qfx

torch.set_num_threads(1)  # a process with a pool of threads must not be forked
for method in ("static", "dynamic"):
    qfx.quantize(
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 8)).eval(),
        torch.randn(1, 4, 4, 4),
        method=method,
        progress=False,
    )
