"""The command `python -m jaxrobust.posthoc`."""

from jaxrobust import command_line, posthoc

posthoc.define_flags()
command_line.run(posthoc.main)
