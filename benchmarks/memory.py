"""The memory that one training step of full SAM 3 takes, counted tensor by tensor.

`python -m benchmarks.memory` runs the forward and backward pass of one image at 1008 x
1008 in bfloat16 autocast with the LoRA of a preset, on tensors that have a shape and no
content (torch's FakeTensorMode), and counts the storage of every live tensor. The matching,
which depends on content, is replaced by a fixed one, and the loss is counted separately on
real tensors. Not included: the CUDA context (about 0.5 GB), the workspaces of kernels, and
what the allocator loses to fragmentation.
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
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segtune.core.config import Config, TrainSettings
from segtune.dataset.batch import Batch
from segtune.lora.inject import inject_lora, lora_parameters
from segtune.lora.targets import lora_specs
from segtune.model import mask_decoding
from segtune.model.architecture import ARCHITECTURES, build_model
from segtune.model.forward import encode_images, grounding_outputs, loss_targets
from segtune.model.sam3_package import Sam3Image
from segtune.training.losses import build_loss, prompted_loss

ROOT = Path(__file__).parent.parent
COMPARED = ("pred_logits", "pred_boxes", "pred_masks", "aux_outputs", "presence_logit_dec")
FORWARD = "whole forward pass"
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
    """Count, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", type=Path, default=ROOT / "presets/2x24gb.yaml")
    parser.add_argument("--prompts", type=int, default=10, help="of the image")
    parser.add_argument("--objects", type=int, default=20, help="of the image")
    arguments = parser.parse_args(argv)
    settings = preset_settings(arguments.preset)
    table = Table("", "live GB", "peak GB", title=f"{arguments.prompts} prompts on one image")
    peak = forward = 0.0
    for title, live, highest in step_account(settings, arguments.prompts, arguments.objects):
        table.add_row(title, f"{live:.2f}", f"{highest:.2f}")
        peak, forward = max(peak, highest), live if title == FORWARD else forward
    loss = loss_account(arguments.prompts, arguments.objects)
    table.add_row(f"loss of {arguments.objects} objects", "", f"{loss:.2f}")
    table.add_row("largest", "", f"{max(peak, forward + loss):.2f}")
    Console().print(table)


def preset_settings(path: Path) -> TrainSettings:
    """The train section of a preset."""
    preset = yaml.safe_load(path.read_text("utf-8"))
    return Config.model_validate({"export": "any", **preset}).train


def step_account(
    settings: TrainSettings, prompts: int, objects: int
) -> Iterator[tuple[str, float, float]]:
    """(what was done, live GB after it, peak GB during it)."""
    model = build_model("full")
    mode, count = FakeTensorMode(allow_non_fake_inputs=True), LiveStorage()
    # All objects belong to the first prompt; fake tensors have no counts to read that from.
    first = patch.object(mask_decoding, "shown_prompts", lambda counts: counts.new_zeros(1))
    with mode, count, norms_in_float32(), first:
        model.to_empty(device="cpu")  # only shapes matter here
        inject_lora(model, lora_specs(settings.lora))
        _without_content(model, objects)
        batch = image(prompts, objects)
        yield "weights, adapters and image", count.bytes / GB, count.bytes / GB
        optimizer = torch.optim.AdamW(lora_parameters(model).values())
        with torch.autocast("cpu", torch.bfloat16):
            features = encode_images(model.train(), batch.images)
        yield "forward pass of the image encoder", count.bytes / GB, count.peak / GB
        del features
        with torch.autocast("cpu", torch.bfloat16):
            outputs = grounding_outputs(model, batch)
        yield FORWARD, count.bytes / GB, count.peak / GB
        total = sum(v.float().mean() for name in COMPARED for v in _leaves(outputs.get(name)))
        assert isinstance(total, Tensor)
        total.backward()
        del outputs, total
        yield "backward pass", count.bytes / GB, count.peak / GB
        optimizer.step()
        yield "optimizer step", count.bytes / GB, count.peak / GB


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


def loss_account(prompts: int, objects: int) -> float:
    """Peak GB of the loss and its gradient, on real tensors.

    A tiny model with as many queries as the full one provides everything except the masks.
    """
    full, tiny = ARCHITECTURES["full"], ARCHITECTURES["tiny"]
    with patch.dict(ARCHITECTURES, tiny=replace(tiny, queries=full.queries)):
        model = build_model("tiny").train()
    batch = image(prompts, objects)
    small = replace(batch, images=torch.randn(1, 3, tiny.image_size, tiny.image_size))
    outputs = grounding_outputs(model, small)
    side = 4 * full.image_size // full.patch_size
    with LiveStorage() as count:
        for name in [name for name in outputs if name.startswith("pred_masks")]:
            shape = (*outputs[name].shape[:2], side, side)
            outputs[name] = torch.zeros(shape, dtype=torch.bfloat16).requires_grad_()
        before = count.bytes  # of the model, counted with the forward pass
        loss = build_loss(model.matcher, with_masks=True)
        total, _ = prompted_loss(
            loss,
            outputs,
            loss_targets(model, batch),
            step_boxes=float(objects),
            step_prompts=float(prompts),
        )
        total.backward()
    return (count.peak - before) / GB


def image(prompts: int, objects: int) -> Batch:
    """One image whose objects all belong to the first prompt."""
    side = ARCHITECTURES["full"].image_size
    counts = torch.tensor([objects] + [0] * (prompts - 1))
    boxes = torch.rand(objects, 4) * 0.3 + 0.3
    padded = torch.zeros(prompts, objects, 4)
    ids = torch.full((prompts, objects), -1)
    padded[0], ids[0] = boxes, torch.arange(objects)
    return Batch(
        names=("image",),
        captions=tuple(f"thing {number}" for number in range(prompts)),
        images=torch.randn(1, 3, side, side),
        image_ids=torch.zeros(prompts, dtype=torch.long),
        text_ids=torch.arange(prompts),
        num_boxes=counts,
        boxes_cxcywh=boxes,
        boxes_padded=padded,
        object_ids_padded=ids,
        masks=torch.zeros(objects, side, side, dtype=torch.bool),
        has_mask=torch.ones(objects, dtype=torch.bool),
    )


def _without_content(model: Sam3Image, objects: int) -> None:
    """Replace what reads the content of tensors: the matching and the feature map's size."""
    decoder = model.transformer.decoder
    side = ARCHITECTURES["full"].image_size // ARCHITECTURES["full"].patch_size
    relative_positions = decoder._get_rpb_matrix
    decoder._get_rpb_matrix = lambda boxes, size: relative_positions(boxes, (side, side))
    matched = torch.arange(objects)

    def match(self: Sam3Image, outputs: dict[str, Any], targets: Mapping[str, Any]) -> None:
        for layer in (outputs, *outputs.get("aux_outputs", ())):
            layer["indices"] = (torch.zeros_like(matched), matched, matched)

    model._compute_matching = MethodType(match, model)


def _leaves(value: Any) -> list[Tensor]:
    found = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return [leaf for leaf in found if leaf.requires_grad and leaf.is_floating_point()]


if __name__ == "__main__":
    main()
