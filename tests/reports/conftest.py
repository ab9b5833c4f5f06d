"""All pages, made by their commands, and a browser to look at them."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segtune import (
    evaluate,
    evaluate_page,
    label_issues_page,
    learning_curve,
    learning_curve_page,
    runs,
    runs_page,
    train_page,
    validate,
    validate_page,
)
from segtune.core.typed_json import write_typed
from segtune.dataset.coco import read_split
from segtune.evaluation.strength_curve import Estimate, StrengthCurve, StrengthPoint
from tests.clean_dataset import edit, edit_all, write_clean_dataset, write_manifest
from tests.converted import write_converted
from tests.label_issue_runs import find_issues, write_dataset_with_errors
from tests.predictions import perfect, prompted_text, results_text, shifted
from tests.reports.runs import write_training_run
from tests.reports.suggested import write_suggestions
from tests.results_folders import copy_data, finish, move, write_data

NAME = "<b>\"&'disc"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="session")
def name() -> str:
    """The name of a class that must be escaped."""
    return NAME


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every page by the name of its command; each has everything that it can show."""
    folder = tmp_path_factory.mktemp("pages")
    return {
        "evaluate": _evaluation(folder / "evaluate"),
        "validate": _validation(folder / "validate"),
        "train": _training(folder / "train"),
        "learning_curve": _learning_curve(folder / "learning_curve"),
        "runs": _runs(folder / "runs"),
        "label_issues": _label_issues(folder / "label_issues"),
        "suggest": write_suggestions(folder / "suggest", NAME),
    }


def _evaluation(folder: Path) -> Path:
    """Errors of both models, label issues, out-of-distribution prompts."""
    coco = write_converted(folder, {"valid": 6, "test": 12})
    for split in ("valid", "test"):
        _rename_first_class(coco / f"{split}.json")
    best = perfect(coco)
    empty = next(i.id for i in read_split(coco / "test.json").images if i.id % 3 == 0)
    wrong = [replace(best[0], category_id=2), replace(best[0], image_id=empty, category_id=3)]
    found = {"base": wrong, "tuned": [*best[3:], *wrong, *shifted(best[3:4], 10)]}
    texts = {
        **{model: results_text(detections) for model, detections in found.items()},
        **dict.fromkeys(("base_valid", "tuned_valid"), results_text([])),
        **dict.fromkeys(("base_ood", "tuned_ood"), prompted_text(["horse", "<i>car"], best[:1])),
    }
    for stem, text in texts.items():
        (folder / f"{stem}.json").write_text(text)
    splits = [f"--coco={coco / 'test.json'}", f"--valid={coco / 'valid.json'}"]
    files = [f"--{stem.replace('_', '-')}={folder / stem}.json" for stem in texts]
    evaluate.main([*splits, *files, f"--out={folder / 'out'}"])
    metrics = f"--metrics={folder / 'out' / 'metrics.json'}"
    page = folder / "out" / "report.html"
    evaluate_page.main([metrics, *splits, *files[:2], *_strengths(folder), f"--out={page}"])
    return page


def _strengths(folder: Path) -> list[str]:
    """Three strengths that were compared, the second of which was merged."""
    values = ((0.0, 0.1, 1.0), (0.7, 0.4, 0.85), (1.0, 0.5, 0.7))
    curve = StrengthCurve(
        score="mask AP",
        images=6,
        generic_images=60,
        prompts=("horse",),
        base_detections=31,
        points=tuple(
            StrengthPoint(s, Estimate(score, score - 0.1, score + 0.1), Estimate(kept, kept, kept))
            for s, score, kept in values
        ),
    )
    write_typed(folder / "strength.json", curve)
    (folder / "parity.json").write_text('{"strength": 0.7, "keys": 9}')
    return [f"--strengths={folder / 'strength.json'}", f"--parity={folder / 'parity.json'}"]


def _validation(folder: Path) -> Path:
    """Errors, warnings and infos, pairs of images, and a severity that was changed."""
    coco = write_clean_dataset(folder)
    edit_all(coco, lambda v: v["categories"][0].update(name=NAME))
    (folder / "test/1.png").write_bytes((folder / "train/1.png").read_bytes())
    write_manifest(coco)
    edit(coco, "train", lambda v: [a.update(bbox=[0, 0, 0, 0]) for a in v["annotations"][:20]])
    edit(coco, "valid", lambda v: v["annotations"].append({**v["annotations"][0], "id": 99}))
    edit(coco, "test", lambda v: v["annotations"].pop())
    edit(coco, "test", lambda v: v["annotations"].pop())
    settings = json.dumps({"severities": {"class-few-objects": "off"}})
    with pytest.raises(SystemExit):
        validate.main(["--coco", str(coco), "--out", str(folder), "--settings", settings])
    page, report = folder / "report.html", str(folder / "report.json")
    validate_page.main(["--coco", str(coco), "--report", report, "--out", str(page)])
    return page


def _training(folder: Path) -> Path:
    coco = write_converted(folder)
    _rename_first_class(coco / "valid.json")
    train = write_training_run(folder / "run", coco, NAME)
    page = train / "summary.html"
    valid = str(coco / "valid.json")
    train_page.main(["--coco", valid, "--train", str(train), "--out", str(page)])
    return page


def _learning_curve(folder: Path) -> Path:
    runs = []
    for size, score in ((4, 0.3), (8, 0.4), (16, 0.5)):
        coco = write_converted(folder / str(size), {"train": size})
        recipe = {"settings": {"select_by": "AP"}, "result": {"best_score": score}}
        (coco / "recipe.json").write_text(json.dumps(recipe))
        runs += ["--run", str(coco), str(coco)]
    learning_curve.main([*runs, "--out", str(folder)])
    curve, page = folder / "learning_curve.json", folder / "learning_curve.html"
    learning_curve_page.main(["--curve", str(curve), "--out", str(page)])
    return page


def _runs(folder: Path) -> Path:
    """Three runs, the last of which has another test split, another class and other settings."""
    coco = write_data(folder / "<i>old")
    for split in ("train", "valid", "test"):
        _rename_first_class(coco / f"{split}.json")
    same, other = (copy_data(coco, folder / name) for name in ("same", "other"))
    move(other, (1, 2, 3), "test", "train")
    edit_all(other, lambda values: values["categories"][1].update(name="box", prompt="a box"))
    edit(other, "test", lambda values: values["annotations"].pop(0))  # a disc
    folders = [
        finish(coco, shifted(perfect(coco), 3)),
        finish(same, perfect(same)),
        finish(other, shifted(perfect(other)[1:], 10), strength=0.5, note='<script>"x'),
    ]
    runs.main([*map(str, folders), "--out", str(folder)])
    page = folder / "runs.html"
    runs_page.main([f"--runs={folder / 'runs.json'}", f"--out={page}"])
    return page


def _label_issues(folder: Path) -> Path:
    """One issue of each kind in train."""
    coco = write_dataset_with_errors(folder)
    for split in ("train", "valid", "test"):
        _rename_first_class(coco / f"{split}.json")
    find_issues(coco, folder / "out")
    issues, page = folder / "out" / "issues.json", folder / "out" / "report.html"
    label_issues_page.main([f"--issues={issues}", f"--coco={coco}", f"--out={page}"])
    return page


def _rename_first_class(path: Path) -> None:
    values = json.loads(path.read_text())
    values["categories"][0]["name"] = NAME
    path.write_text(json.dumps(values))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real browser without a window."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (BROWSER and DRIVER):
        pytest.skip("no chromium and chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_window_size(1280, 900)
    yield driver
    driver.quit()
