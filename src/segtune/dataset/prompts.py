"""Prompts with fields: "{name}, {view} view" differs from image to image.

A field is a plain word in braces. `str.format` is not used, because its fields may access
attributes of objects.
"""

import re
from collections.abc import Mapping

FIELD = re.compile(r"\{(\w+)\}")


def fields_of(template: str) -> set[str]:
    """The names of the fields in a template."""
    return set(FIELD.findall(template))


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with its known fields replaced; other fields stay as they are."""
    return FIELD.sub(lambda match: values.get(match[1], match[0]), template)


def plain_words(name: str) -> str:
    """The name of a class with spaces between its words, as the prompt for it."""
    return " ".join(re.sub(r"[_\-]+", " ", name).split())
