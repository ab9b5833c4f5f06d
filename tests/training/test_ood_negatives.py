"""Out-of-distribution negatives: which nouns a dataset gets, and which are held out."""

from dataclasses import replace

import pytest

from segtune.core.errors import ConfigError
from segtune.dataset.coco import Category, Image
from segtune.training.ood_negatives import names_of, ood_negatives
from tests.scenes import split_of


def test_nouns_ship_with_segtune_and_some_are_held_out() -> None:
    nouns = ood_negatives(None, ["urchin", "limpet", "kelp"])
    assert len(nouns.trained) >= 20
    assert len(nouns.held_out) >= 5
    assert not {*nouns.trained} & {*nouns.held_out}
    assert not nouns.left_out


@pytest.mark.parametrize(
    ("name", "noun"),
    [
        ("giraffe", "giraffe"),
        ("GIRAFFES", "giraffe"),
        ("baby_giraffe-head", "giraffe"),
        ("a balloon", "hot air balloon"),
        ("traffic cones", "ice cream cone"),
        ("wild animals", "giraffe"),
        ("Sea-Birds, birds", "penguin"),
        ("musical_instruments", "accordion"),
        ("berry pastries", "pretzel"),
        ("glass kettles", "teapot"),
        ("crayfish", "lobster"),
    ],
)
def test_a_noun_like_a_class_is_left_out(name: str, noun: str) -> None:
    nouns = ood_negatives(None, ["urchin", name])
    assert nouns.left_out[noun] == name
    assert noun not in {*nouns.trained, *nouns.held_out}
    assert len(nouns.trained) > 10


def test_a_part_of_a_word_is_not_a_word() -> None:
    names = ["spotlight", "birdcage", "lightening", "seal", "iced", "castaway", "analysis"]
    assert not ood_negatives(None, names).left_out


def test_nouns_of_the_user_replace_those_to_train_on() -> None:
    nouns = ood_negatives(["bus", "Buses", "glass house", "kettle"], ["bus stop"])
    assert nouns.trained == ("glass house", "kettle")
    assert nouns.left_out == {"bus": "bus stop"}
    # A kettle is trained on, and a teapot is like one.
    assert "teapot" not in nouns.held_out
    assert "castle" in nouns.held_out


def test_without_nouns_to_train_on_others_are_still_held_out() -> None:
    nouns = ood_negatives([], ["urchin"])
    assert nouns.trained == ()
    assert nouns.held_out == ood_negatives(None, ["urchin"]).held_out


@pytest.mark.parametrize("noun", ["", " ", "!", "word " * 40])
def test_a_noun_that_is_not_a_prompt_is_an_error(noun: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.ood_negatives: .* has no word, or more than 32"):
        ood_negatives(["teapot", noun], [])


def test_names_are_those_of_classes_and_of_every_prompt() -> None:
    split = replace(
        split_of([]),
        categories=(Category(1, "rbc", "red blood cell, {view} view"),),
        images=tuple(Image(n, f"{n}.jpg", 8, 8, {"view": v}) for n, v in ((1, "top"), (2, "side"))),
    )
    side_only = replace(split, images=split.images[1:])
    prompts = {"red blood cell, top view", "red blood cell, side view"}
    assert names_of([split]) == {"rbc", *prompts}
    assert names_of([side_only]) == {"rbc", "red blood cell, side view"}
    assert names_of([side_only, split]) == {"rbc", *prompts}
