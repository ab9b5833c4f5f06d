"""What Snakemake plans after an edit, on top of one finished run of the whole pipeline."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from segtune.core.config import Component, Config, LoraSettings, parse_config
from tests.snakemake_runs import copy_shipped, dry_run, planned_jobs, snakemake

ROOT = Path(__file__).parent.parent
IMAGES = {"train": 8, "valid": 4, "test": 4}

PAGES = {"validate_page": 1, "train_page": 1, "evaluate_page": 1}
PREDICT = dict.fromkeys(("predict_model", "predict_valid", "predict_ood"), 2)
EVALUATE = {"evaluate": 1, "evaluate_page": 1}
TUNED = {**dict.fromkeys(PREDICT, 1), **EVALUATE}
FROM_MERGE = {"merge": 1, **TUNED}
FROM_STRENGTH = {"strength": 1, **FROM_MERGE}
FROM_TRAIN = {"train": 1, "train_page": 1, **FROM_STRENGTH}
TRAIN_AND_PREDICT = {**FROM_TRAIN, **PREDICT}
FROM_VALIDATE = {"validate": 1, "validate_page": 1, **TRAIN_AND_PREDICT}
VALIDATE_AND_TRAIN = {"validate": 1, "validate_page": 1, **FROM_TRAIN}
EVERYTHING = {"convert": 1, **FROM_VALIDATE}
NOTHING: dict[str, int] = {}

# The first test waits for the pipeline.
pytestmark = pytest.mark.timeout(1800)


def plan(folder: Path, *arguments: str) -> tuple[dict[str, int], str]:
    """How many jobs of each rule would run, and all that a dry run prints."""
    answer = dry_run(folder, *arguments)
    assert answer.returncode == 0, answer.stdout
    return planned_jobs(answer.stdout), answer.stdout


@contextmanager
def edited(path: Path, addition: str) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(before + addition.encode())
    try:
        yield
    finally:
        path.write_bytes(before)


def write_export(folder: Path) -> None:
    """A Roboflow COCO export of squares and circles on noise."""
    rng = np.random.default_rng(0)
    for split, count in IMAGES.items():
        (folder / split).mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(count):
            name = f"{split}{index}_jpg.rf.{rng.bytes(16).hex()}.jpg"
            image = Image.fromarray(rng.integers(0, 90, (96, 96, 3), dtype=np.uint8))
            draw = ImageDraw.Draw(image)
            x, y = (int(value) for value in rng.integers(8, 48, 2))
            category = 1 + index % 2
            if category == 1:
                draw.rectangle((x, y, x + 36, y + 36), fill=(230, 40, 40))
                corners = [(x, y), (x + 36, y), (x + 36, y + 36), (x, y + 36)]
            else:
                draw.ellipse((x, y, x + 36, y + 36), fill=(40, 230, 40))
                turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
                corners = [(x + 18 + 18 * np.cos(t), y + 18 + 18 * np.sin(t)) for t in turns]
            image.save(folder / split / name)
            images.append({"id": index, "file_name": name, "height": 96, "width": 96})
            annotations.append(
                {
                    "id": index,
                    "image_id": index,
                    "category_id": category,
                    "bbox": [x, y, 36, 36],
                    "area": 36 * 36,
                    "segmentation": [[float(value) for point in corners for value in point]],
                    "iscrowd": 0,
                }
            )
        categories = [
            {"id": 0, "name": "shapes", "supercategory": "none"},
            {"id": 1, "name": "red square", "supercategory": "shapes"},
            {"id": 2, "name": "green circle", "supercategory": "shapes"},
        ]
        (folder / split / "_annotations.coco.json").write_text(
            json.dumps({"images": images, "annotations": annotations, "categories": categories})
        )


def write_config(folder: Path, rank: int = 16) -> None:
    """The shipped config, but for a short training; `alpha` is what `rank` becomes later."""
    values = yaml.safe_load((ROOT / "config.yaml").read_text("utf-8"))
    values["train"] |= {"epochs": 1, "batch_size": 4, "micro_batch_size": 2}
    values["evaluate"]["ood_prompts"] = ["red", "circle"]
    for name in values["train"]["lora"].keys() - {"geometry"}:
        values["train"]["lora"][name] = {"rank": rank, "alpha": 32.0}
    (folder / "config.yaml").write_text(yaml.safe_dump(values), "utf-8")


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is shipped, with a small export in the place of the demo."""
    folder = tmp_path_factory.mktemp("checkout")
    copy_shipped(folder)
    write_export(folder / "data" / "demo")
    write_config(folder)
    return folder


