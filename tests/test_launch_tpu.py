"""tpu_vm.sh against a recorded cloud: what it creates, deletes and starts, and when again."""

import os
import re
import time

import pytest
from launch_scripts import SLICE, SPOT, TRAINER, run, write_program

# A gcloud that records its calls. Its answers come line by line from files named after what is asked; the last stays.
GCLOUD = r"""
printf '%s\n' "$*" >>"$FAKE/calls"
answer() {
  local line
  line=$(head -n 1 "$FAKE/$1")
  (($(wc -l <"$FAKE/$1") == 1)) || sed -i 1d "$FAKE/$1"
  [[ $line != NOT_FOUND ]] || { echo "ERROR: (gcloud) NOT_FOUND: no such resource" >&2; exit 1; }
  [[ $line != LOGIN ]] || { echo "ERROR: (gcloud) your login has expired" >&2; exit 1; }
  printf '%s\n' "${line// /$'\t'}"
}
case "$*" in
  *"queued-resources describe"*) answer queue ;;
  *"tpu-vm describe"*) answer node ;;
  *trainer=absent*) answer trainer ;;
esac
"""


def cloud(
    tmp_path, command, *options, queue=("NOT_FOUND",), node=("READY",), trainer=("trainer=absent",), given=TRAINER
):
    """Runs tpu_vm.sh against the recorded cloud; returns it and the calls that are not questions, as short words."""
    write_program(tmp_path / "gcloud", GCLOUD)
    for name, lines in (("queue", queue), ("node", node), ("trainer", trainer), ("calls", ())):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    done = run(
        "tpu_vm.sh",
        *(command, *SLICE, *options, "--poll", "0.01", "--", *given),
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        FAKE=str(tmp_path),
    )
    calls = []
    for line in (tmp_path / "calls").read_text().splitlines():
        for word, pattern in (
            ("create", r"(queued-resources|tpu-vm) create at-1 "),
            ("delete", r"(queued-resources|tpu-vm) delete at-1 "),
            ("install", r"uv pip install"),
            ("start", r"jaxrobust\.main"),
        ):
            if re.search(pattern, line):
                calls.append(word)
    assert all("at-1" in line for line in (tmp_path / "calls").read_text().splitlines())
    return done, calls


FIRST = ["create", "install", "start"]


def test_spot_slice_is_created_again_after_a_preemption_and_the_run_continues(tmp_path):
    done, calls = cloud(
        tmp_path,
        "run",
        *SPOT,
        "--yes",
        queue=("NOT_FOUND", "WAITING_FOR_RESOURCES", *("ACTIVE",) * 4, "SUSPENDED SERVICE", "NOT_FOUND", "ACTIVE"),
        trainer=(
            *("trainer=absent", "trainer=none trainer=none", "trainer=running trainer=running"),
            *("trainer=running", "trainer=absent", "trainer=none", "trainer=running", "trainer=exit-0 trainer=exit-0"),
        ),
    )
    assert done.returncode == 0, done.stderr
    assert calls == [*FIRST, "delete", *FIRST]  # and no deletion at the end that nobody asked for
    assert "goes on costing; delete it:" in done.stderr


@pytest.mark.parametrize(
    ("states", "exit_code", "starts"),
    [
        (("none", "exit-0 exit-0"), 0, 1),
        (("none", "exit-0 exit-134", "exit-0 exit-0"), 0, 2),
        (("none", "exit-143 exit-143", "running", "exit-0"), 0, 2),  # a host was rebooted
        (("none", "exit-143-asked exit-143-asked"), 143, 1),
        (("none", "exit-2 exit-134"), 2, 1),
        (("none", "exit-1 exit-1"), 1, 1),
        (("none", "exit-137"), 1, 3),  # two restarts, and then no more
    ],
)
def test_what_the_trainers_end_means(tmp_path, states, exit_code, starts):
    states = [" ".join(f"trainer={word}" for word in state.split()) for state in states]
    done, calls = cloud(tmp_path, "run", *SPOT, "--yes", "--max-restarts=2", queue=("ACTIVE",), trainer=states)
    assert (done.returncode, calls) == (exit_code, ["start"] * starts), done.stderr


