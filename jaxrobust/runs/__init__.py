"""The files of a run: what an evaluation, a training and an audit write, and how they are read."""
