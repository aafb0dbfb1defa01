"""Attacks as compositions of pure functions: threat x loss x loop. They see a `logits_fn` and nothing else."""
