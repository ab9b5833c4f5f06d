"""What is doubtful about the prompts of a dataset.

SAM 3 is prompted with a class in every image, so prompts that are alike contradict each other
wherever only one of the classes is labeled.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from segtune.checks.english import likely_spelling, singulars
from segtune.dataset.coco import Image, Split
from segtune.dataset.findings import Found, Place
from segtune.dataset.prompts import fields_of
from segtune.model.tokenizer import MAX_TOKENS, count_tokens, tokens_read

COORDINATES = re.compile(r"\d\.\d{3}|\d\s*°")
WORD = re.compile(r"[^\W_]+")
Prompts = Mapping[int, str]  # by category id


def prompt_findings(splits: Sequence[Split]) -> Iterator[Found]:
    """Check the prompts of all images; what several images have in common is reported once."""
    reported: set[tuple[str, str]] = set()
    for split in splits:
        names = {category.id: category.name for category in split.categories}
        for image, prompts in _distinct_prompts(split):
            found = [*_alike(prompts, names), *_containing(prompts, names)]
            for number, text in prompts.items():
                found += _in_one(text, names[number])
            for rule, where in found:
                if (rule, where) not in reported:
                    reported.add((rule, where))
                    yield rule, _place(split, image, where)


def _distinct_prompts(split: Split) -> Iterator[tuple[Image, Prompts]]:
    """The first image of those that have the same prompts, with its prompts."""
    fields = sorted(set().union(*(fields_of(category.prompt) for category in split.categories)))
    firsts: dict[tuple[str | None, ...], Image] = {}
    for image in split.images:
        firsts.setdefault(tuple(map(image.fields.get, fields)), image)
    for image in firsts.values():
        yield image, split.prompts(image)


def _place(split: Split, image: Image, where: str) -> Place:
    if any(fields_of(category.prompt) for category in split.categories):
        return Place(f"{split.name}: {image.file_name}: {where}", split.name, image.file_name)
    return Place(where)


def _in_one(text: str, name: str) -> Iterator[tuple[str, str]]:
    """What is doubtful about one prompt: the rule, and the prompt in words."""
    where = f"class {name!r}"
    if not text.strip():
        yield "prompt-empty", where
        return
    if (tokens := count_tokens(text)) > MAX_TOKENS:
        yield "prompt-too-long", f"{where}, {tokens} tokens: {_shown(text)}"
    if COORDINATES.search(text):
        yield "prompt-coordinates", f"{where}: {_shown(text)}"
    elif re.search(r"\d", text):
        yield "prompt-digits", f"{where}: {_shown(text)}"
    if not text.isascii():
        yield "prompt-not-ascii", f"{where}: {_shown(text)}"
    for word in _words(text):
        if meant := likely_spelling(word):
            yield "prompt-misspelled", f"{where}: {_shown(text)}; {word!r} is likely {meant!r}"


def _alike(prompts: Prompts, names: Mapping[int, str]) -> Iterator[tuple[str, str]]:
    """Classes whose prompts are the same, or nearly so."""
    exact = {number: _as_read(text) for number, text in prompts.items()}
    joined = {number: "".join(key) for number, key in _keys(prompts).items()}
    joined = {number: _singular(key, set(joined.values())) for number, key in joined.items()}
    for group in _groups(exact):
        yield "prompt-duplicate", _listed(group, prompts, names)
    for group in _groups(joined):
        if len({exact[number] for number in group}) > 1:
            yield "prompt-alike", _listed(group, prompts, names)


def _groups(keys: Mapping[int, str]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for number, key in keys.items():
        groups.setdefault(key, []).append(number)
    return [group for key, group in groups.items() if key and len(group) > 1]


def _containing(prompts: Prompts, names: Mapping[int, str]) -> Iterator[tuple[str, str]]:
    """Prompts with all the words of another class's prompt, side by side."""
    keys = _keys(prompts)
    owners = {key: number for number, key in reversed(keys.items()) if key}
    for number, key in keys.items():
        inside = (key[i:j] for i in range(len(key)) for j in range(i + 1, len(key) + 1))
        for part in dict.fromkeys(inside):
            if part != key and part in owners:
                other = owners[part]
                where = f"class {names[number]!r}: {_shown(prompts[number])} contains"
                yield "prompt-contains-class", f"{where} {prompts[other]!r} of {names[other]!r}"


def _keys(prompts: Prompts) -> dict[int, tuple[str, ...]]:
    """The words of each prompt, in the singular where another prompt has that."""
    # No prompt has more words that are read; a hostile one could have millions.
    words = {number: tuple(_words(text)[:MAX_TOKENS]) for number, text in prompts.items()}
    known = {word for found in words.values() for word in found}
    return {
        number: tuple(_singular(word, known) for word in found) for number, found in words.items()
    }


def _singular(word: str, known: set[str]) -> str:
    return next((found for found in singulars(word) if found in known), word)


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _as_read(text: str) -> str:
    return " ".join(text.lower().split())


def _listed(group: Sequence[int], prompts: Prompts, names: Mapping[int, str]) -> str:
    return ", ".join(f"class {names[number]!r}: {_shown(prompts[number])}" for number in group)


def _shown(text: str) -> str:
    """A prompt, and as what the text encoder reads it."""
    return f"{text!r}, read as {' '.join(tokens_read(text))!r}"
