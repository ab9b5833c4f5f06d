"""The log of repairs: counts, the first examples, and paths relative to the export."""

from array import array
from pathlib import Path

from segtune.exports.repairs import MAX_EXAMPLES, Example, Repairs
from segtune.exports.split_source import Place


def test_all_repairs_are_counted_and_the_first_are_shown() -> None:
    repairs = Repairs(Path("/exports/reef"))
    file = Path("/exports/reef/train/labels.json")
    for number in range(MAX_EXAMPLES + 2):
        repairs.log("rule b", Place(file, f"annotation {number}"), [array("d", [1.5, number])])
    repairs.log("rule a", Place(Path("/exports/reef"), "test"), None)
    first, second = repairs.by_rule()
    assert (first.rule, first.count, second.rule) == ("rule a", 1, "rule b")
    assert second.count == MAX_EXAMPLES + 2
    assert len(second.examples) == MAX_EXAMPLES
    assert second.examples[1] == Example("train/labels.json", "annotation 1", [[1.5, 1]])
