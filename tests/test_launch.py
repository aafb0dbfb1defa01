"""The scripts under launch/: what they would run, what they refuse, and when they start again; no cluster, no cloud."""

import os
import signal
import subprocess
import time

import pytest
from launch_scripts import LAUNCH, SLICE, SPOT, TRAINER, run, write_program

STUDY = ("--study", "configs/studies/digits.py", "--workdir", "runs/with space")
QUOTED = """--config configs/digits.py --workdir 'runs/with space' '--config.eval.attacks=('\\''clean'\\'',)'"""


def scripts():
    return sorted(path.name for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))


@pytest.mark.parametrize("script", scripts())
def test_scripts_parse(script):
    assert subprocess.run(("bash", "-n", LAUNCH / script)).returncode == 0


@pytest.mark.parametrize(
    "script", ["tpu_vm.sh", "gpu_node.sh", "slurm.sbatch", "slurm_array.sbatch", "slurm_study.sbatch"]
)
def test_help(script):
    done = run(script, "--help")
    assert done.returncode == 0 and "--dry-run" in done.stdout and not done.stderr
    assert os.access(LAUNCH / script, os.X_OK) == (script.endswith(".sh"))


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("tpu_vm.sh", (), "no command"),
        ("tpu_vm.sh", ("destroy", *SLICE), "'destroy' is no command"),
        ("tpu_vm.sh", ("delete", "--zone", "us-central1-a"), "--name = ''"),
        ("tpu_vm.sh", ("delete", "--name", "a b", "--zone", "us-central1-a"), "--name = 'a b'"),
        ("tpu_vm.sh", ("delete", "--name", "x; reboot", "--zone", "us-central1-a"), "--name = 'x; reboot'"),
        ("tpu_vm.sh", ("delete", "--name", "x"), "--zone = ''"),
        ("tpu_vm.sh", ("create", *SLICE, "--type", "big"), "--type = 'big'"),
        ("tpu_vm.sh", ("create", *SLICE, "--type", "v5p-8", "--price", "cheap"), "--price = 'cheap'"),
        ("tpu_vm.sh", ("install", *SLICE, "--nfs", "a:/b;c"), "--nfs = 'a:/b;c'"),
        ("tpu_vm.sh", ("run", *SLICE, *SPOT), "no trainer arguments"),
        ("tpu_vm.sh", ("run", *SLICE, *SPOT, "--", "--config", "c.py"), "--workdir is missing"),
        ("tpu_vm.sh", ("run", *SLICE, "--type", "v5p-8", "--spot", "--", *TRAINER), "give --nfs"),
        ("tpu_vm.sh", ("run", *SLICE, "--type", "v5litepod-16", "--", *TRAINER), "give --nfs"),
        ("tpu_vm.sh", ("status", *SLICE, "--nmae", "x"), "'--nmae' is no option"),
        ("gpu_node.sh", (), "no trainer arguments"),
        ("gpu_node.sh", ("--gpus", "all", "--", *TRAINER), "--gpus = 'all'"),
        ("gpu_node.sh", ("--", "--config", "c.py"), "--workdir is missing"),
        ("gpu_node.sh", ("--config", "c.py"), "'--config' is no option"),
        ("slurm.sbatch", (), "no trainer arguments"),
        ("slurm.sbatch", ("--config", "c.py"), "--workdir is missing"),
        ("slurm.sbatch", TRAINER, "this is no SLURM job"),
        ("slurm_array.sbatch", (), "give one file"),
        ("slurm_array.sbatch", ("nowhere.txt",), "'nowhere.txt' is no file"),
        ("slurm_study.sbatch", STUDY[2:], "--study is missing"),
        ("slurm_study.sbatch", ("--dry-run", *STUDY), "is no number of array tasks"),
        ("slurm_study.sbatch", ("--dry-run", "2", *STUDY[:2]), "--workdir is missing"),
        ("slurm_study.sbatch", (*STUDY, "--shard=1/2"), "leave it out"),
        ("slurm_study.sbatch", STUDY, "this is no array job"),
    ],
)
def test_wrong_arguments_end_in_one_line(script, arguments, message):
    done = run(script, *arguments, SLURM_JOB_ID="")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ") and message in done.stderr


