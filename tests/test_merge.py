"""Merging: the file is verified before it appears, and its model card states the license."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from segtune.core.config import LoraSettings
from segtune.dataset.coco import read_split
from segtune.lora.adapter import save_adapter
from segtune.lora.inject import inject_lora
from segtune.lora.state import lora_state_dict
from segtune.lora.targets import lora_specs
from segtune.model import weights as weights_module
from segtune.model.architecture import build_model, set_image_size
from segtune.model.official_format import read_official, write_official
from segtune.model.parity import (
    compare,
    inputs_of,
    largest,
    outputs_on,
    outputs_on_random_input,
    random_input,
)
from segtune.model.recognition import base_model_name
from segtune.model.weight_files import SAM31
from segtune.model.weights import load_base_model
from segtune.predict import main as predict
from segtune.train import main as train
from tests import train_runs
from tests.batches import adapted_tiny, randomize_lora
from tests.converted import write_converted
from tests.forked import Forked
from tests.merge_runs import RECIPE, RESULT, changed_by, changed_tensors, merge, refused, save
from tests.weight_files import write_sam31


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
    recipe = json.loads((tmp_path / "adapter" / "recipe.json").read_text())
    assert parity["adapter_sha256"] == recipe["adapter_sha256"]
    assert all(item["relative"] < 1e-4 for item in parity["adapted_vs_merged"].values())
    assert all(item["absolute"] == 0 for item in parity["rounding"].values())
    assert parity["keys"] == len(build_model("tiny").state_dict())
    assert parity["keys"] - parity["keys_identical_to_base"] == len(changed_by(adapted_tiny()[0]))


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


def train_from_a_hub(arguments: list[str]) -> None:
    """Train, with a file in the place of what the hub has."""
    base, *given = arguments
    weights_module.hf_hub_download = lambda *_: base  # type: ignore[assignment]
    train(given)


def test_sam31_is_trained_merged_in_its_own_layout_and_predicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sam3.model_builder import _load_checkpoint

    coco = write_converted(tmp_path, {"train": 2, "valid": 1, "test": 1})
    base = tmp_path / "sam3.1_multiplex.pt"
    write_sam31(base)
    # From the hub when it is trained, and as a file when it is merged.
    arguments = train_runs.arguments(coco, tmp_path, epochs=1, batch_size=2)
    from_hub = [str(base), *arguments, "--weights", SAM31.repository]
    train_runs.finish(Forked(train_from_a_hub, from_hub))
    merged = merge(tmp_path, weights=str(base)) / "sam3.pt"
    recipe = json.loads((tmp_path / "adapter" / "recipe.json").read_text())
    assert recipe["base_model"] == "segtune/tiny"
    assert recipe["weights_sha256"] == hashlib.sha256(base.read_bytes()).hexdigest()[:16]
    changed = changed_tensors(base, merged)
    adapted = tuple(f"detector.{name}." for name in recipe["adapted"])
    assert changed and all(key.startswith(adapted) for key in changed)

    out, name = tmp_path / "test.json", ["--weights", str(merged)]
    predict(["--coco", str(coco / "test.json"), "--out", str(out), *name])
    assert json.loads(out.read_text())

    stock = build_model("tiny", seed=6)  # with the four scales that the stock builder gives it
    capsys.readouterr()
    _load_checkpoint(stock, str(merged))
    printed = capsys.readouterr().out
    assert (
        printed.count("backbone.vision_backbone.convs.3.") == printed.count("backbone.") // 2 == 4
    )
    expected = outputs_on_random_input(load_base_model("tiny", str(merged)), 96)
    for name, value in outputs_on_random_input(stock, 96).items():
        assert torch.equal(value, expected[name]), name


def test_nesting_and_precision_of_sam31_are_retained(tmp_path: Path) -> None:
    base = tmp_path / "base.pt"
    write_sam31(base, dtype=torch.bfloat16)
    torch.save({"model": torch.load(base, weights_only=True)}, base)
    save(tmp_path / "adapter", str(base))
    out = merge(tmp_path, weights=str(base))
    changed = changed_tensors(base, out / "sam3.pt")
    adapted = tuple(f"detector.{name}." for name in adapted_tiny()[1])
    assert changed and all(key.startswith(adapted) for key in changed)


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """A folder for files of several GB."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_full_sam31_is_merged_in_its_own_layout(
    large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sam3.model_builder import _load_checkpoint

    base = large / "sam3.1_multiplex.pt"
    write_sam31(base, "full", torch.bfloat16)
    assert len(torch.load(base, weights_only=True, mmap=True)) == 1166 + 457
    model = load_base_model("full", str(base))
    lora = LoraSettings(rank=2, alpha=4)
    adapted = inject_lora(model, lora_specs({"vision": lora, "detr_decoder": lora}))
    randomize_lora(model)
    recipe = {**RECIPE, "model": "full", "weights": str(base), "image_size": None}
    name = base_model_name(model, "full")
    save_adapter(
        large / "adapter", lora_state_dict(model), specs=adapted, base_model=name, recipe=recipe
    )
    del model
    coco = write_converted(large, {"valid": 2}) / "valid.json"
    merged = merge(large, str(base), model="full", coco=coco) / "sam3.pt"
    changed = changed_tensors(base, merged)
    assert changed and all(k.startswith(tuple(f"detector.{n}." for n in adapted)) for k in changed)
    card = (merged.parent / "MODEL_CARD.md").read_text()
    assert "- Base: facebook/sam3.1 (" in card
    assert "prints that `convs.3` is missing" in card

    stock = build_model("full", seed=6)
    capsys.readouterr()
    _load_checkpoint(stock, str(merged))
    assert capsys.readouterr().out.count("convs.3.") == 4
    set_image_size(stock, "full", 336)
    inputs = [random_input(336), *inputs_of(read_split(coco), 336, 2)]
    expected = outputs_on(stock, inputs)
    del stock
    model = load_base_model("full", str(merged))
    set_image_size(model, "full", 336)
    assert largest(compare(expected, outputs_on(model, inputs))) == 0


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_full_merge_takes_at_most_a_gigabyte_more_than_the_base(large: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.full_size_merge", "--folder", str(large)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"resident memory [\d.]+ GB, base \+ (-?[\d.]+) GB", answer.stdout)
    assert found and float(found[1]) < 1


def test_the_license_accompanies_the_weights(tmp_path: Path) -> None:
    save(tmp_path / "adapter", "random:0")
    card = (merge(tmp_path) / "MODEL_CARD.md").read_text()
    assert "SAM License" in card
    assert "0.5000 after epoch 2" in card
    assert "- Sees images\n" in card
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


def test_an_adapter_of_sam3_is_not_merged_into_sam31(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "adapter", "facebook/sam3")
    message = refused(tmp_path, capsys, weights="facebook/sam3.1")
    assert "with weights 'facebook/sam3', not on 'tiny' with 'facebook/sam3.1'" in message


def test_merging_again_gives_the_same_bytes(tmp_path: Path) -> None:
    save(tmp_path / "adapter", "random:0")
    one = (merge(tmp_path) / "sam3.pt").read_bytes()
    shutil.move(tmp_path / "adapter", tmp_path / "elsewhere" / "adapter")
    other = (merge(tmp_path / "elsewhere") / "sam3.pt").read_bytes()
    assert one == other
    parity = json.loads((tmp_path / "merge" / "parity.json").read_text())
    assert parity["sha256"] == hashlib.sha256(one).hexdigest()


def test_the_license_is_in_place_before_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "adapter", "random:0")
    out, seen = tmp_path / "merge", []
    replace = Path.replace

    def noting(self: Path, target: Path) -> Path:
        if Path(target) == out / "sam3.pt":
            seen.append((out / "MODEL_CARD.md").exists())
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noting)
    merge(tmp_path)
    assert seen == [True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"result": None}, "recipe.json: result: not the recipe of an adapter"),
        ({"result": {**RESULT, "best_score": float("nan")}}, "result.best_score: "),
        ({"model": 3}, "recipe.json: model: not the recipe"),
        ({"model": "a\x1b[2J" * 999}, "trained on model 'a"),
        ({"settings": []}, "recipe.json: settings"),
        ({"image_size": "large"}, "recipe.json: image_size"),
    ],
)
def test_a_recipe_of_another_kind_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    save(tmp_path / "adapter", "random:0")
    path = tmp_path / "adapter" / "recipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    error = refused(tmp_path, capsys)
    assert message in error
    assert error[:-1].isprintable()
    assert len(error) < 1000


def test_an_update_without_bounds_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "adapter", "random:0", scale=1e20)
    assert "after merging, backbone" in refused(tmp_path, capsys)
