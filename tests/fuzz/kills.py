"""Kill every command at random moments until it ends, and compare all it leaves with what it leaves undisturbed.

    PYTHONPATH=. python tests/fuzz/kills.py [--kills 50] [--seed 0] [--only train,audit]

Each stage is run once undisturbed, when the order of the changes in its folder is noted, and then with kills: one of
these changes is drawn and waited for, and after a random part of the time to the next one a signal is sent, drawn too.
The same command is started again until it ends, as a process forked from this one, which saves the imports; those of a
study start as a user's do. It counts, by the change before and the signal, the kills and what was wrong after them:
other bits, files left over, more than one line of output, another exit code. It takes half an hour on two cores.
"""

import argparse
import collections
import contextlib
import io
import json
import os
import pathlib
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

TESTS = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))
CONFIG = ["--config", str(TESTS / "tiny_config.py"), "--config.train.epochs=2", "--config.eval.every_epochs=1"]
CONFIG += ["--config.model.name=linear", "--config.train.average_decay=0", "--config.eval.attacks=('clean','pgd2')"]
AUDIT = ["--config.audit.attack=pgd2", "--config.audit.matrix_attack=pgd2", "--config.audit.targets=1"]
AUDIT += ["--config.audit.masking=False"]
STAGES = {
    "train": ["train", *CONFIG, "--workdir", "run"],
    "evaluate": ["evaluate", "--workdir", "run", "--config.eval.attacks=('clean','pgd2','pgd3')"],
    "audit": ["audit", "--workdir", "run", *AUDIT],
    "report": ["report", "run"],
    "explain": ["explain", "run", "--examples", "100"],
    "export": ["weights", "--export", "exported.npz", "--workdir", "run"],
    "import": ["weights", "--import", "exported.npz", *CONFIG, "--workdir", "imported"],
    "posthoc": ["posthoc", "--workdir", "run", "--remedy", "tau_norm", "--config.posthoc.attack=pgd2"],
    "study": ["study", "--study", "study.py", "--workdir", "study", "--processes", "2"],
}
SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT, "2 INT": signal.SIGINT}
SIGNALS |= {"KILL all": signal.SIGKILL, "KILL child": signal.SIGKILL}  # of a study
TIMES = re.compile(r'"(seconds|images_per_second)": [\d.e+-]+|[\d.,]+ (ms|s|min|h|seconds|images/s)\b|[\d.]+</td></tr>')
PASSED_OVER = {".training", ".examples", "log.txt", "commit_success.txt"}  # locks, output, and a time


def start(arguments, folder, log) -> int:
    """Start the command in the folder as the leader of a process group; returns its process number."""
    if arguments[0] == "study":
        command = [sys.executable, "-m", "jaxrobust", *arguments]
        with open(log, "ab") as out:
            return subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, start_new_session=True).pid
    if process := os.fork():
        return process
    try:
        os.setsid()
        os.chdir(folder)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1), os.dup2(out, 2)
        from jaxrobust import commands

        signal.signal(signal.SIGINT, signal.default_int_handler)
        commands.run(arguments)
    except SystemExit as done:
        os._exit(done.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(99)


def changes(folder, seen: dict) -> list[str]:
    """The files that changed since the last call, numbers left out; `seen` is brought up to date."""
    found = {}
    for pattern in (
        "*.npz",
        ".*.npz.*",
        "*/*",
        "*/.*",
        "*/checkpoints/*",
        "*/examples/*",
        "*/explain/*",
        "study/runs/*/*",
    ):
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):
                about = path.lstat()
                found[str(path.relative_to(folder))] = (about.st_ino, about.st_size)
    new = [name for name in found if seen.get(name) != found[name]]
    seen.clear()
    seen.update(found)
    return [re.sub(r"\d+", "N", name.split("/", 1)[-1]) for name in new]


