"""Damaged weights, adapters, states and predictions: read, or refused in one plain line."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from segtune.core.errors import SegtuneError, WeightsError
from segtune.dataset.detections import read_detections, read_prompted_detections, to_record
from segtune.lora.adapter import attach_adapter
from segtune.model.official_format import load_strictly, read_official
from segtune.model.torch_files import read_torch_file
from segtune.training.checkpoint import load_state
from segtune.training.restoring import restore_checked
from tests.fuzzing import failures, mutated, run_inputs
from tests.interrupted import interrupted_run
from tests.lora_net import net
from tests.scenes import random_shapes
from tests.weight_files import (
    RECIPE,
    WEIGHTS,
    archive_mutated,
    archive_of,
    correct_digest,
    described,
    header_mutated,
    values_mutated,
    write_adapter,
    write_net,
    write_peft_adapter,
)

Handle = Callable[[Path, random.Random], None]
UNSAFE = ("weights_only", "safe_globals", "pickle_module")


def official(folder: Path) -> Handle:
    write_net(folder / "sam3.pt")
    original = (folder / "sam3.pt").read_bytes()

    def handle(work: Path, rng: random.Random) -> None:
        mutate = rng.choice((mutated, archive_mutated, archive_mutated))
        path = work / "sam3.pt"
        path.write_bytes(mutate(original, rng))
        load_strictly(net(), read_official(path).detector, path)

    return handle


def adapter(folder: Path) -> Handle:
    write_adapter(folder)

    def handle(work: Path, rng: random.Random) -> None:
        shutil.copytree(folder, work, dirs_exist_ok=True)
        change(work / rng.choice((WEIGHTS, WEIGHTS, RECIPE)), rng)
        if rng.random() < 0.7:
            try_to_correct_digest(work)
        attach_adapter(net(), work)

    return handle


def peft_adapter(folder: Path) -> Handle:
    write_peft_adapter(folder)

    def handle(work: Path, rng: random.Random) -> None:
        shutil.copytree(folder, work, dirs_exist_ok=True)
        change(work / rng.choice((WEIGHTS, "adapter_config.json")), rng)
        attach_adapter(net(), work)

    return handle


def change(path: Path, rng: random.Random) -> None:
    content, choice = path.read_bytes(), rng.random()
    if path.name == WEIGHTS and choice < 0.5:
        path.write_bytes(header_mutated(content, rng))
    elif path.name == WEIGHTS and choice < 0.7:
        values_mutated(path, rng)
    else:
        path.write_bytes(mutated(content, rng, path.name))


def try_to_correct_digest(folder: Path) -> None:
    try:
        correct_digest(folder)
    except (ValueError, TypeError, RecursionError):
        return


def state(folder: Path) -> Handle:
    run = interrupted_run(folder)
    (path,) = run.folder.glob("state-*.pt")
    original = path.read_bytes()

    def handle(work: Path, rng: random.Random) -> None:
        content = rng.choice((mutated, archive_mutated, archive_mutated))(original, rng)
        digest = hashlib.sha256(content).hexdigest()[:16]
        (work / f"state-00000001-{digest}.pt").write_bytes(content)
        found, _ = load_state(work)
        assert found
        restore_checked(run, found, work)

    return handle


def predictions(folder: Path) -> Handle:
    split, detections = random_shapes(1)
    records = [to_record(found) for found in detections][:10]
    categories = [{"id": c.id, "name": c.name} for c in split.categories]
    results = json.dumps(records).encode()
    prompted = json.dumps({"categories": categories, "annotations": records}).encode()

    def handle(work: Path, rng: random.Random) -> None:
        path = work / "predictions.json"
        path.write_bytes(mutated(results, rng, path.name))
        try:
            read_detections(path, split)
        finally:
            path.write_bytes(mutated(prompted, rng, path.name))
            read_prompted_detections(path, split)

    return handle


KINDS = {kind.__name__: kind for kind in (official, adapter, peft_adapter, state, predictions)}


def fuzz(arguments: list[str]) -> None:
    """Mutate files of every kind; the arguments are the first and the last seed."""
    with TemporaryDirectory() as name:
        folders = {kind: Path(name, kind) for kind in KINDS}
        for folder in folders.values():
            folder.mkdir()
        handles = {kind: make(folders[kind]) for kind, make in KINDS.items()}

        def run(kind: str, rng: random.Random) -> None:
            with TemporaryDirectory(dir=name) as work:
                try:
                    handles[kind](Path(work), rng)
                except SegtuneError as error:
                    text = str(error)
                    assert text.isprintable(), repr(text[:300])
                    assert len(text) < 4000, repr(text[:300])
                    assert work in text, repr(text[:300])
                    assert not any(word in text for word in UNSAFE), repr(text[:300])

        run_inputs(list(KINDS), run, range(int(arguments[0]), int(arguments[1])))


def test_damaged_files_of_every_kind_are_read_or_refused() -> None:
    assert failures(fuzz, ["0", "350"], 100) == []


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_many_damaged_files_are_read_or_refused() -> None:
    assert failures(fuzz, ["1000", "10000"], 2800) == []


def read_nested(arguments: list[str]) -> None:
    with pytest.raises(WeightsError, match="nested too deeply"):
        read_torch_file(Path(arguments[0]), WeightsError, "")
    print("finished")


def test_nested_keys_do_not_overflow_the_stack(tmp_path: Path) -> None:
    nested = b"}" + b")" + b"\x85" * 300_000 + b"Ns"
    path = tmp_path / "nested.pt"
    path.write_bytes(archive_of(described(nested)))
    assert failures(read_nested, [str(path)], 60) == []
