"""Finished results survive whatever happens to the command that would replace them."""

import errno
import json
import os
import shutil
import signal
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.converted import write_converted, write_report
from tests.forked import Forked, main_of
from tests.train_runs import arguments as train_arguments

STAGES = ("train", "merge", "predict", "evaluate")
# What each command has just done when it fails: some of its files are written, not all.
LAST_ACTS = {
    "train": "save_adapter",
    "merge": "write_json",
    "predict": "write_records",
    "evaluate": "_write_per_class",
}
FIRST = {"train": {"epochs": 1}, "merge": {}, "predict": {}, "evaluate": {}}
SECOND: dict[str, dict[str, Any]] = {
    "train": {"epochs": 1, "seed": 1},
    "merge": {"tolerance": 0.5},
    "predict": {"max_detections": 1},
    "evaluate": {"confidence_threshold": 0.9},
}


def arguments(stage: str, folder: Path, settings: dict[str, Any]) -> list[str]:
    coco, predictions = folder / "coco", folder / "predict" / "base.json"
    if stage == "train":
        return train_arguments(coco, folder / "train", **settings)
    paths = {
        "merge": {"adapter": folder / "train" / "adapter", "out": folder / "merge"},
        "predict": {"coco": coco / "test.json", "out": predictions, "keep": 1},
        "evaluate": {
            "coco": coco / "test.json",
            "base": predictions,
            "tuned": predictions,
            "out": folder / "evaluate",
        },
    }[stage]
    options = [text for name, path in paths.items() for text in (f"--{name}", str(path))]
    return [*options, "--settings", json.dumps(settings)]


def finish(stage: str, folder: Path, settings: dict[str, Any]) -> str:
    process = Forked(main_of(stage), arguments(stage, folder, settings))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all four commands."""
    folder = tmp_path_factory.mktemp("finished")
    coco = write_converted(folder, {"train": 4, "valid": 2, "test": 2})
    (coco / "manifest.json").write_text(json.dumps({"root": "..", "images": []}))
    write_report(coco)
    for stage in STAGES:
        finish(stage, folder, FIRST[stage])
    return folder


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "results")


def content(folder: Path) -> dict[str, bytes]:
    """Every file that is not undeclared work of a command."""
    undeclared = {"kept", "checkpoints", "tensorboard", "valid_images"}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not undeclared & set(path.relative_to(folder).parts)
    }


def visible(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in content(folder).items() if "/." not in f"/{name}"}


def failing(stage: str, failure: str, given: list[str]) -> None:
    """The command, which fails as soon as it has done its last act but one."""
    module = import_module(f"segtune.{stage}")
    act = getattr(module, LAST_ACTS[stage])

    def fail(*args: Any, **named: Any) -> None:
        act(*args, **named)
        if failure == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    setattr(module, LAST_ACTS[stage], fail)
    module.main(given)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("failure", ["killed", "full"])
def test_a_kill_or_a_full_disk_leaves_the_finished_results(
    results: Path, stage: str, failure: str
) -> None:
    before = visible(results)
    target = partial(failing, stage, failure)
    process = Forked(target, arguments(stage, results, SECOND[stage]))
    output, _ = process.communicate(timeout=120)
    if failure == "killed":
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 1, output
        assert "ResourceError: " in output and "Traceback" not in output, output
    assert visible(results) == before
    finish(stage, results, SECOND[stage])
    after = content(results)
    assert after.keys() == before.keys()  # no leftovers, hidden or not
    changed = {name for name in after if after[name] != before[name]}
    assert changed
    assert all(name.startswith(f"{stage}/") for name in changed)


def refuse(stage: str, folder: Path) -> None:
    """Damage what the command reads."""
    damaged = {
        "train": folder / "report.json",
        "merge": folder / "train" / "adapter" / "adapter_model.safetensors",
        "predict": folder / "test" / "2.png",
        "evaluate": folder / "coco" / "test.json",
    }
    damaged[stage].write_bytes(b"damaged")


@pytest.mark.parametrize("stage", STAGES)
def test_a_refused_command_leaves_the_finished_results(results: Path, stage: str) -> None:
    refuse(stage, results)
    before = visible(results)
    process = Forked(main_of(stage), arguments(stage, results, SECOND[stage]))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert "Traceback" not in output
    assert visible(results) == before


def test_settings_that_go_back_train_twice_not_three_times(results: Path) -> None:
    first = visible(results)
    assert "not training again" not in finish("train", results, SECOND["train"])
    assert visible(results) != first
    output = finish("train", results, FIRST["train"])
    assert "not training again: found the training of" in output
    assert "epoch 1/1" not in output
    assert visible(results) == first


def test_settings_that_go_back_predict_twice_not_three_times(results: Path) -> None:
    first = visible(results)
    assert "not predicting again" not in finish("predict", results, SECOND["predict"])
    assert visible(results) != first
    assert "not predicting again" in finish("predict", results, FIRST["predict"])
    assert visible(results) == first


def test_a_deleted_adapter_is_put_back(results: Path) -> None:
    first = visible(results)
    shutil.rmtree(results / "train" / "adapter")
    assert "not training again" in finish("train", results, FIRST["train"])
    assert visible(results) == first


def test_a_damaged_kept_training_is_trained_again(results: Path) -> None:
    first = visible(results)
    (file,) = results.glob("train/kept/*/adapter/*.safetensors")
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "not training again" not in finish("train", results, FIRST["train"])
    after = visible(results)
    weights = "train/adapter/adapter_model.safetensors"
    assert after[weights] == first[weights]


def test_a_kill_between_keeping_and_placing_is_made_good(results: Path) -> None:
    process = Forked(killed_before_placing, arguments("train", results, SECOND["train"]))
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert "not training again" in finish("train", results, SECOND["train"])
    assert not list((results / "train" / "checkpoints").glob("*/"))


def killed_before_placing(given: list[str]) -> None:
    module = import_module("segtune.train")
    module.place = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    module.main(given)


@pytest.mark.parametrize("stage", ["merge", "predict", "evaluate"])
def test_two_commands_at_once_do_not_write_to_one_place(results: Path, stage: str) -> None:
    waiting = Forked(partial(stopped, stage), arguments(stage, results, SECOND[stage]))
    while not (results / "stopped").exists():
        assert waiting.poll() is None
    process = Forked(main_of(stage), arguments(stage, results, FIRST[stage]))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "BusyError: " in output and "another segtune process is writing here" in output
    (results / "stopped").unlink()
    waiting.communicate(timeout=120)
    assert waiting.returncode == 0


def stopped(stage: str, given: list[str]) -> None:
    """The command, which waits before its last act until a file is removed."""
    module = import_module(f"segtune.{stage}")
    act = getattr(module, LAST_ACTS[stage])
    place = Path(given[given.index("--out") + 1])
    flag = (place if stage != "predict" else place.parent).parent / "stopped"

    def wait(*args: Any, **named: Any) -> None:
        flag.touch()
        while flag.exists():
            pass
        act(*args, **named)

    setattr(module, LAST_ACTS[stage], wait)
    module.main(given)
