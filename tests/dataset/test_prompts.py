"""Templates of prompts: which words are fields, and how they are filled in."""

from segtune.dataset.prompts import fields_of, fill


def test_only_words_in_braces_are_fields() -> None:
    assert fields_of("{name}, {view} {a.b} {0!r} {{x}}") == {"name", "view", "x"}
    assert fill("{name} {view} {name.__class__}", {"name": "{view}", "view": "top"}) == (
        "{view} top {name.__class__}"
    )
