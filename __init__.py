"""detkds: search distillation losses for object detectors, and train students with them."""

__version__ = "0.3.0"
