"""Official weight files: loaded strictly, readable by stock code, and never executed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segtune.core.errors import WeightsError
from segtune.model.architecture import build_model
from segtune.model.official_format import read_official, write_official
from segtune.model.weights import load_base_model

TRACKER = {
    "tracker.memory.weight": torch.ones(2, 3),
    "detector.backbone.vision_backbone.sam2_convs.0.bias": torch.ones(4),
}


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A file as Meta publishes it, but tiny; with the weights that only the video model needs."""
    path = tmp_path / "sam3.pt"
    write_official(path, build_model("tiny", seed=5).state_dict(), TRACKER)
    return path


def test_every_tensor_of_an_official_file_is_loaded(official: Path) -> None:
    expected = build_model("tiny", seed=5).state_dict()
    loaded = load_base_model("tiny", str(official)).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())


def test_the_weights_of_the_video_model_are_read_separately(official: Path) -> None:
    rest = read_official(official).rest
    assert rest.keys() == TRACKER.keys()
    assert all(torch.equal(rest[key], value) for key, value in TRACKER.items())


def test_the_stock_loader_finds_every_key(
    official: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sam3.model_builder import _load_checkpoint

    model = build_model("tiny", seed=6)
    _load_checkpoint(model, str(official))
    assert "missing" not in capsys.readouterr().out
    expected = build_model("tiny", seed=5).state_dict()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in expected.items())


def change(path: Path, edit: str) -> None:
    values: dict[str, Tensor] = torch.load(path, weights_only=True)["model"]
    key = "detector.dot_prod_scoring.prompt_proj.weight"
    if edit == "missing":
        del values[key]
    elif edit == "unexpected":
        values["detector.surprise"] = torch.zeros(1)
    else:
        values[key] = torch.zeros(3, 3)
    torch.save({"model": values}, path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("missing", r"1 missing: dot_prod_scoring\.prompt_proj\.weight"),
        ("unexpected", "1 unexpected: surprise"),
        ("shape", r"1 of another shape: dot_prod\S+ \(3, 3\) instead of \(64, 64\)"),
    ],
)
def test_a_key_that_does_not_fit_is_an_error(official: Path, edit: str, message: str) -> None:
    change(official, edit)
    with pytest.raises(WeightsError, match=message):
        load_base_model("tiny", str(official))


def test_a_plain_state_dict_is_refused(tmp_path: Path) -> None:
    # The stock loader accepts it and loads nothing.
    torch.save(build_model("tiny").state_dict(), tmp_path / "plain.pt")
    with pytest.raises(WeightsError, match=r"plain\.pt: no key begins with 'detector\.'"):
        load_base_model("tiny", str(tmp_path / "plain.pt"))


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"model": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(WeightsError, match="cannot read tensors"):
        load_base_model("tiny", str(tmp_path / "trap.pt"))
    assert not (tmp_path / "sprung").exists()


def test_a_damaged_or_missing_file_is_an_error(official: Path, tmp_path: Path) -> None:
    official.write_bytes(official.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot read tensors"):
        load_base_model("tiny", str(official))
    with pytest.raises(WeightsError, match=r"nothing\.pt: cannot read tensors \(No such file"):
        load_base_model("tiny", str(tmp_path / "nothing.pt"))


@pytest.mark.parametrize("values", [7, [1], {"model": [1]}, {"model": {1: 2}}, {3: 4}, {}])
def test_anything_but_a_table_of_tensors_is_refused(tmp_path: Path, values: object) -> None:
    torch.save(values, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"a\.pt: (not a table of tensors|no key begins with)"):
        read_official(tmp_path / "a.pt")


KEY = "dot_prod_scoring.prompt_proj.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.fill_(float("nan")), f"1 with NaN or infinity: {KEY}"),
        (lambda t: t.index_fill_(0, torch.tensor([63]), -float("inf")), "1 with NaN or infinity"),
        (lambda t: t.double().fill_(1e300), "1 with NaN or infinity"),
        (lambda t: t.int(), f"1 of another type: {KEY} torch.int32 instead of torch.float32"),
        (lambda t: t.to(torch.complex64), "1 of another type"),
        (lambda t: t.bool(), "1 of another type"),
    ],
)
def test_unusable_values_are_an_error(
    official: Path, edit: Callable[[Tensor], Tensor], message: str
) -> None:
    values = torch.load(official, weights_only=True)["model"]
    values[f"detector.{KEY}"] = edit(values[f"detector.{KEY}"])
    torch.save({"model": values}, official)
    with pytest.raises(WeightsError, match=message):
        load_base_model("tiny", str(official))


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    whole = {"a": base.clone(), "b": torch.ones(2, 3), "c": base[:4].clone()}
    # Views, shared memory, other layouts and another order.
    parts = {"c": base[:4], "b": torch.ones(3, 2).T, "a": torch.nn.Parameter(base)}
    write_official(tmp_path / "one.pt", whole, {"tracker.d": torch.zeros(1)})
    (tmp_path / "other").mkdir()
    write_official(tmp_path / "other" / "two.pt", parts, {"tracker.d": torch.zeros(2)[:1]})
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "other" / "two.pt").read_bytes()


def test_expanded_tensors_keep_their_values(tmp_path: Path) -> None:
    tracker = {"tracker.expanded": torch.tensor([7.0, 8.0]).view(2, 1).expand(2, 9)}
    model = {**tracker, "detector.a": torch.ones(1)}
    torch.save({"model": model}, tmp_path / "stock.pt")
    read = read_official(tmp_path / "stock.pt")
    write_official(tmp_path / "ours.pt", read.detector, read.rest)
    written = read_official(tmp_path / "ours.pt").rest
    assert torch.equal(written["tracker.expanded"], tracker["tracker.expanded"])


def test_many_tensors_in_the_same_memory_are_refused(tmp_path: Path) -> None:
    shared = torch.zeros(1_000_000)
    values = {f"detector.{number}": shared for number in range(30)}
    torch.save({"model": values}, tmp_path / "a.pt")
    with pytest.raises(
        WeightsError, match=r"detector\.0: has the shape .*; all tensors take 1.2e\+08 bytes"
    ):
        read_official(tmp_path / "a.pt")
