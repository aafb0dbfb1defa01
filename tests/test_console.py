import pytest

from jaxrobust import console


def test_a_log_file_gets_share_rate_and_time_left(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.progress("training", total=1000, unit="images", done=200) as advance:
        for _ in range(4):
            advance(100)
    first, second = capsys.readouterr().err.splitlines()
    # 200 images in 31 s, 600 left; then 400 in 62 s, 400 left.
    assert first == "training: 40%, 6.5 images/s, 1:33 left"
    assert second == "training: 60%, 6.5 images/s, 1:02 left"


@pytest.mark.parametrize("seconds, text", [(5, "0:05"), (65.4, "1:05"), (3600, "1:00:00"), (36061, "10:01:01")])
def test_durations(seconds, text):
    assert console.duration(seconds) == text


def test_messages_are_not_markup_and_not_folded(capsys):
    console.say("[b]class[/b] " + 300 * "x")
    console.warn("[/b]")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "[b]class[/b] " + 300 * "x" and second == "warning: [/b]"
