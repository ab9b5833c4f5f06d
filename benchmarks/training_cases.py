"""Ways to take the same optimizer step: the plain one, and segtune's for three choices of LoRA."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from benchmarks.batches import OBJECTS, SHOWN, noise_batch, random_updates
from benchmarks.memory import images_alike, norms_in_float32, without_content
from benchmarks.meta_device import on_meta
from benchmarks.plain_reference import plain_loss, plain_model, plain_step
from benchmarks.sizes import SIZES, settings_with_lora_from
from segtune.core.config import CHECKPOINTED, Checkpointed, TrainSettings
from segtune.core.processes import Processes
from segtune.dataset.batch import Batch
from segtune.lora.inject import inject_lora, lora_parameters
from segtune.lora.targets import lora_specs
from segtune.model.architecture import build_model
from segtune.model.checkpointing import set_checkpointing
from segtune.model.frozen_prefix import encode_prefix, start_after
from segtune.model.frozen_text import keep_embeddings
from segtune.model.frozen_weights import store_frozen_in
from segtune.model.precision import autocast_dtype
from segtune.model.sam3_package import Sam3Image
from segtune.training.engine import accumulate, train_one_epoch
from segtune.training.losses import build_loss
from segtune.training.optimizer import build_optimizer

PROMPTS = 10  # of an image; the first `SHOWN` have objects


@dataclass(frozen=True)
class Case:
    """A way to train; those with the same LoRA compute the same loss and gradients."""

    title: str
    block: int  # LoRA is in vision from this block on; nowhere if it is the number of blocks
    plain: bool  # benchmarks/plain_reference.py; else segtune
    checkpointed: tuple[Checkpointed, ...] = ()  # in segtune's way

    @property
    def way(self) -> str:
        """How its rows are called."""
        if self.plain:
            return "plain"
        if not self.checkpointed:
            return "segtune"
        every = set(self.checkpointed) == set(CHECKPOINTED)
        return f"segtune, checkpointed: {'all' if every else ', '.join(self.checkpointed)}"


@dataclass(frozen=True)
class Prepared:
    """A case on a device, ready to take steps."""

    model: Sam3Image
    optimizer: torch.optim.Optimizer
    batch: Batch
    step: Callable[[], object]

    def resident(self) -> list[Tensor]:
        """What is in memory between two steps, apart from gradients."""
        states = [v for state in self.optimizer.state.values() for v in state.values()]
        values = [getattr(self.batch, field.name) for field in fields(self.batch)]
        kept = [*self.model.parameters(), *self.model.buffers(), *states, *values]
        return [value for value in kept if isinstance(value, Tensor)]


def cases(size: str) -> list[Case]:
    """The plain way with LoRA in all of vision, which is the reference, and the others.

    segtune's way without activation checkpointing, which is a choice there, with that of all
    components, and with that of some.
    """
    depth = SIZES[size].vit_depth
    blocks = {"all of vision": 0, f"vision from block {depth * 3 // 4}": depth * 3 // 4}
    blocks["vision frozen"] = depth
    ways: list[dict[str, Any]] = [{"plain": True}, {"plain": False}]
    ways.append({"plain": False, "checkpointed": CHECKPOINTED})
    found = [Case(title, block, **way) for way in ways for title, block in blocks.items()]
    some: tuple[tuple[Checkpointed, ...], ...] = (("vision", "detr_encoder"), ("segmentation",))
    for title, components in zip(blocks, some, strict=False):  # what has most of the activations
        found.append(Case(title, blocks[title], plain=False, checkpointed=components))
    return found


def prepared(case: Case, size: str, device: torch.device) -> Prepared:
    """The case with real weights and a batch of one image on a device."""
    model = _model(case, size)
    settings = settings_with_lora_from(size, case.block)
    inject_lora(model, lora_specs(settings.lora))
    random_updates(model)
    model.to(device).train()
    batch = noise_batch(SIZES[size].image_size, prompts=PROMPTS).to(device)
    if not case.plain:
        batch = _with_levers(model, batch, case, autocast_dtype(device))
    optimizer = build_optimizer(model, settings)
    step = _plain if case.plain else _segtune
    return Prepared(model, optimizer, batch, step(model, optimizer, batch, settings))


@contextmanager
def without_values(case: Case) -> Iterator[Prepared]:
    """The case at full size on a CPU in bfloat16, with tensors that have no content; within.

    Nothing is computed, so only operations and memory can be counted.
    """
    with on_meta():
        model = _model(case, "full")
    settings = settings_with_lora_from("full", case.block)
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(norms_in_float32())
        model.to_empty(device="cpu").train()
        inject_lora(model, lora_specs(settings.lora))
        batch = images_alike(1, PROMPTS, objects=OBJECTS, shown=SHOWN)
        stack.enter_context(without_content(model, batch, shown_per_image=SHOWN))
        stack.enter_context(_Unread())
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        if not case.plain:
            batch = _with_levers(model, batch, case, torch.bfloat16)
        optimizer = build_optimizer(model, settings)
        step = _plain if case.plain else _segtune_without_values
        yield Prepared(model, optimizer, batch, step(model, optimizer, batch, settings))


class _Unread(TorchFunctionMode):
    """Where code reads a tensor that has no content: every value is 1, every mask selects all."""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if function is Tensor.__getitem__ and getattr(args[1], "dtype", None) == torch.bool:
            return args[0]
        if function in (Tensor.item, Tensor.__float__):
            return 1.0
        return function(*args, **(kwargs or {}))


def _model(case: Case, size: str) -> Sam3Image:
    return plain_model(SIZES[size]) if case.plain else build_model(SIZES[size])


def _with_levers(model: Sam3Image, batch: Batch, case: Case, dtype: torch.dtype) -> Batch:
    """Prepare an adapted model as `segtune.train` does; the batch that it takes then."""
    store_frozen_in(model, dtype)
    keep_embeddings(model, batch.captions)
    set_checkpointing(model, case.checkpointed)
    if not case.block:
        return batch
    features = encode_prefix(model, batch.images, case.block)
    start_after(model, case.block)
    return replace(batch, images=features)


def _plain(
    model: Sam3Image, optimizer: torch.optim.Optimizer, batch: Batch, settings: TrainSettings
) -> Callable[[], object]:
    loss, device = plain_loss(model.matcher), batch.images.device
    _to_peak(optimizer)

    def step() -> None:
        plain_step(model, loss, optimizer, batch, device=device, clip_norm=settings.clip_norm)

    return step


def _segtune(
    model: Sam3Image, optimizer: torch.optim.Optimizer, batch: Batch, settings: TrainSettings
) -> Callable[[], object]:
    loss = build_loss(model.matcher, with_masks=True, masks_per_chunk=settings.masks_per_chunk)
    processes = Processes(rank=0, count=1, device=batch.images.device)
    _to_peak(optimizer)

    def step() -> None:
        train_one_epoch(
            model,
            loss,
            optimizer,
            steps=[[batch]],
            processes=processes,
            clip_norm=settings.clip_norm,
            stop_wanted=lambda: False,
            after_step=lambda report: None,
        )

    return step


def _segtune_without_values(
    model: Sam3Image, optimizer: torch.optim.Optimizer, batch: Batch, settings: TrainSettings
) -> Callable[[], object]:
    """What `train_one_epoch` computes; that itself decides by values."""
    loss = build_loss(model.matcher, with_masks=True, masks_per_chunk=settings.masks_per_chunk)
    parameters = list(lora_parameters(model).values())

    def step() -> None:
        optimizer.zero_grad()
        boxes, prompts = float(len(batch.boxes_cxcywh)), float(len(batch.num_boxes))
        accumulate(
            model,
            loss,
            batch,
            device=batch.images.device,
            step_boxes=boxes,
            step_prompts=prompts,
        )
        nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        optimizer.step()

    return step


def _to_peak(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"]
