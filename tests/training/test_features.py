"""Features of frozen vision blocks: computed once, found again, and equal to what they replace."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segtune.core.errors import DatasetError, ResourceError
from segtune.core.processes import Processes
from segtune.dataset.batch import collate
from segtune.dataset.coco import read_manifest, read_split
from segtune.lora.inject import inject_lora
from segtune.model import frozen_prefix, precision
from segtune.model.architecture import build_model
from segtune.model.frozen_prefix import encode_prefix, start_after
from segtune.model.sam3_package import Sam3Image
from segtune.training import feature_store, features
from segtune.training.augment import Augmentation, View
from segtune.training.engine import Interrupted
from segtune.training.failures import StepFailed
from segtune.training.feature_store import FeatureStore, Records, known_records, shards
from segtune.training.features import Prefix, complete_features, feature_key, wanted_views
from segtune.training.prompted_images import PromptedImages
from tests.batches import all_specs, random_batch, randomize_lora, step_gradients
from tests.converted import write_converted
from tests.train_runs import train_settings

CPU = torch.device("cpu")
ALONE = Processes(rank=0, count=1, device=CPU)
CACHED = {"cache_features": True, "lora": {"detr_decoder": {}}}


def frozen_vision() -> Sam3Image:
    model = build_model("tiny")
    inject_lora(model, all_specs(without=("vision",)))
    randomize_lora(model)
    return model.train()


def with_lora_from(block: int) -> Sam3Image:
    model = build_model("tiny")
    specs = {
        pattern.replace(r"\d+", str(block), 1) if "trunk" in pattern else pattern: spec
        for pattern, spec in all_specs().items()
    }
    inject_lora(model, specs)
    randomize_lora(model)
    return model.train()


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_step_that_starts_with_features_is_the_same(blocks: int) -> None:
    model = frozen_vision() if blocks == 3 else with_lora_from(blocks)
    batch = random_batch(((0, 2, 0), (1, 0)))
    expected_loss, expected = step_gradients(model, batch)
    found = torch.cat([encode_prefix(model, image[None], blocks) for image in batch.images])
    assert found.shape == (2, 8, 8, 96)
    start_after(model, blocks)
    loss, gradients = step_gradients(model, replace(batch, images=found))
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-4 * scale)


def test_blocks_compute_in_the_same_precision_whatever_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (precision, frozen_prefix):
        monkeypatch.setattr(module, "autocast_dtype", lambda device: torch.bfloat16)
    model = with_lora_from(1)
    batch = random_batch(((0, 2, 0), (1, 0)))
    plain, cached = [], []
    for inputs, types in ((batch.images, plain), (None, cached)):
        if inputs is None:
            inputs = encode_prefix(model, batch.images, 1)
            assert inputs.dtype == torch.bfloat16
            start_after(model, 1)
        last = model.backbone.vision_backbone.trunk.blocks[2]
        handle = last.register_forward_pre_hook(
            lambda _, given, types=types: types.append(given[0].dtype)
        )
        step_gradients(model, replace(batch, images=inputs))
        handle.remove()
    assert set(plain) == set(cached) == {torch.float32}


def test_the_frozen_blocks_are_out_of_memory() -> None:
    model = frozen_vision()
    trunk = model.backbone.vision_backbone.trunk
    start_after(model, 3)
    assert sum(p.numel() for name, p in trunk.named_parameters() if "blocks" in name) == 0


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_converted(tmp_path, {"train": 3, "valid": 2})


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The images that are encoded from now on."""
    images: list[Tensor] = []

    def noting(model: Sam3Image, batch: Tensor, blocks: int) -> Tensor:
        images.extend(batch)
        return encode_prefix(model, batch, blocks)

    monkeypatch.setattr(features, "encode_prefix", noting)
    return images


