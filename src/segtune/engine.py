"""Two functions that training and prediction share: one epoch, and predictions."""

import math
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segtune.coco import mask_to_rle
from segtune.dataset import Batch, Size
from segtune.distributed import Processes
from segtune.losses import not_finite, prompted_loss
from segtune.mask_decoding import keeping
from segtune.model import (
    encode_images,
    encode_prompts,
    evaluating,
    ground,
    grounding_outputs,
    targets_of,
)
from segtune.sam3_package import Sam3Image


class Interrupted(Exception):
    """All processes agreed to stop before the next optimiser step."""


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did, summed over all processes."""

    loss: float
    terms: Mapping[str, float]  # unweighted, of the last decoder layer
    gradient_norm: float  # before clipping
    images: int
    seconds: float
    waiting_seconds: float  # of them, for data
    peak_memory_gb: float  # of this process so far; of its GPU where it has one


@dataclass(frozen=True)
class Detection:
    """One object that a prompt found in a picture, in the picture's own pixels."""

    prompt: int  # position among the prompts
    score: float
    bbox_xywh: tuple[float, float, float, float]
    rle: dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """A picture to predict on."""

    id: int
    image: Tensor  # (3, S, S), normalised
    size: Size  # (height, width) of the original, in pixels
    prompts: tuple[int, ...]  # positions of its texts


def train_one_epoch(
    model: Sam3Image | DistributedDataParallel,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: Iterable[Sequence[Batch]],
    processes: Processes,
    clip_norm: float,
    stop_wanted: Callable[[], bool],
    after_step: Callable[[StepReport], None],
) -> None:
    """Run one optimiser step per item of `steps`.

    Args:
        model: in training mode; wrapped in DDP where there are several processes.
        loss: from `losses.build_loss`.
        optimizer: over the trainable parameters.
        steps: each the micro-batches of this process for one step.
        processes: this process among the others.
        clip_norm: largest L2 norm of the gradient.
        stop_wanted: asked before each step; one yes stops all processes.
        after_step: called after each step.

    Raises:
        Interrupted: when any process wanted to stop; the last step is complete.
        TrainingError: when a loss or gradient is not finite, on all processes at once.
    """
    model.train()
    began = time.perf_counter()
    for batches in steps:
        waited = time.perf_counter() - began
        counts = [float(sum(int(b.num_boxes.sum()) for b in batches))]
        counts += [float(sum(len(b.num_boxes) for b in batches)), float(stop_wanted())]
        step_boxes, step_prompts, stops = processes.sum(counts)
        if stops:
            raise Interrupted
        optimizer.zero_grad()
        total, terms = accumulate(model, loss, batches, processes, step_boxes, step_prompts)
        norm = nn.utils.clip_grad_norm_(_trainable(optimizer), clip_norm)
        names = [name for batch in batches for name in batch.names]
        summed = processes.sum([total, *terms.values()])
        # The sums are the same everywhere, so all processes take the same branch.
        if not math.isfinite(summed[0] + float(norm)):
            everyone = processes.gather(names)
            raise not_finite(summed[0], float(norm), [n for names in everyone for n in names])
        optimizer.step()
        now = time.perf_counter()
        images = len(names) * processes.count
        reported = dict(zip(terms, summed[1:], strict=True))
        spent = (now - began, waited, _peak_memory_gb(processes.device))
        after_step(StepReport(summed[0], reported, float(norm), images, *spent))
        began = time.perf_counter()


