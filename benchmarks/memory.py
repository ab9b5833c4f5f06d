"""The memory that one training step of full SAM 3 takes, counted tensor by tensor.

`python -m benchmarks.memory` runs the forward pass, the loss and the backward pass of one
micro-batch at 1008 x 1008 in bfloat16 autocast with the LoRA of each preset, on tensors that have
a shape and no content (torch's FakeTensorMode), and counts the storage of every live tensor.
Matchings, which depend on content, are replaced by fixed ones of the largest size. Of an image's
prompts, as many as the preset allows are negatives; its objects belong to the others in turn.
Everything is checkpointed, which is what a step takes at least.
Not included: the CUDA context (about 0.5 GB), the workspaces of kernels, and what the allocator
loses to fragmentation.
"""

import argparse
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
import torchmetrics
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.meta_device import on_meta
from segtune.core.config import Config, TrainSettings, frozen_vision_blocks
from segtune.dataset.batch import Batch
from segtune.lora.inject import inject_lora, lora_parameters
from segtune.lora.targets import lora_specs
from segtune.model import mask_decoding
from segtune.model.architecture import ARCHITECTURES, build_model
from segtune.model.forward import encode_images, grounding_outputs, loss_targets
from segtune.model.frozen_prefix import encode_prefix, start_after
from segtune.model.frozen_text import keep_embeddings
from segtune.model.frozen_weights import store_frozen_in
from segtune.model.sam3_package import BinaryOneToManyMatcher, Sam3Image
from segtune.training import mask_loss
from segtune.training.losses import build_loss, prompted_loss

ROOT = Path(__file__).parent.parent
LADDER = ((6, 10), (10, 20), (10, 100), (6, 200), (20, 20))  # (prompts, objects) of an image
O2M_QUERIES = 4  # of an object, at most: `topk` in training/losses.py
GB = 1e9


class LiveStorage(TorchDispatchMode):
    """Counts the bytes of all live tensors that were created by operations inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.peak = 0, 0
        self._live: dict[int, weakref.ref[Any]] = {}

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._live and self._live[key]() is storage:
            return

        def remove(_: object) -> None:
            self.bytes -= size
            self._live.pop(key, None)

        self._live[key] = weakref.ref(storage, remove)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.add(value)
        return result


def main(argv: Sequence[str] | None = None) -> None:
    """Count, and print one image in detail, or a table of all presets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", type=Path, help="this one only, in detail")
    parser.add_argument("--prompts", type=int, default=10, help="of the image")
    parser.add_argument("--objects", type=int, default=20, help="of the image")
    arguments = parser.parse_args(argv)
    if arguments.preset:
        table = Table("", "live GB", "peak GB", title=f"{arguments.prompts} prompts on an image")
        settings = preset_settings(arguments.preset)
        for title, live, highest in step_account(settings, arguments.prompts, arguments.objects):
            table.add_row(title, f"{live:.2f}", f"{highest:.2f}")
    else:
        table = _table_of_presets()
    Console().print(table)


def _table_of_presets() -> Table:
    presets = [
        path
        for path in sorted((ROOT / "presets").glob("*.yaml"))
        if yaml.safe_load(path.read_text("utf-8"))["model"] == "full"
    ]
    table = Table("prompts", "objects", *(f"{path.stem} GB" for path in presets))
    known: dict[str, str] = {}  # presets that differ in other settings take the same
    for prompts, objects in LADDER:
        row = []
        for path in presets:
            settings = preset_settings(path)
            key = str((settings.lora, settings.micro_batch_size, settings.cache_features))
            key += str((settings.masks_per_chunk, settings.max_negatives, prompts, objects))
            if key not in known:
                known[key] = f"{max(p for *_, p in step_account(settings, prompts, objects)):.2f}"
            row.append(known[key])
        table.add_row(str(prompts), str(objects), *row)
    return table


def preset_settings(path: Path) -> TrainSettings:
    """The train section of a preset."""
    preset = yaml.safe_load(path.read_text("utf-8"))
    return Config.model_validate({"export": "any", **preset}).train


def step_account(
    settings: TrainSettings, prompts: int, objects: int
) -> Iterator[tuple[str, float, float]]:
    """(what was done, live GB after it, peak GB until then), of images that are all like this."""
    count, shown = LiveStorage(), max(1, prompts - settings.max_negatives)
    with on_meta():
        model = build_model("full")
    with FakeTensorMode(allow_non_fake_inputs=True), count, norms_in_float32():
        model.to_empty(device="cpu")  # only shapes matter here
        inject_lora(model, lora_specs(settings.lora))
        store_frozen_in(model, torch.bfloat16)
        batch = images_alike(settings.micro_batch_size, prompts, objects=objects, shown=shown)
        keep_embeddings(model, batch.captions)
        if settings.cache_features:
            batch = _with_features(model, batch, frozen_vision_blocks(settings, "full"))
            count.peak = count.bytes
        with without_content(model, batch, shown_per_image=shown):
            yield "weights, adapters and images", count.bytes / GB, count.peak / GB
            optimizer = torch.optim.AdamW(lora_parameters(model).values())
            model.train()
            with torch.autocast("cpu", torch.bfloat16):
                features = encode_images(model, batch.images)
            yield "forward pass of the image encoder", count.bytes / GB, count.peak / GB
            del features
            with torch.autocast("cpu", torch.bfloat16):
                outputs = grounding_outputs(model, batch)
            yield "whole forward pass", count.bytes / GB, count.peak / GB
            total = _loss(model, batch, outputs, settings.masks_per_chunk)
            yield "loss", count.bytes / GB, count.peak / GB
            total.backward()
            del outputs, total
            yield "backward pass", count.bytes / GB, count.peak / GB
            optimizer.step()
            yield "optimizer step", count.bytes / GB, count.peak / GB


