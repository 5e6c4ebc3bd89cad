"""Progress bars."""

import pytest

from scadm.progress import bar


def test_a_log_stays_short(capsys: pytest.CaptureFixture[str]) -> None:
    with bar(1000, "latents", "faces") as progress:
        for _ in range(1000):
            progress.update(1)
    shown = capsys.readouterr().err
    assert "latents: 100%" in shown
    assert "1000/1000" in shown
    assert shown.count("latents:") <= 3, "off a terminal it is not redrawn at every update"


def test_a_resumed_bar_begins_where_the_run_does(capsys: pytest.CaptureFixture[str]) -> None:
    with bar(10, "train", "steps", initial=4) as progress:
        assert progress.n == 4
        progress.update(6)
    assert "10/10" in capsys.readouterr().err


def test_large_numbers_are_abbreviated() -> None:
    assert bar(100_001, "copy", "bytes").unit_scale
    assert not bar(1000, "copy", "bytes").unit_scale
