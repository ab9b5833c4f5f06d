"""The demo export: as its script draws it, with the quirks of a real export."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

DEMO = Path(__file__).parent.parent / "data" / "demo"
SPLITS = {"train": 60, "valid": 16, "test": 24}


def annotations(folder: Path, split: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / split / "_annotations.coco.json").read_text())
    return values


def test_the_script_draws_what_is_shipped(tmp_path: Path) -> None:
    runpy.run_path(str(DEMO.parent / "make_demo.py"))["main"](["--out", str(tmp_path)])
    drawn = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    shipped = {path.relative_to(DEMO) for path in DEMO.rglob("*") if path.is_file()}
    assert drawn == shipped
    for name in sorted(drawn):
        if name.suffix == ".jpg":
            with Image.open(tmp_path / name) as mine, Image.open(DEMO / name) as theirs:
                difference = np.asarray(mine, int) - np.asarray(theirs, int)
            # Other processors may round differently.
            assert abs(difference).mean() < 0.1
        else:
            assert (tmp_path / name).read_text() == (DEMO / name).read_text()


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_looks_like_roboflows_export(split: str) -> None:
    values = annotations(DEMO, split)
    assert len(values["images"]) >= SPLITS[split]
    assert values["categories"][0] == {"id": 0, "name": "tidepool", "supercategory": "none"}
    used = {a["category_id"] for a in values["annotations"]}
    assert used == {1, 2, 3, 4}
    assert [a["id"] for a in values["annotations"]] == list(range(len(values["annotations"])))
    assert all(".rf." in image["file_name"] for image in values["images"])
    with_objects = {a["image_id"] for a in values["annotations"]}
    assert len(with_objects) < len(values["images"])
    for a in values["annotations"]:
        assert a["area"] == pytest.approx(a["bbox"][2] * a["bbox"][3], abs=0.1)
        points = np.concatenate([np.reshape(p, (-1, 2)) for p in a["segmentation"] or [[0, 0]]])
        if a["segmentation"]:
            np.testing.assert_allclose(
                [*points.min(0), *np.ptp(points, axis=0)], a["bbox"], atol=0.02
            )
            assert points.min() >= 0
            assert points.max() <= values["images"][0]["width"]


def test_some_objects_have_two_parts_and_some_are_box_only() -> None:
    parts = [len(a["segmentation"]) for a in annotations(DEMO, "train")["annotations"]]
    assert parts.count(2) >= 5
    assert parts.count(0) == 2


def test_no_image_is_in_two_splits() -> None:
    contents = [path.read_bytes() for path in DEMO.rglob("*.jpg")]
    assert len(set(contents)) == len(contents)