@pytest.fixture(scope="session")
def finished(checkout: Path) -> Path:
    """The copy after the pipeline has run in it."""
    # One thread each: on busy cores torch's threads wait for each other.
    threads = [f"{rule}=1" for rule in ("strength", "merge", *PREDICT)]
    answer = snakemake(checkout, "--cores", "2", "--set-threads", *threads)
    assert answer.returncode == 0, answer.stdout
    return checkout


def test_a_finished_run_leaves_nothing_to_do(finished: Path) -> None:
    jobs, text = plan(finished)
    assert jobs == NOTHING
    assert "Nothing to be done" in text


@pytest.mark.parametrize(
    ("module", "planned"),
    [
        ("convert", EVERYTHING),
        ("exports/annotations", EVERYTHING),
        ("validate", {"validate": 1, "validate_page": 1, **FROM_TRAIN}),
        ("lora/layers", FROM_TRAIN),
        ("train", FROM_TRAIN),
        ("training/losses", FROM_TRAIN),
        ("training/augment", FROM_TRAIN),
        ("training/engine", FROM_TRAIN),
        ("evaluation/average_precision", FROM_TRAIN),
        ("model/forward", TRAIN_AND_PREDICT),
        ("merge", FROM_MERGE),
        ("strength", FROM_STRENGTH),
        ("evaluation/strength", FROM_STRENGTH),
        ("predict", {**PREDICT, **EVALUATE}),
        ("evaluate", EVALUATE),
        ("evaluation/bootstrap", FROM_STRENGTH),
        ("evaluation/false_alarms", FROM_TRAIN),
        ("evaluation/pixel_overlap", EVALUATE),
        ("checks/rules", VALIDATE_AND_TRAIN),
        ("dataset/gate", NOTHING),
        ("launch", NOTHING),
        ("core/console", NOTHING),
    ],
)
def test_edited_code_replans_what_it_computes(
    finished: Path, module: str, planned: dict[str, int]
) -> None:
    with edited(finished / "src" / "segtune" / f"{module}.py", "\nEDITED = True\n"):
        jobs, text = plan(finished)
    assert jobs == planned
    assert (f"segtune/{module}.py@" in text) == bool(planned)


@pytest.mark.parametrize(
    ("name", "planned"),
    [
        ("page.css", PAGES),
        ("drawing.py", PAGES),
        ("gallery.py", {"evaluate_page": 1}),
        ("loss_chart.py", {"train_page": 1}),
        ("evaluation_page.html.j2", {"evaluate_page": 1}),
        ("training_page.html.j2", {"train_page": 1}),
        ("validation_page.html.j2", {"validate_page": 1}),
        ("learning_curve_page.html.j2", NOTHING),
    ],
)
def test_an_edited_page_replans_only_pages(
    finished: Path, name: str, planned: dict[str, int]
) -> None:
    addition = "\nEDITED = True\n" if name.endswith(".py") else "\n"
    with edited(finished / "src" / "segtune" / "reports" / name, addition):
        assert plan(finished)[0] == planned


def test_an_edited_augmentation_is_not_a_reason_to_merge(finished: Path) -> None:
    with edited(finished / "src" / "segtune" / "training" / "augment.py", "\nEDITED = True\n"):
        text = plan(finished)[1]
    reasons = dict(re.findall(r"^Job \d+: (\w+) .*\nReason: (.+)$", text, re.M))
    assert reasons["Training"].startswith("Params have changed")
    assert reasons["Merging"].startswith("Input files updated by another job")
    assert "Params have changed" not in reasons["Merging"]


