"""Remedies after training: another head for a checkpoint, in a run of its own that is scored like any other."""
