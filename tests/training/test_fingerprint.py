"""What a training depends on."""

from pathlib import Path

from segtune.core.typed_json import write_typed
from segtune.dataset.tiles import TILES, Tiles
from segtune.training.setup import run_fingerprint
from tests.converted import write_converted
from tests.train_runs import run_inputs, train_settings


def test_other_tiles_are_another_training_though_the_images_are_the_same(tmp_path: Path) -> None:
    """The recipe has the tiles, in which the model predicts in other images."""
    inputs, settings = run_inputs(write_converted(tmp_path), tmp_path / "run"), train_settings()
    whole = run_fingerprint(inputs, settings)
    found = []
    for overlap in (0.25, 0.2):
        write_typed(inputs.coco / TILES, Tiles(side=640, overlap=overlap))
        found.append(run_fingerprint(inputs, settings))
    assert whole != found[0] != found[1]
    write_typed(inputs.coco / TILES, Tiles(side=None, overlap=0.5))
    assert run_fingerprint(inputs, settings) == whole