@pytest.mark.parametrize(
    ("change", "planned"),
    [
        ("convert={holdout_seed: 1}", EVERYTHING),
        ("validate={max_examples: 1}", {"validate_page": 1}),
        ("validate={severities: {object-tiny: off}}", VALIDATE_AND_TRAIN),
        ("validate={limits: {duplicate_iou: 0.8}}", VALIDATE_AND_TRAIN),
        ("train={seed: 1}", FROM_TRAIN),
        ("merge={tolerance: 0.1}", FROM_MERGE),
        ("merge={retain: 0.5}", FROM_MERGE),
        ("merge={strength: 0.5}", FROM_MERGE),
        ("merge={retain_images: data/demo/test}", FROM_STRENGTH),
        ("predict={max_detections: 1}", {"strength": 1, "merge": 1, **PREDICT, **EVALUATE}),
        ("evaluate={resamples: 10}", EVALUATE),
        ("image_size=144", FROM_VALIDATE),
        ("tiles=48", {"tile": 1, **FROM_VALIDATE}),
        ("weights=random:1", TRAIN_AND_PREDICT),
        ("model=full", FROM_VALIDATE),
    ],
)
def test_every_section_reaches_its_stages(
    finished: Path, change: str, planned: dict[str, int]
) -> None:
    assert plan(finished, "--config", change)[0] == planned


def test_other_ood_prompts_do_not_repeat_the_base_models_predictions(finished: Path) -> None:
    setting = ("--config", "evaluate={ood_prompts: [horse]}")
    assert plan(finished, *setting)[0] == {**FROM_STRENGTH, "predict_ood": 2}
    none = plan(finished, "--config", "evaluate={ood_prompts: []}")[0]
    assert none == {rule: n for rule, n in FROM_STRENGTH.items() if rule != "predict_ood"}


@pytest.fixture
def moved(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """The whole checkout, results included, at another place; nothing is left at the old one."""
    place = finished.rename(tmp_path / "moved")
    yield place
    place.rename(finished)


def test_a_moved_checkout_has_nothing_to_do(moved: Path) -> None:
    jobs, text = plan(moved)
    assert jobs == NOTHING
    assert "Nothing to be done" in text


def test_a_moved_checkout_finds_its_images_and_weights(moved: Path) -> None:
    for rule in ("evaluate_page", "predict_model"):
        targets = ["results/predict/finished/base.json"] if rule == "predict_model" else [rule]
        answer = snakemake(moved, "--cores", "2", "--forcerun", rule, "--", *targets)
        assert answer.returncode == 0, answer.stdout
    manifest = json.loads((moved / "results" / "coco" / "manifest.json").read_text("utf-8"))
    assert manifest["root"] == "../../data/demo"


def test_a_copied_checkout_has_nothing_to_do(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "copy", copy_function=shutil.copyfile, symlinks=True)
    assert plan(tmp_path / "copy")[0] == NOTHING


def test_a_comment_or_a_docstring_replans_nothing(finished: Path) -> None:
    module = finished / "src" / "segtune" / "train.py"
    before = module.read_text("utf-8")
    assert before.startswith('"""')
    module.write_text(before.replace('"""', '"""Edited. ', 1) + "\n# Edited.\n", "utf-8")
    try:
        assert plan(finished)[0] == NOTHING
    finally:
        module.write_text(before, "utf-8")


def test_a_restored_edit_replans_nothing(finished: Path) -> None:
    with edited(finished / "src" / "segtune" / "train.py", "\nEDITED = True\n"):
        pass
    assert plan(finished)[0] == NOTHING


def test_a_rank_that_takes_the_value_of_another_setting_is_noticed(finished: Path) -> None:
    write_config(finished, rank=32)
    try:
        assert plan(finished)[0] == FROM_TRAIN
    finally:
        write_config(finished)


def test_a_setting_on_the_command_line_leaves_the_others(finished: Path) -> None:
    jobs, text = plan(finished, "--config", "train={epochs: 3}")
    assert jobs == FROM_TRAIN
    now = text.rpartition("now: ")[2]
    assert '"epochs": 3' in now
    assert '"batch_size": 4' in now


def test_cores_and_gpus_replan_nothing(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert plan(finished, "--cores", "1", "--resources", "gpu=1")[0] == NOTHING


def test_new_times_of_files_replan_nothing(finished: Path) -> None:
    for folder in ("src", "data", "workflow", "results"):
        for path in (finished / folder).rglob("*"):
            os.utime(path)
    assert plan(finished)[0] == NOTHING


def test_an_edited_annotation_replans_everything(finished: Path) -> None:
    annotations = finished / "data" / "demo" / "valid" / "_annotations.coco.json"
    with edited(annotations, "\n"):
        jobs, text = plan(finished)
    assert jobs == EVERYTHING
    assert "data/demo@" in text


@pytest.mark.parametrize("setting", ["export", "weights"])
def test_a_mistyped_path_is_not_up_to_date(finished: Path, setting: str) -> None:
    answer = dry_run(finished, "--config", f"{setting}=nowhere")
    assert answer.returncode != 0
    assert f"config: {setting}: nowhere does not exist" in answer.stdout


def test_what_cannot_be_divided_is_refused_before_any_job(finished: Path) -> None:
    batch = ("--config", "train={batch_size: 3, micro_batch_size: 3}")
    answer = snakemake(finished, "--cores", "2", *batch)
    assert answer.returncode != 0
    assert "train.batch_size (3) cannot be divided among 2 processes" in answer.stdout
    assert (finished / "results/train/finished/history.jsonl").exists()
    assert plan(finished, "--resources", "gpu=1", *batch)[0] == FROM_TRAIN
    four = dry_run(finished, "--resources", "gpu=9", "--set-resources", "train:gpu=3")
    assert "train.batch_size (4) cannot be divided among 3 processes" in four.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("image_size=100",), "image_size (100) is not a multiple of 48"),
        (("model=full", "image_size=48"), "image_size (48) is not a multiple of 336"),
        (("train={lora: {text: {targets: [qkv]}}}",), "train.lora.text.targets.0: "),
    ],
)
def test_what_contradicts_itself_is_refused_before_any_job(
    finished: Path, changes: tuple[str, ...], message: str
) -> None:
    answer = dry_run(finished, "--config", *changes)
    assert answer.returncode != 0
    assert message in answer.stdout


