"""Where work runs: one trial without Ray (``trial``), Ray's engine, full training."""