def predict(
    model: Sam3Image,
    pictures: Iterable[Picture],
    texts: Sequence[str],
    device: torch.device,
    pairs_per_pass: int,
    score_threshold: float,
    max_detections: int,
) -> Iterator[tuple[int, list[Detection]]]:
    """Find every prompt in every picture.

    The text is encoded once and each picture once, whatever the number of prompts, and
    masks are decoded for the detections that are kept.

    Args:
        model: on `device`.
        pictures: read one at a time.
        texts: all that any picture is prompted with.
        device: of the model.
        pairs_per_pass: prompts per forward pass behind the image encoder; limits memory.
        score_threshold: detections below it are left out.
        max_detections: the best-scored kept per picture and prompt.

    Yields:
        The id of each picture and its detections, prompt after prompt, best score first.
    """
    kept = keeping(model, score_threshold, max_detections)
    with evaluating(model), torch.inference_mode(), mixed_precision(device), kept:
        text = encode_prompts(model, list(texts), device)
        for picture in pictures:
            features = {**encode_images(model, picture.image[None].to(device)), **text}
            found: list[Detection] = []
            asked = torch.tensor(picture.prompts, device=device)
            for start in range(0, len(asked), pairs_per_pass):
                ids = asked[start : start + pairs_per_pass]
                outputs = ground(model, features, torch.zeros_like(ids), ids)
                for row in range(len(ids)):
                    prompt = start + row  # of the picture's own
                    found += _detections(prompt, outputs, row, picture.size)
            yield picture.id, found


def mixed_precision(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 autocast where the device computes in it, else full precision."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


def accumulate(
    model: Sam3Image | DistributedDataParallel,
    loss: nn.Module,
    batches: Sequence[Batch],
    processes: Processes,
    step_boxes: float,
    step_prompts: float,
) -> tuple[float, dict[str, float]]:
    """Add the gradients of the step's whole loss to the parameters'.

    Args:
        model: as in `train_one_epoch`, also `loss` and `processes`.
        loss: from `losses.build_loss`.
        batches: this process's micro-batches.
        processes: this process among the others.
        step_boxes: objects in the whole step, over all processes.
        step_prompts: prompts in the whole step, over all processes.

    Returns:
        This process's share of the loss and of its terms.
    """
    plain = model.module if isinstance(model, DistributedDataParallel) else model
    total, terms = 0.0, dict[str, float]()
    for index, batch in enumerate(batches):
        moved = batch.to(processes.device)
        with _communicating(model, last=index == len(batches) - 1):
            with mixed_precision(processes.device):
                outputs = grounding_outputs(model, moved)
            targets = targets_of(plain, moved)
            share, parts = prompted_loss(loss, outputs, targets, step_boxes, step_prompts)
            # DDP averages gradients over processes; the shares are meant to be summed.
            (share * processes.count).backward()
        total += share.item()
        terms = {name: terms.get(name, 0.0) + float(part) for name, part in parts.items()}
    return total, terms


def _communicating(
    model: Sam3Image | DistributedDataParallel, last: bool
) -> AbstractContextManager[Any]:
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def _trainable(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _peak_memory_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _detections(prompt: int, outputs: dict[str, Any], row: int, size: Size) -> list[Detection]:
    kept, mask_logits = outputs["kept"][row], outputs["kept_masks"][row]
    if mask_logits is None:
        return []
    height, width = size
    scores = outputs["kept_scores"][row].tolist()
    boxes_cxcywh = outputs["pred_boxes"][row][kept].float().cpu()
    boxes = boxes_cxcywh * torch.tensor([width, height, width, height])
    boxes[:, :2] -= boxes[:, 2:] / 2  # cxcywh -> xywh
    return [
        Detection(prompt, score, (x, y, w, h), mask_to_rle(_mask(logits, size)))
        for score, (x, y, w, h), logits in zip(
            scores, boxes.tolist(), mask_logits.float(), strict=True
        )
    ]


def _mask(logits: Tensor, size: Size) -> npt.NDArray[np.bool_]:
    """A mask in the picture's own pixels.

    As in the official processor, logits are enlarged first, then cut at probability 1/2;
    one at a time, for a hundred of a large photograph would fill a GPU.
    """
    enlarged = F.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)
    mask: npt.NDArray[np.bool_] = (enlarged[0, 0] > 0).cpu().numpy()
    return mask
