"""Models of three libraries, small and with random weights, for ``tools/zoo.py``."""
