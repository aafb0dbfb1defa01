"""One command line: its listing costs nothing, a command's options are read as before, errors are one line."""

import importlib
import pathlib
import pkgutil
import subprocess
import sys
import tomllib

import pytest
import tiny_config
from absl import flags

import jaxrobust
from jaxrobust import commands, main as main_module
from jaxrobust.commands import front_end
from jaxrobust.config.fields import FIELDS
from jaxrobust.errors import FieldError, UserError
from jaxrobust.explanations import explaining

ROOT = pathlib.Path(__file__).parent.parent
TINY = tiny_config.__file__


def parser():
    made = front_end.Parser("compare", "What it does.\n\nAt length.")
    made.add_number("--step", int, 0, "of a checkpoint")
    made.add_argument("--attack", action="append")
    made.add_switch("follow", "wait")
    made.add_switch("search", "do not search", default=True)
    made.add_out("RUN/compare")
    return made


def with_config():
    made = front_end.Parser("train", "What it does.")
    made.add_argument("--workdir")
    made.add_config()
    return made


def test_all_modules_can_be_imported_in_one_process():
    """None of them defines a flag: two that define the same one could not be imported together."""
    for module in pkgutil.walk_packages(jaxrobust.__path__, "jaxrobust."):
        importlib.import_module(module.name)
    assert not [name for name in flags.FLAGS.flags_by_module_dict() if name.startswith("jaxrobust")]


