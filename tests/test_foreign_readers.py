"""What segtune writes, read by programs that are not among its dependencies."""

import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import shapely
import torch

from segtune.convert import main as convert
from segtune.core.config import LoraSettings
from segtune.dataset.coco import Split, read_split
from segtune.dataset.masks import segmentation_to_mask
from segtune.interchange.transformers_keys import renamed
from segtune.lora.adapter import save_adapter
from segtune.lora.inject import inject_lora
from segtune.lora.state import lora_state_dict
from segtune.lora.targets import lora_specs
from segtune.model.architecture import build_model, set_image_size
from segtune.model.mapped_weights import load_mapped
from segtune.model.official_format import read_official, write_official
from segtune.model.parity import compare, largest, outputs_on, random_input
from segtune.model.sam3_package import SimpleTokenizer
from segtune.model.tokenizer import bpe_vocabulary
from segtune.predict import main as predict
from tests.batches import randomize_lora
from tests.merge_runs import RECIPE, changed_tensors, merge

DEMO = Path(__file__).parents[1] / "data/demo"
ROUNDED = 1.25  # pixels: up to 0.71 for a corner, and 0.5 for a line of pixels
PROMPTS = ("star", "red circle")


@pytest.fixture(scope="module")
def supervision() -> Any:
    return pytest.importorskip(
        "supervision", reason="supervision is missing: pip install supervision"
    )


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's valid split, converted."""
    out = tmp_path_factory.mktemp("converted") / "coco"
    convert(["--export", str(DEMO), "--out", str(out)])
    return out / "valid.json"


def require_same_objects(supervision: Any, split: Split, path: Path) -> None:
    """Compare what supervision reads with a file's own objects."""
    dataset = supervision.DetectionDataset.from_coco(
        str(split.root), annotations_path=str(path), force_masks=True
    )
    tables = json.loads(path.read_text("utf-8"))
    names = {category["id"]: category["name"] for category in tables["categories"]}
    for image in split.images:
        own = [record for record in tables["annotations"] if record["image_id"] == image.id]
        found = dataset.annotations[str(split.image_path(image).resolve())]
        assert [dataset.classes[number] for number in found.class_id] == [
            names[record["category_id"]] for record in own
        ]
        masks = found.mask if own else []
        for record, box_xyxy, mask in zip(own, found.xyxy, masks, strict=True):
            x, y, w, h = record["bbox"]
            assert box_xyxy.tolist() == pytest.approx([x, y, x + w, y + h], abs=1e-3)
            require_same_mask(mask, record["segmentation"])


def require_same_mask(read: np.ndarray, segmentation: Any) -> None:
    """Compare a mask with a record's own.

    An RLE is read exactly. The corners of a polygon are rounded, and all pixels on the line
    between two of them belong to it, so that its outline moves by up to `ROUNDED`.
    """
    if isinstance(segmentation, dict):
        assert np.array_equal(read, segmentation_to_mask(segmentation, *read.shape).astype(bool))
        return
    rings = [shapely.Polygon(np.reshape(part, (-1, 2))).buffer(0) for part in segmentation]
    own = shapely.union_all(rings)
    y, x = np.indices(read.shape)
    assert (read <= shapely.contains_xy(own.buffer(ROUNDED), x, y)).all()
    assert (read >= shapely.contains_xy(own.buffer(-ROUNDED), x, y)).all()


def test_supervision_reads_a_converted_split(supervision: Any, valid: Path) -> None:
    require_same_objects(supervision, read_split(valid), valid)


