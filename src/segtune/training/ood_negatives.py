"""Out-of-distribution negatives: everyday nouns that the images of most datasets do not show.

Without any negative prompt, a model learns to detect its classes whatever it is prompted with.
The nouns are in the file beside this module; some of them are held out for validation.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from segtune.core.errors import ConfigError, shown
from segtune.dataset.coco import Split
from segtune.model.tokenizer import MAX_TOKENS, count_tokens

Nouns = Mapping[str, Sequence[str]]  # noun -> words for which it is left out

NOUNS_FILE = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class OodNegatives:
    """Nouns that no class and no prompt of a dataset resembles."""

    trained: tuple[str, ...]
    held_out: tuple[str, ...]  # only for validation
    left_out: dict[str, str]  # noun -> what it resembles


NO_NOUNS = OodNegatives((), (), {})


def ood_negatives(chosen: Sequence[str] | None, names: Iterable[str]) -> OodNegatives:
    """The nouns for a dataset.

    A noun is left out if it shares a word with a name, or if a name contains one of its
    near-synonyms; case, plural and punctuation do not count.

    Args:
        chosen: the nouns to train on; None for those that ship with segtune. Those held out
            always are from there.
        names: class names and prompts of the dataset, and other negatives.

    Raises:
        ConfigError: when a chosen noun is not a prompt.
    """
    shipped = _shipped_nouns()
    near = {**shipped["trained"], **shipped["held_out"]}
    trained = _distinct(shipped["trained"] if chosen is None else chosen)
    require_prompts(trained, "ood_negatives")
    words_of = {name: _words(name) for name in sorted(set(names))}
    left_out = {
        noun: name
        for noun in [*trained, *shipped["held_out"]]
        if (name := _resembled(noun, near.get(noun, ()), words_of)) is not None
    }
    trained = [noun for noun in trained if noun not in left_out]
    others = {noun: _words(noun) for noun in trained}
    return OodNegatives(
        trained=tuple(trained),
        held_out=tuple(
            noun
            for noun, synonyms in shipped["held_out"].items()
            if noun not in left_out and _resembled(noun, synonyms, others) is None
        ),
        left_out=left_out,
    )


def names_of(splits: Iterable[Split]) -> set[str]:
    """The class names of splits, and all prompts for them."""
    return {
        name
        for split in splits
        for name in (
            *(category.name for category in split.categories),
            *(text for image in split.images for text in split.prompts(image).values()),
        )
    }


def require_prompts(texts: Iterable[str], setting: str) -> None:
    """Refuse negatives that SAM 3 cannot read.

    Raises:
        ConfigError: naming the setting of `train` and the text.
    """
    for text in texts:
        if not _words(text) or count_tokens(text) > MAX_TOKENS:
            raise ConfigError(
                f"train.{setting}: {shown(text)} has no word, or more than {MAX_TOKENS} tokens",
                fix="Describe a thing in a few words",
            )


def _shipped_nouns() -> dict[str, Nouns]:
    nouns: dict[str, Nouns] = yaml.safe_load(NOUNS_FILE.read_text("utf-8"))
    return nouns


def _distinct(nouns: Iterable[str]) -> list[str]:
    found: dict[frozenset[str], str] = {}
    for noun in nouns:
        found.setdefault(_words(noun), noun)
    return list(found.values())


def _resembled(
    noun: str, synonyms: Sequence[str], words_of: Mapping[str, frozenset[str]]
) -> str | None:
    """The first name that a noun resembles."""
    own, near = _words(noun), [_words(synonym) for synonym in synonyms]
    return next(
        (
            name
            for name, words in words_of.items()
            if own & words or any(synonym <= words for synonym in near)
        ),
        None,
    )


def _words(text: str) -> frozenset[str]:
    """The words of a text without case, plural and punctuation."""
    return frozenset(_stem(word) for word in re.findall(r"[^\W_]+", text.casefold()))


def _stem(word: str) -> str:
    """The same for the singular and the plural of a regular English noun; not always a word."""
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    word = word[:-1] + "i" if word.endswith("y") else word
    return word.removesuffix("e")
