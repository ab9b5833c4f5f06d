"""From images and annotations to batches: exact boxes and masks, reproducible prompts."""

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data._utils.pin_memory import pin_memory

from segtune.dataset.batch import Batch, Sample, collate
from segtune.dataset.coco import Annotation, Category, Split, has_masks, read_split
from segtune.dataset.coco import Image as CocoImage
from segtune.dataset.masks import Segmentation, mask_to_rle, segmentation_to_mask
from segtune.training import prompted_images
from segtune.training.augment import Augmentation
from segtune.training.prompted_images import PromptedImages, training_batches
from segtune.training.sampling import local_steps
from tests.conversion import convert
from tests.converted import SIDE, write_converted
from tests.export_writer import TEMPLATE, originals, with_table


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_converted(tmp_path_factory.mktemp("converted"))


def prompted(split: Split, **changes: Any) -> PromptedImages:
    options: dict[str, Any] = {"image_size": 96, "max_negatives": 2, "seed": 0, **changes}
    flips = Augmentation(horizontal_flip=options.pop("horizontal_flip", False))
    options = {"extra_negatives": (), "augmentation": flips, **options}
    return PromptedImages(split, **options)


def dataset(coco: Path, **changes: Any) -> PromptedImages:
    return prompted(read_split(coco / "train.json"), **{"image_size": SIDE, **changes})


def positives(sample: Sample) -> list[int]:
    return [n for n, boxes in enumerate(sample.boxes_cxcywh) if len(boxes)]


def test_boxes_and_masks_of_a_sample_are_exact(coco: Path) -> None:
    data = dataset(coco)
    sample = data[(0, 0, 0)]
    (annotation,) = data.split.annotations[1]
    (row,) = positives(sample)
    assert sample.prompts[row] == "disc"
    x, y, w, h = annotation.bbox_xywh
    expected = [(x + w / 2) / SIDE, (y + h / 2) / SIDE, w / SIDE, h / SIDE]
    assert sample.boxes_cxcywh[row][0].tolist() == pytest.approx(expected)
    mask = segmentation_to_mask(annotation.segmentation or [], SIDE, SIDE)
    assert np.array_equal(sample.masks[row][0].numpy(), mask.astype(bool))
    assert sample.has_mask[row].tolist() == [True]


def test_a_mask_follows_the_image_to_another_size(coco: Path) -> None:
    small, large = dataset(coco)[(0, 0, 0)], dataset(coco, image_size=2 * SIDE)[(0, 0, 0)]
    (row,) = positives(small)
    grown = small.masks[row][0].repeat_interleave(2, 0).repeat_interleave(2, 1)
    union = (grown | large.masks[row][0]).sum()
    assert (grown & large.masks[row][0]).sum() / union > 0.95
    assert torch.equal(small.boxes_cxcywh[row], large.boxes_cxcywh[row])


ELLIPSE_ANGLES = np.linspace(0, 2 * np.pi, 40, endpoint=False)
BUSY_SIZE = (80, 120)  # (height, width)


def ellipse(cx: float, cy: float, width: float, height: float) -> list[float]:
    x, y = cx + width / 2 * np.cos(ELLIPSE_ANGLES), cy + height / 2 * np.sin(ELLIPSE_ANGLES)
    points: list[float] = np.stack([x, y], 1).flatten().tolist()
    return points


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """A wide image with many objects, and one without any."""
    root = tmp_path_factory.mktemp("busy")
    pixels = np.random.default_rng(1).integers(0, 255, (2, *BUSY_SIZE, 3), dtype=np.uint8)
    height, width = BUSY_SIZE
    for number in (1, 2):
        Image.fromarray(pixels[number - 1]).save(root / f"{number}.png")

    def annotation(
        number: int, category: int, cx: float, cy: float, segmentation: Segmentation | None
    ) -> Annotation:
        box_xywh = (cx - 20, cy - 15, 40.0, 30.0)
        return Annotation(number, 1, category, box_xywh, 942.0, segmentation, int(category == 3))

    found = (
        annotation(1, 2, 90, 20, [ellipse(90, 20, 40, 30)]),
        annotation(2, 1, 30, 20, [ellipse(30, 20, 40, 30)]),
        annotation(3, 1, 30, 60, None),
        annotation(4, 1, 85, 55, [ellipse(85, 55, 40, 30)]),
        annotation(5, 3, 60, 40, mask_to_rle(np.ones(BUSY_SIZE))),
    )
    names = ("disc", "square", "cross", "star")
    return Split(
        name="train",
        root=root,
        categories=tuple(Category(n, name, name) for n, name in enumerate(names, start=1)),
        images=tuple(CocoImage(n, f"{n}.png", width, height) for n in (1, 2)),
        annotations={1: found, 2: ()},
    )


