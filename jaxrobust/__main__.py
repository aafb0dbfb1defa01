"""`python -m jaxrobust COMMAND` is `jaxrobust COMMAND`."""

from jaxrobust.commands import front_end

if __name__ == "__main__":
    front_end.run()
