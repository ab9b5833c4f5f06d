"""Every setting of `train` has an effect on the adapter, the history or the checkpoints."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import segtune.training.engine
import segtune.training.run
import segtune.training.valid_detections
from segtune.core.config import LoraSettings, TrainSettings
from segtune.model.forward import grounding_outputs
from segtune.train import main
from tests.converted import write_converted

Trace = dict[str, Any]

BASE: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 4,
    "micro_batch_size": 4,
    "max_negatives": 3,
    "min_negatives": 3,
    "horizontal_flip": False,
    "warmup_steps": 1,
    "validate_every": 1,
    "lora": {"detr_decoder": {"rank": 2}},
}
# Setting -> a value that differs from the one above or the default.
CHANGED: dict[str, Any] = {
    "seed": 1,
    "epochs": 2,
    "batch_size": 8,
    "micro_batch_size": 2,
    "masks_per_chunk": 1,
    "activation_checkpointing": ["segmentation"],
    "max_negatives": 0,
    "extra_negatives": ["unicorn"],
    "ood_negatives": ["unicorn"],
    "min_negatives": 0,
    "horizontal_flip": True,
    "min_scale": 0.5,
    "color_jitter": 0.5,
    "box_noise": 0.2,
    "repeat_factor_threshold": 1.0,
    "learning_rate": 1e-3,
    "weight_decay": 0.5,
    "warmup_steps": 3,
    "schedule": "constant",
    "clip_norm": 0.01,
    "ema_decay": 0.9,
    "select_by": "cgF1",
    "validate_every": 3,
    "patience": 1,
    "checkpoint_every": 1,
    "lora": {"detr_encoder": {"rank": 2}},
}
CHANGED_LORA: dict[str, Any] = {
    "rank": 3,
    "alpha": 4.0,
    "dropout": 0.3,
    "targets": ["q", "v"],
    "blocks": "1-2",
    "rank_stabilized": True,
    "learning_rate": 1e-4,
}
TIMED = {"images_per_second", "data_wait_fraction", "peak_memory_gb"}


# A training run in this process takes over its signals.
pytestmark = pytest.mark.usefixtures("signal_handlers")


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    return write_converted(folder, {"train": 8, "valid": 1, "test": 1})


def traced(coco: Path, out: Path, settings: dict[str, Any], *more: str) -> Trace:
    """All effects of a training run except time and memory."""
    counts = {"forward passes": 0, "checkpoints": 0}

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    save_state = segtune.training.run.save_state
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            segtune.training.engine,
            "grounding_outputs",
            counted("forward passes", grounding_outputs),
        )
        # So few steps leave few detections, and all of them with low scores.
        patch.setattr(segtune.training.valid_detections, "MIN_SCORE", 0.001)
        patch.setattr(segtune.training.run, "save_state", counted("checkpoints", save_state))
        report = ("--report", str(coco.parent / "report.json"))
        main(
            [
                "--coco",
                str(coco),
                *report,
                "--out",
                str(out),
                "--settings",
                json.dumps(settings),
                *more,
            ]
        )
    lines = (out / "history.jsonl").read_text().splitlines()
    history = [{k: v for k, v in json.loads(line).items() if k not in TIMED} for line in lines]
    adapter = load_file(out / "adapter" / "adapter_model.safetensors")
    values = {name: value.tolist() for name, value in adapter.items()}
    result = json.loads((out / "adapter" / "recipe.json").read_text())["result"]
    del result["seconds"]
    return {"history": history, "adapter": values, "result": result, **counts}


@pytest.fixture(scope="module")
def base(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return traced(coco, tmp_path_factory.mktemp("base"), BASE)


def test_the_same_settings_leave_the_same_trace(coco: Path, tmp_path: Path, base: Trace) -> None:
    assert traced(coco, tmp_path, BASE, "--workers", "2") == base


def test_every_setting_is_tested() -> None:
    # These are tested in test_features.py and training/test_excluded_issues.py.
    tested = {*CHANGED, "scale_views", "cache_features", "exclude_issues"}
    assert tested == TrainSettings.model_fields.keys()
    assert CHANGED_LORA.keys() == LoraSettings.model_fields.keys()


@pytest.mark.parametrize("setting", CHANGED)
def test_a_setting_has_an_effect(coco: Path, tmp_path: Path, base: Trace, setting: str) -> None:
    changed = traced(coco, tmp_path, {**BASE, setting: CHANGED[setting]})
    assert changed != base
    if setting == "checkpoint_every":
        assert changed["adapter"] == base["adapter"]


def test_fixed_scales_have_an_effect(coco: Path, tmp_path: Path) -> None:
    scaled = {**BASE, "epochs": 1, "min_scale": 0.5}
    new_each_time = traced(coco, tmp_path / "new", scaled)
    assert traced(coco, tmp_path / "fixed", {**scaled, "scale_views": 2}) != new_each_time


@pytest.mark.parametrize("setting", CHANGED_LORA)
def test_a_setting_of_lora_has_an_effect(coco: Path, tmp_path: Path, setting: str) -> None:
    traces = []
    for changes in ({}, {setting: CHANGED_LORA[setting]}):
        lora = {"vision": {"rank": 2, **changes}, "text": {"rank": 2}}
        out = tmp_path / str(len(traces))
        traces.append(traced(coco, out, {**BASE, "epochs": 1, "lora": lora}))
    assert traces[0] != traces[1]


def test_each_component_has_its_learning_rate(coco: Path, tmp_path: Path) -> None:
    lora = {"vision": {"rank": 2, "learning_rate": 1e-4}, "detr_decoder": {"rank": 2}}
    trace = traced(coco, tmp_path, {**BASE, "epochs": 1, "lora": lora, "learning_rate": 4e-3})
    first, second = (r["learning_rate"] for r in trace["history"] if r["kind"] == "train")
    assert first == {"vision": 0.5e-4, "detr_decoder": 2e-3}  # halfway through the warm-up
    assert second == {"vision": 1e-4, "detr_decoder": 4e-3}


def test_patience_ends_a_run_without_improvement(base: Trace, coco: Path, tmp_path: Path) -> None:
    # At this learning rate nothing improves after the first validation.
    settings = {**BASE, "epochs": 9, "patience": 2, "learning_rate": 1e-12}
    history = traced(coco, tmp_path, settings)["history"]
    assert [r["epoch"] for r in history if r["kind"] == "valid"] == [0, 1, 2, 3]


def test_the_average_is_selected_but_training_continues_from_the_adapters(
    coco: Path, tmp_path: Path, base: Trace
) -> None:
    averaged = traced(coco, tmp_path, {**BASE, "ema_decay": 0.9})
    steps = [[r for r in t["history"] if r["kind"] == "train"] for t in (base, averaged)]
    assert steps[0] == steps[1]
    assert averaged["adapter"] != base["adapter"]


def test_the_input_size_has_an_effect(coco: Path, tmp_path: Path, base: Trace) -> None:
    assert traced(coco, tmp_path, BASE, "--image-size", "144") != base


def test_an_impossible_input_size_says_why(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        traced(coco, tmp_path, BASE, "--image-size", "100")
    message = capsys.readouterr().err
    assert "not a multiple of 48: the tiny model attends in windows of 4 patches of 12" in message
    assert "48, 96, 144, 192" in message


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"visoin": {}}, r"lora\.visoin.*: Input should be 'vision'"),
        ({"vision": {"targets": ["w"]}}, "Input should be 'q', 'k', 'v', 'out' or 'mlp'"),
        ({"vision": {"blocks": "1-9"}}, "blocks.3.* matches no module.*closest names.*blocks.2"),
        ({"vision": {"blocks": "2-1"}}, "the range '2-1' is empty"),
        (
            {"vision": {"blocks": "all"}},
            "'all' is neither a block number nor a range such as 24-31",
        ),
        ({"text": {"blocks": "1"}}, "lora.text.blocks: only vision has blocks"),
    ],
)
def test_a_target_that_matches_nothing_is_an_error(
    coco: Path, tmp_path: Path, lora: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        traced(coco, tmp_path, {**BASE, "lora": lora})
    assert re.search(message, capsys.readouterr().err)
