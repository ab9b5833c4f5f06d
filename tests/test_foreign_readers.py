"""What segtune writes, read by programs that are not among its dependencies."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from segtune.convert import main as convert
from segtune.dataset.coco import Split, read_split
from segtune.dataset.masks import segmentation_to_mask
from segtune.predict import main as predict

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
