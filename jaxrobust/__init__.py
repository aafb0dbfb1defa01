"""Adversarial training in JAX that reports accuracy and robustness class by class."""

__version__ = "0.1.0"
