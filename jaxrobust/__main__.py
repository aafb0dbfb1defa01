"""`python -m jaxrobust COMMAND` is `jaxrobust COMMAND`."""

from jaxrobust import commands

if __name__ == "__main__":
    commands.run()
