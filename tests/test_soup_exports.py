"""Exports of a soup: the same proofs as for a training, and cards that say what is in it."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import Sam3Model

from segtune.interchange.facts import read_facts
from segtune.interchange.model_card import official_card, onnx_card, transformers_card
from segtune.interchange.sources import Sources
from segtune.interchange.transformers_model import write_transformers_model
from segtune.model.architecture import ARCHITECTURES
from segtune.model.official_format import read_official
from segtune.model.weights import load_base_model
from segtune.to_safetensors import main as to_safetensors
from segtune.to_transformers import main as to_transformers
from tests.exported import (
    Run,
    execute_card,
    in_their_form,
    largest_deviation,
    own_outputs,
    soup_of,
)
from tests.weight_files import same_bits

IMAGE = sorted((Path(__file__).parents[1] / "data/demo/test").glob("*.jpg"))[2]


@pytest.fixture(scope="module")
def soup(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return soup_of(run, tmp_path_factory.mktemp("soup"))


@pytest.fixture(scope="module")
def exported(soup: Run) -> Path:
    return soup.export(to_transformers, soup.folder / "transformers")


def test_the_card_s_call_answers_as_the_merged_soup(soup: Run, exported: Path) -> None:
    called = execute_card(exported, IMAGE)["outputs"]
    merged, base = (
        in_their_form(own_outputs(load_base_model("tiny", weights), IMAGE, "disc"))
        for weights in (str(soup.weights), "default")
    )
    assert largest_deviation(called, merged) < 1e-4
    assert largest_deviation(called, base) > 0.02


# PEFT 0.21 asks transformers 5.23 for a property by a name that is deprecated there.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_peft_merges_the_soup_bitwise_as_segtune(exported: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    base = load_base_model("tiny", "default").state_dict
    write_transformers_model(tmp_path, base, ARCHITECTURES["tiny"], image_size=96)
    loaded = Sam3Model.from_pretrained(tmp_path)
    merged = PeftModel.from_pretrained(loaded, exported / "adapter").merge_and_unload()
    written = load_file(exported / "model.safetensors")
    assert not [k for k, value in merged.state_dict().items() if not same_bits(value, written[k])]


def test_safetensors_has_the_merged_soup(soup: Run, tmp_path: Path) -> None:
    out = soup.export(to_safetensors, tmp_path / "out")
    written = load_file(out / "sam3.safetensors")
    own = read_official(soup.weights).detector
    assert not [key for key in own if not same_bits(written[f"detector.{key}"], own[key])]


def test_each_card_says_what_the_soup_is_made_of(soup: Run, run: Run, exported: Path) -> None:
    metrics, parity = soup.folder / "evaluate/metrics.json", soup.folder / "merge/parity.json"
    sources = Sources(soup.weights, parity, soup.adapter, metrics, soup.coco)
    facts = read_facts(sources, base="segtune/tiny", image_size=96)
    cards = [transformers_card(facts), official_card(facts), onnx_card(facts, 0.05)]
    assert cards[0] == (exported / "README.md").read_text("utf-8")
    digests = [
        json.loads((adapter / "recipe.json").read_text("utf-8"))["adapter_sha256"]
        for adapter in (run.adapter, soup.folder / "other")
    ]
    result = "on the valid split: 0.5000 after epoch 2; 0.1000 before training"
    for card in cards:
        assert "- The sum of the updates of 2 trainings, each times a weight" in card
        _, first, second = card.split("\n### ")
        assert first.startswith(f"0.25 times the update of adapter `{digests[0]}`\n\n- AP {result}")
        assert second.startswith(f"2 times the update of adapter `{digests[1]}`\n\n- cgF1 {result}")
        assert "train.json `0123456789abcdef`" in first and '"epochs": 2' in first
        assert "train.json `fedcba9876543210`" in second and '"seed": 7' in second