def test_each_prompt_has_its_own_objects(busy: Split) -> None:
    sample = prompted(busy)[(0, 0, 0)]
    rows = {sample.prompts[row]: row for row in positives(sample)}
    assert rows.keys() == {"disc", "square"}
    height, width = BUSY_SIZE
    centers = {"disc": [(30, 20), (30, 60), (85, 55)], "square": [(90, 20)]}
    for prompt, row in rows.items():
        expected = [
            [cx / width, cy / height, 40 / width, 30 / height] for cx, cy in centers[prompt]
        ]
        torch.testing.assert_close(sample.boxes_cxcywh[row], torch.tensor(expected))
    assert sample.has_mask[rows["disc"]].tolist() == [True, False, True]
    assert sample.masks[rows["disc"]].flatten(1).any(1).tolist() == [True, False, True]


@pytest.mark.parametrize("image_size", [48, 96, 240])
def test_masks_agree_with_pycocotools_at_the_input_size(busy: Split, image_size: int) -> None:
    sample = prompted(busy, image_size=image_size)[(0, 0, 0)]
    masks = sample.masks[sample.prompts.index("disc")]
    x, y = image_size / BUSY_SIZE[1], image_size / BUSY_SIZE[0]
    for row, (cx, cy) in ((0, (30, 20)), (2, (85, 55))):
        drawn = [ellipse(cx * x, cy * y, 40 * x, 30 * y)]
        expected = segmentation_to_mask(drawn, image_size, image_size).astype(bool)
        mask = masks[row].numpy()
        assert (mask & expected).sum() / (mask | expected).sum() > 0.9


def test_a_mask_too_fine_for_the_input_counts_as_missing(busy: Split) -> None:
    # A hair in a large photograph; an empty mask would teach the model to segment nothing.
    hair = np.zeros(BUSY_SIZE)
    hair[:, 7] = 1
    found = (Annotation(1, 1, 1, (7.0, 0.0, 1.0, 80.0), 80.0, mask_to_rle(hair), 0),)
    split = replace(busy, annotations={1: found, 2: ()})
    sample = prompted(split, image_size=24)[(0, 0, 0)]
    (row,) = positives(sample)
    assert sample.has_mask[row].tolist() == [False]
    assert not sample.masks[row].any()


def edited(tmp_path: Path, **changes: Any) -> Path:
    coco = write_converted(tmp_path)
    values = json.loads((coco / "train.json").read_text())
    values["annotations"][0].update(changes)
    (coco / "train.json").write_text(json.dumps(values))
    return coco


def test_a_box_only_object_has_no_mask(tmp_path: Path) -> None:
    sample = dataset(edited(tmp_path, segmentation=[]))[(0, 0, 0)]
    (row,) = positives(sample)
    assert sample.has_mask[row].tolist() == [False]
    assert not sample.masks[row].any()


def test_a_crowd_is_not_a_target(tmp_path: Path) -> None:
    assert positives(dataset(edited(tmp_path, iscrowd=1))[(0, 0, 0)]) == []


