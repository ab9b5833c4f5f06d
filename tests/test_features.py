"""The command that computes features once, and a training that starts with them."""

import json
import os
import re
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from segtune.features import main
from segtune.train import main as train
from segtune.training import features
from tests.converted import write_converted
from tests.train_runs import arguments, history

CACHED: dict[str, Any] = {
    "cache_features": True,
    "checkpoint_every": 50,
    "lora": {"detr_decoder": {"rank": 2}, "segmentation": {"rank": 2}},
}
TO_COMPUTE = re.compile(r"features of (\d+) views to compute")


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_converted(tmp_path, {"train": 4, "valid": 1})


def compute(coco: Path, **changes: Any) -> Path:
    folder = coco.parent / "features"
    settings = json.dumps({**CACHED, **changes})
    main(["--coco", str(coco), "--out", str(folder), "--settings", settings])
    return folder


def training(coco: Path, out: str) -> list[str]:
    return arguments(coco, coco.parent / out, **{**CACHED, "epochs": 1})


def test_training_finds_what_the_command_has_computed(
    coco: Path, capsys: pytest.CaptureFixture[str], signal_handlers: None
) -> None:
    folder = compute(coco)
    index = json.loads((folder / "index.json").read_text())
    assert index["views"] == 8 and index["key"]["blocks"] == 3
    assert TO_COMPUTE.search(capsys.readouterr().out)
    given = arguments(coco, coco.parent / "cached", **CACHED)
    train([*given, "--features", str(folder)])
    assert not TO_COMPUTE.search(capsys.readouterr().out)
    # What comes out is what comes out without them.
    train(arguments(coco, coco.parent / "plain", **{**CACHED, "cache_features": False}))
    runs = [history(coco.parent / name) for name in ("cached", "plain")]
    for one, other in zip(*runs, strict=True):
        if one["kind"] == "train":
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        else:
            assert one["box_AP"] == pytest.approx(other["box_AP"], abs=1e-6)
    adapters = [
        load_file(coco.parent / name / "adapter/adapter_model.safetensors")
        for name in ("cached", "plain")
    ]
    for name, tensor in adapters[0].items():
        assert float((tensor - adapters[1][name]).abs().max()) < 1e-4, name


def test_training_computes_what_is_missing(
    coco: Path, capsys: pytest.CaptureFixture[str], signal_handlers: None
) -> None:
    train(training(coco, "out"))
    found = TO_COMPUTE.search(capsys.readouterr().out)
    assert found and found[1] == "8"
    assert list((coco.parent / "out/features").glob("*/*.safetensors"))


def test_features_of_other_settings_are_removed_and_nothing_else(coco: Path) -> None:
    folder = compute(coco)
    (first,) = folder.glob("*/")
    assert compute(coco, lora={"vision": {"rank": 2, "blocks": "2"}}) == folder
    (second,) = folder.glob("*/")
    assert first != second
    for other in ("adapter", "0123456789abcdef"):
        (folder / other).mkdir()
        (folder / other / "adapter_model.safetensors").write_bytes(b"somebody's")
    compute(coco)
    assert {path.name for path in folder.glob("*/")} == {
        *(first.name, "adapter", "0123456789abcdef")
    }


def test_views_that_are_not_wanted_any_more_are_removed(coco: Path) -> None:
    scales = {"min_scale": 0.5, "scale_views": 2}
    folder = compute(coco, **scales, seed=1)
    before = set(folder.glob("*/*.safetensors"))
    compute(coco, **scales, seed=2)
    # One shard had the views of the training images and those of valid, which stay the same.
    assert before < set(folder.glob("*/*.safetensors"))
    compute(coco, horizontal_flip=False)
    assert len(list(folder.glob("*/*.safetensors"))) <= 3


def test_a_damaged_header_is_computed_again(coco: Path) -> None:
    folder = compute(coco)
    (shard,) = folder.glob("*/*.safetensors")
    content = shard.read_bytes()
    shard.write_bytes(b"{" + content[1:])
    compute(coco)
    assert shard.read_bytes() == content


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_between_two_views(
    coco: Path,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    signal_handlers: None,
) -> None:
    encode = features.encode_prefix

    def signaled(*arguments: Any) -> Any:
        os.kill(os.getpid(), number)
        return encode(*arguments)

    monkeypatch.setattr(features, "encode_prefix", signaled)
    for stopped in (partial(compute, coco), partial(train, training(coco, "out"))):
        with pytest.raises(SystemExit) as raised:
            stopped()
        assert raised.value.code == 130
        assert "the same command" in capsys.readouterr().out
    assert not (coco.parent / "features/index.json").exists()
    assert list(coco.parent.glob("features/*/*.safetensors"))


def test_a_stage_that_caches_nothing_is_refused(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        compute(coco, cache_features=False)
    assert raised.value.code == 1
    assert "cache_features is false" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {"vision": {"rank": 2}}}, "adapts the first block"),
        ({"lora": {"vision": {"blocks": "0-2"}}}, "adapts the first block"),
        ({"color_jitter": 0.1}, "color_jitter"),
        ({"min_scale": 0.5}, "scale_views"),
        ({"scale_views": 2}, "only one scale"),
    ],
)
def test_what_cannot_be_cached_is_refused(
    coco: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        compute(coco, **changes)
    assert raised.value.code == 1
    assert message in capsys.readouterr().err


def test_an_image_that_cannot_be_read_is_one_line(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (coco.parent / "train" / "2.png").write_bytes(b"no image")
    with pytest.raises(SystemExit) as raised:
        compute(coco)
    assert raised.value.code == 1
    error = capsys.readouterr().err
    assert "train/2.png" in error and "Traceback" not in error
    assert not (coco.parent / "features/index.json").exists()
