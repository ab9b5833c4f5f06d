"""One epoch on one and on several processes, and predictions."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from segtune.core.errors import TrainingError
from segtune.core.processes import Processes
from segtune.dataset.batch import load_image
from segtune.dataset.coco import read_split
from segtune.dataset.masks import segmentation_to_mask
from segtune.lora.inject import inject_lora, lora_parameters
from segtune.model.architecture import build_model
from segtune.model.inference import PreparedImage, predict
from segtune.training.augment import Augmentation
from segtune.training.engine import Interrupted, train_one_epoch
from segtune.training.losses import build_loss
from segtune.training.prompted_images import PromptedImages, training_batches
from tests.batches import all_specs
from tests.converted import SIDE, write_converted

ROOT = Path(__file__).parents[2]
ALONE = Processes(0, 1, torch.device("cpu"))
TOLERANCE = 1e-9  # of double precision, relative


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_converted(tmp_path_factory.mktemp("converted"))


def first_steps(coco: Path, out: Path, processes: int, micro_batch_size: int) -> dict[str, Any]:
    command = ["-m", "tests.first_steps", str(coco / "train.json"), str(out), str(micro_batch_size)]
    if processes > 1:
        launch = ["-m", "segtune.core.processes", "--devices", str(processes), "--torchrun", "--"]
        command = [*launch, *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *command], env=environment, check=True, cwd=ROOT)
    values: dict[str, Any] = torch.load(out, weights_only=True)
    return values


def test_processes_and_accumulation_take_the_steps_of_one_big_batch(
    coco: Path, tmp_path: Path
) -> None:
    whole = first_steps(coco, tmp_path / "whole.pt", processes=1, micro_batch_size=4)
    assert len(whole["losses"]) == 3
    for name, processes, micro in (("accumulated", 1, 1), ("two", 2, 2), ("both", 2, 1)):
        other = first_steps(coco, tmp_path / f"{name}.pt", processes, micro)
        assert other["losses"] == pytest.approx(whole["losses"], rel=TOLERANCE)
        for kind in ("gradients", "values"):
            for step, (ours, theirs) in enumerate(zip(whole[kind], other[kind], strict=True)):
                for key, value in ours.items():
                    assert value.norm() > 0, key
                    difference = (theirs[key] - value).norm() / value.norm()
                    assert difference < TOLERANCE, (name, kind, step, key, difference)


def one_epoch(coco: Path, **changes: Any) -> list[Any]:
    model = build_model("tiny")
    inject_lora(model, all_specs())
    dataset = PromptedImages(read_split(coco / "train.json"), 96, 2, (), Augmentation(), seed=0)
    reports: list[Any] = []
    options: dict[str, Any] = {
        "model": model,
        "loss": build_loss(model.matcher, with_masks=True),
        "optimizer": torch.optim.AdamW(lora_parameters(model).values(), lr=1e-3),
        "steps": training_batches(
            dataset, [[(0, 0), (1, 0)], [(2, 0), (3, 0)], [(4, 0), (5, 0)]], 0, 2, workers=0
        ),
        "processes": ALONE,
        "clip_norm": 0.1,
        "stop_wanted": lambda: False,
        "after_step": reports.append,
    }
    train_one_epoch(**{**options, **changes})
    return reports


def test_an_epoch_reports_every_step(coco: Path) -> None:
    reports = one_epoch(coco)
    assert len(reports) == 3
    for report in reports:
        assert report.loss > 0
        assert {"loss_bbox", "loss_mask", "presence_loss"} <= report.terms.keys()
        assert report.images == 2
        assert 0 <= report.waiting_seconds <= report.seconds


def test_a_wish_to_stop_is_granted_before_the_next_step(coco: Path) -> None:
    reports: list[Any] = []
    with pytest.raises(Interrupted):
        one_epoch(coco, after_step=reports.append, stop_wanted=lambda: len(reports) == 2)
    assert len(reports) == 2


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(coco: Path) -> None:
    model = build_model("tiny")
    inject_lora(model, all_specs())
    parameters = lora_parameters(model)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    with torch.no_grad():
        model.dot_prod_scoring.prompt_proj.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"train/\d+\.png.*the loss became nan"):
        one_epoch(coco, model=model, optimizer=torch.optim.AdamW(parameters.values()))
    assert all(torch.equal(p, before[name]) for name, p in parameters.items())


def test_the_gradient_is_clipped(coco: Path) -> None:
    model = build_model("tiny")
    inject_lora(model, all_specs())
    parameters = list(lora_parameters(model).values())
    norms = []

    def note(report: Any) -> None:
        clipped = torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()
        norms.append((report.gradient_norm, clipped.item()))

    one_epoch(coco, model=model, optimizer=torch.optim.SGD(parameters, lr=1e-6), after_step=note)
    for before, after in norms:
        assert before > 0.1
        assert after == pytest.approx(0.1, rel=1e-3)


def detections(
    coco: Path, prompts: list[str], texts: list[str] | None = None, **changes: Any
) -> list[Any]:
    texts = texts or prompts
    split = read_split(coco / "test.json")
    path = split.image_path(split.images[0])
    pixels, size = load_image(path, 96)
    options: dict[str, Any] = {
        "pairs_per_pass": 8,
        "confidence_threshold": 0.0,
        "max_detections": 100,
        **changes,
    }
    model, cpu = build_model("tiny"), torch.device("cpu")
    asked = tuple(texts.index(prompt) for prompt in prompts)
    image = PreparedImage(1, pixels, size, asked)
    ((_, found),) = predict(model, [image], texts, cpu, **options)
    return found


def test_predictions_are_in_the_images_own_pixels(coco: Path) -> None:
    found = detections(coco, ["disc", "square"])
    assert [d.prompt for d in found] == [0] * 12 + [1] * 12
    for detection in found:
        assert detection.rle["size"] == [SIDE, SIDE]
        assert segmentation_to_mask(detection.rle, SIDE, SIDE).shape == (SIDE, SIDE)
        x, y, w, h = detection.bbox_xywh
        assert -SIDE < x < SIDE and -SIDE < y < SIDE
        assert 0 < w <= SIDE and 0 < h <= SIDE


def test_predictions_do_not_depend_on_how_prompts_are_grouped(coco: Path) -> None:
    prompts = ["disc", "square", "cross"]
    together, apart = detections(coco, prompts), detections(coco, prompts, pairs_per_pass=1)
    for one, other in zip(together, apart, strict=True):
        assert one.prompt == other.prompt
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert one.bbox_xywh == pytest.approx(other.bbox_xywh, abs=1e-2)


def test_a_image_is_asked_its_own_prompts_alone(coco: Path) -> None:
    mine = ["cross", "disc"]
    alone = detections(coco, mine)
    among = detections(coco, mine, texts=["disc", "a longer text of others", "cross", "square"])
    assert [d.prompt for d in alone] == [d.prompt for d in among]
    for one, other in zip(alone, among, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert one.bbox_xywh == pytest.approx(other.bbox_xywh, abs=1e-2)


def test_the_best_are_kept_in_order(coco: Path) -> None:
    everything = [d.score for d in detections(coco, ["disc"])]
    assert everything == sorted(everything, reverse=True)
    assert [d.score for d in detections(coco, ["disc"], max_detections=3)] == everything[:3]
    threshold = everything[4]
    assert len(detections(coco, ["disc"], confidence_threshold=threshold)) == 5
    assert detections(coco, ["disc"], confidence_threshold=1.0) == []
