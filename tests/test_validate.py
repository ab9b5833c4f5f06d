"""The gate before training: errors stop it, warnings are counted, and a page shows both."""

import json
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segtune import validate_page
from segtune.checks.run import MAX_EXAMPLES
from tests.clean_dataset import Values, edit, edit_all, write_clean_dataset
from tests.validate_runs import found_in, page_of, validate


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_clean_dataset(tmp_path)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads that are started meanwhile."""
    names: list[str] = []
    start = threading.Thread.start

    def noticed(thread: threading.Thread) -> None:
        names.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noticed)
    return names


def test_as_many_threads_read_images_as_are_given(coco: Path, started: list[str]) -> None:
    report = validate(coco, "--workers", "1")
    assert len(started) == 1
    assert validate(coco, "--workers", "8") == report
    assert 2 < len(started) <= 9


@pytest.mark.skipif(sys.platform != "linux", reason="Linux knows what a process may use")
def test_by_default_there_is_a_thread_for_each_core_that_may_be_used(
    coco: Path, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    validate(coco)
    assert len(started) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.pop("images"),
        lambda v: v.update(images=[1]),
        lambda v: v["images"][0].pop("sha256"),
    ],
)
def test_a_damaged_manifest_is_an_error(
    coco: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], object]
) -> None:
    edit(coco, "manifest", change)
    with pytest.raises(SystemExit):
        validate(coco)
    assert "manifest.json: not a converted dataset" in capsys.readouterr().err


def empty_boxes(values: Values) -> None:
    for a in values["annotations"]:
        a.update(bbox=[0, 0, 0, 0])


def break_many_rules(values: Values) -> None:
    """Errors of seven kinds, of 24, 4, 3, 2, 1, 1 and 1 objects."""
    changes: list[tuple[int, dict[str, Any]]] = [
        (24, {"area": -1}),
        (4, {"iscrowd": 7}),
        (3, {"bbox": [0, 0, 0, 0]}),
        (2, {"segmentation": [[1, 1]]}),
    ]
    for count, change in changes:
        for a in values["annotations"][:count]:
            a.update(change)
    values["annotations"][5].update(category_id=9)
    values["annotations"][6].update(bbox=[-5, 0, 9, 9])
    values["annotations"][7].update(id=0)


def test_the_five_worst_errors_are_printed_with_the_path_of_the_page(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(coco, "train", break_many_rules)
    with pytest.raises(SystemExit) as raised:
        validate(coco)
    assert raised.value.code == 1
    printed = capsys.readouterr()
    errors = [line for line in printed.out.splitlines() if line.startswith("ERROR: ")]
    assert [line.split(":")[1].strip() for line in errors[:4]] == [
        "structure-area-invalid",
        "structure-iscrowd-invalid",
        "structure-box-empty",
        "structure-mask-unreadable",
    ]
    assert len(errors) == 5
    assert "(train: train/1.png, object 1 of disc, " in errors[0]
    assert errors[0].endswith(" and 21 more): run segtune.convert again")
    (line,) = printed.err.splitlines()
    assert "errors of 7 kinds, the 5 most frequent above" in line
    assert line.endswith("errors.html")


def test_the_output_is_short_and_the_report_is_long(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def add_empty_boxes(values: Values) -> None:
        record = {**values["annotations"][0], "bbox": [0, 0, 0, 0]}
        values["annotations"] = [{**record, "id": n} for n in range(1, MAX_EXAMPLES + 3)]

    edit(coco, "train", add_empty_boxes)
    finding = found_in(coco)["structure-box-empty"]
    assert finding["count"] == MAX_EXAMPLES + 2
    assert len(finding["examples"]) == MAX_EXAMPLES
    assert len(capsys.readouterr().out) < 1500


def test_a_long_name_does_not_fill_the_output(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(coco, "train", lambda v: v["images"][0].update(file_name="9" * 100_000))
    with pytest.raises(SystemExit):
        validate(coco)
    printed = capsys.readouterr()
    assert "image that cannot be read" in printed.out
    assert len(printed.out + printed.err) < 2000


def test_a_changed_severity_lets_a_dataset_pass_and_is_reported(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(coco, "train", empty_boxes)
    with pytest.raises(SystemExit):
        validate(coco)
    report = validate(coco, severities={"structure-box-empty": "warning"})
    assert [found["severity"] for found in report["findings"]] == ["warning"]
    changed = {"rule": "structure-box-empty", "default": "error", "severity": "warning"}
    assert report["overridden"] == [{**changed, "count": 24}]
    line = "structure-box-empty is warning instead of error (validate.severities); found in 24"
    assert line in capsys.readouterr().out
    text = page_of(coco)
    assert "Changed severities" in text
    assert '<th scope="row">structure-box-empty</th>' in text


def test_a_rule_that_is_off_is_counted_only(coco: Path) -> None:
    edit(coco, "train", empty_boxes)
    report = validate(coco, severities={"structure-box-empty": "off"})
    assert report["findings"] == []
    assert report["overridden"][0]["count"] == 24


def test_a_warning_can_be_made_an_error(coco: Path) -> None:
    edit(coco, "valid", lambda v: v["annotations"].append({**v["annotations"][0], "id": 99}))
    validate(coco)
    with pytest.raises(SystemExit):
        validate(coco, severities={"object-duplicate": "error"})


def test_the_default_severity_changes_nothing(coco: Path) -> None:
    assert validate(coco, severities={"object-duplicate": "warning"})["overridden"] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"severities": {"object-duplicates": "off"}},
            "there is no rule 'object-duplicates'. Did you mean object-duplicate?",
        ),
        ({"severities": {"object-tiny": "fatal"}}, "severities.object-tiny"),
        ({"limits": {"min_pixels": 1}}, "limits.min_pixels"),
        ({"limits": {"duplicate_iou": 0.1}}, "limits.duplicate_iou"),
    ],
)
def test_an_unknown_setting_is_refused(
    coco: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SystemExit) as raised:
        validate(coco, **settings)
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("segtune validate: ConfigError: ")
    assert message in line
    assert not (coco.parent / "validate").exists()


def test_limits_can_be_changed(coco: Path) -> None:
    assert "class-few-objects" in found_in(coco, limits={"min_class_objects": 13})
    assert "object-tiny" in found_in(coco, limits={"min_object_pixels": 40})


def test_the_fingerprint_is_of_the_splits_and_the_manifest(coco: Path) -> None:
    before = validate(coco)["fingerprint"]
    assert validate(coco)["fingerprint"] == before
    for name in ("train", "valid", "test", "manifest"):
        edit(coco, name, lambda v: v.update(note=1))
        after = validate(coco)["fingerprint"]
        assert after != before
        before = after


def test_a_page_is_not_made_of_a_stale_report(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    validate(coco)
    edit(coco, "valid", empty_boxes)
    with pytest.raises(SystemExit):
        page_of(coco)
    assert "this report is of another dataset, or" in capsys.readouterr().err


def test_the_page_shows_as_many_examples_as_are_wanted(coco: Path) -> None:
    edit(coco, "train", empty_boxes)
    examples = [place["text"] for place in found_in(coco)["structure-box-empty"]["examples"]]
    text = page_of(coco, max_examples=1)
    assert '<header class="bad">' in text
    assert "24 places. How to fix it: run segtune.convert again." in text
    assert [f"<figcaption>{example}<" in text for example in examples] == [True] + 23 * [False]
    assert "<li>and 23 more</li>" in text
    text = page_of(coco, max_examples=30)
    assert all(example in text for example in examples)
    assert "more</li>" not in text


def test_the_page_draws_the_first_examples_and_lists_the_others(coco: Path) -> None:
    def tiny(values: Values) -> None:
        for a in values["annotations"][:8]:
            a.update(bbox=[20, 20, 2, 2])

    edit(coco, "train", tiny)
    found_in(coco)
    text = page_of(coco)
    alternatives = re.findall(r'<img src="data:image/jpeg;base64,[^"]+" alt="([^"]+)">', text)
    assert len(alternatives) == 6
    assert alternatives[0] == "train: train/1.png, 1 object outlined"
    assert text.count("<li>train: train/4.png, object") == 2


def test_the_page_shows_pairs_side_by_side(coco: Path) -> None:
    first, second = (coco.parent / name for name in ("train/1.png", "test/2.png"))
    second.write_bytes(first.read_bytes())
    entry = next(
        record
        for record in json.loads((coco / "manifest.json").read_text())["images"]
        if record["path"] == "train/1.png"
    )

    def replace_entry(values: Values) -> None:
        for record in values["images"]:
            if record["path"] == "test/2.png":
                record.update(size=entry["size"], sha256=entry["sha256"])

    edit(coco, "manifest", replace_entry)
    found_in(coco)
    text = re.sub('base64,[^"]+', "", page_of(coco))
    assert re.search(
        r'<div class="pair">\s*<img [^>]*alt="test: test/2.png">\s*'
        r'<img [^>]*alt="train: train/1.png">\s*</div>',
        text,
    )


def test_the_page_survives_images_that_cannot_be_read(coco: Path) -> None:
    (coco.parent / "train/1.png").write_bytes(b"not an image")
    (coco.parent / "train/2.png").unlink()
    found = found_in(coco)
    assert {"image-changed", "image-missing"} <= set(found)
    text = page_of(coco)
    assert "<img" not in text
    assert "<li>train: train/1.png, 12 bytes instead of" in text


def test_the_page_says_whether_a_dataset_is_valid(coco: Path) -> None:
    validate(coco)
    text = page_of(coco)
    assert "<h1>The dataset is valid</h1>" in text
    assert '<th scope="row">plate</th><td>12</td><td>3</td><td>3</td>' in text
    edit(coco, "valid", lambda v: [a.update(category_id=1) for a in v["annotations"]])
    validate(coco)
    assert "<h1>The dataset is valid, with warnings of 1 kind</h1>" in page_of(coco)


def test_the_page_has_histograms_with_their_numbers(coco: Path) -> None:
    report = validate(coco)
    text = page_of(coco)
    for histogram in report["histograms"]:
        assert f"<caption>{histogram['title']}.</caption>" in text
        assert f'aria-label="{histogram["title"]}. The table below has the numbers."' in text
    (objects,) = (h for h in report["histograms"] if h["title"] == "Objects per image")
    counts = dict(zip(objects["ranges"], objects["counts"]["train"], strict=True))
    assert counts["2"] == 12
    assert '<th scope="row">2</th><td>12</td><td>3</td><td>3</td>' in text


@pytest.mark.parametrize("text", [None, "{}", '{"fingerprint": 1, "findings": [1], "splits": {}}'])
def test_a_report_that_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    path = tmp_path / "report.json"
    if text:
        path.write_text(text)
    with pytest.raises(SystemExit) as raised:
        paths = ["--report", str(path), "--out", str(tmp_path / "report.html")]
        validate_page.main(["--coco", str(tmp_path), *paths])
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"report\.json: (\S+: )?cannot read the file", line)
    assert not (tmp_path / "report.html").exists()


def test_the_page_escapes_names(coco: Path) -> None:
    edit_all(coco, lambda v: v["categories"][0].update(name="<script>&"))
    validate(coco)
    text = page_of(coco)
    assert "<script>" not in text
    assert "&lt;script&gt;&amp;" in text


def test_errors_have_a_page_that_no_rule_declares(coco: Path) -> None:
    edit(coco, "train", lambda values: values.update(annotations=[]))
    page = coco.parent / "validate" / "errors.html"
    with pytest.raises(SystemExit):
        validate(coco)
    assert "split without objects" in page.read_text("utf-8")


def test_the_page_of_errors_goes_when_they_are_fixed(coco: Path) -> None:
    page = coco.parent / "validate" / "errors.html"
    page.parent.mkdir()
    page.write_text("old")
    validate(coco)
    assert not page.exists()
