"""Whether kernels are right on this machine: each is tried before it is used."""
