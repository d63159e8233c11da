"""The ``detkds`` command: parse, call one function, print."""

from .main import main

__all__ = ["main"]
