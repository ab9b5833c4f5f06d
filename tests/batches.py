"""Random batches and adapted tiny models for tests of the model, the loss and LoRA."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from segtune.core.config import LoraSettings
from segtune.dataset.batch import Batch
from segtune.lora.inject import inject_lora, lora_parameters
from segtune.lora.layers import LoraSpec
from segtune.lora.targets import LORA_PATTERNS, lora_specs
from segtune.model.architecture import build_model
from segtune.model.sam3_package import Sam3Image
from segtune.training.engine import accumulate
from segtune.training.losses import build_loss

IMAGE_SIZE = 96
OUTPUTS = ("pred_logits", "pred_boxes", "pred_masks", "presence_logit_dec")


def random_batch(objects: tuple[tuple[int, ...], ...], seed: int = 0, masks: bool = True) -> Batch:
    """One image per item, one prompt per number, with that many random objects."""
    noise = torch.Generator().manual_seed(seed)
    counts = [count for prompts in objects for count in prompts]
    boxes_cxcywh = torch.rand(sum(counts), 4, generator=noise) * 0.3 + 0.3
    ids = torch.arange(sum(counts))
    image_ids = [image for image, prompts in enumerate(objects) for _ in prompts]
    size = (sum(counts), IMAGE_SIZE, IMAGE_SIZE)
    return Batch(
        names=tuple(f"image {seed}.{image}" for image in range(len(objects))),
        captions=("first thing", "second thing", "third thing"),
        images=torch.randint(
            256, (len(objects), 3, IMAGE_SIZE, IMAGE_SIZE), generator=noise
        ).byte(),
        image_ids=torch.tensor(image_ids),
        text_ids=torch.tensor([p for prompts in objects for p in range(len(prompts))]),
        num_boxes=torch.tensor(counts),
        boxes_cxcywh=boxes_cxcywh,
        boxes_padded=pad_sequence(list(boxes_cxcywh.split(counts)), batch_first=True),
        object_ids_padded=pad_sequence(list(ids.split(counts)), batch_first=True, padding_value=-1),
        masks=torch.rand(size, generator=noise) > 0.5 if masks else None,
        has_mask=torch.ones(sum(counts), dtype=torch.bool),
    )


def all_specs(rank: int = 4, without: tuple[str, ...] = ()) -> dict[str, LoraSpec]:
    """Every projection of every component except some."""
    settings = LoraSettings(rank=rank, alpha=2.0 * rank)
    return lora_specs({name: settings for name in LORA_PATTERNS if name not in without})


def adapted_tiny(**options: object) -> tuple[Sam3Image, dict[str, LoraSpec]]:
    """A tiny model whose adapters are random, including B."""
    model = build_model("tiny")
    adapted = inject_lora(model, all_specs(**options))  # type: ignore[arg-type]
    randomize_lora(model)
    return model, adapted


def randomize_lora(model: nn.Module, scale: float = 0.05) -> None:
    """Give every adapter parameter random values, as training would."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lora_parameters(model).values():
            values = torch.randn(parameter.shape, generator=noise) * scale
            parameter.copy_(values)


def step_gradients(model: Sam3Image, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    """The loss of a step with one batch, and the gradients of all adapters."""
    model.zero_grad()
    total, _ = accumulate(
        model.train(),
        build_loss(model.matcher, with_masks=True),
        batch,
        device=torch.device("cpu"),
        step_boxes=float(batch.num_boxes.sum()),
        step_prompts=float(len(batch.num_boxes)),
    )
    gradients = {name: p.grad for name, p in lora_parameters(model).items()}
    assert all(gradient is not None for gradient in gradients.values())
    return total, {name: g.clone() for name, g in gradients.items() if g is not None}


def largest_difference(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()
