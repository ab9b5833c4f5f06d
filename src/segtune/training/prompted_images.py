"""From a converted split to batches of prompted images.

One row of a batch is one prompt on one image. The content of an item depends only on (seed,
epoch, item), and not on the number of workers or processes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segtune.core.errors import SegtuneError
from segtune.dataset.batch import Batch, Sample, collate, load_image
from segtune.dataset.coco import Annotation, Image, Split, has_masks
from segtune.dataset.data_workers import live_as_long_as_creator, loaded
from segtune.dataset.scaled_masks import scaled_masks
from segtune.training.augment import Augmentation, View
from segtune.training.feature_store import FeatureStore
from segtune.training.sampling import Item

T = TypeVar("T")


class PromptedImages(Dataset[Sample]):
    """A training split, indexed by (epoch, index of the image, earlier occurrences).

    Args:
        split: the converted split.
        image_size: side of the model's square input, in pixels.
        max_negatives: negative prompts per image. Over ceil(negatives / max_negatives)
            epochs an image is prompted with all of its absent classes and extra negatives.
        extra_negatives: prompts for things that no image of the split shows.
        augmentation: of the images, drawn anew for every item.
        seed: of the choice of negatives and of the augmentation.
        ood_negatives: out-of-distribution prompts, for images that have few others: more prompts
            dilute the loss, and those that resemble the classes teach more.
        min_negatives: with fewer absent classes and extra negatives than this, an image gets
            out-of-distribution prompts in their place.
        excluded: file name -> ids of classes that the image is not prompted with, although it
            may be labeled with them.
    """

    def __init__(
        self,
        split: Split,
        *,
        image_size: int,
        max_negatives: int,
        extra_negatives: Sequence[str],
        augmentation: Augmentation,
        seed: int,
        ood_negatives: Sequence[str] = (),
        min_negatives: int = 0,
        excluded: Mapping[str, frozenset[int]] | None = None,
    ) -> None:
        self.split, self.image_size, self.seed = split, image_size, seed
        self.max_negatives = max_negatives
        self.ood_negatives, self.min_negatives = tuple(ood_negatives), min_negatives
        self.excluded = excluded or {}
        known = {
            prompt.strip().casefold()
            for image in split.images
            for prompt in split.prompts(image).values()
        }
        self.extra_negatives = tuple(
            prompt for prompt in extra_negatives if prompt.strip().casefold() not in known
        )
        self.augmentation = augmentation
        self.features: FeatureStore | None = None  # in place of pixels
        self.classes = [category.id for category in split.categories]
        self.images = [image for image in split.images if self._offers_a_prompt(image)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int, int]) -> Sample:
        epoch, index, occurrence = item
        rng = np.random.default_rng([self.seed, epoch, index, occurrence])
        image = self.images[index]
        view = self.augmentation.drawn_view(
            image.file_name, self.image_size, seed=self.seed, rng=rng
        )
        negatives = self._chosen_negatives(index, epoch + occurrence)
        sample = self.augmentation.augmented(
            self.sample(image, negatives, view.side),
            self.image_size,
            mirror=view.mirrored,
            rng=rng,
        )
        if self.features is None:
            return sample
        return replace(sample, image=self.features.read(image, view))

    def __getitems__(self, items: Sequence[tuple[int, int, int]]) -> list[Sample] | SegtuneError:
        """The samples of a step; an error is returned, since a loader would add its traceback."""
        try:
            return [self[item] for item in items]
        except SegtuneError as error:
            return error.with_traceback(None)

    def views(self, image: Image) -> list[View]:
        """All views of an image that there can be."""
        return self.augmentation.views(image.file_name, self.image_size, self.seed)

    def largest_sample(self, image: Image, negatives: Sequence[int | str]) -> Sample:
        """An image that takes as much memory as it can with these negatives."""
        sample = self.sample(image, negatives, self.image_size)
        if self.features is None:
            return sample
        return replace(sample, image=self.features.read(image, self.views(image)[0]))

    def sample(self, image: Image, negatives: Sequence[int | str], side: int) -> Sample:
        """An image of `side` pixels, prompted with its own classes and with `negatives`.

        With cached features, its pixels are empty.
        """
        objects = self._objects(image)
        prompts = [*sorted({a.category_id for a in objects}), *negatives]
        found = [[a for a in objects if a.category_id == prompt] for prompt in prompts]
        prompt_of = self.split.prompts(image)
        masks = [
            scaled_masks(
                [a.segmentation for a in anns], height=image.height, width=image.width, side=side
            )
            for anns in found
        ]
        return Sample(
            name=image.file_name,
            image=self._pixels(image, side),
            prompts=tuple(prompt_of[p] if isinstance(p, int) else p for p in prompts),
            boxes_cxcywh=tuple(_boxes_cxcywh(anns, image) for anns in found),
            masks=tuple(masks),
            has_mask=tuple(mask.flatten(1).any(1) for mask in masks),
        )

    def _pixels(self, image: Image, side: int) -> Tensor:
        if self.features is not None:
            return torch.empty(3, side, side, dtype=torch.uint8)
        return load_image(self.split.image_path(image), side)[0]

    def present(self, image: Image) -> frozenset[int]:
        """The classes in an image, including those that occur only as a crowd."""
        return frozenset(a.category_id for a in self._labels(image))

    def _labels(self, image: Image) -> list[Annotation]:
        excluded = self.excluded.get(image.file_name, frozenset())
        return [a for a in self.split.annotations[image.id] if a.category_id not in excluded]

    def _objects(self, image: Image) -> list[Annotation]:
        # A crowd region is not a single object, so it cannot be a target.
        return [a for a in self._labels(image) if not a.iscrowd]

    def negatives(self, image: Image) -> list[int | str]:
        """Everything that an image can be prompted with without showing it.

        Category ids and extra negatives, then as many out-of-distribution ones as it can have
        at once: the first `max_negatives` make its largest sample.
        """
        _, ood = self.count_negatives(image)
        return [*self._absent(image), *self.ood_negatives[:ood]]

    def count_negatives(self, image: Image) -> tuple[int, int]:
        """How many an image is prompted with: absent classes and extra, out-of-distribution."""
        absent = min(len(self._absent(image)), self.max_negatives)
        missing = min(self.min_negatives, self.max_negatives) - absent
        return absent, min(max(missing, 0), len(self.ood_negatives))

    def _absent(self, image: Image) -> list[int | str]:
        # A class that occurs only as a crowd, or is excluded, is neither a target nor absent.
        present = self.present(image) | self.excluded.get(image.file_name, frozenset())
        return [*(i for i in self.classes if i not in present), *self.extra_negatives]

    def _offers_a_prompt(self, image: Image) -> bool:
        return bool(self._objects(image)) or (
            self.max_negatives > 0 and bool(self.negatives(image))
        )

    def _chosen_negatives(self, index: int, turn: int) -> list[int | str]:
        """The next few of an image's negatives, in a seeded order per image."""
        image = self.images[index]
        absent, ood = self.count_negatives(image)
        return [
            *_next_few(self._absent(image), absent, turn=turn, seed=[self.seed, index]),
            *_next_few(self.ood_negatives, ood, turn=turn, seed=[self.seed, index, 1]),
        ]