def begin(name, before, folder) -> None:
    """Copy what there is before a stage."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(before, folder)
    if name == "report":  # else it is there already, and nothing is written
        (folder / "run" / "report.html").unlink()


def watch(process, folder, until=lambda name: False) -> tuple[list, int | None]:
    """Wait for a change of such a name, or for the end: (seconds, name) of the changes, the exit code if it ended."""
    seen, line, began = {}, [(0.0, "start")], time.monotonic()
    changes(folder, seen)
    while True:
        ended, code = os.waitpid(process, os.WNOHANG)
        names = changes(folder, seen)
        line += [(time.monotonic() - began, name) for name in names]
        if ended:
            return line, os.waitstatus_to_exitcode(code)
        if any(map(until, ["start"] if len(line) == 1 else names)):
            return line, None
        if time.monotonic() - began > 580:
            os.killpg(process, signal.SIGKILL)
            raise TimeoutError(f"{folder}: no end")
        time.sleep(0.02)


def content(folder, into) -> dict:
    """As `read`, in a process of its own: the threads of JAX must not be there when the next one is forked."""
    if not (process := os.fork()):
        into.write_bytes(pickle.dumps(read(folder)))
        os._exit(0)
    if os.waitpid(process, 0)[1]:
        sys.exit(f"{folder} cannot be read")
    return pickle.loads(into.read_bytes())


def read(folder) -> dict:
    """What is in the folder, in a form that two runs have alike: arrays, text without times, scalars."""
    import numpy as np
    import orbax.checkpoint as ocp

    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "state" and "checkpoints" in name:
            import jax

            tree = ocp.PyTreeCheckpointer().restore(path)
            found |= {
                f"{name}{jax.tree_util.keystr(key)}": np.asarray(leaf).tobytes()
                for key, leaf in jax.tree_util.tree_leaves_with_path(tree)
            }
        elif "/state/" in name or path.is_dir() or path.name in PASSED_OVER:
            continue
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = {
                    key: TIMES.sub("TIME", str(of)) if of.dtype.kind == "U" else (of.dtype.str, of.tobytes())
                    for key, of in arrays.items()
                }
        elif "tensorboard" in name:
            found[f"{path.parent.relative_to(folder)}"] = scalars(path.parent)
        elif name.endswith("_CHECKPOINT_METADATA"):
            found[name] = sorted(json.loads(path.read_text()))
        else:
            found[name] = TIMES.sub("TIME", path.read_text(errors="replace"))
    return found


def scalars(folder) -> dict:
    """The steps and values of all tags of TensorBoard."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    with contextlib.redirect_stderr(io.StringIO()):
        events.Reload()
    tags = [tag for tag in events.Tags()["tensors"] if "per_second" not in tag]
    return {tag: sorted({(e.step, str(e.tensor_proto)) for e in events.Tensors(tag)}) for tag in tags}


def send(process, kind, chance) -> None:
    children = pathlib.Path(f"/proc/{process}/task/{process}/children").read_text().split() if "child" in kind else ()
    with contextlib.suppress(ProcessLookupError):
        if kind == "KILL all":
            os.killpg(process, SIGNALS[kind])
        for number in children if "child" in kind else (process,):
            os.kill(int(number), SIGNALS[kind])
        if kind == "2 INT":
            time.sleep(0.05 * chance.random())
            os.kill(process, signal.SIGINT)


