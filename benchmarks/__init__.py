"""Comparisons of qfx with its peers: ``latency``, ``accuracy``, ``cost`` and ``recurrent``,
each a command.

Nothing here is imported by qfx or by its installed package.
"""
