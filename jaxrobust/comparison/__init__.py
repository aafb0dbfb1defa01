"""Comparing models and runs: two on the same images, runs in pairs, and the trade-off table of many methods."""
