"""Kernels over weights that are kept in few bits and made float where they are read."""
