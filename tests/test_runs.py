"""Comparing results folders: which images are the same, what changed, and which scores count."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import ImageOps

from segtune.core.errors import DatasetError
from segtune.core.fingerprints import file_digest
from segtune.core.kept import kept_result, store_of
from segtune.core.typed_json import write_typed
from segtune.dataset.coco import SPLITS, read_manifest, read_split, write_manifest, write_split
from segtune.evaluation.results_folder import METRICS, PARITY, PREDICTIONS, RECIPE
from segtune.evaluation.runs_file import read_runs
from segtune.runs import main
from segtune.tile import main as tile
from tests.clean_dataset import edit, edit_all
from tests.evaluate_runs import evaluate
from tests.predictions import perfect, shifted
from tests.results_folders import (
    copy_data,
    export_again,
    finish,
    move,
    recompressed,
    remove,
    write_data,
)


def compare(out: Path, *folders: Path) -> dict[str, Any]:
    main([*map(str, folders), "--out", str(out)])
    values: dict[str, Any] = json.loads((out / "runs.json").read_text())
    return values


def refused(out: Path, capsys: pytest.CaptureFixture[str], *folders: Path) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        main([*map(str, folders), "--out", str(out)])
    assert not (out / "runs.json").exists()
    return capsys.readouterr().err


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_data(tmp_path / "old")


@pytest.fixture
def old(coco: Path) -> Path:
    """A run that finds every object, but a little beside its place."""
    return finish(coco, shifted(perfect(coco), 3))


def test_three_runs_of_which_one_has_another_test_split(
    coco: Path, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = copy_data(coco, tmp_path / "same")
    other = copy_data(coco, tmp_path / "other")
    move(other, (1, 2, 3, 4), "test", "train")
    edit(other, "test", lambda values: values["annotations"][0].update(category_id=1))
    folders = [old, finish(same), finish(other, [])]
    found = compare(tmp_path, *folders)
    assert [run["name"] for run in found["runs"]] == ["old", "same", "other"]
    assert [run["images"]["test"] for run in found["runs"]] == [12, 12, 8]
    better, worse = found["comparisons"]
    assert better["outcome"] == "better"
    assert better["test"]["same"] and better["test"]["differences"] == []
    assert better["sentence"].startswith("same is better than old on the same 12 test images: mask")
    assert better["scores"]["average_precision"]["mask"]["run"] == pytest.approx(1.0)
    assert worse["outcome"] == "worse"
    assert not worse["test"]["same"]
    assert worse["test"]["differences"] == [
        "4 test images only in old",
        "other labels in 1 test image",
    ]
    assert worse["sentence"].startswith(
        "other is WORSE than old on the 8 test images that both have (the test sets differ): mask"
    )
    assert worse["scores"]["images"] == 8
    assert worse["scores"]["average_precision"]["mask"]["run"] == 0
    assert found["sentence"] == "2 runs compared with old: 1 better, 1 worse"
    (leak, _) = found["leaks"]
    assert leak["learned"] == "other" and leak["tested"] == "old" and leak["split"] == "train"
    assert leak["images"] == ["test/1.png", "test/2.png", "test/3.png", "test/4.png"]
    output = capsys.readouterr().out
    assert "WARNING: 4 test images of old are in the train split of other" in output
    assert better["sentence"] in output and worse["sentence"] in output


def test_written_runs_are_read_again(coco: Path, old: Path, tmp_path: Path) -> None:
    new = finish(copy_data(coco, tmp_path / "new"))
    compare(tmp_path, old, new)
    path = tmp_path / "runs.json"
    write_typed(tmp_path / "again.json", read_runs(path))
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_the_scores_are_those_of_an_evaluation_on_the_shared_images(
    coco: Path, tmp_path: Path
) -> None:
    poor = [d for d in shifted(perfect(coco), 3) if d.image_id != 5]
    old = finish(coco, poor)
    other = copy_data(coco, tmp_path / "other")
    remove(other, (1, 2), "test")
    # Other ids, and another order of classes, mean the same.
    edit(other, "test", lambda v: v["images"].reverse())
    edit_all(other, renumber)
    partly = [d for d in perfect(other, 0.7) if d.image_id != 104]
    found = compare(tmp_path, old, finish(other, partly))
    (comparison,) = found["comparisons"]
    scores = comparison["scores"]
    expected = copy_data(coco, tmp_path / "expected")
    remove(expected, (1, 2), "test")
    base = [d for d in poor if d.image_id > 2]
    partly = [d for d in perfect(expected, 0.7) if d.image_id != 4]
    metrics = evaluate(expected, base, partly, resamples=1000)
    difference = metrics["difference"]["average_precision"]
    for kind in ("mask", "box"):
        assert scores["average_precision"][kind] == {
            "reference": metrics["base"][kind]["AP"],
            "run": metrics["tuned"][kind]["AP"],
            "interval": difference[kind]["mean"],
        }
    for row in scores["classes"]:
        assert row["average_precision"]["interval"] == difference["mask"]["per_class"][row["name"]]
    assert scores["cgf1"]["interval"] == metrics["difference"]["cgf1"]["mask"]["cgf1"]
    assert scores["false_alarms"]["interval"] == metrics["difference"]["false_alarms"]["mean"]
    assert comparison["test"]["differences"] == ["2 test images only in old"]
    assert comparison["test"]["shared"] == [f"test/{n}.png" for n in range(3, 13)]
    assert comparison["test"]["only_reference"] == ["test/1.png", "test/2.png"]
    assert comparison["test"]["only_run"] == []
    assert scores["images"] == 10


def renumber(values: dict[str, Any]) -> None:
    values["categories"].reverse()
    for record in values["categories"]:
        record["id"] += 10
    for record in values["images"]:
        record["id"] += 100
    for record in values["annotations"]:
        record["id"] += 1000
        record["image_id"] += 100
        record["category_id"] += 10


def test_the_ground_truth_is_that_of_the_first(coco: Path, old: Path, tmp_path: Path) -> None:
    new = copy_data(coco, tmp_path / "new")
    edit(new, "test", lambda values: [a.update(category_id=3) for a in values["annotations"]])
    changed = finish(new)
    (forth,) = compare(tmp_path, finish(coco), changed)["comparisons"]
    assert forth["outcome"] == "worse"
    assert forth["test"]["relabeled"] == 8
    (back,) = compare(tmp_path, changed, coco.parent)["comparisons"]
    assert back["outcome"] == "worse"


def test_without_shared_test_images_only_data_and_settings_are_compared(
    coco: Path, old: Path, tmp_path: Path
) -> None:
    other = copy_data(coco, tmp_path / "other")
    move(other, range(1, 13), "test", "train")
    move(other, range(4, 7), "train", "test")
    found = compare(tmp_path, old, finish(other, learning_rate=0.5))
    (comparison,) = found["comparisons"]
    assert comparison["scores"] is None and comparison["outcome"] is None
    assert comparison["sentence"] == (
        "not compared: the test splits of old and other have no image in common; "
        "only data and settings are"
    )
    assert comparison["data"]["splits"]["train"]["moved_here"] == {
        "test": [f"test/{n}.png" for n in range(1, 13)]
    }
    assert {"name": "train.learning_rate", "values": [None, "0.5"]} in found["settings"]
    assert found["images"] == []


def test_images_that_a_run_was_trained_on_are_left_out(
    coco: Path, old: Path, tmp_path: Path
) -> None:
    new = copy_data(coco, tmp_path / "new")
    train = json.loads((new / "train.json").read_text())
    train["images"].append({"id": 99, "file_name": "test/2.png", "width": 64, "height": 64})
    (new / "train.json").write_text(json.dumps(train))
    found = compare(tmp_path, old, finish(new))
    (comparison,) = found["comparisons"]
    assert comparison["test"]["excluded"] == ["test/2.png"]
    assert comparison["scores"]["images"] == 11
    assert "on the 11 test images that neither was trained on" in comparison["sentence"]
    assert [(leak["learned"], leak["tested"]) for leak in found["leaks"]] == [
        ("new", "old"),
        ("new", "new"),
    ]


def test_test_images_in_the_valid_split_of_another_run_are_named_and_not_scored(
    coco: Path, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = copy_data(coco, tmp_path / "new")
    move(new, (2, 5), "test", "valid")
    found = compare(tmp_path, old, finish(new))
    (leak,) = found["leaks"]
    assert (leak["learned"], leak["split"], leak["tested"]) == ("new", "valid", "old")
    assert leak["images"] == ["test/2.png", "test/5.png"]
    (comparison,) = found["comparisons"]
    assert comparison["test"]["only_reference"] == ["test/2.png", "test/5.png"]
    assert comparison["test"]["excluded"] == []  # which are those that a run was trained on
    assert comparison["scores"]["images"] == 10
    output = capsys.readouterr().out
    assert "WARNING: 2 test images of old are in the valid split of new" in output


def test_found_and_lost_objects_follow_each_runs_thresholds(coco: Path, tmp_path: Path) -> None:
    best = perfect(coco)
    old = finish(coco, [*best[1:], replace(best[0], score=0.4)])
    stray = replace(shifted(best[2:3], 30)[0], score=0.8)
    new = finish(copy_data(coco, tmp_path / "new"), [best[0], *best[2:], stray])
    found = compare(tmp_path, old, new)
    scores = found["comparisons"][0]["scores"]
    by_name = {row["name"]: (row["found"], row["lost"]) for row in scores["classes"]}
    assert by_name == {"disc": (1, 0), "square": (0, 1), "cross": (0, 0)}
    first, second, third = scores["changed_images"]
    assert {first["file_name"], second["file_name"]} == {"test/1.png", "test/2.png"}
    assert {(i["found"], i["lost"]) for i in (first, second)} == {(1, 0), (0, 1)}
    assert (third["file_name"], third["wrong_reference"], third["wrong_run"]) == (
        "test/4.png",
        0,
        1,
    )
    assert [i["file_name"] for i in found["images"]] == ["test/1.png", "test/2.png", "test/4.png"]
    assert [run["name"] for run in found["images"][0]["runs"]] == ["old", "new"]
    shown = found["images"][2]["runs"][1]["detections"]
    assert [(d["correct"], d["score"]) for d in shown] == [(True, 0.9), (False, 0.8)]


def test_thresholds_of_the_evaluation_count(coco: Path, tmp_path: Path) -> None:
    best = perfect(coco, 0.3)
    old, new = finish(coco), finish(copy_data(coco, tmp_path / "new"), best)
    lost = compare(tmp_path, old, new)["comparisons"][0]["scores"]["classes"][0]["lost"]
    assert lost == 4
    lower_thresholds(new, 0.2)
    lost = compare(tmp_path, old, new)["comparisons"][0]["scores"]["classes"][0]["lost"]
    assert lost == 0


def lower_thresholds(folder: Path, threshold: float) -> None:
    path = folder / "evaluate" / "metrics.json"
    metrics = json.loads(path.read_text())
    for chosen in metrics["tuned"]["calibration"]["thresholds"].values():
        chosen["threshold"] = threshold
    path.write_text(json.dumps(metrics))


def test_settings_that_differ_are_listed_for_every_run(
    coco: Path, old: Path, tmp_path: Path
) -> None:
    second = finish(copy_data(coco, tmp_path / "second"), strength=0.5, epochs=3)
    third = finish(copy_data(coco, tmp_path / "third"), exclude_issues="issues.json")
    found = compare(tmp_path, old, second, third)
    assert {row["name"]: row["values"] for row in found["settings"]} == {
        "merge.strength": ["1.0", "0.5", "1.0"],
        "train.epochs": ["2", "3", "2"],
        "train.exclude_issues": [None, None, '"issues.json"'],
    }
    assert found["code"] == ["segtune/train.py"]


def test_tiles_that_a_run_was_trained_on_are_settings(
    coco: Path, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiled = finish(copy_data(coco, tmp_path / "tiled"))
    (tiled / "tiles").mkdir()
    (tiled / "tiles" / "train.json").write_text("{}")
    recipe = tiled / "train" / "adapter" / "recipe.json"
    values = json.loads(recipe.read_text())
    recipe.write_text(json.dumps({**values, "tiles": None}))
    assert compare(tmp_path / "out", old, tiled)["settings"] == []
    used = {"tiles": {"side": 640, "overlap": 0.25}}
    recipe.write_text(json.dumps({**values, **used}))
    error = refused(tmp_path, capsys, old, tiled)
    assert "its adapter was trained on other data than lies in tiles/" in error
    digest = file_digest(tiled / "tiles" / "train.json", DatasetError, "")
    recipe.write_text(json.dumps({**values, **used, "data": {"train.json": digest}}))
    assert {row["name"]: row["values"] for row in compare(tmp_path, old, tiled)["settings"]} == {
        "tiles.overlap": [None, "0.25"],
        "tiles.side": [None, "640"],
    }


def test_a_run_for_which_whole_images_were_chosen_is_read(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    new = of_zip(write_data(tmp_path / "new")).parent
    tile(["--coco", "new/coco", "--out", "new/tiles", "--settings", '"auto"'])
    assert json.loads((new / "tiles" / "tiles.json").read_text())["side"] is None
    names = ("train.json", "valid.json", "manifest.json")
    used = {name: file_digest(new / "tiles" / name, DatasetError, "") for name in names}
    assert used["manifest.json"] != file_digest(new / "coco" / "manifest.json", DatasetError, "")
    finish(new / "coco")
    add_values(new / "train" / "adapter" / "recipe.json", data=used, tiles=None)
    (comparison,) = compare(tmp_path / "out", old, new)["comparisons"]
    assert comparison["test"]["same"]
    edit(new / "coco", "manifest", lambda v: v["images"][0].update(sha256="0" * 64))
    error = refused(tmp_path, capsys, old, new)
    assert "its adapter was trained on other data than lies in coco/" in error


def of_zip(coco: Path) -> Path:
    """The same dataset as `segtune.convert` writes it for a zip: with the images in its folder."""
    for name in SPLITS:
        write_split(coco / f"{name}.json", read_split(coco / f"{name}.json"))
    manifest = replace(read_manifest(coco), root=coco / "images")
    manifest.root.mkdir()
    for name in SPLITS:
        shutil.move(coco.parent / name, manifest.root)
    write_manifest(coco / "manifest.json", manifest, coco)
    return coco


def test_a_run_that_is_not_held_out_is_named(coco: Path, old: Path, tmp_path: Path) -> None:
    new = finish(copy_data(coco, tmp_path / "new"))
    path = new / "evaluate" / "metrics.json"
    path.write_text(path.read_text().replace('"held_out": true', '"held_out": false'))
    (comparison,) = compare(tmp_path, old, new)["comparisons"]
    assert comparison["sentence"].endswith(
        "; not held out, so the scores are optimistically biased"
    )


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("coco/valid.json", "this run has not finished: coco/valid.json is missing"),
        ("evaluate/metrics.json", "this run has not finished: evaluate/metrics.json is missing"),
        ("predict/tuned.json", "this run has not finished: predict/tuned.json is missing"),
        ("train/adapter/recipe.json", "not finished: train/adapter/recipe.json is missing"),
    ],
)
def test_an_unfinished_folder_is_refused(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, problem: str
) -> None:
    new = tmp_path / "new"
    shutil.copytree(old, new)
    (new / file).unlink()
    error = refused(tmp_path, capsys, old, new)
    assert error.startswith(f"segtune runs: DatasetError: {new}: ")
    assert problem in error
    assert "Give the results folder of a workflow that has finished" in error


def test_a_folder_that_is_being_repeated_is_refused(
    coco: Path, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = finish(copy_data(coco, tmp_path / "new"))
    remove(new / "coco", (2,), "train")
    assert "its adapter was trained on other data than lies in coco/" in refused(
        tmp_path, capsys, old, new
    )
    shutil.copy(coco / "train.json", new / "coco")
    edit(new / "coco", "test", lambda values: values["annotations"].pop())
    error = refused(tmp_path, capsys, old, new)
    assert "its metrics are of another test split than that in coco/" in error


def test_a_folder_of_which_a_stage_runs_again_is_refused(
    coco: Path, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = finish(copy_data(coco, tmp_path / "new"))
    for name in (RECIPE, PARITY, PREDICTIONS, METRICS):
        stage, _, file = name.partition("/")
        link = new / stage / "finished" / file
        link.parent.mkdir(parents=True)
        link.symlink_to(new / name)
    compare(tmp_path / "out", old, new)
    (new / "merge" / "finished" / "parity.json").unlink()  # as Snakemake does
    error = refused(tmp_path, capsys, old, new)
    assert "this run has not finished: merge is being repeated, or has failed" in error


def test_a_folder_of_an_earlier_version_is_refused(
    coco: Path, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = finish(copy_data(coco, tmp_path / "new"))
    path = new / "evaluate" / "metrics.json"
    metrics = json.loads(path.read_text())
    del metrics["tuned"]["cgf1"]
    path.write_text(json.dumps(metrics))
    error = refused(tmp_path, capsys, old, new)
    assert f"DatasetError: {path}: tuned.cgf1: cannot read the file (Field required)" in error
    assert "Run segtune.evaluate again" in error


def test_one_folder_or_the_same_twice_is_refused(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "one results folder is nothing to compare" in refused(tmp_path, capsys, old)
    twin = tmp_path / "twin"
    twin.symlink_to(old)
    assert "the same folder is given twice" in refused(tmp_path, capsys, old, twin)


def test_paths_that_cannot_be_followed_are_refused(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    circle, long = tmp_path / "circle", tmp_path / ("a" * 300)
    circle.symlink_to(circle)
    for path in (circle, long):
        error = refused(tmp_path, capsys, old, path)
        assert error.startswith("segtune runs: DatasetError: ") and error.count("\n") == 1
        assert "this run has not finished: coco/train.json is missing" in error


def test_runs_without_anything_in_common_are_refused(
    coco: Path, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = export_again(coco, tmp_path / "new", ImageOps.invert)
    (comparison,) = compare(tmp_path / "classes", old, finish(new))["comparisons"]
    assert len(comparison["data"]["splits"]["test"]["replaced"]) == 12
    assert "12 have the same name, but another size or content" in comparison["sentence"]
    edit_all(new, lambda v: [c.update(name=f"my {c['name']}") for c in v["categories"]])
    error = refused(tmp_path, capsys, old, finish(new))
    assert "no other run has an image or a class in common with this one" in error


def test_images_that_were_encoded_anew_are_the_same(coco: Path, old: Path, tmp_path: Path) -> None:
    """Names of the files tell nothing apart here: every split has an image called 1.png."""
    new = export_again(coco, tmp_path / "new", recompressed)
    move(new, (1, 2), "train", "test")
    move(new, (3,), "test", "train")
    found = compare(tmp_path, old, finish(new))
    (comparison,) = found["comparisons"]
    assert comparison["test"]["shared"] == [f"test/{n}.png" for n in range(1, 13) if n != 3]
    assert comparison["scores"]["images"] == 11
    assert "on the 11 test images, 11 of them encoded anew, that both" in comparison["sentence"]
    changes = comparison["data"]["splits"]["test"]
    assert changes["moved_here"] == {"train": [f"train/{n}.rf.0a1b2c.png" for n in (1, 2)]}
    assert len(changes["encoded_anew"]) == 13
    assert not changes["replaced"] and not changes["added"] and not changes["removed"]
    leaks = {leak["learned"]: leak["images"] for leak in found["leaks"] if leak["split"] == "train"}
    assert leaks == {
        "old": ["train/1.rf.0a1b2c.png", "train/2.rf.0a1b2c.png"],
        "new": ["test/3.png"],
    }


@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
def test_images_of_another_size_are_not_the_same(
    coco: Path, old: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    new = export_again(coco, tmp_path / "new", lambda image: image.resize(size))
    edit_all(new, lambda values: values.update(annotations=[]))
    (comparison,) = compare(tmp_path, old, finish(new, []))["comparisons"]
    assert not comparison["test"]["shared"] and comparison["scores"] is None


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_same_file_with_another_size_is_refused(
    coco: Path, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    new = copy_data(coco, tmp_path / "new")
    # One without objects: should this not be refused, comparing masks might never end.
    edit(new, split, lambda values: values["images"][2].update(width=65))
    error = refused(tmp_path, capsys, old, finish(new, []))
    assert error.startswith(f"segtune runs: DatasetError: {new / split}.json: image 3: ")
    assert "65 x 64 pixels, but 64 x 64 in the reference, for the same file" in error


def test_folders_of_one_name_are_told_apart(coco: Path, tmp_path: Path) -> None:
    first = finish(copy_data(coco, tmp_path / "a" / "results"))
    second = finish(copy_data(coco, tmp_path / "b" / "results"))
    found = compare(tmp_path, first, second)
    assert [run["name"] for run in found["runs"]] == ["a/results", "b/results"]


def test_predictions_of_other_weights_are_refused_and_their_settings_compared(
    coco: Path, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = finish(copy_data(coco, tmp_path / "new"))
    (new / "merge" / "parity.json").write_text(json.dumps({"sha256": "12ab" * 16}))
    keep_predictions(new, {"settings": {"batch_size": 4}, "weights_sha256": "12ab" * 4})
    found = compare(tmp_path / "out", old, new)
    assert found["settings"] == [{"name": "predict.batch_size", "values": [None, "4"]}]
    (new / "merge" / "parity.json").write_text(json.dumps({"sha256": "34cd" * 16}))
    error = refused(tmp_path, capsys, old, new)
    assert "its predictions are of other weights than those in merge/" in error


def test_settings_of_a_training_that_has_not_been_merged_are_refused(
    coco: Path, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = finish(copy_data(coco, tmp_path / "new"))
    add_values(new / "train" / "adapter" / "recipe.json", adapter_sha256="12ab" * 4)
    compare(tmp_path / "earlier", old, new)  # versions that did not tell what was merged
    add_values(new / "merge" / "parity.json", adapter_sha256="12ab" * 4)
    compare(tmp_path / "merged", old, new)
    add_values(new / "train" / "adapter" / "recipe.json", adapter_sha256="34cd" * 4)
    error = refused(tmp_path, capsys, old, new)
    assert error.startswith(f"segtune runs: DatasetError: {new}: this run has not finished: ")
    assert "its weights in merge/ are not of the adapter in train/" in error


def add_values(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def keep_predictions(folder: Path, fingerprint: dict[str, Any]) -> None:
    place = folder / "predict" / "tuned.json"
    with kept_result(store_of(place), fingerprint, "12 images") as kept:
        shutil.copy(place, kept / place.name)
