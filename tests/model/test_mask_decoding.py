"""Only the best detections of each prompt are decoded."""

from pathlib import Path

import pytest

from tests.converted import write_converted
from tests.prompted_image import detections


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_converted(tmp_path_factory.mktemp("converted"))


def test_the_best_detections_are_returned_in_order(coco: Path) -> None:
    everything = [d.score for d in detections(coco, ["disc"])]
    assert everything == sorted(everything, reverse=True)
    assert [d.score for d in detections(coco, ["disc"], max_detections=3)] == everything[:3]
    threshold = everything[4]
    assert len(detections(coco, ["disc"], confidence_threshold=threshold)) == 5
    assert detections(coco, ["disc"], confidence_threshold=1.0) == []