def test_a_disk_that_is_too_small_is_refused_before_any_job(checkout: Path, tmp_path: Path) -> None:
    weights = tmp_path / "sam3.pt"
    weights.touch()
    os.truncate(weights, 8 * 10**12)  # takes no space itself
    answer = snakemake(
        checkout,
        *("--cores", "1", "--config", "model=full", f"weights={weights}", "results=elsewhere"),
    )
    assert answer.returncode != 0
    assert "elsewhere: 8000.0 GB are needed on this disk, and" in answer.stdout
    assert not (checkout / "elsewhere").exists()


def test_keeping_more_or_less_and_the_order_of_settings_replan_nothing(finished: Path) -> None:
    assert plan(finished, "--config", "keep=0")[0] == NOTHING
    config = finished / "config.yaml"
    before = config.read_text("utf-8")
    values = yaml.safe_load(before)
    values["train"]["lora"] = dict(reversed(values["train"]["lora"].items()))
    values["train"] = dict(reversed(values["train"].items()))
    config.write_text(yaml.safe_dump(dict(reversed(values.items())), sort_keys=False), "utf-8")
    try:
        assert plan(finished)[0] == NOTHING
    finally:
        config.write_text(before, "utf-8")


@pytest.mark.parametrize(
    ("file", "planned"),
    [
        ("coco/valid.json", EVERYTHING),
        ("validate/report.json", {"validate": 1, "validate_page": 1, **FROM_TRAIN}),
        ("train/adapter/adapter_model.safetensors", FROM_TRAIN),
        ("merge/sam3.pt", FROM_MERGE),
        ("predict/tuned.json", {"predict_model": 1, **EVALUATE}),
        ("evaluate/per_class.csv", EVALUATE),
        ("evaluate/report.html", {"evaluate_page": 1}),
    ],
)
def test_a_deleted_result_is_planned_again(
    finished: Path, file: str, planned: dict[str, int]
) -> None:
    # So is one that Snakemake has deleted, because its job has failed.
    copy = finished.with_name("copy")
    shutil.copytree(finished, copy, symlinks=True)
    try:
        (copy / "results" / file).unlink()
        jobs, text = plan(copy)
        assert jobs == planned
        assert "Missing output files" in text
    finally:
        shutil.rmtree(copy)


