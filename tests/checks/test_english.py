"""English words: what is called misspelled, and what is not."""

import re

import pytest
from torchvision.models import ResNet50_Weights
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from segtune.checks.english import likely_spelling, plural, singulars


def test_right_words_are_rarely_called_misspelled() -> None:
    names = [
        *ResNet50_Weights.DEFAULT.meta["categories"],
        *FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"],
    ]
    words = {word for name in names for word in re.findall("[a-z]+", name.lower())}
    assert len(words) == 1186
    assert {word for word in words if likely_spelling(word)} == {
        *("clumber", "flandres", "patas", "redbone"),
    }


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        *(("helmat", "helmet"), ("scrach", "scratch"), ("strawbery", "strawberry")),
        *(("pedestrain", "pedestrian"), ("triangel", "triangle"), ("brocoli", "broccoli")),
        *(("umbrela", "umbrella"), ("cardbord", "cardboard"), ("sidwalk", "sidewalk")),
        # Of several words, the most frequent one.
        *(("buiding", "building"), ("trafic", "traffic")),
    ],
)
def test_a_typo_is_noticed(word: str, meant: str) -> None:
    assert likely_spelling(word) == meant


@pytest.mark.parametrize("word", ["tyre", "tumour", "aluminium", "rbc", "idli", "m8x20", "x-ray"])
def test_british_words_abbreviations_and_codes_are_not_typos(word: str) -> None:
    assert likely_spelling(word) is None


@pytest.mark.parametrize(
    ("one", "many"),
    [
        *(("cat", "cats"), ("bus", "buses"), ("box", "boxes"), ("berry", "berries")),
        *(("horse", "horses"), ("potato", "potatoes"), ("key", "keys"), ("bush", "bushes")),
    ],
)
def test_a_plural_leads_back_to_its_singular(one: str, many: str) -> None:
    assert plural(one) == many
    assert one in singulars(many)


def test_a_singular_may_end_with_ss() -> None:
    assert list(singulars("glass")) == []