def test_a_class_that_occurs_as_a_crowd_is_not_a_negative(busy: Split) -> None:
    assert "cross" not in prompted(busy, max_negatives=9)[(0, 0, 0)].prompts


def test_an_extra_negative_that_is_a_class_is_ignored(busy: Split) -> None:
    sample = prompted(busy, max_negatives=9, extra_negatives=("disc", "unicorn"))[(0, 0, 0)]
    assert sample.prompts.count("disc") == 1
    assert "unicorn" in sample.prompts


def test_negatives_are_absent_and_at_most_the_allowed_number(coco: Path) -> None:
    for limit in (0, 1, 2, 3, 9):
        data = dataset(coco, max_negatives=limit, extra_negatives=("unicorn",))
        for index, image in enumerate(data.images):
            sample = data[(0, index, 0)]
            prompts = data.split.prompts(image)
            present = {prompts[a.category_id] for a in data.split.annotations[image.id]}
            assert {sample.prompts[row] for row in positives(sample)} == present
            assert len(set(sample.prompts)) == len(sample.prompts)
            absent = len({"disc", "square", "cross", "unicorn"} - present)
            assert len(sample.prompts) == len(present) + min(limit, absent)


NOUNS = tuple(f"noun {number}" for number in range(7))


@pytest.mark.parametrize(
    ("max_negatives", "least", "extra", "expected"),
    [
        # Each image shows one of three classes, or none.
        (5, 2, 0, {1: (2, 0), 0: (3, 0)}),
        (5, 4, 0, {1: (2, 2), 0: (3, 1)}),
        (5, 5, 0, {1: (2, 3), 0: (3, 2)}),
        (5, 9, 0, {1: (2, 3), 0: (3, 2)}),
        (20, 20, 0, {1: (2, 7), 0: (3, 7)}),
        (1, 2, 0, {1: (1, 0), 0: (1, 0)}),
        (0, 2, 0, {1: (0, 0)}),
        (5, 0, 0, {1: (2, 0), 0: (3, 0)}),
        (5, 4, 1, {1: (3, 1), 0: (4, 0)}),
    ],
)
def test_nouns_take_the_place_of_classes_that_an_image_lacks(
    coco: Path,
    max_negatives: int,
    least: int,
    extra: int,
    expected: dict[int, tuple[int, int]],
) -> None:
    data = dataset(
        coco,
        max_negatives=max_negatives,
        min_negatives=least,
        ood_negatives=NOUNS,
        extra_negatives=tuple(f"extra {number}" for number in range(extra)),
    )
    for index, image in enumerate(data.images):
        sample = data[(0, index, 0)]
        negatives = [p for n, p in enumerate(sample.prompts) if n not in positives(sample)]
        nouns = [prompt for prompt in negatives if prompt in NOUNS]
        counts = (len(negatives) - len(nouns), len(nouns))
        assert counts == expected[len(positives(sample))] == data.count_negatives(image)
        assert len(set(negatives)) == len(negatives)
        # What the largest batch is made of has as many prompts.
        assert len(data.negatives(image)[:max_negatives]) == sum(counts)


def test_every_noun_has_its_turn_and_turns_differ_by_image(coco: Path) -> None:
    options: dict[str, Any] = {"min_negatives": 5, "ood_negatives": NOUNS}
    data, same = (dataset(coco, max_negatives=5, **options) for _ in range(2))
    other = dataset(coco, max_negatives=5, seed=1, **options)

    def nouns(of: PromptedImages, epoch: int, index: int) -> set[str]:
        return {*of[(epoch, index, 0)].prompts} & {*NOUNS}

    for index in range(len(data)):
        epochs = [nouns(data, epoch, index) for epoch in range(4)]
        assert set.union(*epochs) == {*NOUNS}
        assert epochs[2] == nouns(same, 2, index)
    assert len({frozenset(nouns(data, 0, index)) for index in range(len(data))}) > 1
    assert [nouns(data, 0, n) for n in range(6)] != [nouns(other, 0, n) for n in range(6)]


