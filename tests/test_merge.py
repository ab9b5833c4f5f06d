"""Merging: the file is verified before it appears, and its model card states the license."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from segtune.lora.adapter import save_adapter
from segtune.lora.state import lora_state_dict
from segtune.merge import main, outputs_on_random_input
from segtune.model.architecture import build_model
from segtune.model.official_format import read_official, write_official
from segtune.model.weights import load_base_model
from tests.batches import adapted_tiny

RESULT = {"best_score": 0.5, "best_epoch": 2, "base_score": 0.1}


def save(folder: Path, weights: str, scale: float = 1.0) -> None:
    model, adapted = adapted_tiny()
    state = {name: value * scale for name, value in lora_state_dict(model).items()}
    recipe = {
        "segtune": "0",
        "model": "tiny",
        "weights": weights,
        "image_size": 96,
        "settings": {"select_by": "AP"},
        "result": RESULT,
    }
    save_adapter(folder, state, specs=adapted, base_model="segtune/tiny", recipe=recipe)


def merge(tmp_path: Path, weights: str = "random:0", **settings: Any) -> Path:
    out = tmp_path / "merge"
    paths = ["--adapter", str(tmp_path / "adapter"), "--out", str(out), "--weights", weights]
    main([*paths, "--settings", json.dumps(settings)])
    return out


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    with pytest.raises(SystemExit) as raised:
        merge(tmp_path, **options)
    assert raised.value.code == 1
    assert not (tmp_path / "merge" / "sam3.pt").exists()
    return capsys.readouterr().err


def test_the_merged_model_has_the_outputs_of_the_adapted_one(tmp_path: Path) -> None:
    save(tmp_path / "adapter", "random:0")
    out = merge(tmp_path)
    adapted, _ = adapted_tiny()
    expected = outputs_on_random_input(adapted, 96)
    merged = outputs_on_random_input(load_base_model("tiny", str(out / "sam3.pt")), 96)
    base = outputs_on_random_input(build_model("tiny"), 96)
    for name, value in expected.items():
        size = value.abs().max()
        assert (merged[name] - value).abs().max() < 1e-4 * size
        if name != "pred_boxes":  # a fresh box head gives every model the same
            assert (base[name] - value).abs().max() > 1e-2 * size
    parity = json.loads((out / "parity.json").read_text())
    assert all(item["relative"] < 1e-4 for item in parity["adapted_vs_merged"].values())
    assert all(item["absolute"] == 0 for item in parity["reloaded_vs_merged"].values())
    assert parity["keys"] == len(build_model("tiny").state_dict())


def test_the_weights_of_the_tracker_are_retained(tmp_path: Path) -> None:
    tracker = {"tracker.memory.weight": torch.ones(2, 3)}
    base = tmp_path / "base.pt"
    write_official(base, build_model("tiny", seed=5).state_dict(), tracker)
    save(tmp_path / "adapter", str(base))
    out = merge(tmp_path, weights=str(base))
    rest = read_official(out / "sam3.pt").rest
    assert torch.equal(rest["tracker.memory.weight"], tracker["tracker.memory.weight"])
    assert json.loads((out / "parity.json").read_text())["keys"] == 1 + len(
        build_model("tiny").state_dict()
    )


def test_the_license_accompanies_the_weights(tmp_path: Path) -> None:
    save(tmp_path / "adapter", "random:0")
    card = (merge(tmp_path) / "MODEL_CARD.md").read_text()
    assert "SAM License" in card
    assert "0.5000 after epoch 2" in card
    assert len(card) > 5000  # the full license


def test_outputs_that_differ_leave_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "adapter", "random:0", scale=3.0)
    assert "after merging, pred_" in refused(tmp_path, capsys, tolerance=1e-12)


def test_another_base_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "adapter", "random:0")
    message = refused(tmp_path, capsys, weights="random:1")
    assert "trained on model 'tiny' with weights 'random:0'" in message