def test_a_failed_training_leaves_the_adapter_and_runs_again(
    finished: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy, symlinks=True)
    results = copy / "results"
    before = {path: path.read_bytes() for path in results.glob("train/adapter/*")}
    with (results / "train/checkpoints/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer = snakemake(
            copy, "--resources", "gpu=1", "--config", "train={seed: 1}", "--", "train"
        )
    assert answer.returncode != 0
    assert "another training run is writing here" in answer.stdout
    assert {path: path.read_bytes() for path in results.glob("train/adapter/*")} == before
    # What failed is not taken for finished, whatever the settings are now.
    assert plan(copy, "--config", "train={seed: 1}")[0] == FROM_TRAIN
    assert plan(copy)[0] == FROM_TRAIN
    again = snakemake(copy, "--resources", "gpu=1", "--", "train")
    assert again.returncode == 0, again.stdout
    assert "not training again: found the training of" in again.stdout
    assert plan(copy)[0] == {rule: count for rule, count in FROM_TRAIN.items() if rule != "train"}


@pytest.mark.slow
def test_sigterm_reaches_training_through_snakemake(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy, symlinks=True)
    weights = copy / "results/train/adapter/adapter_model.safetensors"
    uninterrupted = weights.read_bytes()
    shutil.rmtree(copy / "results/train")
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--", "train"]
    with (tmp_path / "log").open("w") as log:
        # Not a group of its own: only Snakemake gets the signal.
        process = subprocess.Popen(command, cwd=copy, stdout=log, stderr=log)
        while not any('"train"' in p.read_text() for p in copy.glob(HISTORIES)):
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) != 0
    output = (tmp_path / "log").read_text()
    assert "the same command resumes the run" in output
    assert list(copy.glob("results/train/checkpoints/*/state-*.pt"))
    answer = snakemake(copy, "--cores", "2", "--", "train")
    assert "resuming after step" in answer.stdout
    assert weights.read_bytes() == uninterrupted


HISTORIES = "results/train/checkpoints/*/history.jsonl"


@pytest.mark.parametrize(
    ("target", "planned"),
    [
        ("convert", {"convert"}),
        ("validate", {"convert", "validate"}),
        ("train", {"convert", "validate", "train"}),
        ("strength", {"convert", "validate", "train", "strength"}),
        ("merge", {"convert", "validate", "train", "strength", "merge"}),
        ("predict", {"convert", "validate", "train", "strength", "merge", *PREDICT}),
        ("evaluate", set(EVERYTHING) - set(PAGES)),
        ("evaluate_page", set(EVERYTHING) - {"validate_page", "train_page"}),
    ],
)
def test_a_rule_can_be_asked_for_by_name(checkout: Path, target: str, planned: set[str]) -> None:
    jobs, _ = plan(checkout, "--config", "results=elsewhere", "--", target)
    assert set(jobs) == planned


def test_an_export_on_roboflow_is_downloaded_first(checkout: Path) -> None:
    remote = ("--config", "results=elsewhere", "export=roboflow://team/reef/3")
    jobs, _ = plan(checkout, *remote)
    assert jobs == {"download": 1, **EVERYTHING}
    answer = dry_run(checkout, "--config", "export=roboflow://team/reef")
    assert answer.returncode != 0
    assert "not the address of a version on Roboflow" in answer.stdout


