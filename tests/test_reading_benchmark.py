"""The benchmark of reading images runs, and both of its ways give the same bits."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import reading


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SIZES", ((64, 48), (300, 200)))
    monkeypatch.setattr(reading, "SIDE", 64)
    monkeypatch.setattr(reading, "REPEATS", 1)


def test_every_size_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    reading.main([])
    small, large, draft, again = capsys.readouterr().out.splitlines()
    assert small.startswith("64 x 48: image ")
    assert large.startswith("300 x 200: image ")
    assert "decoded at 150 x 100: " in draft
    assert "saved again with quality 95: differs by " in again


def test_ways_that_differ_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    monkeypatch.setattr(reading, "plain_pixels", lambda path: reading._draft_pixels(path) + 1)
    with pytest.raises(ValueError, match="differ"):
        reading.timed(tmp_path / "a.jpg", reading.polygons(64, 48))
