"""What attacks and scores models: `library.py` for any function, `run.py` for a trained model, `evaluator.py` for runs."""
