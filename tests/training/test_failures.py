"""A process that fails stops all of them, with the state before the failed step on the disk."""

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from segtune.core.config import CHECKPOINTED
from segtune.core.errors import DatasetError, ResourceError
from segtune.core.gpu_memory import memory_errors
from segtune.core.processes import Processes, process_group
from segtune.dataset.coco import read_split
from segtune.lora.inject import inject_lora, lora_parameters
from segtune.model.architecture import build_model
from segtune.train import main
from segtune.training import engine, preflight, validation
from segtune.training.augment import Augmentation
from segtune.training.engine import train_one_epoch
from segtune.training.failures import StepFailed, attempt, memory_advice
from segtune.training.losses import build_loss
from segtune.training.preflight import require_memory
from segtune.training.prompted_images import PromptedImages, training_batches
from tests.batches import all_specs, random_batch
from tests.converted import write_converted
from tests.ranks import ranks
from tests.train_runs import arguments, finish, history, start, train_settings

# Without dropout, whose masks depend on the process that sees an image.
SETTINGS: dict[str, Any] = {
    "epochs": 1,
    "lora": {"detr_decoder": {"rank": 2}},
    "checkpoint_every": 50,
}
COUNTS = {"train": 8, "valid": 1}
LAST_RANK = 1


def full(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory")


def in_last_rank(module: Any, name: str, *, call: int, then: Callable[..., Any] = full) -> None:
    """Replace one call of a function in one of the processes."""
    function, calls = getattr(module, name), 0

    def counting(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        return then(*given, **named) if calls == call else function(*given, **named)

    if int(os.environ["RANK"]) == LAST_RANK:
        setattr(module, name, counting)


def full_in_the_second_step(given: list[str]) -> None:
    in_last_rank(engine, "grounding_outputs", call=2)
    main(given)


def full_predictions(*_: Any, **__: Any) -> Iterator[Any]:
    yield full()


def full_in_validation(given: list[str]) -> None:
    in_last_rank(validation, "detections_on_grid", call=1, then=full_predictions)
    main(given)


def fails(target: Callable[[list[str]], None], given: list[str]) -> str:
    """What two processes print, in which `target` fails."""
    with ranks(target, given) as started:
        outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [1, 1], outputs
    for output in outputs:
        assert "Traceback" not in output
        assert output.splitlines()[-1] == outputs[0].splitlines()[-1]
    return outputs[0].splitlines()[-1]


def test_a_full_memory_of_one_process_stops_both_and_a_smaller_micro_batch_continues(
    tmp_path: Path,
) -> None:
    coco, out = write_converted(tmp_path, COUNTS), tmp_path / "out"
    message = fails(full_in_the_second_step, arguments(coco, out, **SETTINGS))
    assert "ResourceError: step 2, train/" in message
    assert message.count("train/") == 2  # of the four images of the step
    assert "Lower train.micro_batch_size (now 2) or train.masks_per_chunk (now 8)" in message
    (failure,) = out.glob("checkpoints/*/failure.json")
    found = json.loads(failure.read_text())
    assert found["step"] == 2
    assert all(name in message for name in found["images"].split(", "))
    given = arguments(coco, out, **{**SETTINGS, "micro_batch_size": 1, "masks_per_chunk": 1})
    with ranks(main, given) as started:
        outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert "resuming after step 1" in outputs[0]
    finish(start(coco, tmp_path / "whole", **SETTINGS))
    steps, expected = history(out), history(tmp_path / "whole")
    assert [(r["kind"], r["step"]) for r in steps] == [(r["kind"], r["step"]) for r in expected]
    for one, other in zip(steps, expected, strict=True):
        if one["kind"] == "train":
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
            assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-2)


def test_a_full_memory_in_validation_stops_both(tmp_path: Path) -> None:
    coco = write_converted(tmp_path, COUNTS)
    message = fails(full_in_validation, arguments(coco, tmp_path / "out", **SETTINGS))
    assert "ResourceError: validation after epoch 0: out of GPU memory" in message
    assert "a lower train.micro_batch_size (now 2), which continues this run, or image_s" in message
    assert list(tmp_path.glob("out/checkpoints/*/state-*.pt"))


def test_an_image_that_is_gone_stops_both(tmp_path: Path) -> None:
    coco = write_converted(tmp_path, {"train": 4, "valid": 1})
    (tmp_path / "train" / "3.png").unlink()
    message = fails(main, arguments(coco, tmp_path / "out", **SETTINGS))
    assert "DatasetError: " in message
    assert f"{tmp_path}/train/3.png: step 1: " in message


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_gone_is_one_line_with_data_workers(tmp_path: Path, workers: int) -> None:
    dataset = PromptedImages(
        read_split(write_converted(tmp_path) / "train.json"),
        image_size=96,
        max_negatives=1,
        extra_negatives=(),
        augmentation=Augmentation(),
        seed=0,
    )
    (tmp_path / "train" / "3.png").unlink()
    steps = [[(0, 0)], [(1, 0), (2, 0)]]
    batches = training_batches(dataset, steps, epoch=0, micro_batch_size=1, workers=workers)
    assert next(batches)[0].names == ("train/1.png",)
    _, failure = attempt(lambda: next(batches))
    assert isinstance(failure, DatasetError)
    assert failure.file == str(tmp_path / "train" / "3.png")
    assert "Traceback" not in str(failure)


def unequal_preflight(given: list[str]) -> None:
    """Only in one process does the largest step not fit."""
    with process_group() as processes:
        fits = processes.rank != LAST_RANK
        preflight.peak_gb = lambda *_, **__: 10.0 if fits else None  # type: ignore[assignment]
        torch.cuda.get_device_properties = _properties  # type: ignore[assignment]
        cuda = Processes(processes.rank, processes.count, torch.device("cuda"))
        try:
            require_memory(None, None, settings=train_settings(), processes=cuda)  # type: ignore[arg-type]
        except ResourceError as error:
            print(error.problem)
            raise SystemExit(1) from None


def _properties(_: object) -> Any:
    class Properties:
        total_memory = 24e9

    return Properties()


def test_a_step_that_is_too_large_for_one_process_stops_both() -> None:
    assert "does not fit into 24.0 GB" in fails(unequal_preflight, [])


class FullAfterUpdating(torch.optim.AdamW):
    """Its memory is full in the second step, when some parameters are updated."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        if self.steps == 2:
            self.param_groups[-1]["params"][0].grad = None
        super().step(closure)
        if self.steps == 2:
            full()


def test_a_step_that_fails_in_the_optimizer_is_undone() -> None:
    model = build_model("tiny")
    inject_lora(model, all_specs(without=("vision",)))
    parameters = lora_parameters(model)
    optimizer = FullAfterUpdating(parameters.values(), lr=1e-3)
    saved: list[Any] = []

    def save(_: object) -> None:
        adapters = {name: p.detach().clone() for name, p in parameters.items()}
        saved.append((adapters, copy.deepcopy(optimizer.state_dict())))

    batch = random_batch(((1,),))
    with pytest.raises(StepFailed, match=r"^image 0.0: out of GPU memory"):
        train_one_epoch(
            model,
            build_loss(model.matcher, with_masks=True),
            optimizer,
            steps=[[batch], [batch]],
            processes=Processes(rank=0, count=1, device=torch.device("cpu")),
            clip_norm=1.0,
            stop_wanted=lambda: False,
            after_step=save,
        )
    ((adapters, state),) = saved
    assert all(torch.equal(p, adapters[name]) for name, p in parameters.items())
    torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)
    assert all(p.grad is None for p in parameters.values())


def test_memory_is_free_when_an_attempt_has_failed() -> None:
    held: list[Any] = []

    def work(tensor: torch.Tensor | None = None) -> None:
        big = torch.zeros(10)
        held.append(torch.utils.weak.WeakTensorKeyDictionary({big: 1}))
        full()

    result, failure = attempt(work, ["a.png"])
    assert result is None
    assert isinstance(failure, ResourceError)
    assert failure.record == "a.png"
    assert len(held[0]) == 0
    with pytest.raises(ResourceError, match="out of GPU memory"), memory_errors():
        work()


def test_a_fragmented_memory_is_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: _properties(None))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 22e9)
    for allocated, expected in ((12e9, True), (21e9, False)):
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda value=allocated: value)
        _, failure = attempt(full)
        assert failure
        assert ("expandable_segments:True" in str(failure)) is expected
        assert f"of 24.0 GB, tensors took {allocated / 1e9:.1f} GB" in str(failure)


def test_the_advice_begins_with_what_continues_the_run() -> None:
    settings = train_settings(
        micro_batch_size=2,
        masks_per_chunk=1,
        max_negatives=4,
        activation_checkpointing=list(CHECKPOINTED),
    )
    assert memory_advice(settings) == (
        "Lower train.micro_batch_size (now 2), which continues this run from here; a lower "
        "train.max_negatives (now 4) or image_size takes less memory, but starts a new run"
    )
    smallest = {"micro_batch_size": 1, "masks_per_chunk": 1, "max_negatives": 1}
    for checkpointed in ("auto", ["vision"]):
        settings = train_settings(**smallest, activation_checkpointing=checkpointed)
        assert memory_advice(settings) == (
            "Set train.activation_checkpointing to [detr_encoder, segmentation, vision, "
            "detr_decoder, text], which continues this run from here; a lower image_size takes "
            "less memory, but starts a new run"
        )
    settings = train_settings(**smallest, activation_checkpointing=list(CHECKPOINTED))
    assert memory_advice(settings) == ("A lower image_size takes less memory, but starts a new run")
