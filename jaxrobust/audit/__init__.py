"""Audits of one checkpoint: `auditor.py` makes them, `results.py` keeps them, `signs.py` judges gradient masking.

Import the modules, not the package: the auditor writes the report, which reads `results.py`.
"""