def test_another_working_directory(checkout: Path, tmp_path: Path) -> None:
    export = checkout / "data" / "demo"
    answer = snakemake(
        tmp_path,
        "--snakefile",
        str(checkout / "Snakefile"),
        "--cores=1",
        "--config",
        f"export={export}",
        "--",
        "convert",
    )
    assert answer.returncode == 0, answer.stdout
    assert (tmp_path / "results" / "coco" / "manifest.json").exists()


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_preset_shows_its_plan(checkout: Path, preset: Path) -> None:
    files = ("--configfile", str(ROOT / "config.yaml"), str(preset))
    arguments = (*files, "--config", "results=elsewhere", "weights=random:0")
    jobs, text = plan(checkout, "--printshellcmds", *arguments)
    train = Config(**{"export": "x", **yaml.safe_load(preset.read_text("utf-8"))}).train
    assert f'"learning_rate": {train.learning_rate}' in text
    assert f'"micro_batch_size": {train.micro_batch_size}' in text
    assert f"--model {'tiny' if 'tiny' in preset.stem else 'full'}" in text
    assert jobs == EVERYTHING | ({"features": 1} if train.cache_features else {})


CACHED = "cache_features: true, lora: {vision: false}"


def test_cached_features_are_a_stage_between_validation_and_training(finished: Path) -> None:
    jobs, text = plan(finished, "--printshellcmds", "--config", f"train={{{CACHED}}}")
    assert jobs == {"features": 1, **FROM_TRAIN}
    reasons = re.findall(r"Reason: .*", text)
    assert sum("updated by another job: results/features" in reason for reason in reasons) == 1
    assert "--features results/features" in text
    # What a feature does not depend on is not among its settings.
    (settings,) = re.findall(r"segtune.features .*?--settings '(.*?)'", text, re.S)
    assert set(json.loads(settings)) == {
        *("cache_features", "horizontal_flip", "lora", "min_scale", "scale_views")
    }


def test_a_learning_curve_shares_the_features(finished: Path) -> None:
    jobs, text = plan(
        finished, "--printshellcmds", "--config", f"train={{{CACHED}}}", "--", "learning_curve"
    )
    assert jobs["features"] == 1
    assert text.count("--features results/features ") == 3


def test_a_misspelled_setting_is_named(checkout: Path) -> None:
    answer = dry_run(checkout, "--config", "train={learning_rat: 1, epochs: x}")
    assert answer.returncode != 0
    assert "train.learning_rat: " in answer.stdout
    assert "train.epochs: " in answer.stdout
    assert "Traceback" not in answer.stdout


def test_a_rule_of_validation_that_does_not_exist_is_refused_before_any_job(checkout: Path) -> None:
    answer = dry_run(checkout, "--config", "validate={severities: {object-tinny: off}}")
    assert answer.returncode != 0
    assert "there is no rule 'object-tinny'. Did you mean object-tiny?" in answer.stdout
    assert "Traceback" not in answer.stdout


def test_errors_of_the_dataset_stop_the_workflow_until_a_severity_is_changed(
    checkout: Path, tmp_path: Path
) -> None:
    export, results = tmp_path / "export", tmp_path / "results"
    write_export(export)
    path = export / "train" / "_annotations.coco.json"
    values = json.loads(path.read_text())
    values["annotations"] = [a for a in values["annotations"] if a["category_id"] != 2]
    path.write_text(json.dumps(values))
    places = ["--config", f"export={export}", f"results={results}"]
    answer = snakemake(checkout, "--cores", "2", *places, "--", "train")
    assert answer.returncode != 0
    assert "ERROR: class-missing-train: class without objects in train" in answer.stdout
    assert "green circle" in answer.stdout
    assert f"See {results}/validate/errors.html" in answer.stdout.replace("\n", "")
    assert (results / "validate" / "errors.html").exists()
    assert not (results / "train").exists()
    change = "validate={severities: {class-missing-train: warning}}"
    answer = snakemake(checkout, "--cores", "2", *places, change, "--", "validate_page")
    assert answer.returncode == 0, answer.stdout
    text = (results / "validate" / "report.html").read_text("utf-8")
    assert "Changed severities" in text


def test_a_renamed_setting_is_named_with_its_new_name(checkout: Path) -> None:
    answer = dry_run(checkout, "--config", "train={smallest_scale: 0.5}")
    assert answer.returncode != 0
    assert "train.smallest_scale: 'smallest_scale' is now called 'min_scale'" in answer.stdout


