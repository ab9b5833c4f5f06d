"""Adapters with random values, merged into tiny models through the command."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from segtune.lora.adapter import save_adapter
from segtune.lora.inject import weight_updates
from segtune.lora.state import lora_state_dict
from segtune.merge import main
from tests.batches import adapted_tiny
from tests.weight_files import same_bits

RESULT = {"best_score": 0.5, "best_epoch": 2, "base_score": 0.1}
RECIPE = {
    "segtune": "0",
    "model": "tiny",
    "image_size": 96,
    "settings": {"select_by": "AP"},
    "result": RESULT,
}


def save(folder: Path, weights: str, scale: float = 1.0) -> None:
    """Save the adapter of `adapted_tiny` for a base model, its values times `scale`."""
    model, adapted = adapted_tiny()
    state = {name: value * scale for name, value in lora_state_dict(model).items()}
    recipe = {**RECIPE, "weights": weights}
    save_adapter(folder, state, specs=adapted, base_model="segtune/tiny", recipe=recipe)


def merge(
    tmp_path: Path,
    weights: str = "random:0",
    model: str = "tiny",
    coco: Path | None = None,
    more: Sequence[str] = (),
    **settings: Any,
) -> Path:
    """Merge `tmp_path / "adapter"` into weights, with these settings; returns the results."""
    out = tmp_path / "merge"
    paths = ["--adapter", str(tmp_path / "adapter"), "--out", str(out), "--weights", weights]
    paths += ["--coco", str(coco)] if coco else []
    main([*paths, *more, "--model", model, "--settings", json.dumps(settings)])
    return out


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    """What `merge` says when it refuses; nothing may be left."""
    with pytest.raises(SystemExit) as raised:
        merge(tmp_path, **options)
    assert raised.value.code == 1
    assert not list((tmp_path / "merge").glob("**/*"))
    return capsys.readouterr().err


def changed_tensors(base: Path, merged: Path) -> set[str]:
    """The keys whose tensors merging has changed, in files of the same keys and nesting."""
    before, after = (torch.load(p, weights_only=True, mmap=True) for p in (base, merged))
    assert ("model" in before) == ("model" in after)
    before, after = before.get("model", before), after.get("model", after)
    assert after.keys() == before.keys()
    return {key for key, value in before.items() if not same_bits(after[key], value)}


def changed_by(adapted: torch.nn.Module) -> set[str]:
    """The keys in an official file of the weights that an adapted model changes."""
    return {f"detector.{key}" for key in weight_updates(adapted)}
