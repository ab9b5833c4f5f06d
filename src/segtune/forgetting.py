"""What fine-tuning has made of words beyond the data: found before, found after, kept."""

from collections.abc import Iterable, Sequence
from typing import Any

from pycocotools import mask as mask_utils

from segtune.errors import DatasetError
from segtune.predictions import Asked

OVERLAP = 0.5  # IoU from which two detections are the same thing


def forgetting(base: Asked, tuned: Asked, score: float) -> dict[str, Any]:
    """Compare the answers of two models to the same words on the same pictures.

    What the base model found is no ground truth: a word may rightly be forgotten where it was
    found wrongly. But a model that was fine-tuned gently says much the same as before.

    Args:
        base: answers before.
        tuned: answers after.
        score: detections count from this score on.

    Returns:
        `per_prompt`, each with the numbers of detections `before`, `after` and `kept` (found
        before and, with an IoU of 0.5, after) and `kept_share`; and the same over `all`.

    Raises:
        DatasetError: when they were asked different words.
    """
    if base.prompts != tuned.prompts:
        raise DatasetError(
            "the two models were asked other words", remedy="Run segtune.predict again for both"
        )
    per_prompt = {
        prompt: _compared(_of(base, number, score), _of(tuned, number, score))
        for number, prompt in base.prompts.items()
    }
    return {"score": score, "all": _total(per_prompt.values()), "per_prompt": per_prompt}


def _of(asked: Asked, number: int, score: float) -> list[dict[str, Any]]:
    return [d for d in asked.detections if d["category_id"] == number and d["score"] >= score]


def _compared(
    before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]
) -> dict[str, float | None]:
    pictures = {d["image_id"] for d in before} & {d["image_id"] for d in after}
    kept = sum(
        _matches(*([d["segmentation"] for d in found if d["image_id"] == p] for found in sides))
        for p in pictures
        for sides in [(before, after)]
    )
    return _with_share({"before": len(before), "after": len(after), "kept": kept})


def _matches(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> int:
    """How many of the one have a partner among the other; each is used once."""
    ious = mask_utils.iou(before, after, [0] * len(after))
    free = set(range(len(after)))
    for row in ious:
        best = max(free, key=lambda place: row[place], default=None)
        if best is not None and row[best] >= OVERLAP:
            free.remove(best)
    return len(after) - len(free)


def _total(found: Iterable[dict[str, Any]]) -> dict[str, float | None]:
    rows = list(found)
    return _with_share({n: sum(row[n] for row in rows) for n in ("before", "after", "kept")})


def _with_share(numbers: dict[str, int]) -> dict[str, float | None]:
    share = numbers["kept"] / numbers["before"] if numbers["before"] else None
    return {**numbers, "kept_share": share}
