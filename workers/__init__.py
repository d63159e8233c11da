"""Where work runs: one trial without Ray (``trial``), trials and trainings on Ray's workers."""