def test_nouns_do_not_change_which_classes_are_chosen(coco: Path) -> None:
    data = dataset(coco, max_negatives=2, ood_negatives=NOUNS, min_negatives=2)
    without = dataset(coco, max_negatives=2)
    for epoch, index in ((0, 0), (1, 3), (2, 7)):
        prompts = data[(epoch, index, 0)].prompts
        assert tuple(p for p in prompts if p not in NOUNS) == without[(epoch, index, 0)].prompts


def test_a_class_that_is_everywhere_has_nouns_as_negatives(busy: Split) -> None:
    (one,) = (c for c in busy.categories if c.name == "disc")
    found = tuple(a for a in busy.annotations[1] if a.category_id == one.id)
    split = replace(busy, categories=(one,), images=busy.images[:1], annotations={1: found})
    assert prompted(split)[(0, 0, 0)].prompts == ("disc",)
    prompts = prompted(split, ood_negatives=NOUNS, min_negatives=2)[(0, 0, 0)].prompts
    assert prompts[0] == "disc"
    assert len({*prompts} & {*NOUNS}) == 2


def test_without_negatives_empty_images_are_left_out(coco: Path) -> None:
    assert len(dataset(coco, max_negatives=0)) == 6
    assert len(dataset(coco, max_negatives=1)) == 8


def test_negatives_vary_by_epoch_and_are_the_same_for_a_seed(coco: Path) -> None:
    def prompts(seed: int, epoch: int) -> list[tuple[str, ...]]:
        data = dataset(coco, max_negatives=1, seed=seed)
        return [data[(epoch, index, 0)].prompts for index in range(len(data))]

    assert prompts(0, 0) == prompts(0, 0)
    assert len({tuple(prompts(0, epoch)) for epoch in range(6)}) > 1
    assert len({tuple(prompts(seed, 0)) for seed in range(6)}) > 1


