"""The page of an evaluation: what it says, and how it behaves in a real browser."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segtune import evaluate, evaluate_page
from tests.converted import write_converted
from tests.predictions import perfect, results_text


@pytest.fixture(scope="module")
def page(pages: dict[str, Path]) -> Path:
    return pages["evaluate"]


def test_the_verdict_comes_first(page: Path) -> None:
    text = page.read_text("utf-8")
    verdict = json.loads((page.parent / "metrics.json").read_text())["verdict"]
    body = text.partition("<body>")[2]
    assert body.index(verdict["sentence"]) < min(body.index("<table"), body.index("<img"))
    assert verdict["outcome"] == "better"
    assert '<header class="good">\n<p class="status">Better</p>' in body


def test_every_section_explains_itself(page: Path) -> None:
    body = page.read_text("utf-8").partition("<main>")[2]
    sections = re.findall(r"<section.*?</section>", body, re.S)
    titles = [re.search(r"<h2[^>]*>(.*?)</h2>", section) for section in sections]
    assert [title and title[1] for title in titles] == [
        "Key metrics",
        "Images",
        "Classes",
        "Errors",
        "Confidence thresholds and calibration",
        "Forgetting",
        "Strength",
        "Suspected label errors",
        "All metrics",
    ]
    assert all(re.search(r"<(p|caption)\b[^>]*>[^<]{40,}", section) for section in sections)


def test_the_numbers_are_those_of_the_metrics(page: Path) -> None:
    text = page.read_text("utf-8")
    metrics = json.loads((page.parent / "metrics.json").read_text())
    for model in ("base", "tuned"):
        for kind, count in _totals(metrics[model]["errors"]).items():
            row = re.search(rf'<tr><th scope="row">{kind}</th>.*?</tr>', text)
            assert row
            shown = re.findall(r'<td class="bar">(?:<span[^>]*></span>)?(\d+)</td>', row[0])
            assert int(shown[model == "tuned"]) == count
        for name in ("AP", "AP50", "AR_100"):
            assert f"<td>{metrics[model]['mask'][name]:.3f}</td>" in text
    total = metrics["forgetting"]["total"]
    cells = "".join(f"<td>{total[column]}</td>" for column in ("before", "after", "retained"))
    assert f'<tr class="total"><th scope="row">all</th>{cells}' in text
    assert text.count('alt="no object in') + text.count('alt="missing label in') > 0


def test_the_strength_that_was_merged_is_marked(page: Path) -> None:
    section = page.read_text("utf-8").partition('id="strength"')[2].partition("</section>")[0]
    assert "trained update added 0.7 times" in section
    (row,) = re.findall(r'<tr class="total">.*?</tr>', section)
    assert row == (
        '<tr class="total"><th scope="row">0.7 (merged)</th><td>0.400</td><td>0.300</td>'
        "<td>0.500</td><td>85%</td><td>85%</td><td>85%</td></tr>"
    )
    assert section.count('class="dot tuned"') == 1
    assert section.count('class="dot base"') == 2


def test_without_strengths_there_is_no_section(tmp_path: Path) -> None:
    assert 'id="strength"' not in page_of(write_converted(tmp_path), tmp_path / "out")


def test_strengths_need_the_merge_that_chose_one(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = page.parent / "metrics.json"
    options = [f"--{name}={metrics}" for name in ("metrics", "coco", "base", "tuned", "strengths")]
    with pytest.raises(SystemExit):
        evaluate_page.main([*options, f"--out={tmp_path / 'x.html'}"])
    assert "--strengths and --parity go together" in capsys.readouterr().err


def _totals(errors: dict[str, dict[str, int]]) -> dict[str, int]:
    rows = list(errors.values())
    return {kind: sum(row[kind] for row in rows) for kind in rows[0]}


def page_of(coco: Path, out: Path, *, valid: str | None = None) -> str:
    """The page of a perfect fine-tuned model beside one that detects nothing."""
    out.mkdir()
    texts = {"base": results_text([]), "tuned": results_text(perfect(coco))}
    files = []
    for model, text in texts.items():
        (out / f"{model}.json").write_text(text)
        files.append(f"--{model}={out / model}.json")
    splits = [f"--coco={coco / 'test.json'}"]
    on_valid = []
    if valid:
        splits.append(f"--valid={coco / valid}")
        on_valid = [f"--{model}-valid={out / model}.json" for model in texts]
    evaluate.main([*splits, *files, *on_valid, f"--out={out}"])
    evaluate_page.main(
        [f"--metrics={out / 'metrics.json'}", *splits, *files, f"--out={out / 'report.html'}"]
    )
    return (out / "report.html").read_text("utf-8")


def test_held_out_images_are_called_so(tmp_path: Path) -> None:
    text = page_of(write_converted(tmp_path), tmp_path / "out")
    assert "4 held-out images" in text
    assert "optimistically biased" not in text
    assert "mask AP" in text


def test_a_valid_split_in_place_of_test_is_stated_first(tmp_path: Path) -> None:
    text = page_of(write_converted(tmp_path), tmp_path / "out", valid="test.json")
    head = text.partition("<main>")[0]
    assert "held-out" not in head
    assert head.count("optimistically biased") >= 2  # in the verdict and below it


def test_a_split_without_masks_is_compared_by_boxes(tmp_path: Path) -> None:
    text = page_of(write_converted(tmp_path, masks=False), tmp_path / "out")
    assert "No object has a mask, so boxes are compared." in text
    assert "box AP" in text
    assert "mask AP" not in text


@pytest.mark.parametrize(
    ("count", "sentence"), [(1, "1 object has only a box"), (2, "2 objects have only a box")]
)
def test_box_only_objects_are_counted(tmp_path: Path, count: int, sentence: str) -> None:
    coco = write_converted(tmp_path, {"valid": 4, "test": 6})
    values = json.loads((coco / "test.json").read_text())
    for annotation in values["annotations"][:count]:
        annotation["segmentation"] = []
    (coco / "test.json").write_text(json.dumps(values))
    assert sentence in page_of(coco, tmp_path / "out")


def test_metrics_of_other_data_are_one_line(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = page.parents[1]
    files = [f"--{model}={folder / model}.json" for model in ("base", "tuned")]
    metrics = f"--metrics={page.parent / 'metrics.json'}"
    other = f"--coco={folder / 'coco' / 'valid.json'}"
    with pytest.raises(SystemExit) as raised:
        evaluate_page.main([metrics, other, *files, f"--out={tmp_path / 'x.html'}"])
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "metrics.json: these metrics were computed on other images or classes" in line
    assert not list(tmp_path.iterdir())


def test_metrics_that_cannot_be_read_are_one_line(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = page.parents[1]
    (tmp_path / "metrics.json").write_text("{}")
    command = [f"--{model}={folder / model}.json" for model in ("base", "tuned")]
    command += [f"--coco={folder / 'coco' / 'test.json'}", f"--out={tmp_path / 'x.html'}"]
    with pytest.raises(SystemExit) as raised:
        evaluate_page.main([f"--metrics={tmp_path / 'metrics.json'}", *command])
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "metrics.json: verdict: cannot read the file (Field required)" in line


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Any]:
    browser.get(page.as_uri())
    yield browser
    browser.get("about:blank")  # which forgets the filters


def shown(browser: Any) -> list[Any]:
    return [p for p in browser.find_elements("css selector", ".triple") if p.is_displayed()]


def choose(browser: Any, filter_name: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("id", f"{filter_name}-filter")).select_by_visible_text(value)


def contents(image: Any) -> tuple[list[str], list[str], str]:
    classes, types = (json.loads(image.get_attribute(f"data-{n}")) for n in ("classes", "types"))
    return classes, types, image.get_attribute("data-reason")


def test_the_filters_show_what_they_say(opened: Any, name: str) -> None:
    everything = [contents(p) for p in shown(opened)]
    assert len(everything) > 4
    tried = 0
    for filter_name, place, values in (
        ("class", 0, [name, "square", "cross"]),
        ("type", 1, ["correct", "classification", "missed", "both"]),
        ("reason", 2, ["worst", "most improved"]),
    ):
        for value in values:
            choose(opened, filter_name, value)
            expected = [c for c in everything if value in c[place]]
            assert [contents(p) for p in shown(opened)] == expected
            count = opened.find_element("id", "shown-count").text
            assert count == f"{len(expected)} image{'s' * (len(expected) != 1)}"
            tried += 0 < len(expected) < len(everything)
        choose(opened, filter_name, "all")
    assert tried >= 4
    choose(opened, "class", "square")
    choose(opened, "type", "missed")
    both = [c for c in everything if "square" in c[0] and "missed" in c[1]]
    assert [contents(p) for p in shown(opened)] == both
    choose(opened, "class", "all")
    choose(opened, "type", "all")
    assert len(shown(opened)) == len(everything)


def test_the_table_of_classes_is_sorted_by_its_headings(opened: Any) -> None:
    def column(place: int) -> list[str]:
        rows = opened.find_elements("css selector", "#class-table tbody tr")
        return [row.find_elements("css selector", "th, td")[place].text for row in rows]

    def fractions() -> list[float]:
        return [float(text.rstrip("%")) for text in column(9) if text != "n/a"]

    headings = opened.find_elements("css selector", "#class-table thead th")
    names, recall = column(0), headings[9]
    recall.find_element("tag name", "button").click()
    assert recall.get_attribute("aria-sort") == "descending"
    descending = fractions()
    assert descending == sorted(descending, reverse=True)
    assert len(set(descending)) > 1
    recall.find_element("tag name", "button").send_keys("\n")
    assert recall.get_attribute("aria-sort") == "ascending"
    assert fractions() == descending[::-1]
    headings[0].find_element("tag name", "button").click()
    assert recall.get_attribute("aria-sort") == "none"
    assert column(0) == sorted(names, key=str.lower)


def test_it_works_within_snakemakes_report(opened: Any, page: Path, tmp_path: Path) -> None:
    # `snakemake --report` shows it in a frame, from a data URI.
    data = base64.b64encode(page.read_bytes()).decode()
    frame = f'<iframe src="data:text/html;charset=utf8;base64,{data}" height=600></iframe>'
    (tmp_path / "outer.html").write_text(f"<!doctype html><title>outer</title>{frame}")
    opened.get((tmp_path / "outer.html").as_uri())
    opened.switch_to.frame(opened.find_element("tag name", "iframe"))
    everything = len(shown(opened))
    choose(opened, "reason", "most improved")
    assert 0 < len(shown(opened)) < everything
    opened.switch_to.default_content()
