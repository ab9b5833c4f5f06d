"""Which images are shown, and what is drawn on them."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segtune.core.errors import DatasetError
from segtune.dataset.coco import Split
from segtune.dataset.detections import Detection, Detections
from segtune.evaluation.error_types import ErrorRecord, classify_errors
from segtune.reports.drawing import THUMBNAIL
from segtune.reports.gallery import (
    MAX_IMPROVED,
    MAX_WORST,
    choose_images,
    gallery,
    group_by_image,
    image_f1,
)
from tests.scenes import Box, detection, split_of

BOX: Box = (10, 10, 40, 40)
FAR: Box = (60, 60, 30, 30)
HALF = {1: 0.5, 2: 0.5}
NOTHING: dict[str, list[Detection]] = {"base": [], "tuned": []}


def with_images(split: Split, folder: Path) -> Split:
    for image in split.images:
        Image.new("RGB", (image.width, image.height), "#808080").save(folder / image.file_name)
    return replace(split, root=folder)


def errors(
    split: Split, found: Sequence[Detection], *, with_masks: bool = True
) -> list[ErrorRecord]:
    return classify_errors(split, Detections(found), HALF, with_masks=with_masks)


def of_both(
    split: Split, found: Mapping[str, Sequence[Detection]], with_masks: bool = True
) -> dict[str, list[ErrorRecord]]:
    return {model: errors(split, mine, with_masks=with_masks) for model, mine in found.items()}


def reasons(
    split: Split, base: Sequence[Detection], tuned: Sequence[Detection]
) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    both = {
        "base": group_by_image(errors(split, base)),
        "tuned": group_by_image(errors(split, tuned)),
    }
    for image, reason in choose_images(split, both):
        found.setdefault(reason, []).append(image.id)
    return found


def test_the_score_of_an_image_is_its_f1() -> None:
    split = split_of([(1, 1, BOX), (1, 2, FAR)])
    found = [detection(1, 1, BOX), detection(1, 1, FAR)]
    assert image_f1(errors(split, found)) == pytest.approx(2 * 1 / (1 + 2))
    assert image_f1([]) == 1.0
    assert image_f1(errors(split, [])) == 0.0


def test_images_are_shown_for_a_reason() -> None:
    split = split_of([(n, 1, BOX) for n in (1, 2, 3, 4)], images=5)
    right = {n: detection(n, 1, BOX) for n in (1, 2, 3, 4)}
    # Both miss 1 and detect 2; 3 is lost, 4 is gained; 5 shows nothing.
    assert reasons(split, [right[2], right[3]], [right[2], right[4]]) == {
        "worst": [1, 3],
        "most improved": [4],
    }


def test_an_image_that_got_worse_is_shown_when_it_is_not_among_the_worst() -> None:
    last = MAX_WORST + 1
    found = [detection(last, 1, BOX)]
    split = split_of([(n, 1, BOX) for n in range(1, last + 1)], images=last)
    strays = [detection(n, 1, FAR) for n in range(1, last)]
    shown = reasons(split, found, [*strays, *found, detection(last, 1, FAR)])
    assert shown["got worse"] == [last]


def test_an_image_that_shows_another_error_goes_first() -> None:
    split = split_of([(n, 1, BOX) for n in (1, 2, 3)], images=3)
    found = [detection(1, 1, BOX), detection(1, 2, FAR)]  # 2 and 3 are missed
    assert reasons(split, found, found)["worst"] == [2, 1, 3]


def test_there_are_never_too_many() -> None:
    split = split_of([(n, 1, BOX) for n in range(1, 101)], images=100)
    half = [detection(n, 1, BOX) for n in range(1, 51)]
    found = reasons(split, [], half)
    assert {reason: len(images) for reason, images in found.items()} == {
        "worst": MAX_WORST,
        "most improved": MAX_IMPROVED,
    }
    assert len({n for images in found.values() for n in images}) == MAX_WORST + MAX_IMPROVED


def pixels(data_uri: str) -> Any:
    kind, _, data = data_uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def test_ground_truth_and_detections_are_drawn(tmp_path: Path) -> None:
    split = with_images(split_of([(1, 1, BOX)]), tmp_path)
    found = {"base": [detection(1, 2, FAR)], "tuned": [detection(1, 1, BOX, 0.8)]}
    (shown,) = gallery(split, of_both(split, found))
    assert (shown.reason, shown.title) == ("most improved", "1.jpg")
    assert shown.classes == ("cat", "dog")
    assert shown.types == ("correct",)
    assert shown.ground_truth_tally == "1 cat"
    assert (shown.base_tally, shown.tuned_tally) == ("1 background, 1 missed", "1 correct")
    inside, beside = (slice(3 * 35, 3 * 45),) * 2, (slice(3 * 68, 3 * 82),) * 2
    gray = np.array([128, 128, 128])
    truth, base, tuned = (pixels(p) for p in (shown.ground_truth, shown.base, shown.tuned))
    assert truth.shape == (THUMBNAIL, THUMBNAIL, 3)
    for image, drawn, strongest in ((truth, inside, 2), (base, beside, 0), (tuned, inside, 1)):
        bare = beside if drawn is inside else inside
        assert image[drawn].mean((0, 1)).argmax() == strongest
        assert np.abs(image[drawn].mean((0, 1)) - gray).max() > 15
        assert np.abs(image[bare].mean((0, 1)) - gray).max() < 8


def test_an_object_without_a_mask_is_drawn_as_its_box(tmp_path: Path) -> None:
    split = with_images(split_of([(1, 1, BOX)]), tmp_path)
    (known,) = split.annotations[1]
    split = replace(split, annotations={1: (replace(known, segmentation=None),), 2: ()})
    found = {"base": [], "tuned": [detection(1, 1, BOX)]}
    (shown,) = gallery(split, of_both(split, found, with_masks=False))
    edge = (3 * 30, slice(3 * 10 - 3, 3 * 10 + 6))
    for image, strongest in ((pixels(shown.ground_truth), 2), (pixels(shown.tuned), 1)):
        center = image[3 * 28 : 3 * 32, 3 * 28 : 3 * 32].mean((0, 1))
        assert np.abs(center - 128).max() < 8
        assert (image[edge].max(0) - image[edge].min(0)).max() > 50
        assert image[edge][:, strongest].max() > 135


def test_an_image_that_is_almost_a_line_can_be_shown(tmp_path: Path) -> None:
    split = split_of([(1, 1, BOX)], images=1)
    line = replace(split.images[0], width=2000, height=2)
    a = replace(split.annotations[1][0], segmentation=None, bbox_xywh=(5.0, 0.0, 90.0, 2.0))
    split = with_images(replace(split, images=(line,), annotations={1: (a,)}), tmp_path)
    (shown,) = gallery(split, of_both(split, NOTHING, with_masks=False))
    assert pixels(shown.ground_truth).shape == (1, THUMBNAIL, 3)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    split = replace(split_of([(1, 1, BOX)]), root=tmp_path)
    with pytest.raises(DatasetError, match=r"1\.jpg"):
        gallery(split, of_both(split, NOTHING))
