"""Training: `fit.py` in one call, `loop.py` in a workdir, `epochs.py` in memory, `step.py` one update."""
