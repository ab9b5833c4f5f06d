"""Connected components of a semantic mask, compared with SciPy's."""

import numpy as np
import pytest
from scipy import ndimage

from segtune.dataset.masks import mask_to_rle
from segtune.exports import components
from segtune.exports.components import connected_components

CONNECTIVITY = np.ones((3, 3))  # with the diagonal neighbors


@pytest.mark.parametrize("band", [50, 2**22])
@pytest.mark.parametrize("shape", [(23, 31), (1, 9), (9, 1)])
@pytest.mark.parametrize("values", [1, 2, 5])
def test_the_components_are_scipys(
    monkeypatch: pytest.MonkeyPatch, band: int, shape: tuple[int, int], values: int
) -> None:
    monkeypatch.setattr(components, "BAND", band)
    rng = np.random.default_rng(0)
    for density in (0.0, 0.3, 0.5, 1.0):
        pixels = rng.integers(1, values + 1, shape) * (rng.random(shape) < density)
        expected = []
        for value in range(1, values + 1):
            labels, count = ndimage.label(pixels == value, CONNECTIVITY)
            expected += [(value, n, mask_to_rle(labels == n)) for n in range(1, count + 1)]
        wanted = list(range(1, values + 1))
        found = connected_components(pixels, wanted, max_components=999, max_runs=999)
        assert list(found) == expected


def test_components_and_runs_are_limited() -> None:
    pixels = np.zeros((9, 9), np.uint8)
    pixels[::2, ::2] = 7
    assert len(list(connected_components(pixels, [7], max_components=25, max_runs=25))) == 25
    with pytest.raises(ValueError, match="more than 24 connected components"):
        connected_components(pixels, [7], max_components=24, max_runs=25)
    with pytest.raises(ValueError, match="more than 24 runs"):
        connected_components(pixels, [7], max_components=25, max_runs=24)
