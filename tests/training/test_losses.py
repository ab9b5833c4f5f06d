"""The loss: equal to that of the package, and additive over batches and processes."""

import pytest
import torch
from torch.testing import assert_close

from benchmarks.plain_reference import plain_loss, plain_model
from segtune.dataset.batch import Batch
from segtune.model.architecture import build_model
from segtune.model.forward import grounding_outputs, loss_targets
from segtune.model.sam3_package import Sam3Image
from segtune.training.losses import REPORTED, build_loss, not_finite, prompted_loss
from tests.batches import random_batch


@pytest.fixture(scope="module")
def model() -> Sam3Image:
    return build_model("tiny").train()


def part_of_loss(
    model: Sam3Image, batch: Batch, step_boxes: float, step_prompts: float
) -> torch.Tensor:
    loss = build_loss(model.matcher, with_masks=batch.masks is not None)
    outputs = grounding_outputs(model, batch)
    targets = loss_targets(model, batch)
    total, _ = prompted_loss(
        loss, outputs, targets, step_boxes=step_boxes, step_prompts=step_prompts
    )
    return total


@pytest.mark.parametrize(
    "objects",
    [((2, 0), (1, 3)), ((15, 1), (0,)), ((0, 0),)],
    ids=["some", "more than queries", "none"],
)
def test_a_single_batch_has_the_loss_of_the_package(
    model: Sam3Image, objects: tuple[tuple[int, ...], ...]
) -> None:
    batch = random_batch(objects)
    boxes, prompts = max(int(batch.num_boxes.sum()), 1), len(batch.num_boxes)
    stock = plain_model("tiny").train()
    targets = loss_targets(stock, batch)
    expected = plain_loss(stock.matcher).compute_loss(grounding_outputs(stock, batch), targets)
    loss = build_loss(model.matcher, with_masks=True)
    outputs = grounding_outputs(model, batch)
    total, terms = prompted_loss(
        loss, outputs, targets, step_boxes=float(boxes), step_prompts=float(prompts)
    )
    assert_close(total, expected["core_loss"])
    assert set(terms) == set(REPORTED)
    for name in REPORTED:
        assert_close(terms[name], expected[name].detach())


def test_parts_add_up_to_the_loss_of_one_big_batch(model: Sam3Image) -> None:
    # Different numbers of prompts and objects, so that a mean of means would be wrong.
    whole = random_batch(((2, 0, 0), (4,), (0,)))
    first = random_batch(((2, 0, 0),))
    rest = random_batch(((4,), (0,)))
    for part, images, objects in (
        (first, slice(0, 1), slice(0, 2)),
        (rest, slice(1, 3), slice(2, 6)),
    ):
        part.images.copy_(whole.images[images])
        part.boxes_cxcywh.copy_(whole.boxes_cxcywh[objects])
        assert part.masks is not None and whole.masks is not None
        part.masks.copy_(whole.masks[objects])
    first.boxes_padded.copy_(torch.cat([first.boxes_cxcywh[None], torch.zeros(2, 2, 4)]))
    rest.boxes_padded.copy_(torch.stack([rest.boxes_cxcywh, torch.zeros(4, 4)]))
    together = part_of_loss(model, whole, 6.0, 5.0)
    parts = part_of_loss(model, first, 6.0, 5.0) + part_of_loss(model, rest, 6.0, 5.0)
    assert_close(parts, together, rtol=1e-5, atol=0)


def test_prompts_without_objects_train_only_presence(model: Sam3Image) -> None:
    batch = random_batch(((0, 0), (0,)))
    loss = build_loss(model.matcher, with_masks=True)
    outputs = grounding_outputs(model, batch)
    total, terms = prompted_loss(
        loss, outputs, loss_targets(model, batch), step_boxes=0.0, step_prompts=3.0
    )
    assert terms["presence_loss"] > 0
    for name in set(REPORTED) - {"presence_loss"}:
        assert terms[name] == 0
    model.zero_grad()
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_without_masks_there_is_no_mask_term(model: Sam3Image) -> None:
    batch = random_batch(((2, 0),), masks=False)
    loss = build_loss(model.matcher, with_masks=False)
    outputs = grounding_outputs(model, batch)
    total, terms = prompted_loss(
        loss, outputs, loss_targets(model, batch), step_boxes=2.0, step_prompts=2.0
    )
    assert total.isfinite()
    assert set(terms) == {"loss_bbox", "loss_giou", "loss_ce", "presence_loss"}


def test_a_box_only_object_has_no_mask_loss(model: Sam3Image) -> None:
    batch = random_batch(((2,),))
    loss = build_loss(model.matcher, with_masks=True)
    outputs = grounding_outputs(model, batch)
    batch.has_mask[:] = False
    _, terms = prompted_loss(
        loss, outputs, loss_targets(model, batch), step_boxes=2.0, step_prompts=1.0
    )
    assert terms["loss_mask"] == 0
    assert terms["loss_dice"] == 0
    assert terms["loss_bbox"] > 0


def test_the_loss_of_half_precision_outputs_is_in_single_precision(model: Sam3Image) -> None:
    batch = random_batch(((2, 0),))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = grounding_outputs(model, batch)
    loss = build_loss(model.matcher, with_masks=True)
    total, _ = prompted_loss(
        loss, outputs, loss_targets(model, batch), step_boxes=2.0, step_prompts=2.0
    )
    assert total.dtype == torch.float32
    assert total.isfinite()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_the_images(value: float) -> None:
    names = ["a.jpg", "b.jpg"]
    assert str(not_finite(value, 1.0, names)).startswith(f"a.jpg, b.jpg: the loss became {value}")
    assert f"the gradient norm became {value}" in str(not_finite(1.0, value, names))