def test_supervision_reads_predictions(supervision: Any, valid: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions.json"
    settings = json.dumps({"confidence_threshold": 0.3})
    source = ["--coco", str(valid), "--prompt", *PROMPTS, "--settings", settings]
    predict([*source, "--out", str(out)])
    assert len(json.loads(out.read_text("utf-8"))["annotations"]) > 10
    require_same_objects(supervision, read_split(valid), out)


@pytest.fixture
def ultralytics_sam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package's SAM module, with SAM 3's own tokenizer for a fork of CLIP that it downloads."""
    tokenizer = SimpleTokenizer(bpe_path=str(bpe_vocabulary()))
    clip = SimpleNamespace(simple_tokenizer=SimpleNamespace(SimpleTokenizer=lambda: tokenizer))
    monkeypatch.setitem(sys.modules, "clip", clip)
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    return pytest.importorskip(
        "ultralytics.models.sam", reason="ultralytics is missing: pip install ultralytics"
    )


@pytest.fixture
def merged(tmp_path: Path) -> Iterator[Path]:
    """A small update, merged into a full SAM 3 of random weights, with a neck for video."""
    base = tmp_path / "base.pt"
    model = build_model("full", seed=5)
    neck = "backbone.vision_backbone.convs."
    video = {
        f"detector.{key.replace('convs.', 'sam2_convs.')}": value + 1
        for key, value in model.state_dict().items()
        if key.startswith(neck)
    }
    write_official(base, model.state_dict(), video)
    lora = LoraSettings(rank=2, alpha=4)
    adapted = inject_lora(model, lora_specs({"vision": lora, "detr_decoder": lora}))
    randomize_lora(model)
    recipe = {**RECIPE, "model": "full", "weights": str(base), "image_size": None}
    state = lora_state_dict(model)
    folder = tmp_path / "adapter"
    save_adapter(folder, state, specs=adapted, base_model="facebook/sam3", recipe=recipe)
    del model
    path = merge(tmp_path, str(base), model="full") / "sam3.pt"
    assert changed_tensors(base, path)
    yield path
    shutil.rmtree(tmp_path)


def documented(word: str) -> str:
    """The code in the documentation that has a word, without its first line, which is slow."""
    text = (Path(__file__).parents[1] / "docs/exports.md").read_text("utf-8")
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if word in code)
    return code.removeprefix("predictor.setup_model()\n")


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ultralytics_loads_the_merged_file(
    ultralytics_sam: Any, merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Any] = []
    load = torch.nn.Module.load_state_dict

    def noting(model: torch.nn.Module, state: Mapping[str, Any], strict: bool = True) -> None:
        loads.append(load(model, state, strict=strict))

    monkeypatch.setattr(torch.nn.Module, "load_state_dict", noting)
    options = {"model": str(merged), "device": "cpu", "save": False}
    predictor = ultralytics_sam.SAM3SemanticPredictor(overrides=options)
    predictor.setup_model(verbose=False)
    theirs = predictor.model
    monkeypatch.undo()
    official = read_official(merged)
    # The same that transformers has not: rotary embeddings, and weights for points.
    (found,) = loads
    assert not found.missing_keys
    assert set(found.unexpected_keys) == {key for key in official.detector if not renamed(key)}
    written = official.detector | {
        key.removeprefix("detector."): value for key, value in official.rest.items()
    }
    state = theirs.state_dict()
    assert not [key for key, value in state.items() if not torch.equal(value, written[key])]

    side, inputs = 336, random_input(336)
    theirs.set_imgsz((side, side))
    theirs.set_classes(list(inputs.prompts))
    pixels = (inputs.pixels[None] / 255 - 0.5) / 0.5
    answers = []
    for code in ("", documented("forward_grounding")):
        exec(code, {"predictor": predictor})
        with torch.inference_mode():
            features = theirs.backbone.forward_image(pixels)
            answers.append(theirs.forward_grounding(features, torch.arange(len(inputs.prompts))))
    only_text, with_token = answers
    model = load_mapped("full", merged)
    set_image_size(model, "full", side)
    expected = outputs_on(model, [inputs])
    assert largest(compare(expected, [{key: with_token[key] for key in expected[0]}])) < 1e-4
    # Once this fails, ultralytics appends the token itself, and the cards need no warning.
    assert largest(compare(expected, [{key: only_text[key] for key in expected[0]}])) > 0.1
