"""Inputs that a user may give by mistake or on purpose, as cases that the driver runs and counts.

A case is (kind, name, call, is_nonsense): `call` either raises what the library documents, or goes on until something
would be compiled, where the driver stops it. More tables stand in modules `tables_*.py` beside this file, each with a
function `cases(folder)`.
"""

import contextlib
import inspect
import io
import os
import pathlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

import jaxrobust as jr
from jaxrobust import data as data_lib
from jaxrobust.commands import front_end
from jaxrobust.config.fields import FIELDS
from jaxrobust.distributed import cluster
from jaxrobust.training import arguments

TINY = str(pathlib.Path(__file__).parent.parent / "tiny_config.py")


class Case(NamedTuple):
    """One input."""

    kind: str
    name: str
    call: Callable[[], object]
    is_nonsense: bool = True


class Refused(Exception):
    """A command has ended with an error; `lines` of it, and whether a stack was printed."""

    def __init__(self, code, said: str):
        super().__init__(said)
        self.is_traceback = "Traceback (most recent call last)" in said
        self.is_one_line = code in (1, 2) and len(said.strip().splitlines()) == 1


def command(*words: str) -> Callable[[], None]:
    """A call of the command line in this process; raises Refused for an error."""

    def call():
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = front_end.main(list(words))
        if code:
            raise Refused(code, said.getvalue())

    return call


def nonsense(default) -> list:
    """Values that no field with this default can mean."""
    foreign = [ConfigDict({"a": 1}), object(), {"a": 1}, b"bytes", lambda: 0, 10**400]
    numbers = [float("nan"), float("inf"), -float("inf"), -1e30, 1e300, 10**30, -(10**30), "1", (1,), [1, 2]]
    texts = ["x" * 10_000, "\x1b[31m", "a\0b", "line\nline", 5, 0.5, True, ("a",)]
    tuples = [5, "a", ((),), (object(),), (None,), (float("nan"),), tuple(range(10_000)), ("x" * 10_000,)]
    own = {bool: [0, 1, "true", 0.0], str: texts, tuple: tuples, type(None): numbers}.get(type(default), numbers)
    return [*([] if default is None else [None]), *own, *foreign]


WORDS = (
    "", "None", "nan", "inf", "-inf", "1e400", "-1", "1e30", "9" * 30, "9" * 5000, "x" * 5000, "()", "(", "[1", "'",
    "(1,'a')", "lambda: 0", "{}", "\x1b[31m", "0x10", "1_000", "true", "\uff11", "*", "../..", "$HOME", "a b", "=",
    "--",
)  # fmt: skip
_ROWS = """threat.eps=1e-45 threat.eps_255=1e-45 attack.radius=1e-40 attack.radius=1e9 data.pad=1000000
    model.std=(1e38,)
    model.std=(1e-38,) model.std=(0.,) model.mean=(123.7,) model.mean=(-5.,) remedy.name=ldam+ remedy.name=+ldam
    remedy.name=ldam++cdt attack.steps=1000000000 attack.restarts=1000000000 train.epochs=1000000000 train.epochs=0
    train.batch_size=1000000000 optimizer.learning_rate=1e30 optimizer.weight_decay=1e30 attack.step_size=0.
    attack.step_size=10. eval.step_size=1e-30 train.seed=-1 eval.seed=-5 eval.attacks=('clean','clean')
    eval.attacks=('pgd1000000000',) eval.attacks=('pgd20x1000000000',) eval.attacks=('pgd20','') eval.attacks=(5,)
    eval.splits=('test','test') objective.beta=1e30 remedy.focal.gamma=1e30
    data.image_size=1000000 model.width=1000000 model.hidden=(1000000000,) model.hidden=(0.5,) model.head_scale=1e30
    posthoc.tau=1e30 audit.radii=(1e30,) audit.radii_255=(1e30,) data.validation_per_class=1000000000
    optimizer.clip_norm=1e30 train.steps_per_dispatch=1000000000 eval.batch_size=1000000000
    data.gaussians.dimension=1000000000 objective.replays=1000000000 objective.awp_gamma=1e30
    optimizer.momentum=-0.5 optimizer.milestones=(0.5,0.5)"""
