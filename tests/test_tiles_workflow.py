"""Tiles through Snakemake: what is planned, and a whole run of the tiny model."""

import json
import shutil
from pathlib import Path

import pytest

from segtune.dataset.coco import read_split
from tests.snakemake_runs import copy_shipped, dry_run, planned_jobs, snakemake
from tests.test_workflow import FROM_VALIDATE, NOTHING, PREDICT, plan, write_config, write_export

# Those that read what is trained on, those that need the sizes of tiles, and those behind them.
FROM_TILE = {name: n for name, n in FROM_VALIDATE.items() if name != "validate_page"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what is shipped, with a small export in the place of the demo."""
    copy_shipped(tmp_path)
    write_export(tmp_path / "data" / "demo")
    write_config(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("tiles", "planned"), [("auto", 1), ("64", 1), ("null", 0)])
def test_tiles_are_cut_where_they_are_wanted(checkout: Path, tiles: str, planned: int) -> None:
    answer = dry_run(checkout, "-p", "--config", f"tiles={tiles}")
    assert answer.returncode == 0, answer.stdout
    assert planned_jobs(answer.stdout).get("tile", 0) == planned
    folder = "tiles" if planned else "coco"
    assert f"--coco results/{folder} --report" in answer.stdout
    assert "--validated results/coco" in answer.stdout
    assert f"--coco results/{folder}/valid.json --adapter results/train" in answer.stdout
    assert answer.stdout.count("--tiles results/tiles/tiles.json") == 6 * planned


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_on_tiles(checkout: Path) -> None:
    """It takes minutes."""
    tiles = ("--config", "tiles=64")
    threads = [f"{rule}=1" for rule in ("strength", "merge", *PREDICT)]
    answer = snakemake(checkout, "--cores", "2", *tiles, "--set-threads", *threads)
    assert answer.returncode == 0, answer.stdout
    results = checkout / "results"
    recipe = json.loads((results / "train/adapter/recipe.json").read_text())
    assert recipe["tiles"] == {"side": 64, "overlap": 0.25}
    whole, split = (read_split(results / f"{name}/train.json") for name in ("coco", "tiles"))
    assert {image.original for image in split.images} == {i.file_name for i in whole.images}
    found = json.loads((results / "predict/tuned.json").read_text())
    assert {tuple(record["segmentation"]["size"]) for record in found} == {(96, 96)}
    assert json.loads((results / "evaluate/metrics.json").read_text())
    assert plan(checkout, *tiles)[0] == NOTHING
    # Another side cuts again, and repeats what depends on it.
    jobs, _ = plan(checkout, "--config", "tiles=80")
    assert jobs == {"tile": 1, "validate_page": 1, **FROM_TILE}
    # A deleted tile list is made again.
    copy = checkout.with_name("copy")
    shutil.copytree(checkout, copy, symlinks=True)
    (copy / "results/tiles/train.json").unlink()
    jobs, _ = plan(copy, *tiles)
    assert jobs.keys() >= {"tile", "train", "strength", "merge", "evaluate"}
    assert "validate" not in jobs
    # And without tiles, the model is trained on whole images.
    assert plan(checkout)[0] == FROM_VALIDATE
    labels = ("--config", "tiles=64", "label={images: data/demo/test}")
    answer = snakemake(checkout, "--cores", "1", *labels, "--", "label")
    assert answer.returncode == 0, answer.stdout
    assert len(json.loads((results / "label/labels.json").read_text())["images"]) == 4