def _with_features(model: Sam3Image, batch: Batch, blocks: int) -> Batch:
    features = encode_prefix(model, batch.images, blocks).bfloat16()
    start_after(model, blocks)
    return replace(batch, images=features)


def _loss(
    model: Sam3Image, batch: Batch, outputs: Mapping[str, Any], masks_per_chunk: int
) -> Tensor:
    loss = build_loss(model.matcher, with_masks=True, masks_per_chunk=masks_per_chunk)
    total, _ = prompted_loss(
        loss,
        outputs,
        loss_targets(model, batch),
        step_boxes=float(len(batch.boxes_cxcywh)),
        step_prompts=float(len(batch.num_boxes)),
    )
    return total


@contextmanager
def norms_in_float32() -> Iterator[None]:
    """As CUDA's autocast has them; that of the CPU leaves them in bfloat16."""

    def in_float32(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, *arguments, **options: norm(x.float(), *arguments, **options)

    with (
        patch.object(F, "layer_norm", in_float32(F.layer_norm)),
        patch.object(F, "group_norm", in_float32(F.group_norm)),
    ):
        yield


def images_alike(images: int, prompts: int, *, objects: int, shown: int) -> Batch:
    """Images with the same prompts, of which the first `shown` have the objects in turn."""
    side = ARCHITECTURES["full"].image_size
    each = [len(range(prompt, objects, shown)) for prompt in range(shown)]
    counts = torch.tensor([*each, *[0] * (prompts - shown)] * images)
    rows, most, total = images * prompts, max(each), images * objects
    return Batch(
        names=tuple(f"image {number}" for number in range(images)),
        captions=tuple(f"thing {number}" for number in range(prompts)),
        images=torch.zeros(images, 3, side, side, dtype=torch.uint8),
        image_ids=torch.arange(images).repeat_interleave(prompts),
        text_ids=torch.arange(prompts).repeat(images),
        num_boxes=counts,
        boxes_cxcywh=torch.rand(total, 4),
        boxes_padded=torch.zeros(rows, most, 4),
        object_ids_padded=torch.zeros((rows, most), dtype=torch.long),
        masks=torch.zeros(total, side, side, dtype=torch.bool),
        has_mask=torch.ones(total, dtype=torch.bool),
    )


@contextmanager
def without_content(model: Sam3Image, batch: Batch, *, shown_per_image: int) -> Iterator[None]:
    """Replace what reads the content of tensors.

    The matchings become the largest ones: every object has one query, and `O2M_QUERIES` of those
    that several may share.
    """
    decoder = model.transformer.decoder
    side = ARCHITECTURES["full"].image_size // ARCHITECTURES["full"].patch_size
    relative_positions = decoder._get_rpb_matrix
    decoder._get_rpb_matrix = lambda boxes, size: relative_positions(boxes, (side, side))
    one, many = (
        (torch.zeros_like(objects), torch.zeros_like(objects), objects)
        for objects in (
            torch.arange(len(batch.boxes_cxcywh)),
            torch.arange(len(batch.boxes_cxcywh)).repeat(O2M_QUERIES),
        )
    )

    def by_row(indices: Sequence[Tensor], *_: object) -> tuple[list[int], Tensor, Tensor]:
        queries, objects = indices[1:]
        return sorted(number % len(shown) for number in range(len(objects))), queries, objects

    def match_one(*_: object, repeat_batch: int = 1, **__: object) -> tuple[Tensor, ...]:
        return tuple(values.repeat(repeat_batch) for values in one)

    def match(self: Sam3Image, outputs: dict[str, Any], targets: Mapping[str, Any]) -> None:
        for layer in (outputs, *outputs.get("aux_outputs", ())):
            layer["indices"] = one

    model._compute_matching = MethodType(match, model)
    shown = torch.arange(shown_per_image * len(batch.names))
    with (
        patch.object(mask_decoding, "shown_prompts", lambda counts: shown),
        patch.object(mask_loss, "matched_masks", by_row),
        patch.object(model.matcher, "forward", match_one),
        patch.object(BinaryOneToManyMatcher, "forward", lambda *_, **__: many),
        # A metric of the package, which nobody reads.
        patch.object(torchmetrics.functional, "f1_score", lambda *_, **__: torch.zeros(())),
    ):
        yield


if __name__ == "__main__":
    main()
