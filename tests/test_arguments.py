"""What is wrong with a command's arguments is said in one line."""

import pathlib

import pytest

from jaxrobust.commands import arguments
from jaxrobust.errors import FieldError, UserError


def _parser():
    parser = arguments.Parser("jaxrobust compare", "What it does.\n\nAt length.")
    parser.add_out("RUN/compare")
    return parser


def test_help_is_the_first_line_with_the_defaults(capsys):
    with pytest.raises(SystemExit):
        _parser().parse_args(["--help"])
    shown = capsys.readouterr().out
    assert "python -m jaxrobust compare" in shown and "What it does." in shown and "At length" not in shown
    assert "RUN/compare" in shown
    assert _parser().parse_args(["--out", "a/b"]).out == pathlib.Path("a/b") and _parser().parse_args([]).out is None


@pytest.mark.parametrize("given", [["--ou", "a"], ["more"], ["--out"]])
def test_what_is_wrong_names_the_help(given):
    with pytest.raises(UserError, match=r"python -m jaxrobust compare --help") as raised:
        _parser().parse_args(given)
    assert "\n" not in str(raised.value)


def test_the_folder_is_made_or_the_option_is_named(tmp_path):
    folder = tmp_path / "new" / "folder"
    with arguments.writing_to(folder):
        (folder / "file").write_text("content")
    with pytest.raises(FieldError, match="--out"), arguments.writing_to(folder / "file" / "x"):
        pass
    with pytest.raises(FieldError, match="--out"), arguments.writing_to(folder):
        (folder / "missing" / "file").write_text("content")