def test_dry_runs_print_the_commands_and_run_nothing(tmp_path):
    for program in ("gcloud", "srun", "python"):
        write_program(tmp_path / program, f"touch {tmp_path}/ran; exit 1\n")
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    tpu = run("tpu_vm.sh", "run", *SLICE, *SPOT, "--price", "1.20", "--dry-run", "--", *TRAINER, **path)
    assert tpu.returncode == 0
    assert tpu.stdout.splitlines()[0] == (
        "gcloud compute tpus queued-resources create at-1 --node-id=at-1 --zone=us-central1-a "
        "--accelerator-type=v5litepod-16 --spot --runtime-version=v2-alpha-tpuv5-lite --quiet"
    )
    assert "16 chips, spot" in tpu.stderr and "19.20 USD an hour" in tpu.stderr and "you delete it" in tpu.stderr

    gpu = run("gpu_node.sh", "--gpus", "0,1", "--dry-run", "--", *TRAINER, JAX_PLATFORMS="", **path)
    assert gpu.stdout == (
        "env JAX_PLATFORMS=cuda,cpu CUDA_VISIBLE_DEVICES=0,1 python -m jaxrobust.main "
        f"{QUOTED} 2>&1 | tee -a 'runs/with space.log'\n"
    )

    for given in (("--dry-run",), ()):
        slurm = run("slurm.sbatch", *given, *TRAINER, DRY_RUN="" if given else "1", **path)
        assert slurm.stdout.splitlines()[-1].startswith("srun ") and slurm.stdout.rstrip().endswith(QUOTED)
        assert "#SBATCH --requeue" in slurm.stdout

    runs = tmp_path / "runs.txt"
    runs.write_text(f"# two runs\n\n{QUOTED}\n--config=c.py --workdir=b\n")
    array = run("slurm_array.sbatch", "--dry-run", runs, **path)
    assert "--array=1-2 " in array.stdout and QUOTED in array.stdout and "--workdir=b" in array.stdout

    study = run("slurm_study.sbatch", "--dry-run", "2", *STUDY, **path).stdout
    trained = [line for line in study.splitlines() if line.startswith("srun ")]
    quoted = "-m jaxrobust study --study configs/studies/digits.py --workdir 'runs/with space' --"
    assert [line.partition(quoted)[2] for line in trained] == ["shard 1/2", "shard 2/2", "summarise"]
    assert "--array=1-2 " in study and "--dependency=afterany:$job " in study
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n\n", "holds no run"),
        ("--config c.py\n", "run 1 has no --workdir"),
        ("--workdir a\n--config d.py --workdir=a\n", "runs 1 and 2 share --workdir a"),
        ("--workdir 'a\n", "quotes do not match"),
    ],
)
def test_array_file_is_checked_before_anything_is_submitted(tmp_path, text, message):
    file = tmp_path / "runs.txt"
    file.write_text(text)
    done = run("slurm_array.sbatch", "--dry-run", file)
    assert done.returncode == 2 and message in done.stderr


# Programs of SLURM that record their calls; srun ends as $CODE says.
def slurm(tmp_path, code, *, state="RUNNING", restarts=0, report="", arguments=TRAINER, script="slurm.sbatch", **more):
    write_program(
        tmp_path / "srun", f'printf "%s\\n" "$@" >"{tmp_path}/srun.called"; echo "{report}" >&2; exit {code}\n'
    )
    write_program(tmp_path / "squeue", f"echo {state}\n")
    write_program(tmp_path / "scontrol", f'echo "$*" >>"{tmp_path}/scontrol.called"\n')
    done = run(
        script,
        *arguments,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        PYTHON="bash",
        SLURM_JOB_ID="7",
        SLURM_RESTART_COUNT=str(restarts),
        **{"JAX_PLATFORMS": "cpu"} | more,
    )
    called = tmp_path / "scontrol.called"
    return done, called.read_text() if called.exists() else ""


@pytest.mark.parametrize(
    ("code", "options", "exit_code", "requeued"),
    [
        (0, {}, 0, False),
        (1, {}, 1, False),
        (2, {}, 2, False),
        (143, {}, 143, True),
        (134, {}, 134, True),
        (134, {"report": "srun: error: n1: task 0: Exited with exit code 2"}, 2, False),
        (134, {"report": "srun: error: n1: task 0: Exited with exit code 134"}, 134, True),
        (143, {"state": "CANCELLED"}, 143, False),
        (143, {"state": "COMPLETING"}, 143, False),
        (143, {"restarts": 100}, 143, False),
    ],
)
def test_slurm_requeues_what_another_start_can_mend(tmp_path, code, options, exit_code, requeued):
    done, scontrol = slurm(tmp_path, code, **options)
    assert done.returncode == exit_code
    assert scontrol == ("requeue 7\n" if requeued else "")
    assert (tmp_path / "srun.called").read_text().endswith("\n".join(TRAINER) + "\n")


