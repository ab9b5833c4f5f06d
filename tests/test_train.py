"""Training as a command: interrupted and resumed, in one process and in two."""

import contextlib
import json
import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from segtune.core.config import PredictSettings
from segtune.dataset.coco import read_split
from segtune.dataset.detections import read_detections, to_record
from segtune.lora.adapter import attach_adapter
from segtune.model.inference import predict_images
from segtune.model.weights import load_base_model
from segtune.train import main
from tests.converted import write_converted, write_report
from tests.forked import Forked
from tests.ranks import run_ranks
from tests.train_runs import Process, arguments, finish, history, refused, start


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_converted(tmp_path_factory.mktemp("converted"))


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    timed = {"images_per_second", "data_wait_fraction", "peak_memory_gb"}
    return [{k: v for k, v in record.items() if k not in timed} for record in records]


@pytest.fixture(scope="module")
def uninterrupted(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("uninterrupted")
    return out, finish(start(coco, out))


def test_a_run_leaves_adapter_recipe_and_history(uninterrupted: tuple[Path, str]) -> None:
    out, output = uninterrupted
    assert "LoRA on" in output
    recipe = json.loads((out / "adapter" / "recipe.json").read_text())
    assert recipe["settings"]["epochs"] == 2
    assert recipe["result"]["best_epoch"] in (1, 2)
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert set(config["target_modules"]) == set(recipe["adapted"])
    assert any(name.startswith("backbone.vision_backbone") for name in recipe["adapted"])
    records = history(out)
    assert [r["step"] for r in records if r["kind"] == "train"] == [1, 2, 3, 4]
    assert [r["epoch"] for r in records if r["kind"] == "valid"] == [0, 1, 2]
    assert {"loss_mask", "learning_rate", "gradient_norm", "peak_memory_gb"} <= records[1].keys()
    assert records[0]["per_class"].keys() == {"disc", "square"}  # there are no crosses
    sheets = sorted(path.name for path in (out / "valid_images").iterdir())
    assert sheets == [f"epoch_000{number}.jpg" for number in (0, 1, 2)]
    assert list((out / "tensorboard").glob("events*"))
    assert not list((out / "checkpoints").glob("*/state-*.pt"))


def test_a_run_counts_its_parameters(uninterrupted: tuple[Path, str]) -> None:
    out, _ = uninterrupted
    counts = json.loads((out / "adapter" / "recipe.json").read_text())["parameters"]
    adapter = load_file(out / "adapter" / "adapter_model.safetensors")
    trained = {name for name, count in counts.items() if count["trainable"]}
    assert trained == {"vision", "detr_decoder", "segmentation"}
    assert all(count["trainable"] < count["total"] for count in counts.values())
    # The file pads the block-structured B of q, k and v with zeros.
    stored = sum(tensor.numel() for tensor in adapter.values())
    assert 0 < sum(count["trainable"] for count in counts.values()) <= stored


def test_a_run_leaves_predictions_before_training_and_of_the_best_epoch(
    coco: Path, uninterrupted: tuple[Path, str]
) -> None:
    out, _ = uninterrupted
    valid = read_split(coco / "valid.json")
    weights = out / "adapter"
    tuned = load_base_model("tiny", "default")
    attach_adapter(tuned, weights)
    for name, model in (("base", load_base_model("tiny", "default")), ("best", tuned)):
        predictions = predict_images(
            model,
            valid,
            valid.images,
            image_size=96,
            device=torch.device("cpu"),
            settings=PredictSettings(),
        )
        expected = [to_record(d) for _, found in predictions for d in found if d.score >= 0.5]
        records = json.loads((out / f"valid_{name}.json").read_text())
        assert len(records) == len(expected)
        for found, exact in zip(records, expected, strict=True):
            # Training encodes a prompt beside others, which rounds differently.
            assert found["score"] == pytest.approx(exact["score"], rel=1e-5)
            assert found["bbox"] == pytest.approx(exact["bbox"], abs=0.01)
            for field in ("image_id", "category_id", "segmentation"):
                assert found[field] == exact[field]
        assert len(read_detections(out / f"valid_{name}.json", valid)) == len(records)


def wait_for_steps(out: Path, steps: int, process: Process | None = None) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process and process.poll() is not None:
            return
        for path in (out / "checkpoints").glob("*/history.jsonl"):
            if sum('"train"' in line for line in path.read_text().splitlines()) >= steps:
                return
        time.sleep(0.02)
    raise AssertionError("no training step was done")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_resumes_bitwise_identically(
    coco: Path, uninterrupted: tuple[Path, str], tmp_path: Path, number: signal.Signals
) -> None:
    process = start(coco, tmp_path)
    wait_for_steps(tmp_path, 1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "the same command resumes the run" in output
    assert "Traceback" not in output
    assert not (tmp_path / "adapter").exists()
    assert "resuming after step" in finish(start(coco, tmp_path))
    compare(uninterrupted[0], tmp_path)


def compare(one: Path, other: Path) -> None:
    for name in ("adapter/adapter_model.safetensors", "valid_base.json", "valid_best.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert without_times(history(one)) == without_times(history(other))


def test_two_interrupted_processes_resume_bitwise_identically(coco: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run_ranks(main, arguments(coco, whole), count=2)
    process = start(coco, stopped, processes=2)
    wait_for_steps(stopped, 1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "the same command resumes the run" in output
    output = run_ranks(main, arguments(coco, stopped), count=2)
    assert "resuming after step" in output
    compare(whole, stopped)


LONGER = {"epochs": 6, "validate_every": 3}


@pytest.fixture(scope="module")
def longer(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("longer")
    finish(start(coco, out, **LONGER))
    return out


def kill(process: Process) -> None:
    """Send SIGKILL to every process of the group, so that none can save anything."""
    with contextlib.suppress(ProcessLookupError):  # it has already ended
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def survives(coco: Path, out: Path, *, processes: int, kills: int, seed: int) -> int:
    """Kill a run at random moments, then let it finish; returns how often it was killed."""
    rng, killed = random.Random(seed), 0
    for _ in range(kills):
        process = start(coco, out, processes, **LONGER)
        wait_for_steps(out, rng.randint(0, 11), process)
        time.sleep(rng.uniform(0, 0.4))
        killed += process.poll() is None
        kill(process)
    finish(start(coco, out, processes, **LONGER))
    return killed


def test_a_killed_run_resumes_bitwise_identically(coco: Path, longer: Path, tmp_path: Path) -> None:
    assert survives(coco, tmp_path, processes=1, kills=2, seed=1)
    compare(longer, tmp_path)


def train_until_killed(arguments: list[str]) -> None:
    """Train, until SIGKILL comes when half of the fourth state has been written."""
    write, states = Path.write_bytes, 0

    def killing(path: Path, data: bytes) -> int:
        nonlocal states
        states += path.name.startswith(".state-")
        if states == 4:
            write(path, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(path, data)

    Path.write_bytes = killing  # type: ignore[assignment,method-assign]
    main(arguments)


def test_a_run_killed_while_writing_a_checkpoint_resumes(
    coco: Path, longer: Path, tmp_path: Path
) -> None:
    process = Forked(train_until_killed, arguments(coco, tmp_path, **LONGER))
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert list(tmp_path.glob("checkpoints/*/.state-*"))
    assert "resuming after step" in finish(start(coco, tmp_path, **LONGER))
    compare(longer, tmp_path)
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("processes", [1, 2])
def test_twenty_kills_leave_a_bitwise_identical_result(
    coco: Path, tmp_path: Path, processes: int
) -> None:
    whole = tmp_path / "whole"
    finish(start(coco, whole, processes, **LONGER))
    killed = 0
    for seed in range(5):
        out = tmp_path / str(seed)
        killed += survives(coco, out, processes=processes, kills=4, seed=seed)
        compare(whole, out)
    assert killed >= 15


def test_a_damaged_checkpoint_is_skipped(coco: Path, longer: Path, tmp_path: Path) -> None:
    process = start(coco, tmp_path, **LONGER)
    wait_for_steps(tmp_path, 4, process)
    kill(process)
    last = max(tmp_path.glob("checkpoints/*/state-*.pt"))
    last.write_bytes(last.read_bytes()[:-100])
    output = finish(start(coco, tmp_path, **LONGER))
    assert f"{last.name} is damaged; using the previous one" in output
    assert "resuming after step" in output
    compare(longer, tmp_path)


def test_a_step_that_is_not_finite_can_be_repeated(coco: Path, tmp_path: Path) -> None:
    # The adapters overflow after the first step.
    lora = {"detr_decoder": {"dropout": 0.1}}
    changes = {"lora": lora, "learning_rate": 1e30, "warmup_steps": 0}
    process = start(coco, tmp_path, **changes)
    first, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in first
    found = re.search(r"step (\d+), (train/.*): the (loss|gradient norm) became (nan|inf)", first)
    assert found, first
    (failure,) = tmp_path.glob("checkpoints/*/failure.json")
    assert json.loads(failure.read_text())["images"] == found[2]
    process = start(coco, tmp_path, **changes)
    again, _ = process.communicate(timeout=120)
    assert f"resuming after step {int(found[1]) - 1}" in again
    assert found[0] in again


def test_the_number_of_processes_hardly_changes_the_result(
    coco: Path, uninterrupted: tuple[Path, str], tmp_path: Path
) -> None:
    # Without dropout, whose masks depend on the process that sees an image.
    lora = {"detr_decoder": {"rank": 2}}
    adapters = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        run_ranks(main, arguments(coco, out, lora=lora, epochs=1), processes)
        adapters.append(load_file(out / "adapter" / "adapter_model.safetensors"))
    for name, value in adapters[0].items():
        # Adam divides by the size of a gradient, so rounding matters in small ones, too.
        assert (adapters[1][name] - value).abs().max() <= 1e-3 * value.abs().max(), name


def test_a_changed_setting_starts_a_new_run(coco: Path, tmp_path: Path) -> None:
    process = start(coco, tmp_path)
    wait_for_steps(tmp_path, 1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    output = finish(start(coco, tmp_path, learning_rate=5e-4))
    assert "settings.learning_rate: 0.001 -> 0.0005" in output
    assert "resuming after step" not in output


ERROR = {"rule": "object-duplicate", "severity": "error"}


@pytest.mark.parametrize("name", ["train", "valid", "test", "manifest"])
def test_a_stale_report_does_not_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    coco = write_converted(tmp_path)
    path = coco / f"{name}.json"
    path.write_text(path.read_text() + "\n")
    message = refused(coco, tmp_path / "out", capsys)
    assert "report.json: this report is of another dataset, or" in message
    assert message.endswith("Run segtune.validate again\n")


def test_a_part_of_a_dataset_needs_the_report_of_the_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, part = write_converted(tmp_path / "whole"), write_converted(tmp_path / "part")
    (part / "train.json").write_text((whole / "train.json").read_text() + " ")
    report = str(whole.parent / "report.json")
    command = ["--coco", str(part), "--report", report, "--out", str(tmp_path / "out")]
    # Refused for what is looked at later.
    settings = ["--weights", "no.pt"]
    for more, problem in (([], "another dataset"), (["--validated", str(whole)], "no.pt")):
        with pytest.raises(SystemExit):
            main([*command, *settings, *more])
        assert problem in capsys.readouterr().err


def test_an_invalid_dataset_is_not_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = write_converted(tmp_path)
    write_report(coco, {"rule": "object-tiny", "severity": "warning"}, ERROR)
    message = "the dataset has validation errors: object-duplicate. Fix them first"
    assert message in refused(coco, tmp_path / "out", capsys)
    (tmp_path / "report.json").write_text(json.dumps({"errors": []}))
    assert "not a validation report" in refused(coco, tmp_path / "out", capsys)
    (tmp_path / "report.json").unlink()
    assert "cannot read the validation report" in refused(coco, tmp_path / "out", capsys)


def test_a_misspelled_setting_is_an_error(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(coco, tmp_path, capsys, learning_rat=1)
    assert "learning_rat: Extra inputs are not permitted" in message
