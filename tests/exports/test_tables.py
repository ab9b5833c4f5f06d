"""The tables of a converted export: numbered anew, with hardly a box missing."""

from pathlib import Path

import pytest

from tests.conversion import convert, converted, refused, rules
from tests.export_writer import Values, first, write_export


@pytest.mark.parametrize(("dropped", "total", "passes"), [(2, 200, True), (3, 200, False)])
def test_at_most_one_percent_of_the_boxes_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dropped: int, total: int, passes: bool
) -> None:
    def change(values: Values) -> None:
        record = {**first(values), "segmentation": []}
        # The other two splits have four annotations.
        values["annotations"] = [{**record, "id": i} for i in range(total - 4)]
        for corrupted in values["annotations"][:dropped]:
            corrupted["bbox"] = [5, 5, 0, 0]

    export = write_export(tmp_path / "export", change)
    if passes:
        assert rules(convert(export, tmp_path / "out"))["box with no area dropped"] == dropped
    else:
        assert "3 of 200 boxes" in refused(export, tmp_path / "out", capsys)


def test_duplicate_annotation_ids_are_renumbered(tmp_path: Path) -> None:
    values = converted(tmp_path, lambda v: [a.update(id=0) for a in v["annotations"]])
    assert [a["id"] for a in values["train"]["annotations"]] == [1, 2]