def test_slurm_array_runs_the_line_of_its_index(tmp_path):
    runs = tmp_path / "runs.txt"
    runs.write_text(f"--workdir=a\n# second\n{QUOTED}\n")
    done, _ = slurm(tmp_path, 0, script="slurm_array.sbatch", arguments=(runs,), SLURM_ARRAY_TASK_ID="2")
    assert done.returncode == 0
    assert (tmp_path / "srun.called").read_text().endswith("\n".join(TRAINER) + "\n")
    done, _ = slurm(tmp_path, 0, script="slurm_array.sbatch", arguments=(runs,), SLURM_ARRAY_TASK_ID="3")
    assert done.returncode == 2 and "holds 2 run(s)" in done.stderr


@pytest.mark.parametrize(("code", "exit_code", "requeued"), [(0, 0, False), (1, 1, False), (143, 143, True)])
def test_slurm_study_trains_the_part_of_its_task_and_requeues_that_task_alone(tmp_path, code, exit_code, requeued):
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3"}
    array |= {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "3"}
    done, scontrol = slurm(tmp_path, code, script="slurm_study.sbatch", arguments=STUDY, **array)
    assert done.returncode == exit_code
    assert scontrol == ("requeue 7_2\n" if requeued else "")
    called = (tmp_path / "srun.called").read_text().splitlines()
    assert called[-9:] == ["-m", "jaxrobust", "study", *STUDY, "--shard", "2/3"]


def test_slurm_study_writes_the_page_in_a_job_without_gpus(tmp_path):
    done, _ = slurm(tmp_path, 0, script="slurm_study.sbatch", arguments=(*STUDY, "--summarise"), JAX_PLATFORMS="")
    assert done.returncode == 0
    assert (tmp_path / "srun.called").read_text().endswith("\n".join((*STUDY, "--summarise")) + "\n")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"SLURM_ARRAY_TASK_MIN": "2", "SLURM_ARRAY_TASK_MAX": "2", "SLURM_ARRAY_TASK_COUNT": "1"}, "has to be 1-N"),
        ({"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "5", "SLURM_ARRAY_TASK_COUNT": "3"}, "has to be 1-N"),
        (
            {f"SLURM_ARRAY_TASK_{name}": "1" for name in ("MIN", "MAX", "COUNT")} | {"SLURM_JOB_NUM_NODES": "2"},
            "on one node",
        ),
    ],
)
def test_slurm_study_refuses_arrays_that_are_not_its_parts(tmp_path, given, message):
    done, _ = slurm(tmp_path, 0, script="slurm_study.sbatch", arguments=STUDY, SLURM_ARRAY_TASK_ID="1", **given)
    assert done.returncode == 2 and message in done.stderr and not (tmp_path / "srun.called").exists()


def gpu_node(tmp_path, codes, *options):
    """Runs gpu_node.sh with a trainer that ends with one code after the other; returns it and the number of starts."""
    starts = tmp_path / "starts"
    codes = " ".join(map(str, codes))
    trainer = write_program(
        tmp_path / "trainer", f'codes=({codes}); echo >>"{starts}"; exit "${{codes[$(wc -l <"{starts}") - 1]}}"\n'
    )
    arguments = ("--python", trainer, "--wait", "0", "--log", tmp_path / "the log", *options, "--", *TRAINER)
    return run("gpu_node.sh", *arguments, JAX_PLATFORMS="cpu"), len(starts.read_text())


@pytest.mark.parametrize(
    ("codes", "options", "exit_code", "starts"),
    [
        ((0,), (), 0, 1),
        ((1, 0), (), 1, 1),
        ((2, 0), (), 2, 1),
        ((137, 134, 0), (), 0, 3),
        ((9, 9, 9), ("--max-restarts=1",), 9, 2),
    ],
)
def test_gpu_node_starts_again_after_crashes_alone(tmp_path, codes, options, exit_code, starts):
    done, started = gpu_node(tmp_path, codes, *options)
    assert (done.returncode, started) == (exit_code, starts)
    assert (tmp_path / "the log").read_text() == done.stdout


def test_gpu_node_passes_sigterm_on_and_does_not_start_again(tmp_path):
    ready = tmp_path / "ready"
    trainer = write_program(
        tmp_path / "trainer", f'trap "echo saved; exit 143" TERM; touch "{ready}"; while :; do sleep 0.05; done\n'
    )
    process = subprocess.Popen(
        ("bash", LAUNCH / "gpu_node.sh", "--python", trainer, "--log", tmp_path / "log", "--", *TRAINER),
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
    )
    while not ready.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 143
    assert output.count("gpu_node.sh: start") == 1 and "saved" in output
