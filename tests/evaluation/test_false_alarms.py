"""False alarms: known answers."""

from dataclasses import replace

import pytest

from segtune.dataset.detections import Detections
from segtune.evaluation.false_alarms import false_alarms
from tests.scenes import Box, detection, split_of

BOX: Box = (10, 10, 40, 40)


def test_false_alarms_are_fractions_of_images_without_the_class() -> None:
    split = split_of([(1, 1, BOX)], images=4)
    detections = Detections(
        [
            detection(1, 1, BOX, 0.9),  # of an object
            detection(2, 1, BOX, 0.5),
            detection(2, 1, BOX, 0.5),  # in the same image
            detection(3, 1, BOX, 0.49),
            detection(4, 2, BOX, 0.7),
        ]
    )
    alarms = false_alarms(split, detections, 0.5)
    assert alarms == {"cat": pytest.approx(1 / 3), "dog": pytest.approx(1 / 4)}
    assert false_alarms(split, detections, 0.8) == {"cat": 0.0, "dog": 0.0}
    everywhere = split_of([(1, 1, BOX), (2, 1, BOX)])
    assert false_alarms(everywhere, detections, 0.5)["cat"] is None


def test_a_detection_of_a_crowd_does_not_count_as_a_false_alarm() -> None:
    split = split_of([(1, 1, BOX)])
    crowd = replace(split.annotations[1][0], iscrowd=1)
    split = replace(split, annotations={1: (crowd,), 2: ()})
    detections = Detections([detection(1, 1, BOX), detection(1, 2, BOX)])
    assert false_alarms(split, detections, 0.5) == {"cat": 0.0, "dog": 0.5}
