"""Audits of one checkpoint: `auditor.py` makes them and `results.py` keeps them.

Import the modules, not the package: the auditor writes the report, which reads `results.py`.
"""
