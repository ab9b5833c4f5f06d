"""The search for copies: whose copy an image is, what kind of copy, and which are connected."""

import numpy as np
import numpy.typing as npt
import pytest

from segtune.core.validate_settings import ValidateLimits
from segtune.dataset.image_copies import (
    MIN_SIMILARITY,
    ComparedSplit,
    compared_splits,
    connected,
    copies_across,
    copies_within,
    differences,
)
from segtune.dataset.image_scan import ImageScan
from tests.dataset.test_perceptual_hash import detail, layout

Pixels = npt.NDArray[np.float64]

BASE = layout(0) + detail(0)
PLAIN = np.full((32, 32), 90.0)


def noisy(amount: float, seed: int = 1) -> Pixels:
    """With an even noise, of which no pixel gets much."""
    values: Pixels = BASE + np.random.default_rng(seed).uniform(-amount, amount, BASE.shape)
    return values


def with_object() -> Pixels:
    """Almost the same, but for something that has come into it."""
    image = BASE.copy()
    image[9, 9] += 60
    return image


def scan(split: str, name: str, pixels: Pixels | None, content: str = "") -> ImageScan:
    thumbnail = None if pixels is None else pixels.clip(0, 255).astype(np.uint8).tobytes()
    return ImageScan(split, name, "", content or f"{split} {name}", thumbnail, ())


def splits(*scans: ImageScan, min_similarity: float = 0.5) -> list[ComparedSplit]:
    return compared_splits(scans, min_similarity)


def across(*scans: ImageScan) -> list[tuple[str, str, str]]:
    earlier, later = splits(*scans)
    copies, _ = copies_across(later, earlier, min_near=0.93, min_likely=0.9, min_possible=0.5)
    return [(copy.image.file_name, copy.other.file_name, copy.kind) for copy in copies]


def within(*scans: ImageScan) -> list[tuple[str, str, str]]:
    (split,) = splits(*scans)
    return [(c.image.file_name, c.other.file_name, c.kind) for c in copies_within(split, 0.93)]


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        (noisy(3), "near"),
        (with_object(), "likely"),
        (noisy(9), "likely"),
        (noisy(14), "possible"),
    ],
)
def test_kinds_of_copies(pixels: Pixels, kind: str) -> None:
    found = across(scan("train", "a", BASE), scan("valid", "b", pixels))
    assert found == [("b", "a", kind)]


def test_what_is_not_similar_is_not_found() -> None:
    assert not across(scan("train", "a", BASE), scan("valid", "b", noisy(60)))


def test_identical_bytes_come_first_and_go_before_pixels() -> None:
    found = across(
        scan("train", "near", BASE),
        scan("train", "first", noisy(3), "x"),
        scan("train", "second", noisy(3), "x"),
        scan("valid", "b", BASE),
        scan("valid", "c", BASE, "x"),
    )
    assert found == [("c", "first", "identical"), ("b", "near", "near")]


def test_the_most_similar_image_is_named() -> None:
    others = [scan("train", f"{n}", noisy(amount)) for n, amount in enumerate((9, 3, 6))]
    assert across(*others, scan("valid", "b", BASE)) == [("b", "1", "near")]
    assert within(*others[:2], scan("train", "b", BASE))[-1] == ("b", "1", "near")


def test_orientations_are_those_in_which_pixels_are_compared() -> None:
    mirrored = noisy(3)[:, ::-1]
    train, valid = splits(scan("train", "a", BASE), scan("valid", "b", mirrored))
    (copy,), _ = copies_across(valid, train, min_near=0.93, min_likely=0.9, min_possible=0.5)
    assert (copy.kind, copy.orientation) == ("near", 1)
    assert copy.evidence.startswith("mirrored, correlation 0.9")


def test_crowded_images_are_returned() -> None:
    similar = [scan("train", f"{n}", layout(0) + detail(n + 10)) for n in range(20)]
    train, valid = splits(*similar, scan("valid", "v", noisy(60)), scan("valid", "w", BASE))
    _, crowded = copies_across(valid, train, min_near=0.93, min_likely=0.9, min_possible=0.5)
    assert [scan.file_name for scan in crowded] == ["v", "w"]


def test_copies_within_a_split_are_the_later_images() -> None:
    assert within(
        scan("train", "a", BASE),
        scan("train", "b", noisy(3)),
        scan("train", "object", with_object()),
        scan("train", "other", layout(7) + detail(7)),
    ) == [("b", "a", "near")]


def test_an_image_of_identical_bytes_is_named_once() -> None:
    images = [scan("train", name, BASE, "x") for name in "abc"]
    expected = [("b", "a", "identical"), ("c", "a", "identical")]
    assert within(*images) == expected


def test_only_pairs_of_the_wanted_similarity_are_kept_within_a_split() -> None:
    images = scan("train", "a", BASE), scan("train", "b", noisy(9))
    assert len(splits(*images)[0].within) == 1
    assert not splits(*images, min_similarity=0.95)[0].within


def test_what_cannot_be_compared_is_apart() -> None:
    split, _ = splits(
        scan("train", "a", BASE),
        scan("train", "plain", PLAIN),
        scan("train", "broken", None),
        ImageScan("train", "gone", "", "", None, ()),
        scan("valid", "v", BASE),
    )
    assert [scan.file_name for scan in split.scans] == ["a", "plain", "broken"]
    assert [scan.file_name for scan in split.plain] == ["plain"]
    assert [scan.file_name for scan in split.compared] == ["a"]


def test_files_of_valid_that_stand_in_for_test_are_left_out() -> None:
    train, valid, test = splits(
        scan("train", "a", BASE),
        scan("valid", "v", BASE),
        scan("test", "a", BASE),
        scan("test", "v", BASE),
        scan("test", "t", BASE),
    )
    assert [scan.file_name for scan in test.scans] == ["a", "t"]
    assert (len(train.scans), len(valid.scans)) == (1, 1)


def test_differences_are_of_similar_or_identical_images() -> None:
    images = (
        scan("train", "a", BASE),
        scan("train", "plain", PLAIN, "p"),
        scan("train", "b", noisy(9)),
        scan("train", "plain again", PLAIN, "p"),
        scan("train", "c", noisy(14, seed=2)),
    )
    (split,) = splits(*images, min_similarity=0.9)
    found = differences(split).toarray()
    assert found[3, 1] == 0.001
    assert found[2, 0] == pytest.approx(1 - split.within[0].similarity)
    pairs = {(int(row), int(column)) for row, column in zip(*found.nonzero(), strict=True)}
    assert {pair for pair in pairs if pair[0] != pair[1]} == {(2, 0), (3, 1)}


def test_a_split_without_images_that_can_be_read_has_no_differences() -> None:
    (split,) = splits(ImageScan("train", "gone", "", "", None, ()))
    assert differences(split).shape == (0, 0)


@pytest.mark.parametrize(
    ("pairs", "groups"),
    [
        ([], []),
        ([(0, 1)], [[0, 1]]),
        ([(3, 1), (3, 5)], [[1, 3, 5]]),
        ([(5, 4), (4, 3), (1, 0)], [[0, 1], [3, 4, 5]]),
        ([(2, 2), (0, 1), (0, 1)], [[0, 1]]),
    ],
)
def test_groups_are_what_pairs_connect(
    pairs: list[tuple[int, int]], groups: list[list[int]]
) -> None:
    assert list(connected(pairs, 6)) == groups


def test_conversion_and_validation_begin_with_one_limit() -> None:
    assert ValidateLimits().copy_similarity == MIN_SIMILARITY
