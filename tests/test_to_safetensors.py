"""The export as safetensors has the tensors of the merged weights."""

from contextlib import chdir
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from segtune.model.official_format import read_official, write_official
from segtune.to_safetensors import main
from tests.exported import Run, python_of, values_of
from tests.weight_files import same_bits, write_sam31


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    values = torch.load(path, weights_only=True)
    return values.get("model", values)


def require_same(written: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert written.keys() == expected.keys()
    assert not [key for key in written if not same_bits(written[key], expected[key])]


def test_the_tensors_are_those_of_the_merged_weights(run: Run, tmp_path: Path) -> None:
    out = run.export(main, tmp_path / "out")
    require_same(load_file(out / "sam3.safetensors"), tensors_of(run.weights))
    assert values_of(out / "prompts.json").keys() == values_of(out / "thresholds.json").keys()
    card = (out / "README.md").read_text("utf-8")
    assert "SAM License" in card
    with chdir(out):
        exec(python_of(out / "README.md"), {})
    require_same(read_official(out / "sam3.pt").detector, read_official(run.weights).detector)


def test_types_and_the_tracker_are_retained(run: Run, tmp_path: Path) -> None:
    weights = tmp_path / "sam3.1_multiplex.pt"
    write_sam31(weights, dtype=torch.bfloat16)
    values = tensors_of(weights)
    values |= {
        "tracker.count": torch.tensor(3),
        "tracker.flags": torch.tensor([True, False, True]),
        "tracker.turned": torch.arange(6.0).reshape(2, 3).T,
        "tracker.none": torch.zeros(0, 3, dtype=torch.float16),
    }
    torch.save(values, weights)
    out = run.export(main, tmp_path / "out", weights=weights)
    require_same(load_file(out / "sam3.safetensors"), values)


def test_the_same_tensors_give_the_same_bytes(run: Run, tmp_path: Path) -> None:
    one = run.export(main, tmp_path / "one") / "sam3.safetensors"
    official = read_official(run.weights)
    reordered = dict(reversed(official.detector.items()))
    write_official(tmp_path / "sam3.pt", reordered, official.rest)
    other = run.export(main, tmp_path / "other", weights=tmp_path / "sam3.pt")
    assert one.read_bytes() == (other / "sam3.safetensors").read_bytes()


def test_numbers_that_the_format_lacks_are_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    official = read_official(run.weights)
    strange = {"tracker.strange": torch.zeros(2, dtype=torch.complex128)}
    write_official(tmp_path / "sam3.pt", official.detector, strange)
    with pytest.raises(SystemExit, match="1"):
        run.export(main, tmp_path / "out", weights=tmp_path / "sam3.pt")
    message = capsys.readouterr().err
    assert "tracker.strange: safetensors has no type for torch.complex128" in message
    assert not (tmp_path / "out").exists()
