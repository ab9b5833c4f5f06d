"""Prompts with fields: "{name}, {view} view" asks each image in its own words.

A field is a plain word in braces. Nothing else is a formula here: `str.format` would reach
into objects.
"""

import re
from collections.abc import Mapping

FIELD = re.compile(r"\{(\w+)\}")


def fields_of(template: str) -> set[str]:
    """The names of the fields in a template."""
    return set(FIELD.findall(template))


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with the values that are known; other fields stay as they are."""
    return FIELD.sub(lambda match: values.get(match[1], match[0]), template)