def _next_few(items: Sequence[T], count: int, *, turn: int, seed: list[int]) -> list[T]:
    """`count` of some items, others at every turn until all have had theirs."""
    order = np.random.default_rng(seed).permutation(len(items))
    return [items[i] for i in sorted(np.roll(order, -turn * count)[:count])]


def training_batches(
    dataset: PromptedImages,
    steps: Sequence[Sequence[Item]],
    *,
    epoch: int,
    micro_batch_size: int,
    workers: int,
) -> Iterator[list[Batch]]:
    """The batches of each optimizer step: micro-batches of at most `micro_batch_size`.

    Raises:
        DatasetError: when an image cannot be read.
    """
    # Not a closure, which cannot be sent to workers that are not forked, as from Python 3.14 on.
    collate_fn = partial(
        _collate_step, micro_batch_size=micro_batch_size, with_masks=has_masks(dataset.split)
    )
    loader: DataLoader[list[Batch] | SegtuneError] = DataLoader(
        dataset,  # type: ignore[arg-type]  # its indices are not integers
        batch_sampler=[[(epoch, *item) for item in step] for step in steps],
        collate_fn=collate_fn,
        num_workers=workers,
        worker_init_fn=live_as_long_as_creator,
        pin_memory=torch.cuda.is_available(),
        # Each loader draws a seed; from the global generator, a resumed run would differ.
        generator=torch.Generator(),
    )
    return loaded(loader)


def _collate_step(
    samples: list[Sample] | SegtuneError, *, micro_batch_size: int, with_masks: bool
) -> list[Batch] | SegtuneError:
    if isinstance(samples, SegtuneError):
        return samples
    starts = range(0, len(samples), micro_batch_size)
    return [collate(samples[start : start + micro_batch_size], with_masks) for start in starts]


def _boxes_cxcywh(annotations: Sequence[Annotation], image: Image) -> Tensor:
    boxes = torch.tensor([a.bbox_xywh for a in annotations]).reshape(-1, 4)
    boxes[:, :2] += boxes[:, 2:] / 2
    return boxes / torch.tensor([image.width, image.height] * 2)