def test_every_negative_is_prompted_within_a_few_epochs(coco: Path) -> None:
    extra = tuple(f"thing {number}" for number in range(11))
    data = dataset(coco, max_negatives=4, extra_negatives=extra)
    for index, image in enumerate(data.images):
        absent = data.negatives(image)
        epochs = -(-len(absent) // 4)
        for first in (0, 5):
            samples = [data[(first + n, index, 0)] for n in range(epochs)]
            negatives = [
                sample.prompts[row]
                for sample in samples
                for row in range(len(sample.prompts))
                if row not in positives(sample)
            ]
            assert len(negatives) == 4 * epochs
            assert len(set(negatives)) == len(absent)


def test_a_repeated_image_is_augmented_anew(coco: Path) -> None:
    extra = tuple(f"thing {number}" for number in range(20))
    data = dataset(coco, max_negatives=2, extra_negatives=extra, horizontal_flip=True)
    samples = [data[(0, 0, occurrence)] for occurrence in range(8)]
    assert len({sample.prompts for sample in samples}) == 8
    assert len({sample.image.sum(0)[:, 0].sum().item() for sample in samples}) == 2


def test_negatives_vary_by_image(coco: Path) -> None:
    extra = tuple(f"thing {number}" for number in range(60))
    data = dataset(coco, max_negatives=2, extra_negatives=extra)
    # Images 0, 3 and 6 have the same class, so they could have the same negatives.
    assert len({data[(0, index, 0)].prompts for index in (0, 3, 6)}) == 3


def test_a_sample_does_not_depend_on_earlier_ones(coco: Path) -> None:
    options: dict[str, Any] = {"max_negatives": 1, "horizontal_flip": True}
    used, fresh = dataset(coco, **options), dataset(coco, **options)
    for item in ((0, 0, 0), (3, 5, 0), (1, 2, 1)):
        used[item]
    for item in ((2, 4, 0), (1, 2, 1)):
        one, other = used[item], fresh[item]
        assert one.prompts == other.prompts
        assert torch.equal(one.image, other.image)


def test_a_batch_refers_to_its_images_and_texts(coco: Path) -> None:
    data = dataset(coco, max_negatives=3)
    samples = [data[(0, index, 0)] for index in range(3)]
    batch = collate(samples, with_masks=True)
    assert len(set(batch.captions)) == len(batch.captions) == 3
    expected = [(i, prompt) for i, sample in enumerate(samples) for prompt in sample.prompts]
    pairs = zip(batch.image_ids.tolist(), batch.text_ids.tolist(), strict=True)
    assert [(image, batch.captions[text]) for image, text in pairs] == expected
    assert batch.masks is not None
    assert len(batch.masks) == len(batch.boxes_cxcywh) == int(batch.num_boxes.sum()) == 2
    require_packed_like_padded(batch)
    assert collate(samples, with_masks=False).masks is None


def test_a_loader_pins_batches_as_a_whole(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    (batch,) = pin_memory([collate([dataset(coco)[(0, 0, 0)]], with_masks=True)])
    assert isinstance(batch, Batch)
    assert len(pinned) == len(tensors(batch)) == 9
    assert not {value.data_ptr() for value in tensors(batch).values() if len(value)} & {
        value.data_ptr() for value in pinned
    }
    assert batch.names == ("train/1.png",)


@pytest.mark.parametrize("cuda", [False, True])
def test_batches_are_pinned_where_there_is_a_gpu(
    coco: Path, monkeypatch: pytest.MonkeyPatch, cuda: bool
) -> None:
    loaders: list[dict[str, Any]] = []

    def loader(*_: Any, **options: Any) -> list[list[Batch]]:
        loaders.append(options)
        return []

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(prompted_images, "DataLoader", loader)
    list(training_batches(dataset(coco), [], epoch=0, micro_batch_size=1, workers=0))
    assert [options["pin_memory"] for options in loaders] == [cuda]


def require_packed_like_padded(batch: Batch) -> None:
    start = 0
    for row, count in enumerate(batch.num_boxes.tolist()):
        assert torch.equal(
            batch.boxes_padded[row, :count], batch.boxes_cxcywh[start : start + count]
        )
        assert not batch.boxes_padded[row, count:].any()
        assert batch.object_ids_padded[row, :count].tolist() == list(range(start, start + count))
        assert (batch.object_ids_padded[row, count:] == -1).all()
        start += count
    assert start == len(batch.boxes_cxcywh) == len(batch.has_mask)


def test_objects_stay_with_their_prompts(busy: Split) -> None:
    data = prompted(busy, max_negatives=1)
    samples = [data[(0, 1, 0)], data[(0, 0, 0)]]
    batch = collate(samples, with_masks=True)
    assert batch.num_boxes.tolist()[0] == 0
    assert sorted(batch.num_boxes.tolist()) == [0, 0, 1, 3]
    require_packed_like_padded(batch)
    row = next(r for r, count in enumerate(batch.num_boxes.tolist()) if count == 3)
    assert batch.captions[batch.text_ids[row]] == "disc"
    assert batch.names[batch.image_ids[row]] == "1.png"
    ids = batch.object_ids_padded[row]
    assert batch.has_mask[ids].tolist() == [True, False, True]
    assert batch.masks is not None
    expected = samples[1].masks[samples[1].prompts.index("disc")]
    assert torch.equal(batch.masks[ids], expected)


def test_a_batch_of_only_negatives_has_no_objects(busy: Split) -> None:
    batch = collate([prompted(busy)[(0, 1, 0)]], with_masks=True)
    assert batch.num_boxes.tolist() == [0, 0]
    assert batch.boxes_cxcywh.shape == (0, 4)
    assert batch.boxes_padded.shape == (2, 0, 4)
    assert batch.object_ids_padded.shape == (2, 0)
    assert batch.masks is not None
    assert batch.masks.shape == (0, 96, 96)
    assert batch.has_mask.dtype == batch.masks.dtype == torch.bool


def test_a_batch_moves_to_a_device_as_a_whole(busy: Split) -> None:
    moved = collate([prompted(busy)[(0, 0, 0)]], with_masks=True).to(torch.device("meta"))
    assert len(tensors(moved)) == 9
    assert {value.device.type for value in tensors(moved).values()} == {"meta"}


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}


def test_batches_are_bitwise_identical_for_every_number_of_workers(coco: Path) -> None:
    data = dataset(coco, max_negatives=1, horizontal_flip=True)
    steps = local_steps([1.0] * len(data), batch_size=4, rank=0, processes=1, seed=0, epoch=1)
    alone, parallel = (
        list(training_batches(data, steps, epoch=1, micro_batch_size=3, workers=workers))
        for workers in (0, 2)
    )
    assert [len(step) for step in alone] == [2, 2]
    assert [len(batch.names) for batch in alone[0]] == [3, 1]
    for one, other in zip(alone, parallel, strict=True):
        for first, second in zip(one, other, strict=True):
            assert first.captions == second.captions
            for name, value in tensors(first).items():
                assert torch.equal(value, tensors(second)[name]), name


def test_batches_have_the_items_of_their_steps(coco: Path) -> None:
    data = dataset(coco, max_negatives=1, horizontal_flip=True)
    for epoch in (0, 1, 2):
        ((one, other),) = training_batches(
            data, [[(5, 0), (0, 0), (3, 0)]], epoch=epoch, micro_batch_size=2, workers=0
        )
        for batch, indices in ((one, (5, 0)), (other, (3,))):
            expected = collate([data[(epoch, index, 0)] for index in indices], with_masks=True)
            assert batch.names == expected.names
            assert batch.captions == expected.captions
            assert torch.equal(batch.images, expected.images)


def test_batches_of_a_split_without_masks_have_none(tmp_path: Path) -> None:
    data = dataset(write_converted(tmp_path, masks=False))
    ((batch,),) = training_batches(data, [[(0, 0), (1, 0)]], epoch=0, micro_batch_size=2, workers=0)
    assert batch.masks is None
    assert batch.has_mask.tolist() == [False, False]


def test_loading_batches_leaves_the_global_generator_untouched(coco: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    items = [[(0, 0), (1, 0)]]
    list(training_batches(dataset(coco), items, epoch=0, micro_batch_size=2, workers=0))
    assert torch.equal(torch.rand(1), expected)


def test_a_split_knows_whether_it_has_masks(coco: Path, tmp_path: Path) -> None:
    assert has_masks(read_split(coco / "train.json"))
    assert not has_masks(read_split(write_converted(tmp_path, masks=False) / "train.json"))


def test_training_prompts_each_image_with_its_own_fields(tmp_path: Path) -> None:
    export = with_table(tmp_path, originals())
    convert(export, tmp_path / "out", template=TEMPLATE, fields="views.csv")
    split = read_split(tmp_path / "out" / "train.json")
    dataset = PromptedImages(
        split,
        image_size=96,
        max_negatives=5,
        extra_negatives=(),
        augmentation=Augmentation(),
        seed=0,
    )
    assert set(dataset[0, 0, 0].prompts) == {"big dog, from 0 view", "cat, from 0 view"}
    assert set(dataset[0, 1, 0].prompts) == {"big dog, from 1 view", "cat, from 1 view"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_outlive_a_signal_to_the_process_group(coco: Path, number: int) -> None:
    # torchrun and Ctrl-C signal every process; training still needs data to finish its step.
    data = dataset(coco)
    steps = local_steps([1.0] * len(data), batch_size=1, rank=0, processes=1, seed=0, epoch=0)
    others = set(multiprocessing.active_children())
    batches = training_batches(data, steps, epoch=0, micro_batch_size=1, workers=2)
    next(batches)
    workers = set(multiprocessing.active_children()) - others
    assert len(workers) == 2
    for worker in workers:
        assert worker.pid
        os.kill(worker.pid, number)
    assert len(list(batches)) == len(steps) - 1
