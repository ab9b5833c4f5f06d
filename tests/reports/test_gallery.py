"""Which images are shown, and what is drawn on them."""

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segtune.core.errors import DatasetError
from segtune.dataset.coco import Split
from segtune.evaluation.error_types import ErrorRecord, classify_errors
from segtune.reports.gallery import IMPROVED, SIDE, WORST, chosen, crop, gallery, image_score
from tests.evaluation.test_average_precision import Box, detection, split_of

BOX: Box = (10, 10, 40, 40)
FAR: Box = (60, 60, 30, 30)
HALF = {1: 0.5, 2: 0.5}


def with_images(split: Split, folder: Path) -> Split:
    for image in split.images:
        Image.new("RGB", (image.width, image.height), "#808080").save(folder / image.file_name)
    return replace(split, root=folder)


def judged(split: Split, results: list[dict[str, Any]]) -> dict[int, list[ErrorRecord]]:
    found: dict[int, list[ErrorRecord]] = {}
    for j in classify_errors(split, results, HALF, with_masks=True):
        found.setdefault(j.image_id, []).append(j)
    return found


def reasons(split: Split, base: list[Any], tuned: list[Any]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    both = {"base": judged(split, base), "tuned": judged(split, tuned)}
    for image, why in chosen(split, both):
        found.setdefault(why, []).append(image.id)
    return found


def test_the_score_of_a_image_is_its_f1() -> None:
    split = split_of([(1, 1, BOX), (1, 2, FAR)])
    results = [detection(1, 1, BOX), detection(1, 1, FAR)]
    assert image_score(judged(split, results)[1]) == pytest.approx(2 * 1 / (1 + 2))
    assert image_score([]) == 1.0
    assert image_score(judged(split, [])[1]) == 0.0


def test_images_are_shown_for_a_reason() -> None:
    split = split_of([(n, 1, BOX) for n in (1, 2, 3, 4)], images=5)
    right = {n: detection(n, 1, BOX) for n in (1, 2, 3, 4)}
    # 1 is missed by both, 2 is found by both, 3 is lost, 4 is gained; 5 shows nothing.
    assert reasons(split, [right[2], right[3]], [right[2], right[4]]) == {
        "worst": [1, 3],
        "improved most": [4],
    }


def test_a_image_that_shows_another_mistake_goes_first() -> None:
    split = split_of([(n, 1, BOX) for n in (1, 2, 3)], images=3)
    results = [detection(1, 1, BOX), detection(1, 2, FAR)]  # 2 and 3 are missed
    assert reasons(split, results, results)["worst"] == [2, 1, 3]


def test_there_are_never_too_many() -> None:
    split = split_of([(n, 1, BOX) for n in range(1, 101)], images=100)
    half = [detection(n, 1, BOX) for n in range(1, 51)]
    found = reasons(split, [], half)
    assert {why: len(images) for why, images in found.items()} == {
        "worst": WORST,
        "improved most": IMPROVED,
    }
    assert len({n for images in found.values() for n in images}) == WORST + IMPROVED


def pixels(data_uri: str) -> Any:
    kind, _, data = data_uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def test_what_is_there_and_what_was_found_is_drawn(tmp_path: Path) -> None:
    split = with_images(split_of([(1, 1, BOX)]), tmp_path)
    results = {"base": [detection(1, 2, FAR)], "tuned": [detection(1, 1, BOX, 0.8)]}
    both = {m: classify_errors(split, r, HALF, with_masks=True) for m, r in results.items()}
    (shown,) = gallery(split, both)
    assert (shown.why, shown.title) == ("improved most", "1.jpg")
    assert shown.classes == ("cat", "dog")
    assert shown.kinds == ("correct",)
    assert (shown.base_tally, shown.tuned_tally) == ("1 background, 1 missed", "1 correct")
    inside, beside = (slice(3 * 35, 3 * 45),) * 2, (slice(3 * 68, 3 * 82),) * 2
    grey = np.array([128, 128, 128])
    truth, base, tuned = (pixels(p) for p in (shown.truth, shown.base, shown.tuned))
    assert truth.shape == (SIDE, SIDE, 3)
    for image, drawn, strongest in ((truth, inside, 2), (base, beside, 0), (tuned, inside, 1)):
        bare = beside if drawn is inside else inside
        assert image[drawn].mean((0, 1)).argmax() == strongest
        assert np.abs(image[drawn].mean((0, 1)) - grey).max() > 15
        assert np.abs(image[bare].mean((0, 1)) - grey).max() < 8


def test_what_has_no_mask_is_drawn_as_its_box(tmp_path: Path) -> None:
    split = with_images(split_of([(1, 1, BOX)]), tmp_path)
    (known,) = split.annotations[1]
    split = replace(split, annotations={1: (replace(known, segmentation=None),), 2: ()})
    found = {"base": [], "tuned": [detection(1, 1, BOX)]}
    both = {m: classify_errors(split, r, HALF, with_masks=False) for m, r in found.items()}
    (shown,) = gallery(split, both)
    edge = (3 * 30, slice(3 * 10 - 3, 3 * 10 + 6))
    for image, strongest in ((pixels(shown.truth), 2), (pixels(shown.tuned), 1)):
        center = image[3 * 28 : 3 * 32, 3 * 28 : 3 * 32].mean((0, 1))
        assert np.abs(center - 128).max() < 8
        assert (image[edge].max(0) - image[edge].min(0)).max() > 50
        assert image[edge][:, strongest].max() > 135


def test_a_crop_shows_the_surroundings(tmp_path: Path) -> None:
    split = with_images(split_of([(1, 1, BOX)]), tmp_path)
    image = pixels(crop(split, split.images[0], (80.0, 10.0, 20.0, 10.0)))
    # From 70 to 100 and from 0 to 30: the margin ends where the image does.
    assert image.shape[:2] == (SIDE, SIDE)


def test_a_box_of_less_than_a_pixel_can_be_shown(tmp_path: Path) -> None:
    split = with_images(split_of([(1, 1, BOX)]), tmp_path)
    for x, y in ((50.4, 50.4), (99.9, 99.9), (0.0, 0.0)):
        assert pixels(crop(split, split.images[0], (x, y, 0.05, 0.05))).shape[0] > 0


def test_a_image_that_is_all_but_a_line_can_be_shown(tmp_path: Path) -> None:
    split = split_of([(1, 1, BOX)], images=1)
    line = replace(split.images[0], width=2000, height=2)
    a = replace(split.annotations[1][0], segmentation=None, bbox_xywh=(5.0, 0.0, 90.0, 2.0))
    split = with_images(replace(split, images=(line,), annotations={1: (a,)}), tmp_path)
    both = {m: classify_errors(split, [], HALF, with_masks=False) for m in ("base", "tuned")}
    assert pixels(gallery(split, both)[0].truth).shape == (1, SIDE, 3)


def test_a_image_that_is_gone_is_named(tmp_path: Path) -> None:
    split = replace(split_of([(1, 1, BOX)]), root=tmp_path)
    both = {m: classify_errors(split, [], HALF, with_masks=True) for m in ("base", "tuned")}
    with pytest.raises(DatasetError, match=r"1\.jpg"):
        gallery(split, both)