class Cache:
    """The store of a dataset, and how to complete it."""

    def __init__(self, coco: Path, **changes: Any) -> None:
        self.settings = train_settings(**{**CACHED, **changes})
        self.records = Records(read_manifest(coco))
        self.train, self.valid = (read_split(coco / f"{name}.json") for name in ("train", "valid"))
        self.folder = coco.parent / "features"
        self.wanted = wanted_views(
            self.train, self.valid, self.settings, image_size=96, records=self.records
        )

    def complete(self, stop_wanted: Callable[[], bool] = lambda: False) -> FeatureStore:
        complete_features(
            Prefix(build_model("tiny"), 3, 96, CPU),
            self.wanted,
            self.folder,
            processes=ALONE,
            workers=0,
            stop_wanted=stop_wanted,
        )
        return FeatureStore(self.folder, self.records)


def test_every_view_is_computed_once_whatever_happens_later(
    coco: Path, encoded: list[Tensor]
) -> None:
    cache = Cache(coco)
    cache.complete()
    # Mirrored, too; the valid images have the same content as training images.
    assert len(encoded) == len(cache.wanted) == 2 * 3
    cache.complete()
    assert len(encoded) == 6


def test_a_new_image_is_all_that_a_new_version_of_a_dataset_costs(
    tmp_path: Path, encoded: list[Tensor]
) -> None:
    Cache(write_converted(tmp_path, {"train": 2, "valid": 2})).complete()
    known = len(encoded)
    Cache(write_converted(tmp_path, {"train": 3, "valid": 2})).complete()
    assert len(encoded) == known + 2


def test_only_a_damaged_shard_is_computed_again(
    coco: Path,
    encoded: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(feature_store, "SHARD_BYTES", 2 * 8 * 8 * 96 * 4)
    cache = Cache(coco)
    store = cache.complete()
    expected = {one.name: store.read(one.image, one.view).clone() for one in cache.wanted}
    paths = shards(cache.folder)
    assert len(paths) == 3
    content = bytearray(paths[1].read_bytes())
    content[-5] ^= 1
    paths[1].write_bytes(content)
    encoded.clear()
    store = cache.complete()
    assert len(encoded) == 2
    assert f"{paths[1]} is damaged" in capsys.readouterr().out
    assert shards(cache.folder) == paths
    for one in cache.wanted:
        assert torch.equal(store.read(one.image, one.view), expected[one.name])


def test_shards_that_were_written_before_an_interruption_stay(
    coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "SHARD_BYTES", 2 * 8 * 8 * 96 * 4)
    calls: list[int] = []

    def interrupted(model: Sam3Image, batch: Tensor, blocks: int) -> Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode_prefix(model, batch, blocks)

    monkeypatch.setattr(features, "encode_prefix", interrupted)
    cache = Cache(coco)
    with pytest.raises(KeyboardInterrupt):
        cache.complete()
    assert len(known_records(shards(cache.folder))) == 2
    cache.complete()
    assert len(calls) == 4 + 4
    assert len(known_records(shards(cache.folder))) == 6


def test_a_stop_keeps_what_was_computed(coco: Path, encoded: list[Tensor]) -> None:
    cache = Cache(coco)
    with pytest.raises(Interrupted):
        cache.complete(stop_wanted=lambda: len(encoded) == 4)
    assert len(known_records(shards(cache.folder))) == 4
    cache.complete()
    assert len(encoded) == 6


def test_features_that_are_gone_are_an_error_with_a_fix(coco: Path) -> None:
    cache = Cache(coco)
    store = cache.complete()
    one = cache.wanted[0]
    for path in shards(cache.folder):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"/1\.png: cannot read the features.*again"):
        store.read(one.image, one.view)
    for path in shards(cache.folder):
        path.unlink()
    with pytest.raises(DatasetError, match="cannot read the features"):
        store.read(one.image, one.view)


def test_what_is_named_like_a_shard_and_is_none_is_left_alone(coco: Path) -> None:
    cache = Cache(coco)
    (cache.folder / "folder.safetensors").mkdir(parents=True)
    (cache.folder / "link.safetensors").symlink_to("nowhere")
    cache.complete()
    assert len(known_records(shards(cache.folder))) == 6