def interrupted(name, before, after, timeline, kills, chance, counts, home) -> None:
    """Run a stage with that many kills, and count what came of them."""
    folder = home / "killed"
    begin(name, before, folder)
    log, kinds, done, told = home / "log.txt", [], 0, 0
    log.write_text("")
    gaps = collections.defaultdict(list)
    for (at, what), (then, _) in zip(timeline, [*timeline[1:], (timeline[-1][0] + 2, "")], strict=True):
        gaps[what].append(then - at)
    while True:
        what = chance.choice(sorted(gaps)) if done < kills else None
        kind = chance.choice([kind for kind in SIGNALS if name == "study" or kind != "KILL child"])
        process = start(STAGES[name], folder, log)
        line, code = watch(process, folder, lambda changed, what=what: changed == what)
        if code is None:
            time.sleep(chance.random() * chance.choice(gaps[what]))
            send(process, kind, chance)
            _, code = watch(process, folder)
            told, said = log.stat().st_size, log.read_bytes()[told:].decode(errors="replace")
            done += 1
            key = (name, what, kind)
            kinds.append(key)
            counts[key]["kills"] += 1
            number = -SIGNALS[kind] if "KILL" in kind else 128 + SIGNALS[kind]
            if code not in (0, 2 if "holds a run already" in said else 0, number, -SIGNALS[kind]) and (kind, code) != (
                "KILL child",
                1,
            ):
                counts[key][f"exit code {code}"] += 1
            if "Traceback" in said or ("error:" in said and "holds a run already" not in said) or 'File "' in said:
                counts[key]["wrong words"] += 1
                print(f"{key}: {said}")
            print(f"  {what}, {kind}: {code} after {line[-1][0]:.1f} s: {said.strip().splitlines()[-1:]}", flush=True)
            continue
        if done >= kills or what is None:
            break
        done, told = done + 1, log.stat().st_size  # the moment did not come again: a stage that is done is begun anew
        begin(name, before, folder)
    if code and "holds a run already" not in log.read_text():  # one killed when all was done
        print(f"{name} ended with {code}: {log.read_text()}")
    wanted, found = content(after, home / "content"), content(folder, home / "content")
    lost, more = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    other = [path for path in wanted.keys() & found.keys() if wanted[path] != found[path]]
    if lost or more or other:
        kept = home / f"wrong-{name}-{time.time():.0f}"
        folder.rename(kept)
        print(f"{name} after {kinds}: lost {sorted(lost)}, more {sorted(more)}, other {sorted(other)}; see {kept}")
        for key in kinds:
            counts[key]["not the same"] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--each", type=int, default=3, help="kills between start and end of a stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(STAGES))
    parser.add_argument("--home", type=pathlib.Path, default=None, help="folder of the undisturbed runs, to use again")
    given = parser.parse_args()
    home = given.home or pathlib.Path(tempfile.mkdtemp())
    home.mkdir(parents=True, exist_ok=True)
    print(f"seed {given.seed}, in {home}", flush=True)
    os.environ |= {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    import clu.metric_writers  # noqa: F401
    import small_study

    import jaxrobust.commands.jobs  # noqa: F401
    from jaxrobust.commands import front_end

    for command in front_end.COMMANDS:
        __import__(f"jaxrobust.commands.{command}")
    before = home / "begin"
    before.mkdir(exist_ok=True)
    small_study.declare(before / "study.py")
    chance, counts = random.Random(given.seed), collections.defaultdict(collections.Counter)
    stages, timelines = {}, {}
    names = given.only.split(",")
    for name, arguments in STAGES.items():
        if not {*STAGES}.difference(stages).intersection(names):
            break
        folder, timeline = home / name, home / f"{name}.json"
        if not timeline.exists():
            begin(name, before, folder)
            line, code = watch(start(arguments, folder, home / "log.txt"), folder)
            if code:
                sys.exit(f"{name} ended with {code}: {(home / 'log.txt').read_text()}")
            timeline.write_text(json.dumps(line))
        stages[name], timelines[name] = (before, folder), json.loads(timeline.read_text())
        print(f"{name}: {timelines[name][-1][0]:.0f} s to the last of {len(timelines[name])} changes", flush=True)
        before = folder
    for round_ in range(10**6):
        if sum(counter["kills"] for counter in counts.values()) >= given.kills:
            break
        name = names[round_ % len(names)]
        print(f"{name}:", flush=True)
        interrupted(name, *stages[name], timelines[name], given.each, chance, counts, home)
    for (name, what, kind), counter in sorted(counts.items()):
        print(f"{name:9} {what:45} {kind:9} {dict(counter)}")


if __name__ == "__main__":
    main()
