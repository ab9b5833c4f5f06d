"""Labeling in shards through Snakemake, on top of a run whose results are only names of files.

The command that predicts is one that writes a label for each listed image, without a model.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.finished_results import add_images, write_finished_checkout
from tests.snakemake_runs import dry_run, planned_jobs, snakemake

PREDICT = """
import argparse, os, signal
from pathlib import Path
from segtune.core.atomic import write_tables
from segtune.dataset.image_names import read_list

parser = argparse.ArgumentParser()
parser.add_argument("--list", type=Path)
parser.add_argument("--out", type=Path)
arguments, _ = parser.parse_known_args()
with Path("labeled").open("a") as log:
    log.write(f"{arguments.list.name}\\n")
if Path("killed").exists() and arguments.list.stem == Path("killed").read_text():
    os.kill(os.getpid(), signal.SIGKILL)
names = list(enumerate(read_list(arguments.list), start=1))
write_tables(
    arguments.out,
    {
        "images": [{"id": number, "file_name": name} for number, name in names],
        "categories": [{"id": 1, "name": "disc"}],
        "annotations": [{"id": number, "image_id": number, "of": name} for number, name in names],
    },
)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is shipped, with results, and five images to label."""
    tmp_path = tmp_path_factory.mktemp("checkout")
    write_finished_checkout(tmp_path)
    (tmp_path / "src" / "segtune" / "predict.py").write_text(PREDICT)
    add_images(tmp_path, "a.png", "b.png", "deep/c.png", "deep/d.png", "e.png")
    return tmp_path


SETTINGS = (
    *("--config", "label={images: photos, images_per_shard: 3}"),
    *("evaluate={ood_prompts: []}", "--", "label"),
)


def label(checkout: Path, *arguments: str) -> tuple[int, list[str]]:
    """Run the workflow; its exit status, and the lists that were labeled."""
    (checkout / "labeled").unlink(missing_ok=True)
    answer = snakemake(checkout, "--cores", "2", *arguments, *SETTINGS)
    log = checkout / "labeled"
    print(answer.stdout)
    return answer.returncode, sorted(log.read_text().split()) if log.exists() else []


def plan(checkout: Path) -> dict[str, int]:
    """How many jobs of each rule would run."""
    answer = dry_run(checkout, *SETTINGS)
    assert answer.returncode == 0, answer.stdout
    return planned_jobs(answer.stdout)


def labels(checkout: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((checkout / "results/label/labels.json").read_text())
    return values


def labeled_images(checkout: Path) -> list[str]:
    """Names of the images in the labels, whose numbers and objects fit each other."""
    values = labels(checkout)
    names = {image["id"]: image["file_name"] for image in values["images"]}
    assert list(names) == list(range(1, len(names) + 1))
    assert [a["id"] for a in values["annotations"]] == list(range(1, len(names) + 1))
    assert all(names[a["image_id"]] == a["of"] for a in values["annotations"])
    return list(names.values())


EVERYTHING = ["a.png", "b.png", "deep/c.png", "deep/d.png", "e.png"]
AGAIN = {"label_shard": 1, "label_gather": 1}  # of a shard


@dataclass(frozen=True)
class Recovery:
    """What happened when a job was killed, and then the same command was started again."""

    place: Path
    killed: tuple[int, list[str]]
    planned: dict[str, int]
    again: tuple[int, list[str]]


@pytest.fixture(scope="module")
def recovery(checkout: Path) -> Recovery:
    (checkout / "killed").write_text("0001")
    killed = label(checkout, "--keep-going")
    (checkout / "killed").unlink()
    return Recovery(checkout, killed, plan(checkout), label(checkout))


@pytest.fixture
def labeled(recovery: Recovery, tmp_path: Path) -> Path:
    """A copy of the checkout after its images were labeled, in two shards."""
    return shutil.copytree(recovery.place, tmp_path / "copy", symlinks=True)


def test_a_killed_job_repeats_its_shard_only(recovery: Recovery) -> None:
    status, lists = recovery.killed
    assert status != 0 and lists == ["0000.txt", "0001.txt"]
    assert recovery.planned == AGAIN
    assert recovery.again == (0, ["0001.txt"])
    assert labeled_images(recovery.place) == EVERYTHING
    assert plan(recovery.place) == {}


def test_images_that_come_and_go_repeat_only_their_shards(labeled: Path) -> None:
    add_images(labeled, "aa.png")
    assert plan(labeled) == {"label_list": 1, "label_gather": 1}  # and what it will list
    assert label(labeled) == (0, ["0002.txt"])
    assert labeled_images(labeled) == [*EVERYTHING, "aa.png"]
    for name in ("deep/d.png", "aa.png"):
        (labeled / "photos" / name).unlink()
    assert label(labeled) == (0, ["0001.txt"])
    assert labeled_images(labeled) == [name for name in EVERYTHING if name != "deep/d.png"]
    assert plan(labeled) == {}


def test_what_labels_depend_on_is_planned_again(labeled: Path) -> None:
    results = labeled / "results"
    for name in ("evaluate/finished/metrics.json", "merge/finished/sam3.pt"):
        (results / name).write_text('{"other": 1}')
        assert plan(labeled) == {"label_shard": 2, "label_gather": 1}
        (results / name).write_text("{}")
    (results / "label/shards/0000.json").unlink()
    assert plan(labeled) == AGAIN
    (results / "label/lists/0001.txt").unlink()
    assert plan(labeled) == {"label_list": 1, "label_gather": 1}


def test_a_folder_to_label_is_needed_only_for_labels(checkout: Path) -> None:
    without = ("--config", "evaluate={ood_prompts: []}", "--")
    answer = dry_run(checkout, *without, "label")
    assert answer.returncode != 0
    assert "config: label.images: name the folder of the images to label" in answer.stdout
    answer = dry_run(checkout, "--config", "label={images: nowhere}", "--", "label")
    assert "config: label.images: nowhere does not exist" in answer.stdout
