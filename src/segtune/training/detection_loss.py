"""The box, score and presence losses of the official recipe, for all decoder layers at once.

The package matches and scores one decoder layer after the other, and in each first the queries that
are matched one-to-one, then those that are matched one-to-many: thousands of operations on a few
numbers each, for which a GPU is waited for. Layers are only rows of a longer batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert

KINDS = ("", "_o2m")  # of outputs: matched one-to-one, and one-to-many
# Of the fine-tuning configuration that Meta publishes with SAM 3.
MATCHED_WEIGHT = 10.0  # of the score of a matched query
SCORE_EXPONENT = 0.25  # of the score itself in the score that it should have; of the IoU, 1 - it
MIN_SCORE = 0.01  # that a matched query should have
UNMATCHED_POWER = 2.0  # of the score by which the loss of an unmatched query is weighted
PRESENCE_WEIGHT = 0.5
MIN_QUERIES = 200  # over which scores are averaged, even if there are fewer


@dataclass(frozen=True)
class Matches:
    """Pairs of predictions and objects."""

    rows: Tensor  # (M,) of the batch
    queries: Tensor  # (M,)
    objects: Tensor  # (M,)


@dataclass(frozen=True)
class Predictions:
    """Of P prompts by L layers: 2 L sets, first those that are matched one-to-one."""

    logits: Tensor  # (2 L P, Q)
    boxes_cxcywh: Tensor  # (2 L P, Q, 4)
    presence: Tensor  # (L, P) logits

    @classmethod
    def of(cls, outputs: Mapping[str, Any]) -> "Predictions":
        """From the outputs of the model in training."""
        layers = [*outputs.get("aux_outputs", ()), outputs]
        logits, boxes_cxcywh = (
            torch.cat([layer[name + kind] for kind in KINDS for layer in layers])
            for name in ("pred_logits", "pred_boxes")
        )
        presence = torch.stack([layer["presence_logit_dec"].flatten() for layer in layers])
        return cls(logits.squeeze(-1), boxes_cxcywh, presence)

    @property
    def layers(self) -> int:
        """L."""
        return len(self.presence)

    @property
    def prompts(self) -> int:
        """P."""
        return self.presence.shape[1]


@dataclass(frozen=True)
class Matched:
    """The matches of all sets: one-to-one, but one-to-many in the last layer's second set."""

    one_to_one: Matches  # as many in each of the first 2 L - 1 sets, in their order
    one_to_many: Matches  # with rows below P

    def of_last_layer(self, predictions: Predictions) -> tuple[Matches, Matches]:
        """One-to-one and one-to-many matches, with rows below P."""
        one, layers = self.one_to_one, predictions.layers
        size = len(one.rows) // (2 * layers - 1)
        last = slice((layers - 1) * size, layers * size)
        before = (layers - 1) * predictions.prompts
        found = Matches(one.rows[last] - before, one.queries[last], one.objects[last])
        return found, self.one_to_many

    def whole(self, predictions: Predictions) -> Matches:
        """All, with the rows of the batch."""
        one, many = self.one_to_one, self.one_to_many
        before = (2 * predictions.layers - 1) * predictions.prompts
        return Matches(
            torch.cat([one.rows, many.rows + before]),
            torch.cat([one.queries, many.queries]),
            torch.cat([one.objects, many.objects]),
        )

    def per_set(self, values: Tensor, layers: int) -> Tensor:
        """(n, 2 L) the sums over the matches of each set, of values (n, M) of `whole`."""
        ones, manys = values.split([len(self.one_to_one.rows), len(self.one_to_many.rows)], dim=1)
        sets = 2 * layers - 1
        sums = ones.unflatten(1, (sets, ones.shape[1] // sets)).sum(2)
        return torch.cat([sums, manys.sum(1, keepdim=True)], dim=1)


@torch.no_grad()
def match(
    predictions: Predictions, targets: Mapping[str, Any], one: nn.Module, many: nn.Module
) -> Matched:
    """Match predictions with objects, as the package does.

    Args:
        predictions: of all sets.
        targets: from `loss_targets`.
        one: the one-to-one matcher.
        many: the one-to-many matcher.
    """
    outputs = {"pred_logits": predictions.logits[..., None], "pred_boxes": predictions.boxes_cxcywh}
    sets, count = 2 * predictions.layers - 1, len(targets["boxes"])
    before = sets * predictions.prompts
    rows, queries, objects = one(
        {name: values[:before] for name, values in outputs.items()}, targets, repeat_batch=sets
    )
    if objects is None:  # all of them, in order
        objects = torch.arange(sets * count, device=rows.device)
    last = many({name: values[before:] for name, values in outputs.items()}, targets)
    return Matched(Matches(rows, queries, objects % max(count, 1)), Matches(*last))


def detection_losses(
    predictions: Predictions, targets: Mapping[str, Any], matched: Matched, num_boxes: Tensor
) -> dict[str, Tensor]:
    """The losses of each set (2 L,) by name, and of each layer (L,) for presence.

    Args:
        predictions: of all sets.
        targets: from `loss_targets`.
        matched: from `match`.
        num_boxes: the box losses are divided by it.
    """
    layers, prompts = predictions.layers, predictions.prompts
    matches, shown = matched.whole(predictions), _shown(targets)
    distances, overlaps, iou = _box_losses(predictions, targets["boxes"], matches)
    distances, overlaps = matched.per_set(torch.stack([distances, overlaps]), layers)
    scores = _score_losses(predictions, matches, iou).view(2 * layers, prompts) @ shown
    queries = max(predictions.logits.shape[1], MIN_QUERIES)
    presence = F.binary_cross_entropy_with_logits(
        predictions.presence, shown.expand(layers, -1), reduction="none"
    )
    return {
        "loss_bbox": distances / num_boxes,
        "loss_giou": overlaps / num_boxes,
        "loss_ce": scores / (queries * prompts),
        "presence_loss": PRESENCE_WEIGHT * presence.mean(1),
    }


def _shown(targets: Mapping[str, Any]) -> Tensor:
    """(P,) 1 for prompts with a box that has an area, 0 for others."""
    has_area = (targets["boxes_padded"][..., 2:] > 0).all(-1)
    return ((targets["object_ids_padded"] >= 0) & has_area).any(-1).float()


def _box_losses(
    predictions: Predictions, truth_cxcywh: Tensor, matches: Matches
) -> tuple[Tensor, Tensor, Tensor]:
    """(M,) each: the L1 distance, 1 - generalized IoU, and IoU without a gradient."""
    found = predictions.boxes_cxcywh[matches.rows, matches.queries]
    truth = truth_cxcywh[matches.objects]
    distance = F.l1_loss(found, truth, reduction="none").sum(1)
    low, high = box_convert(found, "cxcywh", "xyxy").split(2, dim=1)
    true_low, true_high = box_convert(truth, "cxcywh", "xyxy").split(2, dim=1)
    both = _area((torch.minimum(high, true_high) - torch.maximum(low, true_low)).clamp(min=0))
    around = _area((torch.maximum(high, true_high) - torch.minimum(low, true_low)).clamp(min=0))
    union = _area(high - low) + _area(true_high - true_low) - both
    iou = both / union
    return distance, 1 - (iou - (around - union) / around), iou.detach()


def _area(sizes: Tensor) -> Tensor:
    # Not their `prod`, whose gradient takes eight operations.
    width, height = sizes.unbind(1)
    return width * height


def _score_losses(predictions: Predictions, matches: Matches, iou: Tensor) -> Tensor:
    """(2 L P,) the loss of the scores of all queries.

    That of a matched query is the cross-entropy to a score between its own and its IoU; if it is
    matched with several objects, that of the last one counts. That of others is a focal loss.
    """
    logits, places = predictions.logits, (matches.rows, matches.queries)
    scores = logits.sigmoid()
    wanted, matched = torch.zeros_like(logits), torch.zeros_like(logits)
    between = scores.detach()[places] ** SCORE_EXPONENT * iou ** (1 - SCORE_EXPONENT)
    wanted[places], matched[places] = between.clamp(MIN_SCORE), 1
    # The wanted score of an unmatched query is 0.
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    weights = matched * MATCHED_WEIGHT + (1 - matched) * scores**UNMATCHED_POWER
    return (entropy * weights).sum(1)
