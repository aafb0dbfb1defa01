"""The scripts under launch/, and programs that stand in for those of clusters and clouds."""

import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SLICE = ("--name", "at-1", "--zone", "us-central1-a")
SPOT = ("--type", "v5litepod-16", "--spot", "--nfs", "10.0.0.2:/share")
TRAINER = ("--config", "configs/digits.py", "--workdir", "runs/with space", "--config.eval.attacks=('clean',)")


def run(script, *arguments, **environment):
    """The finished process of a script, without a terminal; `environment` is added to this one's."""
    return subprocess.run(
        ("bash", LAUNCH / script, *arguments),
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=3000,
        cwd=ROOT,
    )


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(0o755)
    return path