def test_delete_when_done_deletes_after_success_and_after_failure(tmp_path):
    for state, code in (("exit-0", 0), ("exit-2", 2)):
        done, calls = cloud(
            tmp_path,
            *("run", *SPOT, "--yes", "--delete-when-done"),
            queue=("ACTIVE",),
            trainer=("trainer=none", f"trainer={state}"),
        )
        assert (done.returncode, calls) == (code, ["start", "delete"])


def test_nothing_is_created_or_deleted_unasked(tmp_path):
    for command in ("run", "create", "delete"):
        options = () if command == "delete" else SPOT
        done, calls = cloud(tmp_path, command, *options)
        assert done.returncode == 2 and "there is no terminal; add --yes" in done.stderr and not calls
    # Deleted by someone else while the run was watched.
    queue = ("NOT_FOUND", "ACTIVE", "NOT_FOUND")
    done, calls = cloud(tmp_path, "run", *SPOT, "--yes", queue=queue, trainer=("trainer=running",))
    assert done.returncode == 1 and calls == ["create"] and "not created again" in done.stderr
    # Stopped by someone else: its disks are there, and the decision is theirs.
    for queue, node in (("ACTIVE", "STOPPED"), ("SUSPENDED USER", "READY")):
        done, calls = cloud(tmp_path, "run", *SPOT, "--yes", "--delete-when-done", queue=(queue,), node=(node,))
        assert done.returncode == 1 and not calls and "by somebody" in done.stderr
    # No answer is not an absence.
    done, calls = cloud(tmp_path, "run", *SPOT, "--yes", queue=("LOGIN",))
    assert done.returncode == 2 and not calls and "your login has expired" in done.stderr
    # On demand, a slice that is gone is not bought again.
    options = ("--type", "v5litepod-8", "--yes")
    done, calls = cloud(tmp_path, "run", *options, queue=("ACTIVE",), node=("TERMINATED",))
    assert done.returncode == 1 and not calls


def test_direct_slices_go_through_tpu_vm_commands(tmp_path):
    done, calls = cloud(tmp_path, "create", "--type", "v4-8", "--direct", "--yes")
    assert done.returncode == 0 and calls == ["create"]
    assert "tpu-vm create at-1 " in (tmp_path / "calls").read_text()
    done, calls = cloud(tmp_path, "delete", "--direct", "--yes")
    assert done.returncode == 0 and "tpu-vm delete at-1 " in (tmp_path / "calls").read_text()


def test_commands_for_the_hosts_do_what_they_say(tmp_path):
    """start, status and stop on a host that is this machine, with another home and a trainer that waits for SIGTERM."""
    home = tmp_path / "home"
    (home / "jaxrobust" / "src").mkdir(parents=True)
    (home / "jaxrobust" / "installed").touch()
    write_program(
        home / "jaxrobust" / "venv" / "bin" / "python",
        'trap "exit 143" TERM; printf "%s\\n" "$JAX_PLATFORMS" "$@"; while :; do sleep 0.02; done\n',
    )
    write_program(
        tmp_path / "gcloud",
        'for word in "$@"; do case $word in --command=*) HOME="$FAKE/home" bash -c "${word#*=}"; exit ;; esac; done\n',
    )
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FAKE": str(tmp_path)}

    def status():
        done = run("tpu_vm.sh", "status", *SLICE, **environment)
        return done.stdout.strip()

    def until(text):
        deadline = time.monotonic() + 100
        while status() != text and time.monotonic() < deadline:
            time.sleep(0.05)
        assert status() == text

    assert status() == "none"
    try:
        assert run("tpu_vm.sh", "start", *SLICE, "--", *TRAINER, **environment).returncode == 0
        until("running")
        twice = run("tpu_vm.sh", "start", *SLICE, "--", *TRAINER, **environment)
        assert twice.returncode != 0 and "the trainer is running" in twice.stdout
        log = home / "jaxrobust" / "log"
        while len(log.read_text().splitlines()) < 3 + len(TRAINER):
            time.sleep(0.02)
        assert log.read_text().splitlines() == ["tpu,cpu", "-m", "jaxrobust.main", *TRAINER]
    finally:
        assert run("tpu_vm.sh", "stop", *SLICE, **environment).returncode == 0
    until("exit-143-asked")