ROWS = _ROWS.split()
FILES = {
    "returns None": "def get_config():\n    pass",
    "another type": "def get_config():\n    return 5",
    "a dict": "def get_config():\n    return {'train': {'epochs': 3}}",
    "a foreign config": "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'a': 1})",
    "an empty config": "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()",
    "raises": "def get_config():\n    raise RuntimeError('two\\nlines')",
    "raises at import": "1 / 0",
    "sys.exit(0)": "import sys\ndef get_config():\n    sys.exit(0)",
    "sys.exit at import": "import sys\nsys.exit()",
    "its own exception": "class E(BaseException): pass\ndef get_config():\n    raise E()",
    "recursion": "def get_config():\n    return get_config()",
    "no get_config": "x = 5",
    "takes arguments": "def get_config(name):\n    return name",
    "get_config is no function": "get_config = 5",
    "a generator": "def get_config():\n    yield 5",
    "no Python": "this is { no Python",
    "a class": "class get_config: pass",
    "a section replaced": "from jaxrobust.config import default\nfrom ml_collections import ConfigDict\n"
    "def get_config():\n    c = default()\n    c.unlock()\n    c.train = ConfigDict({'x': 1})\n    return c",
    "a section is a number": "from jaxrobust.config import default\n"
    "def get_config():\n    c = default()\n    c.unlock()\n    del c.train\n    c.train = 5\n    return c",
    "a field removed": "from jaxrobust.config import default\n"
    "def get_config():\n    c = default()\n    c.unlock()\n    del c.train.epochs\n    return c",
    "a field added": "from jaxrobust.config import default\n"
    "def get_config():\n    c = default()\n    c.unlock()\n    c.train.more = 5\n    return c",
    "a reference to itself": "from jaxrobust.config import default\n"
    "def get_config():\n    c = default()\n    c.unlock()\n    c.train.me = c\n    return c",
}  # fmt: skip
NUMBERS = ("two", "", "-1", "0", "99999999999999999999", "1.5", "nan", "0x2", " ", "\uff11")
SLURM = {
    "SLURM_JOB_ID": "4096", "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_NTASKS": "2", "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "2", "CUDA_VISIBLE_DEVICES": "0,1",
}  # fmt: skip
JAX = {"JAX_COORDINATOR_ADDRESS": "node1:7777", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


def _fresh(folder: pathlib.Path) -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield str(folder / "runs" / str(number))


def of_fields(folder: pathlib.Path) -> Iterator[Case]:
    """Each field of the config set to what it cannot be, by a file's code and by the command line."""
    from jaxrobust import config as config_lib

    workdirs = _fresh(folder)
    for name, field in FIELDS.items():
        values = nonsense(field.default)
        for value in random.Random(name).sample(values, min(8, len(values))):
            path = folder / "set.py"

            def call(name=name, value=value, path=path):
                path.write_text("from tests_fuzz_value import get_config\n")
                module = type(sys)("tests_fuzz_value")

                def get_config():
                    config = config_lib.default()
                    *parents, last = name.split(".")
                    section = config
                    for parent in parents:
                        section = section[parent]
                    with config.unlocked(), section.ignore_type():
                        section[last] = value
                    return config

                module.get_config = get_config
                sys.modules["tests_fuzz_value"] = module
                command("train", "--config", str(path), "--workdir", next(workdirs))()

            yield Case("field in a file", f"{name} = {value!r:.60}" if value != 10**400 else f"{name} = 10**400", call)
        for word in random.Random(name).sample(WORDS, 4):
            words = ("train", "--config", TINY, f"--config.{name}={word}", "--workdir", next(workdirs))
            yield Case("field as an option", f"{name}={word[:40]}", command(*words), False)
    for row in ROWS:
        fields = [f"--config.{row}"]
        if row.startswith("data.gaussians"):
            fields.append("--config.data.name=gaussians")
        if row.startswith("data.pad"):
            fields.append("--config.data.augment=('crop',)")
        if row.startswith("model.hidden"):
            fields.append("--config.model.name=mlp")
        yield Case("nonsense", row, command("train", "--config", TINY, *fields, "--workdir", next(workdirs)))
    for radius in ("1e9", "11", "nan", "-1", "x"):
        words = ("--config.remedy.name=fixed", f"--config.remedy.fixed.radius=('3:{radius}',)")
        yield Case(
            "nonsense", f"fixed {radius}", command("train", "--config", TINY, *words, "--workdir", next(workdirs))
        )


def of_files(folder: pathlib.Path) -> Iterator[Case]:
    """Config files."""
    workdirs = _fresh(folder / "of files")
    contents = {name: text.encode() for name, text in FILES.items()}
    contents |= {"no UTF-8": b"x = '\xff\xfe'", "NUL": b"x = 5\0", "empty": b"", "zip": b"PK\x03\x04" + bytes(99)}
    for name, content in contents.items():
        path = folder / f"config_{abs(hash(name))}.py"
        path.write_bytes(content)
        yield Case("config file", name, command("train", "--config", str(path), "--workdir", next(workdirs)))
    other = folder / "config.txt"
    other.write_text("def get_config(): pass")
    pipe = folder / "pipe.py"
    if not pipe.exists():
        os.mkfifo(pipe)
    for path in (folder, other, pipe, folder / "absent.py", "", "x" * 5000, "\ud800", "/dev/zero", "/dev/null"):
        yield Case("config file", repr(path)[:60], command("train", "--config", str(path), "--workdir", next(workdirs)))


def of_command_lines(folder: pathlib.Path) -> Iterator[Case]:
    """Options of all commands."""
    del folder
    for name in (*front_end.COMMANDS, "", "trian", "--", "-x", "\x1b[0m", "x" * 5000):
        for words in (
            ["--config"], ["--config="], ["--config.=3"], ["--config.train=3"], ["--config.train.epochs"],
            ["--workdir"], ["--nothing"], ["--nothing=5"], ["-x"], ["word", "word2", "word3"], ["--verbosity=x"],
            ["--verbosity=" + "9" * 5000], ["--config", TINY, "--config", "other"], ["--noconfig.train.epochs"],
            ["--config.train.epochs=3=4"], ["=" * 100], ["--=5"], ["\ud800"], ["--config.\ud800=5"],
        ):  # fmt: skip
            given = [*words] if name in ("fields",) else [*words, "--unknown"]
            yield Case("command line", f"{name[:20]} {words}"[:90], command(name, *given), False)
    for words in (
        ["benchmark", "--config", TINY, "--seconds=inf"], ["benchmark", "--config", TINY, "--seconds=nan"],
        ["benchmark", "--config", TINY, "--steps=99999999999999999999"],
        ["train", "--config", TINY, "--start_timeout=inf"],
        ["benchmark", "--config", TINY, "--images=1x2x3"], ["benchmark", "--config", TINY, "--classes=1"],
        ["preflight", "--config", TINY, "--topology=x"], ["preflight", "--config", TINY, "--topology=v5e:0x0"],
        ["preflight", "--config", TINY, "--topology=h200:" + "9" * 5000],
        ["preflight", "--config", TINY, "--topology="],
        ["preflight", "--config", TINY, "--topology=cpu:99999999999"], ["compare", "a", "b", "--step_a=x"],
        ["train", "--config", TINY, "--coordinator=x", "--processes=2", "--process=0"],
        ["train", "--config", TINY, "--coordinator=node:99999999", "--processes=2", "--process=0"],
        ["train", "--config", TINY, "--processes=-1", "--process=0", "--coordinator=a:1"],
        ["train", "--config", TINY, "--processes=2"], ["weights", "--import", "x.bin", "--config", TINY],
        ["weights", "--export", "x.bin", "--workdir", "."], ["study", "--study", TINY, "--workdir", "x"],
        ["study", "--study", "/tmp", "--workdir", "x"], ["explain"], ["report", "\ud800"], ["report", "x" * 5000],
        ["posthoc", "--workdir", "x"], ["posthoc", "--workdir", "x", "--remedy", "y"],
        ["audit", "--workdir", "x" * 5000],
    ):  # fmt: skip
        yield Case("command line", " ".join(words)[:90], command(*words))


def of_environments(folder: pathlib.Path) -> Iterator[Case]:
    """What the environment says about the processes of a job."""
    del folder

    def call(environment):
        before = dict(os.environ)
        os.environ.update(environment)
        try:
            cluster.find(None, None, None)
        finally:
            os.environ.clear()
            os.environ.update(before)

    for whole in (SLURM, JAX):
        for name in whole:
            if name not in ("SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "CUDA_VISIBLE_DEVICES"):
                for value in NUMBERS:
                    is_wrong = value in ("two", "-1", "99999999999999999999", "1.5", "nan", "0x2")
                    given = whole | {name: value}
                    yield Case("environment", f"{name}={value}", lambda given=given: call(given), is_wrong)
    for wrong in ({"SLURM_PROCID": "2"}, {"SLURM_PROCID": "7", "SLURM_NTASKS": "3"}):
        yield Case("environment", str(wrong), lambda given=SLURM | wrong: call(given))
    for wrong in ({"JAX_PROCESS_ID": "2"}, {"JAX_COORDINATOR_ADDRESS": "node"}, {"JAX_NUM_PROCESSES": "0"}):
        yield Case("environment", str(wrong), lambda given=JAX | wrong: call(given))


IMAGES, LABELS = np.full((40, 4, 4, 1), 0.5, np.float32), np.arange(40) % 2
IMAGES[::2] = 0.25
ANYTHING = (
    None, 5, -1, 0, 1.5, True, float("nan"), float("inf"), 10**30, 10**400, "", "x", "x" * 5000, "\0", b"x", (), [], {},
    (None,), object(), np.zeros(0), np.zeros((2, 2)), np.array(["a"]), np.array(object()), lambda: 0, [[1], [1, 2]],
    np.int64(-3), np.float32("nan"), {1, 2}, ConfigDict({"a": 1}), complex(1, 1), [10**12] * 40, np.full(40, 2**62),
    type,
)  # fmt: skip


def logits_fn(images):
    """Two classes by brightness."""
    mean = images.mean((1, 2, 3))
    import jax.numpy as jnp

    return jnp.stack([mean, 1 - mean], -1)


def calls() -> dict:
    """Name of an argument of the public library -> a call with it."""
    data = (IMAGES, LABELS)
    found = {
        f"attack({name})": lambda value, name=name: jr.attack(
            **{"logits_fn": logits_fn, "images": IMAGES, "labels": LABELS, "attack": "clean"} | {name: value}
        )
        for name in ("logits_fn", "images", "labels", "attack", "norm", "eps", "step_size", "batch_size", "seed")
    }
    found |= {
        f"predict({name})": lambda value, name=name: jr.predict(
            **{"logits_fn": logits_fn, "images": IMAGES} | {name: value}
        )
        for name in ("logits_fn", "images", "batch_size")
    }
    found |= {name: getattr(jr, name) for name in ("Linf", "L2", "L1")}
    found["Threat(norm)"] = lambda value: jr.Threat(value, 0.1)
    robust = LABELS == 1
    for name in ("labels", "verdicts", "class_names", "confidence"):
        given = {"labels": LABELS, "verdicts": robust}
        found[f"classwise_table({name})"] = lambda value, name=name, given=given: jr.classwise_table(
            **given | {name: value}
        )
    for name in ("labels", "verdicts_a", "verdicts_b", "class_names", "confidence", "worst_a", "worst_b"):
        given = {"labels": LABELS, "verdicts_a": robust, "verdicts_b": ~robust}
        found[f"compare({name})"] = lambda value, name=name, given=given: jr.compare(**given | {name: value})
    for name in ("train", "test", "validation", "validation_per_class", "class_names", "seed"):
        found[f"from_arrays({name})"] = lambda value, name=name: jr.Dataset.from_arrays(
            **{"train": data} | {name: value}
        )
    for name in inspect.signature(data_lib.load).parameters:
        if name not in ("name", "data_dir", "gaussians", "progress"):
            found[f"load({name})"] = lambda value, name=name: data_lib.load("digits", **{name: value})
    found["from_arrays(images)"] = lambda value: jr.Dataset.from_arrays((value, LABELS))
    found["from_arrays(labels)"] = lambda value: jr.Dataset.from_arrays((IMAGES, value))
    for name in ("workdir", "step", "weights", "data_dir"):
        found[f"load_run({name})"] = lambda value, name=name: jr.load_run(**{"workdir": "absent"} | {name: value})
    dataset = jr.Dataset.from_arrays(data)
    plain = {"model": "linear", "dataset": dataset, "threat": jr.Linf(0.1), "batch_size": 8, "epochs": 1}
    for name in (*arguments.FIELDS, "dataset", "loss", "model_options", "remedy_options", "nothing"):
        found[f"fit({name})"] = lambda value, name=name: jr.fit(**plain | {name: value})
    return found


def of_the_library(folder: pathlib.Path) -> Iterator[Case]:
    """Every argument of the public functions given anything."""
    del folder
    for name, call in calls().items():
        for number, value in enumerate(ANYTHING):
            yield Case("library", f"{name} anything {number}", lambda call=call, value=value: call(value), False)


def cases(folder: pathlib.Path) -> Iterator[Case]:
    """All of them; `folder` for files."""
    for table in (of_files, of_environments, of_command_lines, of_the_library, of_fields):
        yield from table(folder)
