"""What concerns every test."""

from __future__ import annotations

import gc

# Each test drops some 50,000 objects of graphs. Looking for them after every 700 costs a twentieth.
gc.set_threshold(50_000, 20, 20)
