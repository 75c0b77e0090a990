"""Comparisons of qfx with its peers: ``latency``, ``accuracy`` and ``cost``, each a command.

Nothing here is imported by qfx or by its installed package.
"""
