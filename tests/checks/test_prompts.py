"""Rules about prompts: each is found by itself, and nothing is found in good prompts."""

from pathlib import Path

import pytest

from segtune.checks.prompts import prompt_findings
from segtune.checks.rules import RULES
from segtune.dataset.coco import Category, Image, Split

PLANTED = {
    "prompt-empty": ["  "],
    "prompt-too-long": ["a small crack in the wall of an old house " * 4],
    "prompt-duplicate": ["red  blood cell", "Red blood cell"],
    "prompt-alike": ["hard hat", "hard-hats"],
    "prompt-contains-class": ["white blood cell", "blood cells"],
    "prompt-coordinates": ["place 41.40338 2.17403"],
    "prompt-digits": ["class 2"],
    "prompt-not-ascii": ["café"],
    "prompt-misspelled": ["potholle in a road"],
}
# Names of technical things and of real classes, which a word list may not have.
TECHNICAL = [
    *("pothole", "rbc", "wbc", "primary", "shark", "fish", "pcb", "busbar", "delamination"),
    *("erythrocyte", "trophozoite", "drusen", "varroa mite", "paratha", "idli", "kerb", "tyre"),
    *("aluminium", "tumour", "mosfet", "septoria", "seagrass", "powerline", "crackseal"),
    *("gasket", "efflorescence", "photovoltaic", "quadcopter", "charuco board", "t-shirt"),
]


def split_of(*prompts: str, name: str = "train", images: tuple[Image, ...] = ()) -> Split:
    images = images or (Image(1, "1.jpg", 9, 9), Image(2, "2.jpg", 9, 9))
    return Split(
        name=name,
        root=Path(),
        categories=tuple(Category(n, f"class {n}", text) for n, text in enumerate(prompts, 1)),
        images=images,
        annotations={image.id: () for image in images},
    )


def found(*splits: Split) -> list[tuple[str, str]]:
    return [(rule, place.text) for rule, place in prompt_findings(splits)]


@pytest.mark.parametrize(("rule", "prompts"), PLANTED.items())
def test_a_planted_defect_is_reported_under_its_rule_and_once(
    rule: str, prompts: list[str]
) -> None:
    prompts = ["manhole", *prompts, "crosswalk"]
    ((reported, text),) = found(split_of(*prompts), split_of(*prompts, name="valid"))
    assert reported == rule
    assert "'class 2'" in text and ("'class 3'" in text) == (len(prompts) > 3)


def test_every_rule_is_planted() -> None:
    assert PLANTED.keys() == {rule for rule in RULES if rule.startswith("prompt-")}


def test_technical_words_are_left_in_peace() -> None:
    assert not found(split_of(*TECHNICAL))


@pytest.mark.parametrize(
    ("prompts", "rules"),
    [
        (["hardhat", "hard hats"], ["prompt-alike"]),
        (["cap", "cape", "caps lock key"], ["prompt-contains-class"]),
        (["bus", "buses"], ["prompt-alike"]),
        (["berry", "berries"], ["prompt-alike"]),
        (["glass", "glasses"], ["prompt-alike"]),
        (["plan", "planes"], []),
        (["car", "scar", "carpet"], []),
        (["cell", "CELL", "cells"], ["prompt-duplicate", "prompt-alike"]),
        (["12 cm pipe"], ["prompt-digits"]),
        (["crack at 48° north"], ["prompt-coordinates", "prompt-not-ascii"]),
        (["place 4.137"], ["prompt-coordinates"]),
        (["place 4.13"], ["prompt-digits"]),
        (["Plate", "plate rim"], ["prompt-contains-class"]),
        (["plate", "a plate", "plate rim and a plate rim"], ["prompt-contains-class"] * 3),
        (["", " ", "crack"], ["prompt-empty"] * 2),
    ],
)
def test_which_prompts_are_alike(prompts: list[str], rules: list[str]) -> None:
    assert [rule for rule, _ in found(split_of(*prompts))] == rules


def test_a_misspelled_word_is_shown_with_what_it_likely_means() -> None:
    ((rule, text),) = found(split_of("big helmat"))
    assert rule == "prompt-misspelled" and text.endswith("'helmat' is likely 'helmet'")


def test_what_the_tokenizer_sees_is_shown() -> None:
    ((_, misspelled),) = found(split_of("Potholle on a road"))
    assert "'Potholle on a road', read as 'po| thol| le on a road'" in misspelled
    # Of a long prompt, what is read: 30 tokens besides the start and the end.
    ((_, long),) = found(split_of("green leaf " * 20))
    assert "class 'class 1', 42 tokens" in long
    assert long.endswith(f"read as {' '.join(['green leaf'] * 15)!r}")


def test_prompts_with_fields_are_checked_as_the_images_complete_them() -> None:
    views = ("front", "back 2", "front", "back 2", "")
    images = tuple(
        Image(n, f"{n}.jpg", 9, 9, {"view": view}) for n, view in enumerate(views, start=1)
    )
    split = split_of("car {view}", "car", images=images)
    places = list(prompt_findings([split]))
    assert [(rule, place.split, place.image) for rule, place in places] == [
        ("prompt-contains-class", "train", "1.jpg"),
        ("prompt-contains-class", "train", "2.jpg"),
        ("prompt-digits", "train", "2.jpg"),
        ("prompt-duplicate", "train", "5.jpg"),
    ]
    assert "'car back 2'" in places[2][1].text and "2.jpg" in places[2][1].text


def test_of_equal_prompts_the_first_is_the_one_that_is_contained() -> None:
    places = found(split_of("plate", "plates", "plate rim"))
    (text,) = (text for rule, text in places if rule == "prompt-contains-class")
    assert text.endswith("contains 'plate' of 'class 1'")


def test_as_many_tokens_as_are_read_are_not_too_many() -> None:
    assert not found(split_of("green leaf " * 15))
    ((rule, text),) = found(split_of("green leaf " * 15 + "green"))
    assert rule == "prompt-too-long" and "33 tokens" in text


def test_a_prompt_of_very_many_words_does_not_take_long() -> None:
    # All parts of all its words would be 12 million.
    rules = [rule for rule, _ in found(split_of("leaf " * 5000, "green"))]
    assert rules == ["prompt-too-long"]