def test_too_little_space_is_reported_before_anything_is_computed(
    coco: Path, encoded: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, needed: int) -> None:
        assert needed == 6 * 8 * 8 * 96 * 4
        raise ResourceError("no space", file=folder)

    monkeypatch.setattr(features, "require_space", full)
    with pytest.raises(StepFailed, match="no space"):
        Cache(coco).complete()
    assert not encoded


def test_an_image_that_cannot_be_read_is_named(coco: Path) -> None:
    (coco.parent / "train" / "2.png").write_bytes(b"no image")
    with pytest.raises(StepFailed, match=r"train/2\.png"):
        Cache(coco).complete()


def test_an_image_that_is_not_in_the_manifest_is_refused(coco: Path) -> None:
    manifest = json.loads((coco / "manifest.json").read_text())
    manifest["images"].pop(0)
    (coco / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match="not in the manifest"):
        Cache(coco)


def changed_keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    prefix = Prefix(build_model("tiny"), 3, 96, CPU)
    yield feature_key("tiny", "random:1", prefix, ALONE)
    yield feature_key("tiny", "default", replace(prefix, blocks=2), ALONE)
    yield feature_key("tiny", "default", replace(prefix, image_size=144), ALONE)
    for module, dtype in ((features, torch.float16), (frozen_prefix, torch.bfloat16)):
        monkeypatch.setattr(module, "autocast_dtype", lambda device, dtype=dtype: dtype)
        yield feature_key("tiny", "default", prefix, ALONE)
        monkeypatch.undo()
    monkeypatch.setattr(features, "version", lambda package: "0.0")
    yield feature_key("tiny", "default", prefix, ALONE)
    monkeypatch.undo()
    monkeypatch.setattr(features, "code_fingerprints", lambda module: ["other"])
    yield feature_key("tiny", "default", prefix, ALONE)


def test_features_of_other_weights_blocks_sizes_precision_or_code_are_not_these(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefix = Prefix(build_model("tiny"), 3, 96, CPU)
    usual = feature_key("tiny", "default", prefix, ALONE)
    assert usual == feature_key("tiny", "default", prefix, ALONE)
    keys = [usual, *changed_keys(monkeypatch)]
    folders = {feature_store.store_folder(Path("features"), key) for key in keys}
    assert len(folders) == len(keys)


@pytest.mark.parametrize("changes", [{}, {"min_scale": 0.5, "scale_views": 3}])
def test_samples_with_features_are_those_with_pixels(coco: Path, changes: dict[str, Any]) -> None:
    cache = Cache(coco, **changes)
    store = cache.complete()
    data, cached = (
        PromptedImages(
            cache.train,
            image_size=96,
            max_negatives=2,
            extra_negatives=("unicorn",),
            augmentation=Augmentation(horizontal_flip=True, box_noise=0.1, **changes),
            seed=cache.settings.seed,
        )
        for _ in range(2)
    )
    cached.features = store
    model = build_model("tiny")
    for item in ((epoch, index, 0) for epoch in range(4) for index in range(3)):
        expected, found = data[item], cached[item]
        pixels = encode_prefix(model, expected.image[None], 3)[0]
        assert torch.equal(found.image, pixels)
        with_pixels = replace(found, image=expected.image)
        one, other = collate([with_pixels], True), collate([expected], True)
        assert all(
            torch.equal(value, getattr(other, name))
            for name, value in vars(one).items()
            if isinstance(value, Tensor)
        )
        assert found.prompts == expected.prompts


def test_scales_of_an_image_are_spread_and_do_not_depend_on_other_images() -> None:
    augmentation = Augmentation(horizontal_flip=True, min_scale=0.5, scale_views=4)
    views = augmentation.views("a.jpg", 1008, seed=3)
    sides = sorted({view.side for view in views})
    assert [view.mirrored for view in views] == [False, True] * 4
    assert all(504 + 126 * i <= side <= 504 + 126 * (i + 1) for i, side in enumerate(sides))
    assert views == augmentation.views("a.jpg", 1008, seed=3)
    assert views != augmentation.views("b.jpg", 1008, seed=3)
    assert views != augmentation.views("a.jpg", 1008, seed=4)
    assert Augmentation().views("a.jpg", 1008, seed=3) == [View(1008)]
