"""Pairs of thumbnails that show the same: in every orientation, and only those."""

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from segtune.dataset.image_scan import THUMBNAIL_SIDE
from segtune.dataset.perceptual_hash import (
    AT_ONCE,
    MAX_CANDIDATES,
    ORIENTATIONS,
    Match,
    is_comparable,
    largest_difference,
    oriented,
    similar_pairs,
)

Thumbnails = npt.NDArray[np.uint8]


def layout(seed: int, contrast: float = 30) -> npt.NDArray[np.float64]:
    """A coarse structure."""
    cells = np.random.default_rng(seed).normal(0, contrast, (4, 4)).astype(np.float32)
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return 128 + np.asarray(Image.fromarray(cells).resize(side, Image.Resampling.BICUBIC), float)


def detail(seed: int, contrast: float = 12) -> npt.NDArray[np.float64]:
    """A fine structure."""
    return np.random.default_rng(seed).normal(0, contrast, (THUMBNAIL_SIDE, THUMBNAIL_SIDE))


def thumbnails(*images: npt.NDArray[np.float64]) -> Thumbnails:
    return np.stack(images).clip(0, 255).astype(np.uint8)


def found(
    queries: Thumbnails, others: Thumbnails, min_similarity: float = 0.9
) -> tuple[list[Match], list[int]]:
    pairs = list(similar_pairs(queries, others, min_similarity=min_similarity))
    matches = [pair for pair in pairs if isinstance(pair, Match)]
    return matches, [pair for pair in pairs if isinstance(pair, int)]


IMAGES = thumbnails(*(layout(n) + detail(n) for n in range(AT_ONCE + 20)))


@pytest.mark.parametrize("orientation", range(8))
def test_each_orientation_is_found(orientation: int) -> None:
    other = IMAGES[:1]
    turned = [oriented(other, n) for n in range(8)]
    (query,) = [one for one in turned if np.array_equal(oriented(one, orientation), other)]
    (match,), crowded = found(query, IMAGES)
    assert (match.query, match.other, match.orientation) == (0, 0, orientation)
    assert match.similarity == pytest.approx(1, abs=0.002)
    assert not crowded


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (Image.Transpose.FLIP_LEFT_RIGHT, "mirrored"),
        (Image.Transpose.FLIP_TOP_BOTTOM, "mirrored"),
        (Image.Transpose.ROTATE_90, "rotated"),
        (Image.Transpose.ROTATE_180, "rotated"),
        (Image.Transpose.ROTATE_270, "rotated"),
        (Image.Transpose.TRANSPOSE, "mirrored and rotated"),
        (Image.Transpose.TRANSVERSE, "mirrored and rotated"),
    ],
)
def test_orientations_are_named(method: Image.Transpose, name: str) -> None:
    query = np.asarray(Image.fromarray(IMAGES[0]).transpose(method))[None]
    (match,), _ = found(query, IMAGES[:1])
    assert ORIENTATIONS[match.orientation] == name


def test_pairs_are_numbered_beyond_what_is_compared_at_once() -> None:
    queries = IMAGES[::-1]
    matches, _ = found(queries, IMAGES)
    pairs = {(match.query, match.other) for match in matches}
    assert pairs == {(len(IMAGES) - 1 - n, n) for n in range(len(IMAGES))}


def test_one_layout_with_other_details_is_not_similar() -> None:
    queries, others = thumbnails(layout(0) + detail(1)), thumbnails(layout(0) + detail(2))
    matches, _ = found(queries, others, -1)
    assert matches[0].orientation == 0
    assert max(match.similarity for match in matches) < 0.2


def test_one_detail_in_another_layout_is_not_a_candidate() -> None:
    queries, others = thumbnails(layout(1) + detail(0)), thumbnails(layout(2) + detail(0))
    assert found(queries, others, -1) == ([], [])


def test_the_similarity_is_a_correlation() -> None:
    for noise, expected in ((6, 0.89), (12, 0.71)):
        queries = thumbnails(layout(0) + detail(1) + detail(2, noise))
        (match, *_), _ = found(queries, thumbnails(layout(0) + detail(1)), 0)
        assert match.similarity == pytest.approx(expected, abs=0.02)
        assert found(queries, IMAGES, match.similarity + 0.01) == ([], [])


@pytest.mark.parametrize(
    ("others", "crowded"), [(MAX_CANDIDATES - 1, []), (MAX_CANDIDATES + 3, [0])]
)
def test_a_query_with_too_many_candidates_is_named(others: int, crowded: list[int]) -> None:
    similar = thumbnails(*(layout(0) + detail(n) for n in range(others)))
    matches, unsure = found(thumbnails(layout(0) + detail(3)), similar)
    assert unsure == crowded
    assert [(match.query, match.other) for match in matches] == [(0, 3)]


def test_crowded_queries_are_numbered_beyond_what_is_compared_at_once() -> None:
    similar = thumbnails(*(layout(500) + detail(n) for n in range(20)))
    queries = np.concatenate([IMAGES, similar[:1]])
    assert found(queries, similar)[1] == [len(IMAGES)]


def test_nothing_is_similar_to_nothing() -> None:
    assert found(IMAGES[:0], IMAGES[:3]) == found(IMAGES[:3], IMAGES[:0]) == ([], [])


def test_what_has_too_little_structure_is_not_comparable() -> None:
    plain = np.full((32, 32), 90.0)
    slope = 128 + 20 * np.cos(np.pi * (np.indices((32, 32))[0] + 0.5) / 32)
    waves = 100 + 20 * (np.indices((32, 32)).sum(0) % 2 * 2.0 - 1)
    faint = 100 + 0.02 * (layout(0) - 128) + detail(0, 1)
    good = [layout(0) + detail(0), layout(0, 2) + detail(0, 2), 255 - layout(1) - detail(1)]
    images = thumbnails(plain, slope, waves, faint, *good)
    expected = [False, False, False, False, True, True, True]
    assert is_comparable(images).tolist() == expected
    many = np.concatenate([IMAGES, images])
    assert is_comparable(many).tolist() == [*[True] * len(IMAGES), *expected]


def test_the_difference_ignores_tones_and_notices_what_has_moved() -> None:
    (one,) = thumbnails(layout(0) + detail(0))
    brighter = (60 + 0.7 * one).astype(np.uint8)
    overexposed = (1.6 * one.astype(float)).clip(0, 255).astype(np.uint8)
    moved = one.copy()
    moved[10:12, 10:12] = 255 if one[10:12, 10:12].mean() < 128 else 0
    assert largest_difference(one, one) < 0.001
    assert largest_difference(one, brighter) < 0.3
    assert largest_difference(one, overexposed) < 0.6
    assert largest_difference(overexposed, one) == largest_difference(one, overexposed)
    assert largest_difference(one, moved) > 1.5
