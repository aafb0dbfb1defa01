"""Comparing runs: which runs form pairs, what a method gains, and the price list of many methods."""
