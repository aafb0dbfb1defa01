import json
import multiprocessing
import os
import stat

import pytest

from jaxrobust import files
from jaxrobust.errors import FieldError, UserError


def test_write_replaces_the_whole_file(tmp_path):
    path = tmp_path / "x.json"
    files.write_atomically(path, "a long first version")
    files.write_atomically(path, "short")
    assert path.read_text() == "short" and list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    files.write_atomically(path, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_written_files_have_ordinary_permissions(tmp_path):
    files.write_atomically(tmp_path / "ours", "")
    (tmp_path / "plain").write_text("")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_append_adds_each_key_once(tmp_path):
    path = tmp_path / "r.jsonl"
    assert files.append_record(path, {"step": 1, "attack": "clean", "n": 5}, ("step", "attack"))
    assert files.append_record(path, {"step": 1, "attack": "fgsm", "n": 4}, ("step", "attack"))
    assert not files.append_record(path, {"step": 1, "attack": "clean", "n": 6}, ("step", "attack"))
    assert [record["n"] for record in files.read_records(path)] == [5, 4]


@pytest.mark.parametrize("torn", ['{"step": 2, "n"', '{"step": 2}'])
def test_torn_last_line_is_neither_read_nor_kept(tmp_path, torn):
    """A line counts once its newline is there."""
    path = tmp_path / "r.jsonl"
    path.write_text('{"step": 1}\n' + torn)
    assert files.read_records(path) == [{"step": 1}]
    assert files.append_record(path, {"step": 2, "whole": True}, ("step",))
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1}, {"step": 2, "whole": True}]


def test_a_log_sees_what_others_append_and_parses_each_line_once(tmp_path):
    path, parsed = tmp_path / "r.jsonl", []
    log = files.RecordLog(path, check=parsed.append)
    assert log.read() == []
    assert log.append({"step": 1}, ("step",)) and not log.append({"step": 1}, ("step",))
    with open(path, "a") as other:
        other.write('{"step": 2}\n{"step": 3')
    assert log.read() == log.read() == [{"step": 1}, {"step": 2}]
    assert not log.append({"step": 2}, ("step",)) and log.append({"step": 4}, ("step",))
    assert log.read() == [{"step": 1}, {"step": 2}, {"step": 4}] and len(parsed) == 3


def test_a_log_keeps_what_is_wanted_and_counts_all_lines(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"split": "test", "n": 1}\n{"split": "validation", "n": 1}\n')
    log = files.RecordLog(path, lambda record: record["split"] == "test")
    assert not log.append({"split": "test", "n": 1}, ("split", "n")) and log.append({"split": "test", "n": 2}, ("n",))
    assert log.read() == [{"split": "test", "n": 1}, {"split": "test", "n": 2}]
    assert len(files.read_records(path)) == 3
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(UserError, match="line 4"):
        log.read()


def test_a_log_that_was_shortened_or_removed_is_read_again(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"step": 10}\n{"step": 20}\n')
    log = files.RecordLog(path)
    assert len(log.read()) == 2
    path.write_text('{"step": 3}\n')
    assert log.read() == [{"step": 3}]
    path.unlink()
    assert log.read() == [] and log.append({"step": 3}, ("step",))


def test_the_number_of_a_line_that_is_no_json_counts_from_the_start_of_the_file(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"step": 1}\n')
    log = files.RecordLog(path)
    log.read()
    path.write_text('{"step": 1}\n{"step": 2}\n{"step"\n')
    for _ in range(2):
        with pytest.raises(UserError, match="line 3"):
            log.read()


def test_nan_is_refused_rather_than_written(tmp_path):
    with pytest.raises(ValueError):
        files.append_record(tmp_path / "r.jsonl", {"step": 1, "x": float("nan")}, ("step",))
    assert files.read_records(tmp_path / "r.jsonl") == []


def test_what_is_not_finite_becomes_null_at_any_depth():
    data = {"a": [1.5, float("nan"), ("b", -float("inf"))], "c": {"d": float("inf"), "e": None, "f": True, "g": 3}}
    assert files.nullable(data) == {"a": [1.5, None, ["b", None]], "c": {"d": None, "e": None, "f": True, "g": 3}}


def test_missing_files_are_empty(tmp_path):
    assert files.read_records(tmp_path / "none") == [] and files.read_json(tmp_path / "none") is None


def _append_many(path):
    for step in range(50):
        files.append_record(path, {"step": step}, ("step",))


def test_two_processes_append_without_loss_or_duplicate(tmp_path):
    path = tmp_path / "r.jsonl"
    processes = [multiprocessing.get_context("spawn").Process(target=_append_many, args=(path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(record["step"] for record in files.read_records(path)) == list(range(50))


def test_lines_that_do_not_belong_are_removed_while_others_append(tmp_path):
    path = tmp_path / "r.jsonl"
    log, other = files.RecordLog(path), files.RecordLog(path)
    for step in range(4):
        log.append({"step": step, "text": "x" * step}, ("step",))
    assert other.read() == log.read() and other.keep(lambda record: True) == 0
    assert other.keep(lambda record: record["step"] < 2) == 2
    assert log.append({"step": 2, "text": "anew, and longer than what was there"}, ("step",))
    assert [record["step"] for record in other.read()] == [record["step"] for record in log.read()] == [0, 1, 2]
    assert len(path.read_text().splitlines()) == 3 and list(tmp_path.iterdir()) == [path]


def test_a_write_that_would_change_nothing_needs_no_room(tmp_path, monkeypatch):
    files.write_atomically(tmp_path / "x", "same")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    files.write_atomically(tmp_path / "x", "same")
    with pytest.raises(UserError, match=r"/x: cannot be written \(No space left on device\); make room, and start the"):
        files.write_atomically(tmp_path / "x", "other")


@pytest.mark.parametrize(
    "path", ["", "  ", "a\0b", "x" * 256, "a/" + "ä" * 128, "a/" * 2048 + "b", "gs://bucket/run", "\udce9"]
)
def test_a_path_that_there_cannot_be_is_refused(path):
    with pytest.raises(FieldError, match="workdir = ") as error:
        files.path(path, "workdir")
    assert str(error.value).isprintable() and ";" in str(error.value)


@pytest.mark.parametrize("path", [".", "..", "a b", "x" * 255, "/tmp/[x]", "runs/größe", "-x"])
def test_any_other_path_stays_as_it_is(path):
    assert str(files.path(path, "workdir")) == path == str(files.path(files.path(path, "workdir"), "workdir"))


def test_a_folder_is_one_or_can_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert files.folder(tmp_path, "out") == tmp_path and files.folder(tmp_path / "new", "out") == tmp_path / "new"
    for name in ("file", "dangling", "loop"):
        with pytest.raises(FieldError, match=r"out = .*(folder|read)"):
            files.folder(tmp_path / name, "out")


def test_what_a_killed_process_left_is_removed_by_the_first_to_write_in_its_folder(tmp_path):
    dead, own = tmp_path / ".page.html.7.1", tmp_path / ".notes.7.txt"
    for path in (dead, own):
        path.write_text("<")
    files.write_atomically(tmp_path / "page.html", "<p>")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notes.7.txt", "page.html"]
