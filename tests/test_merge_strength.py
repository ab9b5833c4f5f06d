"""What merging adds to the base, at which strength and in which precision."""

import json
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segtune.core.typed_json import write_typed
from segtune.lora.inject import set_strength, weight_updates
from segtune.model.architecture import build_model
from segtune.model.official_format import read_official, write_official
from segtune.model.parity import outputs_on_random_input
from segtune.model.weights import load_base_model
from tests.batches import adapted_tiny
from tests.converted import write_converted
from tests.merge_runs import changed_by, changed_tensors, merge, refused, save
from tests.strength_curves import strength_curve

ADAPTED = "transformer.encoder.layers.0.linear1.weight"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A checkpoint with a tracker, and negative zeros in a weight that is adapted."""
    state = build_model("tiny", seed=5).state_dict()
    state[ADAPTED][0] = -0.0
    path = tmp_path / "base.pt"
    write_official(path, state, {"tracker.memory": torch.randn(2, 3, dtype=torch.float64)})
    save(tmp_path / "adapter", str(path))
    return path


def tensors(path: Path) -> dict[str, Tensor]:
    return read_official(path).detector


def expected(base: Path, strength: float) -> dict[str, Tensor]:
    """The weights that merging should give, in float64."""
    before, updates = tensors(base), weight_updates(adapted_tiny()[0])
    return {key: before[key].double() + strength * update() for key, update in updates.items()}


def test_strength_zero_is_bitwise_the_base(tmp_path: Path, base: Path) -> None:
    out = merge(tmp_path, str(base), strength=0)
    assert changed_tensors(base, out / "sam3.pt") == set()
    assert (out / "sam3.pt").read_bytes() == base.read_bytes()
    parity = json.loads((out / "parity.json").read_text())
    assert parity["keys"] == parity["keys_identical_to_base"]
    assert all(item["relative"] < 1e-4 for item in parity["adapted_vs_merged"].values())


def test_the_update_is_added_times_the_strength(tmp_path: Path, base: Path) -> None:
    strength = 1.5
    out = merge(tmp_path, str(base), strength=strength)
    merged = tensors(out / "sam3.pt")
    assert changed_tensors(base, out / "sam3.pt") == changed_by(adapted_tiny()[0])
    for key, value in expected(base, strength).items():
        torch.testing.assert_close(merged[key].double(), value, rtol=1e-6, atol=1e-7)
    parity = json.loads((out / "parity.json").read_text())
    assert parity["strength"] == strength
    assert all(item["relative"] < 1e-4 for item in parity["adapted_vs_merged"].values())
    assert f"- Strength {strength:g}:" in (out / "MODEL_CARD.md").read_text()
    require_right_checksums(out / "sam3.pt")


def require_right_checksums(path: Path) -> None:
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for record in archive.infolist():
            # torch writes the checksum behind the data, too.
            lengths = struct.unpack_from("<HH", content, record.header_offset + 26)
            end = record.header_offset + 30 + sum(lengths) + record.file_size
            assert struct.unpack_from("<4sI", content, end) == (b"PK\x07\x08", record.CRC)


def test_adapted_outputs_follow_the_strength(tmp_path: Path) -> None:
    save(tmp_path / "adapter", "random:0")
    merged = load_base_model("tiny", str(merge(tmp_path, strength=0.3) / "sam3.pt"))
    adapted, _ = adapted_tiny()
    whole = outputs_on_random_input(adapted, 96)
    set_strength(adapted, 0.3)
    weaker = outputs_on_random_input(adapted, 96)
    for name, value in outputs_on_random_input(merged, 96).items():
        torch.testing.assert_close(weaker[name], value, rtol=1e-3, atol=1e-5)
    assert (whole["pred_masks"] - weaker["pred_masks"]).abs().max() > 0.1


def test_two_merges_at_half_strength_are_one(tmp_path: Path, base: Path) -> None:
    whole = tensors(merge(tmp_path, str(base)) / "sam3.pt")
    half = tmp_path / "half.pt"
    shutil.copy(merge(tmp_path, str(base), strength=0.5) / "sam3.pt", half)
    save(tmp_path / "adapter", str(half))
    twice = tensors(merge(tmp_path, str(half), strength=0.5) / "sam3.pt")
    assert twice.keys() == whole.keys()
    for key, value in whole.items():
        torch.testing.assert_close(twice[key], value, rtol=1e-6, atol=1e-7)


def test_sums_are_rounded_once_to_the_precision_of_the_base(tmp_path: Path) -> None:
    base, dtype = tmp_path / "base.pt", torch.bfloat16
    state = build_model("tiny", seed=5).state_dict()
    write_official(
        base, {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}, {}
    )
    save(tmp_path / "adapter", str(base))
    out = merge(tmp_path, str(base))
    merged = tensors(out / "sam3.pt")
    assert changed_tensors(base, out / "sam3.pt") == changed_by(adapted_tiny()[0])
    before = tensors(base)
    for key, update in weight_updates(adapted_tiny()[0]).items():
        assert merged[key].dtype == dtype
        assert torch.equal(merged[key], (before[key].float() + update()).to(dtype))
    parity = json.loads((out / "parity.json").read_text())
    # The tolerance is for what merging computes; rounding is reported beside it.
    assert all(item["relative"] < 1e-4 for item in parity["adapted_vs_merged"].values())
    assert parity["rounding"]["pred_masks"]["relative"] > 1e-4


def test_a_sum_that_the_precision_cannot_hold_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = build_model("tiny").state_dict()
    state[ADAPTED] = torch.full_like(state[ADAPTED], 65504.0).half()
    write_official(tmp_path / "base.pt", state, {})
    save(tmp_path / "adapter", str(tmp_path / "base.pt"), scale=30.0)
    message = refused(tmp_path, capsys, weights=str(tmp_path / "base.pt"), tolerance=1e9)
    assert f"after merging, {ADAPTED} has NaN or infinity in torch.float16" in message


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf"), "0.5.1", None])
def test_a_strength_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], strength: Any
) -> None:
    save(tmp_path / "adapter", "random:0")
    assert "--settings: strength: " in refused(tmp_path, capsys, strength=strength)


def test_a_file_whose_tensors_have_memory_in_common_is_merged(tmp_path: Path) -> None:
    base = tmp_path / "base.pt"
    values = {f"detector.{k}": v for k, v in build_model("tiny", seed=5).state_dict().items()}
    values["tracker.tied"] = values[f"detector.{ADAPTED}"]
    values["tracker.view"] = values[f"detector.{ADAPTED}"][:3]
    torch.save(values, base)
    save(tmp_path / "adapter", str(base))
    merged = merge(tmp_path, str(base)) / "sam3.pt"
    assert changed_tensors(base, merged) == changed_by(adapted_tiny()[0])
    value = expected(base, 1.0)[ADAPTED]
    torch.testing.assert_close(tensors(merged)[ADAPTED].double(), value, rtol=1e-6, atol=1e-7)


def test_real_images_are_compared_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = write_converted(tmp_path, {"train": 1, "valid": 4})
    save(tmp_path / "adapter", "random:0")
    out = merge(tmp_path, coco=coco / "valid.json")
    parity = json.loads((out / "parity.json").read_text())
    assert parity["images"] == ["random pixels", "valid/1.png", "valid/2.png"]
    (tmp_path / "valid" / "2.png").write_bytes(b"damaged")
    shutil.rmtree(out)
    assert "2.png: cannot read the image" in refused(tmp_path, capsys, coco=coco / "valid.json")


def write_strengths(path: Path, *points: tuple[float, float, float]) -> list[str]:
    """Strengths that were compared, as (strength, score, retained); the option for them."""
    write_typed(path, strength_curve(*points))
    return ["--strengths", str(path)]


@pytest.mark.parametrize(("retain", "strength"), [(0.8, 0.6), (0.5, 1.2), (0.95, 0.6)])
def test_auto_merges_the_best_strength_that_retains_enough(
    tmp_path: Path, base: Path, retain: float, strength: float, capsys: pytest.CaptureFixture[str]
) -> None:
    points = ((0.0, 0.1, 1.0), (0.6, 0.4, 0.8), (1.2, 0.5, 0.6))
    more = write_strengths(tmp_path / "strength.json", *points)
    chosen = merge(tmp_path, str(base), more=more, retain=retain)
    printed = capsys.readouterr().out
    assert f"chose strength {strength:g}: mask AP" in printed
    assert ("WARNING: no strength retains as much" in printed) == (retain > 0.8)
    assert json.loads((chosen / "parity.json").read_text())["strength"] == strength
    found = tensors(chosen / "sam3.pt")
    by_hand = tensors(merge(tmp_path, str(base), strength=strength) / "sam3.pt")
    assert all(torch.equal(value, by_hand[key]) for key, value in found.items())


def test_a_number_is_merged_whatever_was_compared(tmp_path: Path, base: Path) -> None:
    more = write_strengths(tmp_path / "strength.json", (0.6, 0.4, 0.9))
    out = merge(tmp_path, str(base), more=more, strength=0.3)
    assert json.loads((out / "parity.json").read_text())["strength"] == 0.3


def test_strengths_that_cannot_be_read_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "adapter", "random:0")
    (tmp_path / "strength.json").write_text('{"points": [{"strength": "much"}]}')
    more = ["--strengths", str(tmp_path / "strength.json")]
    assert "Run segtune.strength again" in refused(tmp_path, capsys, more=more)
