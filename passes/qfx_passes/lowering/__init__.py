"""From the reference form to the kernels of a backend."""
