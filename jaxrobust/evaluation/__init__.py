"""Attacking and scoring: `library.py` any function, `run.py` a trained model, `evaluator.py` checkpoints of a run."""
