"""The command `python -m jaxrobust posthoc`."""

from jaxrobust import posthoc
from jaxrobust.commands import command_line

posthoc.define_flags()
command_line.run(posthoc.main)
