"""Which phrasing of a prompt the base model understands best, by its detections on labeled images.

Each phrasing is a category of its own, with the objects of its class as ground truth.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest

from segtune.checks.english import is_word, plural, singulars
from segtune.dataset.coco import Category, Image, Split
from segtune.dataset.detections import Detections
from segtune.dataset.prompts import plain_words
from segtune.evaluation.average_precision import score_detections
from segtune.evaluation.bootstrap import Interval, paired_differences
from segtune.evaluation.calibration import best_threshold
from segtune.evaluation.matching import ClassMatches
from segtune.evaluation.metrics import MIN_IMAGES
from segtune.model.tokenizer import MAX_TOKENS, count_tokens

RESAMPLES = 1000


@dataclass(frozen=True)
class Phrasing:
    """How well the base model detects a class by one prompt; None where it detects nothing."""

    prompt: str
    box_AP: float | None  # noqa: N815
    f1: float | None  # at the confidence threshold where it is highest
    threshold: float | None


@dataclass(frozen=True)
class ClassPhrasings:
    """The phrasings of one class, and whether the best is better than the present prompt."""

    objects: int
    images: int  # with objects
    present: str
    best: str
    difference: Interval  # in box AP, of the best from the present one, with its 95% interval
    phrasings: tuple[Phrasing, ...]  # highest AP first


def phrasings_of(prompt: str, supercategory: str, further: Iterable[str]) -> list[str]:
    """Phrasings to compare: the prompt itself first, then those of the user, then variants.

    Args:
        prompt: of the class, without the template; not longer than the text encoder reads.
        supercategory: of the class, or "none".
        further: given by the user.
    """
    *others, last = prompt.split()
    one = next((found for found in singulars(last.lower()) if is_word(found)), last)
    singular = " ".join([*others, one])
    article = "an" if singular[0].lower() in "aeiou" else "a"
    several = " ".join([*others, plural(one)])
    variants = [singular, several, f"{article} {singular}"]
    # In many exports it is the name of the project, which means nothing.
    kind = plain_words(supercategory).lower()
    if kind != "none" and all(map(is_word, kind.split())) and kind not in several.lower():
        variants.append(f"{singular} {kind}")
    distinct: dict[str, str] = {}
    for text in (prompt, *further, *variants):
        if count_tokens(text) <= MAX_TOKENS:
            distinct.setdefault(" ".join(text.lower().split()), text)
    return list(distinct.values())


def sampled(split: Split, limit: int) -> list[Image]:
    """At most so many images, the classes in turn; which ones depends only on their names.

    Images without objects take their turn, too: a phrasing may detect something there.
    """
    by_class: dict[int, list[Image]] = {}
    for image in sorted(split.images, key=_order):
        for number in {a.category_id for a in split.annotations[image.id]} or {0}:
            by_class.setdefault(number, []).append(image)
    in_turn = chain.from_iterable(zip_longest(*(by_class[n] for n in sorted(by_class))))
    distinct = {image.id: image for image in in_turn if image}
    return list(distinct.values())[:limit]


def _order(image: Image) -> bytes:
    return hashlib.sha256(image.file_name.encode()).digest()


def phrased_split(split: Split, images: Sequence[Image], prompts: Mapping[int, list[str]]) -> Split:
    """Some images of a split, with a category for each phrasing of a class, in order.

    Args:
        split: images and objects.
        images: of the split.
        prompts: by category id, which may contain `{fields}`.
    """
    texts = [(number, text) for number, found in prompts.items() for text in found]
    categories = tuple(Category(n, str(n), text) for n, (_, text) in enumerate(texts, start=1))
    phrased: dict[int, list[int]] = {}
    for category, (number, _) in zip(categories, texts, strict=True):
        phrased.setdefault(number, []).append(category.id)
    annotations = {
        image.id: tuple(
            replace(a, id=len(texts) * a.id + n, category_id=n)
            for a in split.annotations[image.id]
            for n in phrased[a.category_id]
        )
        for image in images
    }
    return replace(split, categories=categories, images=tuple(images), annotations=annotations)


def compare_phrasings(
    split: Split, detections: Detections, phrasings: Mapping[str, list[str]]
) -> dict[str, ClassPhrasings]:
    """Rank the phrasings of each class by box AP.

    Args:
        split: from `phrased_split`.
        detections: in its images.
        phrasings: by class name, in the order of the split's categories; the present one first.
    """
    scored = score_detections(split, detections, "box")
    remaining = zip(scored.summary.per_class.values(), scored.matches, strict=True)
    return {
        name: _ranked(texts, [next(remaining) for _ in texts]) for name, texts in phrasings.items()
    }


def _ranked(
    texts: Sequence[str], scored: Sequence[tuple[float | None, ClassMatches]]
) -> ClassPhrasings:
    # The sort is stable: of equal phrasings, the present one comes first.
    order = sorted(range(len(texts)), key=lambda n: -(scored[n][0] or 0.0))
    present, best = scored[0][1], scored[order[0]][1]
    return ClassPhrasings(
        objects=int(present.objects.sum()),
        images=int((present.objects > 0).sum()),
        present=texts[0],
        best=texts[order[0]],
        difference=paired_differences([present], [best], RESAMPLES)[0],
        phrasings=tuple(_phrasing(texts[n], *scored[n]) for n in order),
    )


def _phrasing(text: str, average_precision: float | None, matches: ClassMatches) -> Phrasing:
    chosen = best_threshold(matches)
    if chosen is None:
        return Phrasing(text, average_precision, f1=None, threshold=None)
    return Phrasing(text, average_precision, f1=chosen.f1, threshold=chosen.threshold)


def suggested_prompts(found: Mapping[str, ClassPhrasings]) -> dict[str, str]:
    """Class -> the best phrasing, where the interval of its difference is above 0.

    Not for a class in a few images only: resamples of few images differ too little.
    """
    return {
        name: c.best
        for name, c in found.items()
        if c.images >= MIN_IMAGES and (c.difference.low or 0.0) > 0
    }
