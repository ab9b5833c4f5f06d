"""The mask loss: equal to the package's, in memory that does not grow with the objects."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from benchmarks.stock_loss import loss_fns
from segtune.model.mask_embeddings import MaskEmbeddings
from segtune.training.mask_loss import ChunkedMasks

WEIGHTS = {"loss_mask": 200.0, "loss_dice": 10.0}
SIDE = 24  # pixels of the ground truth
CHUNK = 8
COUNT = 2 * CHUNK + 3


def scene(valid: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, dict[str, Any]]:
    torch.manual_seed(0)
    logits = torch.randn(3, 20, 9, 9).to(dtype).requires_grad_()
    masks = torch.rand(len(valid), SIDE, SIDE) < 0.3
    return logits, {"masks": masks, "is_valid_mask": valid}


def matched(objects: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    torch.manual_seed(1)
    count = COUNT if objects is None else len(objects)
    return torch.randint(0, 3, (count,)), torch.randint(0, 20, (count,)), objects


def outputs(loss: Any, logits: Tensor) -> dict[str, Any]:
    """With what this loss reads for `logits` (R, Q, h, w)."""
    if not isinstance(loss, ChunkedMasks):
        return {"pred_masks": logits}
    prompts, queries = logits.shape[:2]
    one_each = torch.eye(queries, dtype=logits.dtype).repeat(prompts, 1, 1)
    embeddings = MaskEmbeddings(one_each, logits.unbind())
    return {"pred_masks": embeddings, "mask_rows": torch.arange(prompts)}


def computed(
    loss: Any, logits: Tensor, targets: dict[str, Any], indices: tuple[Any, ...]
) -> tuple[dict[str, Tensor], Tensor]:
    """The terms, and the gradient of their weighted sum."""
    terms = loss.get_loss(outputs(loss, logits), targets, indices, torch.tensor(7.0))
    (gradient,) = torch.autograd.grad(sum(terms[n] * w for n, w in WEIGHTS.items()), logits)
    return terms, gradient


@pytest.mark.parametrize(
    "objects",
    [None, torch.randperm(COUNT, generator=torch.manual_seed(2)), torch.tensor([4, 4, 1])],
    ids=["in order", "permuted", "an object twice"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, CHUNK])
def test_it_has_the_values_and_gradients_of_the_package(
    objects: Tensor | None, dtype: torch.dtype, chunk: int
) -> None:
    valid = torch.arange(COUNT) % 4 != 1
    logits, targets = scene(valid, dtype)
    indices = matched(objects)
    stock, expected = computed(
        loss_fns.Masks(weight_dict=WEIGHTS, focal_alpha=0.25, focal_gamma=2.0),
        logits.detach().float().requires_grad_(),
        targets,
        indices,
    )
    chunked = ChunkedMasks(masks_per_chunk=chunk)
    terms, gradient = computed(chunked, logits, targets, indices)
    assert_close(terms, stock)
    # In bfloat16, the gradients of a query with two masks are added with 8 bits.
    rounding = 1e-5 if dtype == torch.float32 else 1e-2
    assert_close(gradient.float(), expected, rtol=rounding, atol=rounding * float(expected.max()))


@pytest.mark.parametrize("valid", [torch.zeros(4, dtype=torch.bool), torch.ones(0).bool()])
def test_without_masks_it_is_zero_and_has_a_gradient(valid: Tensor) -> None:
    logits, targets = scene(valid)
    chunked = ChunkedMasks(masks_per_chunk=CHUNK)
    terms, gradient = computed(chunked, logits, targets, matched(torch.arange(len(valid))))
    assert terms == {"loss_mask": 0, "loss_dice": 0}
    assert not gradient.any()  # but not None


def test_what_is_kept_for_the_backward_pass_is_less_than_a_plane_per_mask() -> None:
    count = 8 * CHUNK
    logits, targets = scene(torch.ones(count, dtype=torch.bool))
    indices = matched(torch.arange(count))

    def kept_bytes(loss: Any) -> int:
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss.get_loss(outputs(loss, logits), targets, indices, torch.tensor(7.0))
        return sum(kept.values())

    plane = SIDE * SIDE * 4
    assert kept_bytes(loss_fns.Masks(weight_dict=WEIGHTS)) > 3 * plane * count
    chunked = ChunkedMasks(masks_per_chunk=CHUNK)
    assert kept_bytes(chunked) < plane * count / 2