def test_the_shipped_config_shows_every_setting_with_its_default() -> None:
    text = (ROOT / "config.yaml").read_text("utf-8")
    shown = yaml.safe_load(text)
    default = Config(export="data/demo").model_dump(mode="json", by_alias=True)
    for setting in LoraSettings.model_fields:
        assert setting in text
    assert shown["train"].pop("lora").keys() == set(get_args(Component))
    del default["train"]["lora"]
    for section, values in shown.items():
        known = default[section]
        if isinstance(values, dict):
            assert values.keys() == known.keys()
            followed = {name for name, value in values.items() if value is None}
            values = {name: known[name] if name in followed else v for name, v in values.items()}
        assert values == known
    assert parse_config(yaml.safe_load(text)) == Config(export="data/demo")


def test_the_full_model_is_planned_with_its_own_numbers(checkout: Path) -> None:
    shipped = ("--configfile", str(ROOT / "config.yaml"))
    arguments = (*shipped, "--config", "model=full", "weights=random:0")
    _, text = plan(checkout, "--printshellcmds", "--cores", "3", *arguments)
    assert "Training full for 20 epochs with learning rate 0.0001" in text
    for shown in ('"learning_rate": 0.0001', '"alpha": 32.0', '"micro_batch_size": 1'):
        assert shown in text
    assert '"alpha": 16.0' not in text
    assert "--prompt person hand animal" in text
    assert "--workers 3 2>&1" in text


def test_execution_settings_repeat_nothing(finished: Path) -> None:
    changes = "train={micro_batch_size: 1, masks_per_chunk: 2}"
    jobs, text = plan(finished, "--config", changes)
    assert jobs == NOTHING, text


def test_nothing_in_the_slurm_profile_is_erased_by_a_resource_on_the_command_line() -> None:
    # The command line replaces all that a profile sets for any rule, not the one value.
    profile = yaml.safe_load((ROOT / "profiles/slurm/profile.yaml").read_text("utf-8"))
    assert not profile.keys() & {"set-resources", "set-threads"}


def test_a_resource_is_changed_where_gpus_have_no_limit(checkout: Path) -> None:
    options = ("--workflow-profile", "none", "--cores", "2", "--set-resources", "train:runtime=9")
    answer = dry_run(checkout, *options, "-p", "--config", "results=elsewhere", "--", "train")
    assert answer.returncode == 0, answer.stdout
    assert "--devices 2 --nodes 1 --torchrun" in answer.stdout


def test_training_is_asked_for_on_several_nodes_by_a_resource(checkout: Path) -> None:
    nodes = ("--set-resources", "train:nodes=2", "train:gpu=2")
    answer = dry_run(checkout, "-p", "--config", "results=elsewhere", *nodes, "--", "train")
    assert "--devices 2 --nodes 2 --torchrun" in answer.stdout


def test_a_learning_curve_is_drawn_where_it_is_asked_for(finished: Path) -> None:
    jobs, _ = plan(finished, "--", "learning_curve_page")
    assert jobs == {
        "learning_curve_subset": 2,
        "train_fraction": 2,
        "train_fraction_page": 2,
        "learning_curve": 1,
        "learning_curve_page": 1,
    }
    answer = dry_run(finished, "--printshellcmds", "--", "learning_curve")
    # Half of the images are seen twice as often.
    assert sorted(re.findall(r'"epochs": (\d+)', answer.stdout)) == ["2", "4"]


