"""What SAM 3 is prompted with for each class of an export."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from segtune.core.config import ConvertSettings
from segtune.core.errors import ConfigError, ExportError
from segtune.dataset.coco import Category
from segtune.dataset.prompts import fields_of, fill, plain_words
from segtune.exports.split_source import SourceCategory
from segtune.model.tokenizer import MAX_TOKENS, count_tokens

# What Roboflow appends to the name of a dataset version, with its date and time.
VERSION_SUFFIX = re.compile(r"\bv\d+\s+\d{4}-\d{2}-\d{2}\b")
SETTINGS = "--settings"


def prompted_categories(
    classes: Sequence[SourceCategory], settings: ConvertSettings, file: Path
) -> tuple[Category, ...]:
    """The classes with their prompts, in which only fields of the image are not filled in yet.

    Args:
        classes: from `class_table`.
        settings: the map from names to prompts, and the template.
        file: to name in errors about a class name.

    Raises:
        ConfigError: when the map or the template is invalid.
        ExportError: when a name is not a usable prompt, and the map has none for it.
    """
    names = [c.name for c in classes]
    _check_settings(settings, names)
    prompts = {name: settings.prompts.get(name) or _usable_words(name, file) for name in names}
    return tuple(
        Category(
            id=c.id,
            name=c.name,
            prompt=fill(settings.template, {"name": prompts[c.name]}),
            supercategory=c.supercategory or "none",
        )
        for c in classes
    )


def require_short_prompts(
    categories: Sequence[Category], fields: Iterable[Mapping[str, str]]
) -> None:
    """Check the prompts as the images' fields complete them.

    Raises:
        ConfigError: when a prompt is longer than SAM 3 reads.
    """
    of_images = list(fields) or [{}]
    texts = {fill(c.prompt, values): c.name for c in categories for values in of_images}
    for text, name in texts.items():
        if (tokens := count_tokens(text)) > MAX_TOKENS:
            raise ConfigError(
                f"the prompt {text!r} has {tokens} tokens, but SAM 3 reads {MAX_TOKENS}",
                file=SETTINGS,
                record=f"category {name!r}",
                fix="Use fewer words in convert.prompts or convert.template",
            )


def _check_settings(settings: ConvertSettings, names: Sequence[str]) -> None:
    for name, text in settings.prompts.items():
        if not text.strip():
            raise ConfigError(
                f"convert.prompts has an empty prompt for the class {name!r}",
                file=SETTINGS,
                fix="Describe what it shows, or remove the class from the map",
            )
    if "name" not in fields_of(settings.template):
        raise ConfigError(
            f"convert.template {settings.template!r} has no {{name}}, so all classes would have "
            "the same prompt",
            file=SETTINGS,
            fix="Insert {name} where the class belongs",
        )
    for name in settings.prompts:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.0)
            raise ConfigError(
                f"convert.prompts names {name!r}, which is not a class of this export",
                file=SETTINGS,
                fix=f"The closest classes are {', '.join(map(repr, near))}",
            )


def _usable_words(name: str, file: Path) -> str:
    words = plain_words(name)
    if not re.search(r"[^\W\d_]", words) or VERSION_SUFFIX.search(name):
        raise _no_prompt(name, "is not a prompt that SAM 3 can understand", file)
    if (tokens := count_tokens(words)) > MAX_TOKENS:
        raise _no_prompt(
            name, f"has {tokens} tokens as a prompt, but SAM 3 reads {MAX_TOKENS}", file
        )
    return words


def _no_prompt(name: str, problem: str, file: Path) -> ExportError:
    return ExportError(
        f"the class name {name!r} {problem}",
        file=file,
        record=f"category {name!r}",
        fix=f"Describe what it shows: convert: {{prompts: {{{name!r}: 'some words'}}}}",
    )
