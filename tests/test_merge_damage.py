"""Damaged, exchanged and moved files: a clear error, and nothing half-written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from segtune.core.errors import WeightsError
from segtune.core.fingerprints import file_digest
from segtune.model import weights as weights_module
from segtune.model.architecture import build_model
from segtune.model.official_format import write_official
from segtune.model.weight_files import TINY_WEIGHTS
from tests.merge_runs import merge, refused, save
from tests.weight_files import correct_digest


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A checkpoint, and an adapter that was trained on it."""
    path = tmp_path / "base.pt"
    write_official(path, build_model("tiny").state_dict(), {})
    save(tmp_path / "adapter", str(path))
    edit_recipe(tmp_path / "adapter", weights_sha256=digest(path))
    return path


def digest(path: Path) -> str:
    return file_digest(path, WeightsError, "")


def edit_recipe(adapter: Path, **changes: Any) -> None:
    path = adapter / "recipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def exchange(path: Path) -> None:
    write_official(path, build_model("tiny", seed=5).state_dict(), {})


@pytest.mark.parametrize("change", [flip, truncate, exchange])
def test_another_base_in_the_same_place_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], base: Path, change: Callable[[Path], None]
) -> None:
    change(base)
    assert "whose content is another" in refused(tmp_path, capsys, weights=str(base))


@pytest.mark.parametrize(
    ("change", "message"),
    [(flip, "damaged: the checksum of"), (truncate, "cannot read tensors (damaged")],
)
def test_a_damaged_base_is_noticed_without_a_fingerprint(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    base: Path,
    change: Callable[[Path], None],
    message: str,
) -> None:
    edit_recipe(tmp_path / "adapter", weights_sha256=None)
    change(base)
    assert message in refused(tmp_path, capsys, weights=str(base))


def test_a_base_that_was_moved_is_the_same(tmp_path: Path, base: Path) -> None:
    moved = base.rename(tmp_path / "moved.pt")
    assert (merge(tmp_path, str(moved)) / "sam3.pt").exists()


def test_the_shipped_weights_count_by_content(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "adapter", "default")
    edit_recipe(tmp_path / "adapter", weights_sha256=digest(TINY_WEIGHTS))
    shutil.rmtree(merge(tmp_path, "default"))
    edit_recipe(tmp_path / "adapter", weights_sha256="0" * 16)
    assert "whose content is another" in refused(tmp_path, capsys, weights="default")


def test_weights_of_the_hub_count_by_content(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    base: Path,
) -> None:
    monkeypatch.setattr(weights_module, "hf_hub_download", lambda *_: str(base))
    shutil.rmtree(merge(tmp_path, "facebook/sam3"))
    exchange(base)
    message = refused(tmp_path, capsys, weights="facebook/sam3")
    assert f"with weights '{base}', not on 'tiny' with 'facebook/sam3'" in message


def test_random_weights_are_those_of_their_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], base: Path
) -> None:
    message = refused(tmp_path, capsys, weights="random:0")  # which has the same values
    assert "not on 'tiny' with 'random:0'" in message


def with_nan(path: Path) -> None:
    tensors = load_file(path)
    last = sorted(tensors)[-1]
    tensors[last].view(-1)[7] = torch.nan
    save_file(tensors, path)


def of_another_training(path: Path) -> None:
    save(path.parent.parent / "other", "random:0", scale=2.0)
    shutil.copy(path.parent.parent / "other" / path.name, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip, "damaged: its checksum is not that of the recipe"),
        (truncate, "cannot read the adapter"),
        (with_nan, "damaged: its checksum is not that of the recipe"),
        (of_another_training, "damaged: its checksum is not that of the recipe"),
    ],
)
def test_a_changed_adapter_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    message: str,
) -> None:
    save(tmp_path / "adapter", "random:0")
    change(tmp_path / "adapter" / "adapter_model.safetensors")
    assert message in refused(tmp_path, capsys)


def test_one_nan_is_refused_whatever_the_checksum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "adapter", "random:0")
    with_nan(tmp_path / "adapter" / "adapter_model.safetensors")
    correct_digest(tmp_path / "adapter")
    assert "NaN or infinity" in refused(tmp_path, capsys)


@pytest.mark.parametrize("file", ["recipe.json", "adapter_config.json"])
def test_a_wrong_rank_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    save(tmp_path / "adapter", "random:0")
    path = tmp_path / "adapter" / file
    values = json.loads(path.read_text())
    ranks = values["rank_pattern"] if file == "adapter_config.json" else None
    if ranks:
        ranks[sorted(ranks)[-1]] += 1
    else:
        values["adapted"][sorted(values["adapted"])[-1]]["rank"] += 1
    path.write_text(json.dumps(values))
    message = refused(tmp_path, capsys)
    assert ("and the tensors have" if ranks else "of another shape: ") in message


def test_a_wrong_rank_of_a_peft_adapter_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = ["transformer.encoder.layers.0.linear1"]
    adapted = get_peft_model(build_model("tiny"), LoraConfig(r=3, target_modules=targets))
    adapted.save_pretrained(str(tmp_path / "adapter"))
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "r": 4}))
    assert "rank 4, and the tensors have 3" in refused(tmp_path, capsys)
