"""What is known of English words: spelling, and singular and plural."""

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from segtune.model.tokenizer import tokens_read

if TYPE_CHECKING:
    from spellchecker import SpellChecker

MIN_LETTERS = 5  # shorter words are abbreviations as often as misspellings
# Occurrences in the texts behind the word list, which has 1.6 billion words. Rarer words are
# neighbors of names and technical terms by chance.
MIN_COUNT = 200
SIBILANTS = ("s", "x", "z", "ch", "sh", "o")


def likely_spelling(word: str) -> str | None:
    """The word that a lower-case word is likely meant to be; None where it may well be right.

    That is a common word that differs by one letter, or by the order of two. A word that the text
    encoder reads as one token is left as it is: it was frequent in what that has learned from.
    """
    words = _words()
    if len(word) < MIN_LETTERS or not word.isalpha() or word in words:
        return None
    counts = words.word_frequency
    near = [found for found in words.edit_distance_1(word) if counts[found] > MIN_COUNT]
    if not near or tokens_read(word) == [word]:
        return None
    return min(near, key=lambda found: (-counts[found], found))


def is_word(word: str) -> bool:
    """Whether the word list has a lower-case word."""
    return word in _words()


def singulars(word: str) -> Iterator[str]:
    """What a lower-case word would be the regular plural of, the likeliest first."""
    if word.endswith("ies"):
        yield f"{word[:-3]}y"
    if word.endswith("es") and word[:-2].endswith(SIBILANTS):
        yield word[:-2]
    if word.endswith("s") and not word.endswith("ss"):
        yield word[:-1]


def plural(word: str) -> str:
    """The regular plural of a lower-case word."""
    if word.endswith("y") and not word.endswith(("ay", "ey", "oy", "uy")):
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(SIBILANTS) else f"{word}s"


@cache
def _words() -> "SpellChecker":
    # Reading the list takes a fifth of a second, which commands that do not check need not wait.
    from spellchecker import SpellChecker

    return SpellChecker(language="en", distance=1)
