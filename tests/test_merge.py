"""Merging: the file is verified before it appears, and its model card states the license."""

import hashlib
import json
import shutil
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


def test_merging_again_gives_the_same_bytes(tmp_path: Path) -> None:
    save(tmp_path / "adapter", "random:0")
    one = (merge(tmp_path) / "sam3.pt").read_bytes()
    shutil.move(tmp_path / "adapter", tmp_path / "elsewhere" / "adapter")
    other = (merge(tmp_path / "elsewhere") / "sam3.pt").read_bytes()
    assert one == other
    parity = json.loads((tmp_path / "merge" / "parity.json").read_text())
    assert parity["sha256"] == hashlib.sha256(one).hexdigest()


def test_tensors_that_were_not_adapted_are_those_of_the_base(tmp_path: Path) -> None:
    state = build_model("tiny", seed=5).state_dict()
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    write_official(tmp_path / "base.pt", halves, {})
    save(tmp_path / "adapter", str(tmp_path / "base.pt"))
    merged = read_official(merge(tmp_path, str(tmp_path / "base.pt")) / "sam3.pt").detector
    adapted = {f"{name}." for name in adapted_tiny()[1]}
    assert merged.keys() == halves.keys()
    same = {k for k in merged if merged[k].dtype == halves[k].dtype}
    assert all(torch.equal(merged[k], halves[k]) for k in same)
    changed = merged.keys() - same
    assert changed
    assert all(any(key.startswith(name) for name in adapted) for key in changed)


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


def with_digest(adapter: Path, digest: str) -> None:
    recipe = json.loads((adapter / "recipe.json").read_text())
    (adapter / "recipe.json").write_text(json.dumps({**recipe, "weights_sha256": digest}))


def test_other_content_of_the_base_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base.pt"
    write_official(base, build_model("tiny").state_dict(), {})
    save(tmp_path / "adapter", str(base))
    with_digest(tmp_path / "adapter", hashlib.sha256(base.read_bytes()).hexdigest()[:16])
    write_official(base, build_model("tiny", seed=5).state_dict(), {})
    assert "whose content is another" in refused(tmp_path, capsys, weights=str(base))


def test_a_base_that_was_moved_is_the_same(tmp_path: Path) -> None:
    base = tmp_path / "moved.pt"
    write_official(base, build_model("tiny").state_dict(), {})
    save(tmp_path / "adapter", "somewhere/base.pt")
    with_digest(tmp_path / "adapter", hashlib.sha256(base.read_bytes()).hexdigest()[:16])
    assert (merge(tmp_path, weights=str(base)) / "sam3.pt").exists()


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