def test_help_and_wrong_commands_need_neither_jax_nor_tensorflow():
    program = """
import sys
for name in ("jax", "numpy", "tensorflow", "ml_collections", "absl"):
    sys.modules[name] = None
from jaxrobust.commands import front_end
print([front_end.main([word]) for word in ("--help", "comprae")], front_end.main([]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *listing, codes = done.stdout.splitlines()
    assert codes == "[0, 2] 2"
    assert {line.split()[0] for line in listing if line.startswith("  ")} == set(front_end.COMMANDS)
    wrong, nothing = done.stderr.splitlines()
    assert wrong == "error: 'comprae' is no command (did you mean compare?); jaxrobust --help lists them"
    assert nothing.startswith("error: there is no command; give one of train, evaluate, ")


@pytest.mark.parametrize("name", front_end.COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        front_end.main([name, "--help"])
    shown = capsys.readouterr().out
    assert f"jaxrobust {name}" in shown and "options:" in shown


def test_the_help_of_training_says_how_to_see_the_fields(capsys):
    with pytest.raises(SystemExit):
        front_end.main(["train", "--help"])
    shown = capsys.readouterr().out
    assert "--workdir" in shown and "jaxrobust fields [PATTERN]" in shown and "--config.FIELD=VALUE" in shown


def test_the_console_script_is_the_module(tmp_path):
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["jaxrobust"]
    module, _, function = script.partition(":")
    assert getattr(importlib.import_module(module), function) is commands.run
    command = [sys.executable, "-m", "jaxrobust", "report", str(tmp_path / "absent")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "no such folder" in done.stderr


@pytest.mark.parametrize(
    ("given", "command"),
    [
        (["--config", "c.py"], ["train", "--config", "c.py"]),
        (["--mode", "audit", "--workdir", "x"], ["audit", "--workdir", "x"]),
        (["--workdir=x", "-mode=evaluate", "--follow"], ["evaluate", "--workdir=x", "--follow"]),
    ],
)
def test_the_mode_of_main_is_the_command(monkeypatch, given, command):
    called = []
    monkeypatch.setattr(sys, "argv", ["main", *given])
    monkeypatch.setattr(commands, "run", called.append)
    main_module.run()
    assert called == [command]


@pytest.mark.parametrize("given", [["--mode", "test"], ["--mode"], ["--mode="]])
def test_a_wrong_mode_is_named(monkeypatch, capsys, given):
    monkeypatch.setattr(sys, "argv", ["main", *given])
    with pytest.raises(SystemExit, match="2"):
        main_module.run()
    assert capsys.readouterr().err.startswith("error: --mode = ")


@pytest.mark.parametrize("shown", [["--help"], ["train", "--help"], ["fields"]])
def test_a_reader_that_leaves_early_ends_it_quietly(shown):
    """As `jaxrobust --help | head -1` does."""
    command = [sys.executable, "-u", "-m", "jaxrobust", *shown]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(timeout=120) in (0, 1) and said == ""  # argparse itself passes over it


def test_what_a_command_calls_otherwise_is_named_by_its_option():
    with pytest.raises(FieldError, match=r"^--step = 7: is absent; there are 1, 2$"), front_end.naming(step="--step"):
        raise FieldError("step", 7, "is absent", "there are 1, 2")
    assert parser().flags["step"] == "--step" and parser().flags["follow"] == "--follow"


def test_a_field_that_the_model_does_not_have_is_refused(tmp_path):
    """The defaults of others are left alone, and so is what a file sets for its own model."""
    given = ["--config", TINY, "--config.model.name=resnet18"]
    assert with_config().parse(given).config.values.model.width == 4
    with pytest.raises(FieldError, match=r"^model.depth = 34: resnet18 has no such option; .* or take wide_resnet"):
        with_config().parse([*given, "--config.model.depth=34"])
    (tmp_path / "linear.py").write_text(
        "from jaxrobust.config import default\n"
        "def get_config():\n    config = default()\n    config.model.name, config.model.width = 'linear', 3\n"
        "    return config\n"
    )
    with pytest.raises(FieldError, match=r"^model.width = 3: linear has no such option; .*\(its own: none\)"):
        with_config().parse(["--config", str(tmp_path / "linear.py")])


def test_options_are_read_in_every_form_that_absl_took():
    for given in (["--step", "3"], ["--step=3"], ["-step", "3"], ["-step=3"]):
        assert parser().parse(given).step == 3
    for given, follow in ((["--follow"], True), (["--nofollow"], False), (["--follow=false"], False), ([], False)):
        assert parser().parse(given).follow is follow
    assert parser().parse(["--nosearch"]).search is False and parser().parse([]).search is True
    assert parser().parse(["--out", "a/b"]).out == pathlib.Path("a/b") and parser().parse([]).out is None
    assert parser().parse(["--attack", "a", "--attack=b"]).attack == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--ou", "a"], "--ou: no such option (did you mean --out"),
        (["more"], "'more' is no option; write --option=value"),
        (["--out"], "--help shows the options"),
        (["--step", "-1"], "--step = -1: is no whole number from 0 to"),
        (["--step", "x"], "--step = 'x': is no whole number from 0 to"),
        (["--follow=maybe"], "neither true nor false"),
        (["--config", "c.py"], "--config has no effect on jaxrobust compare"),
        (["--config.train.epochs=3"], "--config.train.epochs has no effect"),
    ],
)
def test_what_is_wrong_is_one_line(given, words):
    with pytest.raises(UserError) as raised:
        parser().parse(given)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_the_config_with_its_overrides():
    """Among other options, before and after --config, with and without =, repeated, and booleans without a value."""
    words = f"""
        --config.train.epochs 9 --workdir x --config {TINY} --config.eval.attacks=clean --config.eval.attacks=fgsm
        --config.attack.random_start=false --noconfig.train.overfitting_check --config.posthoc.tau=1
        -config.data.pad=2
    """
    given = with_config().parse(words.split())
    assert given.workdir == "x" and given.config.file == pathlib.Path(TINY)
    assert given.config.overrides == {
        "train.epochs": 9,
        "eval.attacks": ("clean", "fgsm"),
        "attack.random_start": False,
        "train.overfitting_check": False,
        "posthoc.tau": 1.0,
        "data.pad": 2,
    }
    config = given.config.required()
    assert (config.train.epochs, config.eval.attacks, config.data.pad) == (9, ("clean", "fgsm"), 2)
    assert config.train.batch_size == tiny_config.get_config().train.batch_size
    with pytest.raises(AttributeError):
        config.train.epoch = 1


@pytest.mark.parametrize(
    "given, message",
    [
        ("threat.eps_255=abc", r"^threat.eps_255 = 'abc': is not a number; give one, for example 8.0$"),
        ("threat.eps=0x1", r"^threat.eps = '0x1': is not a number; give one"),
        ("train.epochs=1.5", r"^train.epochs = '1.5': is not a whole number; give one"),
        ("train.epochs", r"Missing value .*; write --config.FIELD=VALUE"),
        ("train.epochs=0", r"^train.epochs = 0: must be from 1 to 1,000,000; give a value in this range$"),
    ],
)
def test_a_value_that_a_field_cannot_hold_is_refused_with_the_remedy(given, message):
    with pytest.raises(UserError, match=message):
        with_config().parse([f"--config.{given}"])


def test_options_on_results_have_no_effect_before_training(capsys):
    assert front_end.main(["explain", "--config", TINY, "--attack=pgd20"]) == 2
    assert capsys.readouterr().err == "error: --attack = 'pgd20': has no effect before training; leave it out\n"


def test_a_command_on_a_run_takes_overrides_alone():
    made = front_end.Parser("posthoc", "What it does.")
    made.add_overrides()
    assert made.parse(["--config.posthoc.tau=1"]).config.overrides == {"posthoc.tau": 1.0}
    with pytest.raises(UserError, match="--config has no effect on jaxrobust posthoc"):
        made.parse(["--config", TINY])


def test_without_a_config_file_the_overrides_stand_alone():
    given = with_config().parse(["--config.train.epochs=9"])
    assert given.config.file is None and given.config.overrides == {"train.epochs": 9}
    assert given.config.values.train.epochs == 9
    with pytest.raises(UserError, match="--config is missing"):
        given.config.required()


def test_the_folder_is_made_or_the_option_is_named(tmp_path):
    folder = tmp_path / "new" / "folder"
    with front_end.writing_to(folder):
        (folder / "file").write_text("content")
    with pytest.raises(FieldError, match="--out"), front_end.writing_to(folder / "file" / "x"):
        pass
    with pytest.raises(FieldError, match="--out"), front_end.writing_to(folder):
        (folder / "missing" / "file").write_text("content")


@pytest.mark.parametrize("words", [("a_run",), ("--config", TINY)])
def test_what_is_explained_can_be_written_before_it_is_measured(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    for name in ("explain", "before_training"):
        monkeypatch.setattr(explaining, name, lambda *_, **__: pytest.fail("was measured"))
    for name in ("a_run", "runs"):
        pathlib.Path(name).write_text("no folder")
    for out in ([], ["--out", "a_run/x/y"]):
        assert front_end.main(["explain", *words, *out]) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert "cannot be written to" in error or "is not a folder" in error or "cannot be read" in error


def test_fields_are_listed_by_word_and_by_pattern(capsys):
    def listed(*pattern):
        assert front_end.main(["fields", *pattern]) == 0
        return capsys.readouterr().out

    whole = listed()
    assert all(f"\n{name} = {field.default!r}\n    {field.meaning}" in whole for name, field in FIELDS.items())
    assert "allowed: sgd | adamw" in whole and "allowed: 0 <= x < 1" in whole
    shown = listed("remedy.*.begin")
    assert [line.split(" = ")[0] for line in shown.splitlines() if " = " in line] == [
        "remedy.reweight.begin",
        "remedy.resample.begin",
        "remedy.dafa.begin",
    ]
    assert "threat.eps_255 = 8.0" in listed("eps_255") and "1/255" in listed("eps_255")
    assert "pixels on each side" in listed("random crop")
    assert front_end.main(["fields", "epoch_s"]) == 2
    assert "matches no field (did you mean" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 256])
@pytest.mark.parametrize(
    "command",
    [
        "train --config configs/digits.py --workdir",
        "evaluate --workdir",
        "audit --workdir",
        "report",
        "compare other",
        "compare a b --out",
        "explain",
        "explain a --out",
        "posthoc --remedy tau_norm --workdir",
        "posthoc --remedy tau_norm --workdir a --out",
        "weights --config configs/digits.py --import",
        "weights --config configs/digits.py --import a.npz --workdir",
        "weights --workdir a --export",
        "weights --export a.npz --workdir",
        "study --workdir a --study",
        "train --config",
    ],
)
def test_a_path_that_there_cannot_be_is_named_and_nothing_is_written(command, path, tmp_path, monkeypatch, capsys):
    configs = pathlib.Path(__file__).parents[1] / "configs"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(configs)
    assert front_end.main([*command.split(), path]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: ") and [*tmp_path.iterdir()] == [tmp_path / "configs"]
    assert command == "compare other" or any(word in said for word in ("is empty", "zero byte", "too long"))
