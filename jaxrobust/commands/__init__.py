"""The commands: one thin file each, and `front_end.py`, which reads flags and config and shows errors in one line."""
