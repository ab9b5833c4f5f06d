"""benchmarks/gpu.py from end to end: here on the CPU with the tiny model."""

import pytest
import torch

from benchmarks import gpu, gpu_prediction

IN_PROCESS = (
    "environment,exactness,gradients,memory,steps,profile,checkpointing,repeatability,prediction"
)


def rows(output: str) -> dict[str, str]:
    lines = [line.strip("| ").split(" | ") for line in output.splitlines()[2:]]
    return {row[0]: row[1] for row in lines}


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "STEPS", ((2, 1),))
    monkeypatch.setattr(gpu, "WARM_UP", 0)
    monkeypatch.setattr(gpu, "TIMED", 1)
    monkeypatch.setattr(gpu_prediction, "SIZES", {"tiny": (64, 48)})


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a CPU skips, a GPU measures")
def test_every_item_measures_or_says_why_not(
    briefly: None, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu.main(["--model", "tiny", "--items", IN_PROCESS])
    found = rows(capsys.readouterr().out)
    assert not [title for title in found if title.endswith("FAILED")], found
    # The same device twice: nothing differs.
    assert found["exactness: float32, pred_masks"] == "0.0e+00 relative"
    assert found["exactness: float32, gradient of vision"] == "cosine 1.000000"
    count = found["gradients: with objects"].rsplit(" of ")[1].split()[0]
    assert (
        found["gradients: with objects"]
        == f"{count} finite and {count} nonzero of {count} gradients"
    )
    assert "images/s" in found["steps: 2 prompts, micro-batch of 1, checkpointed"]
    assert "images/s" in found["steps: 2 prompts, micro-batch of 1, activations kept"]
    assert "s, peak" in found["checkpointing: images 1, nothing"]
    assert found["memory: skipped"] == found["profile: skipped"] == "no GPU"
    assert "ms per image" in found["prediction: tiny, encode"]


def test_an_item_that_fails_does_not_keep_the_others_from_running(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(bench: gpu.Bench) -> gpu.Rows:
        yield "before", "1"
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(gpu.ITEMS, "gradients", broken)
    gpu.main(["--model", "tiny", "--items", "gradients,environment"])
    found = rows(capsys.readouterr().out)
    assert found["gradients: before"] == "1"
    assert "no such kernel" in found["gradients: FAILED"]
    assert found["environment: torch"] == torch.__version__


@pytest.mark.slow
def test_the_commands_run_and_training_stops_and_resumes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gpu.main(["--model", "tiny", "--items", "stages,stops"])
    found = rows(capsys.readouterr().out)
    assert "fine-tuned" in found["stages: mask AP on test"]
    for launcher in ("one process", "torchrun"):
        assert "stopped after step" in found[f"stops: {launcher}, SIGTERM"]
        assert "resuming after step" in found[f"stops: {launcher}, the same command again"]
