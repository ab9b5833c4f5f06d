"""The strength command: a trained adapter's scores and what it retains, strength by strength."""

import os
import signal
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from PIL import Image

from segtune import strength as command
from segtune.core.config import PredictSettings
from segtune.dataset.batch import load_image
from segtune.dataset.coco import read_split
from segtune.dataset.detections import Detections
from segtune.dataset.drawn_shapes import draw_scene
from segtune.evaluation.average_precision import average_precision
from segtune.evaluation.strength_curve import StrengthCurve, read_strength_curve
from segtune.lora.adapter import attach_adapter, save_adapter
from segtune.lora.state import lora_state_dict
from segtune.model import inference, partial_predictions
from segtune.model.inference import predict_images
from segtune.model.weights import load_base_model
from segtune.strength import STRENGTHS, main
from tests.batches import adapted_tiny
from tests.converted import write_converted
from tests.forked import Forked
from tests.ranks import run_ranks

WEIGHTS = "default"
PROMPTS = ("shape", "red")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted dataset, an adapter, and a few generic images."""
    folder = tmp_path_factory.mktemp("strength")
    write_converted(folder)
    model, adapted = adapted_tiny()
    recipe = {"model": "tiny", "weights": WEIGHTS}
    state = {name: value * 2 for name, value in lora_state_dict(model).items()}
    save_adapter(folder / "adapter", state, specs=adapted, base_model="tiny", recipe=recipe)
    (folder / "generic").mkdir()
    for number in range(2):
        scene = draw_scene(np.random.default_rng(number))
        Image.fromarray(scene.pixels).save(folder / "generic" / f"{number}.png")
    return folder


def options(place: Path, out: Path, *more: str) -> list[str]:
    given = ["--coco", str(place / "coco" / "valid.json"), "--adapter", str(place / "adapter")]
    return [*given, "--out", str(out), "--weights", WEIGHTS, *more]


def generic(place: Path) -> list[str]:
    return ["--retain-images", str(place / "generic"), "--prompt", *PROMPTS]


def curve_of(place: Path, out: Path, *more: str) -> StrengthCurve:
    main(options(place, out, *more))
    return read_strength_curve(out / "strength.json")


@pytest.fixture(scope="module")
def curve(place: Path) -> StrengthCurve:
    return curve_of(place, place / "whole", *generic(place))


def test_the_base_model_retains_everything_and_the_rest_less(curve: StrengthCurve) -> None:
    assert [point.strength for point in curve.points] == list(STRENGTHS)
    assert (curve.score, curve.images, curve.generic_images) == ("mask AP", 4, 2)
    assert curve.base_detections > 0
    assert curve.points[0].retained.value == 1.0
    assert min(point.retained.value or 0.0 for point in curve.points) < 1.0


def test_scores_are_those_of_predictions_at_that_strength(
    place: Path, curve: StrengthCurve
) -> None:
    valid = read_split(place / "coco" / "valid.json")
    adapted = load_base_model("tiny", WEIGHTS)
    attach_adapter(adapted, place / "adapter")
    for model, strength in ((load_base_model("tiny", WEIGHTS), 0.0), (adapted, 1.0)):
        predictions = predict_images(
            model,
            valid,
            valid.images,
            image_size=96,
            device=torch.device("cpu"),
            settings=PredictSettings(),
        )
        found = Detections(each for _, in_image in predictions for each in in_image)
        (point,) = (p for p in curve.points if p.strength == strength)
        expected = average_precision(valid, found, "mask").AP
        assert point.score.value == pytest.approx(expected, abs=1e-9)


def test_processes_split_the_images(place: Path, tmp_path: Path, curve: StrengthCurve) -> None:
    run_ranks(main, options(place, tmp_path, *generic(place)))
    assert read_strength_curve(tmp_path / "strength.json") == curve


def run_until_killed(arguments: list[str]) -> None:
    """Until SIGKILL comes after the second image at the second strength."""
    written = 0
    add_image = partial_predictions.add_image

    def killing(part: IO[str], image_id: int, records: list[dict[str, Any]]) -> None:
        nonlocal written
        add_image(part, image_id, records)
        written += 1
        if written == 6:
            os.kill(os.getpid(), signal.SIGKILL)

    partial_predictions.add_image = killing  # type: ignore[assignment]
    main(arguments)


def test_a_killed_run_resumes(
    place: Path, tmp_path: Path, curve: StrengthCurve, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Forked(run_until_killed, options(place, tmp_path, *generic(place)))
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    read: list[Path] = []

    def counted(path: Path, side: int) -> Any:
        read.append(path)
        return load_image(path, side)

    monkeypatch.setattr(inference, "load_image", counted)
    assert curve_of(place, tmp_path, *generic(place)) == curve
    assert len(read) == len(STRENGTHS) * (4 + 2) - 6
    assert [path.name for path in tmp_path.iterdir()] == ["strength.json"]


def test_the_tiny_model_is_asked_for_shapes_that_are_drawn(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "STRENGTHS", (0.0, 1.0))
    monkeypatch.setattr(command, "DRAWN_IMAGES", 6)
    found = curve_of(place, tmp_path, "--prompt", *PROMPTS)
    assert found.generic_images == 6
    assert found.base_detections >= 6
    assert len(list((tmp_path / "drawn_images").iterdir())) == 6


def test_without_prompts_nothing_is_retained(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "STRENGTHS", (0.0, 1.0))
    found = curve_of(place, tmp_path, "--select-by", "cgF1")
    assert found.score == "cgF1"
    assert [point.retained.value for point in found.points] == [None, None]
    assert [path.name for path in tmp_path.iterdir()] == ["strength.json"]
    assert found.generic_images == 0
    assert "what is retained is not measured" in capsys.readouterr().out


def test_nothing_detected_is_nothing_to_retain(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "STRENGTHS", (0.0, 1.0))
    folder = tmp_path / "plain"
    folder.mkdir()
    Image.new("RGB", (64, 48), "gray").save(folder / "0.png")
    out = tmp_path / "out"
    found = curve_of(place, out, "--retain-images", str(folder), "--prompt", *PROMPTS)
    assert (found.generic_images, found.base_detections) == (1, 0)
    assert "WARNING: the base model detects nothing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--retain-images", "missing", "--prompt", "red"), "merge.retain_images"),
        (("--adapter", "missing", "--prompt", "red"), "missing"),
        (("--coco", "missing.json"), "missing.json"),
    ],
)
def test_bad_input_is_one_line(
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(options(place, tmp_path, *more))
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("segtune strength: ")
    assert message in line
    assert not (tmp_path / "strength.json").exists()