def test_the_conda_environment_lists_the_dependencies() -> None:
    environment = yaml.safe_load((ROOT / "workflow/envs/segtune.yaml").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert environment["dependencies"][-1]["pip"] == project["dependencies"]


def test_lint(checkout: Path) -> None:
    answer = snakemake(checkout, "--lint")
    assert answer.returncode == 0, answer.stdout


def test_the_probe_is_made_only_on_request_and_repeats_nothing(finished: Path) -> None:
    changes = ("--config", "probe={images: 3, phrasings: {red square: [square]}}")
    assert plan(finished, *changes)[0] == NOTHING
    assert plan(finished, *changes, "--", "probe")[0] == {"probe": 1}


EXPORTS = ("export_transformers", "export_safetensors")  # and export_onnx, of other packages


def test_exports_are_made_only_on_request(finished: Path) -> None:
    targets = (*EXPORTS, "export_onnx")
    assert plan(finished, "--", *targets)[0] == dict.fromkeys(targets, 1)


@pytest.mark.slow
def test_exports_are_made_and_then_up_to_date(finished: Path) -> None:
    assert snakemake(finished, "--cores", "2", "--", *EXPORTS).returncode == 0
    assert plan(finished, "--", *EXPORTS)[0] == NOTHING
    folder = finished / "results/transformers"
    linked = {path.relative_to(folder / "finished") for path in (folder / "finished").rglob("*.*")}
    files = {path.relative_to(folder) for path in folder.rglob("*.*") if path.is_file()}
    assert linked == {path for path in files if path.parts[0] != "finished"}
    (folder / "config.json").unlink()
    assert plan(finished, "--", *EXPORTS)[0] == {"export_transformers": 1}
    assert plan(finished)[0] == NOTHING


def test_labels_are_made_only_on_request(finished: Path) -> None:
    images = ("--config", "label={images: data/demo/test}")
    assert plan(finished, *images)[0] == NOTHING
    assert plan(finished, *images, "--", "label")[0] == {"label_list": 1, "label_gather": 1}


@pytest.mark.slow
def test_labels_in_shards_are_those_of_one_prediction(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy, symlinks=True)
    images = ("--config", "label={images: data/demo/test, images_per_shard: 3}")
    answer = snakemake(copy, "--cores", "2", *images, "--", "label")
    assert answer.returncode == 0, answer.stdout
    results = copy / "results"
    whole = tmp_path / "whole.json"
    predict = ["-m", "segtune.predict", "--run", str(results), "--out", str(whole)]
    command = [sys.executable, *predict, "--images", str(copy / "data/demo/test")]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(copy / "src")})
    assert (results / "label/labels.json").read_bytes() == whole.read_bytes()
    assert json.loads(whole.read_text())["annotations"]
    assert sorted(path.name for path in results.glob("label/shards/*.json")) == [
        *("0000.json", "0001.json")
    ]
    assert plan(copy, *images, "--", "label")[0] == NOTHING
    # A score that decides nothing is another file: the kept labels are put in place again.
    with edited(results / "evaluate/metrics.json", "\n"):
        again = snakemake(copy, "--cores", "2", *images, "--", "label")
    assert again.stdout.count("not predicting again: found the predictions of") == 2


def test_label_issues_are_looked_for_only_on_request(finished: Path) -> None:
    jobs = plan(finished, "--", "label_issues_page")[0]
    assert jobs == {"predict_train": 1, "label_issues": 1, "label_issues_page": 1}
    assert plan(finished, "--config", "label_issues={min_score: 0.9}")[0] == NOTHING


def test_training_without_label_issues_is_another_training(finished: Path) -> None:
    setting = ("--config", "train={exclude_issues: issues.json}")
    assert "train.exclude_issues: issues.json does not exist" in dry_run(finished, *setting).stdout
    for place in (finished / "issues.json", finished / "results" / "issues.json"):
        place.write_text("{}")
    try:
        assert plan(finished, *setting)[0] == FROM_TRAIN
        own = ("--config", "train={exclude_issues: results/issues.json}")
        answer = dry_run(finished, *own)
        assert answer.returncode != 0
        assert "results/issues.json is among the results of this run" in answer.stdout
    finally:
        for place in (finished / "issues.json", finished / "results" / "issues.json"):
            place.unlink()


@pytest.mark.slow
def test_label_issues_are_made_and_then_up_to_date(finished: Path) -> None:
    assert snakemake(finished, "--cores", "2", "--", "label_issues_page").returncode == 0
    assert plan(finished, "--", "label_issues_page")[0] == NOTHING
    folder = finished / "results/label_issues"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")} == {
        *(f"{up}patch/{s}/_annotations.coco.json" for up in ("", "finished/") for s in IMAGES),
        *("issues.json", "report.html", "finished/issues.json", "finished/report.html"),
    }
    (folder / "issues.json").unlink()
    jobs = plan(finished, "--", "label_issues_page")[0]
    assert jobs == {"label_issues": 1, "label_issues_page": 1}
    assert plan(finished)[0] == NOTHING
