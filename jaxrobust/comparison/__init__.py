"""Runs beside each other: which are pairs, what a method gains, and the price list of many."""
