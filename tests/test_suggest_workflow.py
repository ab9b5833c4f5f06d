"""Suggestions through Snakemake, on top of a run whose results are only names of files.

The commands are stand-ins that write the names of the images, without a model.
"""

import json
from pathlib import Path

import pytest

from tests.finished_results import add_images, write_finished_checkout
from tests.snakemake_runs import dry_run, planned_jobs, snakemake

SUGGEST = """
import argparse
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("run", "images", "out", "settings", "predict"):
    parser.add_argument(f"--{name}")
arguments = parser.parse_args()
names = sorted(path.name for path in Path(arguments.images).iterdir())
texts = {"suggestions.json": arguments.settings, "labels.json": arguments.predict}
for name, text in {**texts, "images.txt": "\\n".join(names)}.items():
    (Path(arguments.out) / name).write_text(text)
"""
PAGE = """
import argparse
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("suggestions", "labels", "images", "out"):
    parser.add_argument(f"--{name}")
arguments = parser.parse_args()
Path(arguments.out).write_text(Path(arguments.suggestions).read_text())
"""
BOTH = {"suggest_images": 1, "suggest_page": 1}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is shipped, with results, and two images."""
    folder = tmp_path_factory.mktemp("checkout")
    write_finished_checkout(folder)
    (folder / "src/segtune/suggest.py").write_text(SUGGEST)
    (folder / "src/segtune/suggest_page.py").write_text(PAGE)
    add_images(folder, "a.png", "b.png")
    return folder


def settings(count: int = 7) -> tuple[str, ...]:
    chosen = f"suggest={{images: photos, count: {count}}}"
    return ("--config", chosen, "evaluate={ood_prompts: []}", "--", "suggest")


def plan(checkout: Path, count: int = 7) -> dict[str, int]:
    """How many jobs of each rule would run."""
    answer = dry_run(checkout, *settings(count))
    assert answer.returncode == 0, answer.stdout
    return planned_jobs(answer.stdout)


def test_suggestions_follow_the_folder_and_the_settings(checkout: Path) -> None:
    assert plan(checkout) == BOTH
    answer = snakemake(checkout, "--cores", "2", *settings())
    assert answer.returncode == 0, answer.stdout
    out = checkout / "results/suggest"
    assert (out / "images.txt").read_text().split() == ["a.png", "b.png"]
    assert json.loads((out / "suggestions.html").read_text()) == {"images": "photos", "count": 7}
    # Each class has its own threshold.
    assert "confidence_threshold" not in json.loads((out / "labels.json").read_text())
    assert plan(checkout) == {}
    assert plan(checkout, count=8) == BOTH
    add_images(checkout, "c.png")
    assert plan(checkout) == BOTH
    (checkout / "photos/c.png").unlink()
    assert plan(checkout) == {}
    (out / "labels.json").unlink()
    assert plan(checkout) == BOTH


def test_a_folder_is_needed_only_for_suggestions(checkout: Path) -> None:
    without = ("--config", "evaluate={ood_prompts: []}", "--")
    answer = dry_run(checkout, *without, "suggest")
    assert answer.returncode != 0
    assert "config: suggest.images: name the folder of the images without labels" in answer.stdout
    answer = dry_run(checkout, "--config", "suggest={images: nowhere}", "--", "suggest")
    assert "config: suggest.images: nowhere does not exist" in answer.stdout
    answer = dry_run(checkout, *without)
    assert answer.returncode == 0 and not set(BOTH) & planned_jobs(answer.stdout).keys()
