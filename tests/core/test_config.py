"""Settings: every problem at once, each with its path; sections as comparable JSON."""

import json
import re
from typing import Any

import pytest
import yaml

from segtune.core.config import (
    INPUT_PIXELS,
    QUERIES,
    Config,
    parse_config,
    parse_train,
    require_divisible,
)
from segtune.core.errors import ConfigError
from segtune.core.recipes import TRAIN
from segtune.core.setting_problems import RENAMED, RENAMED_VALUES
from segtune.model.architecture import ARCHITECTURES
from segtune.model.weight_files import TINY_WEIGHTS, weights_file
from tests.documentation import ROOT


def test_defaults_are_filled_in_and_sections_are_sorted_json() -> None:
    config = parse_config({"export": "x"})
    text = config.section_json("train")
    assert json.loads(text)["batch_size"] == 4
    assert text == json.dumps(json.loads(text), sort_keys=True)
    assert "micro_batch_size" not in json.loads(text)
    assert parse_train("tiny", text, config.execution_json()) == config.train
    for stage in ("convert", "validate", "train", "merge", "predict", "evaluate"):
        assert json.loads(config.section_json(stage))


def test_the_order_of_keys_has_no_effect() -> None:
    lora = {"vision": {"rank": 2}, "text": {"rank": 4}}
    one, other = (
        parse_train("tiny", json.dumps({"lora": dict(items)}))
        for items in (lora.items(), reversed(lora.items()))
    )
    # Adapters are drawn in the order of their components.
    assert list(one.lora) == list(other.lora)


@pytest.mark.parametrize(("batch", "processes"), [(3, 2), (4, 3), (1, 2)])
def test_a_batch_that_cannot_be_divided_is_refused(batch: int, processes: int) -> None:
    settings = parse_train("tiny", json.dumps({"batch_size": batch}))
    require_divisible(settings, batch)
    with pytest.raises(ConfigError, match=rf"\({batch}\).*multiple of {processes}"):
        require_divisible(settings, processes)


@pytest.mark.parametrize(("model", "size"), [("tiny", 100), ("full", 48), ("full", 1000)])
def test_an_image_size_that_does_not_fit_the_model_is_refused(model: str, size: int) -> None:
    with pytest.raises(ConfigError, match=rf"image_size \({size}\) is not a multiple of"):
        parse_config({"export": "x", "model": model, "image_size": size})


def test_text_from_the_command_line_becomes_numbers() -> None:
    config = parse_config({"export": "x", "train": {"epochs": "3", "learning_rate": "1e-4"}})
    assert config.train.epochs == 3
    assert config.train.learning_rate == 1e-4


def test_every_problem_is_named_at_once() -> None:
    values = {"train": {"epochs": 0, "lerning_rate": 1, "lora": {"vision": {"rank": -1}}}}
    with pytest.raises(ConfigError) as raised:
        parse_config({**values, "modell": "tiny"})
    message = str(raised.value)
    paths = ("export", "modell", "train.epochs", "train.lerning_rate", "train.lora.vision.rank")
    for path in paths:
        assert f"{path}: " in message


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"micro_batch_size": 0}, "micro_batch_size"),
        ({"lora": {}}, "lora"),
        ({"lora": {"vison": {}}}, r"lora\.vison"),
        ({"lora": {"vision": {"targets": ["w"]}}}, r"lora\.vision\.targets"),
        ({"lora": {"vision": {"targets": []}}}, r"lora\.vision\.targets"),
        ({"lora": {"vision": {"dropout": 1.0}}}, r"lora\.vision\.dropout"),
        ({"schedule": "linear"}, "schedule"),
        ({"clip_norm": 0}, "clip_norm"),
    ],
)
def test_invalid_settings_are_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_train("tiny", json.dumps(section))


def test_text_that_is_not_json_is_refused() -> None:
    with pytest.raises(ConfigError, match="--settings: not JSON"):
        parse_train("tiny", "{epochs: 3}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 20_000, "not JSON: nested too deeply"),
        ('{"seed":' * 20_000, "not JSON: nested too deeply"),
        ('{"seed": 1, "seed": 2}', r"not JSON: a key of \['seed'\] is given twice"),
        ('{"lora": {"text": {}, "text": {}}}', "given twice"),
        ("9" * 5000, "not JSON: Exceeds the limit"),
        ("[]", "settings: "),
        ('{"' + "x" * 5000 + '": 1}', "x: Extra inputs"),
        (r'{"\ud800": 1}', "--settings: "),
        ('{"seed": 1e400}', "seed: "),
    ],
)
def test_hostile_json_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        parse_train("tiny", text)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("model", "blocks", "block"), [("tiny", "1-3", 3), ("tiny", "0,999", 999), ("full", "32", 32)]
)
def test_a_block_that_the_model_lacks_is_refused(model: str, blocks: str, block: int) -> None:
    values = {"export": "x", "model": model}
    message = rf"train\.lora\.vision\.blocks: the {model} model has no block {block}, only 0 to"
    with pytest.raises(ConfigError, match=message):
        parse_config({**values, "train": {"lora": {"vision": {"blocks": blocks}}}})
    last = {"tiny": "0-2", "full": "0-31"}[model]
    parse_config({**values, "train": {"lora": {"vision": {"blocks": last}}}})
    parse_config({**values, "train": {"lora": {"text": {}}}})


def test_a_range_of_blocks_takes_no_memory() -> None:
    with pytest.raises(ConfigError, match="neither a block number nor a range"):
        parse_train("tiny", '{"lora": {"vision": {"blocks": "0-99999999999"}}}')


def test_only_paths_are_files() -> None:
    others = [weights_file("full", w) for w in ("default", "facebook/sam3", "random:3")]
    assert others == [None] * 3
    assert str(weights_file("full", "weights/sam3.pt")) == "weights/sam3.pt"
    assert weights_file("tiny", "default") == TINY_WEIGHTS
    assert TINY_WEIGHTS.is_file()


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_key_is_named_with_the_new_one(old: str, new: str) -> None:
    for section in ("convert", "train", "predict", "evaluate"):
        with pytest.raises(ConfigError, match=f"{section}.{old}: '{old}' is now called '{new}'"):
            parse_config({"export": "x", section: {old: 1}})


def test_new_keys_exist() -> None:
    known = set(json.dumps(Config(export="x").model_dump(mode="json")).split('"'))
    assert set(RENAMED.values()) <= known
    assert not set(RENAMED) & known


def test_an_old_value_is_named_with_the_new_one_in_its_place_only() -> None:
    ((_, old),) = RENAMED_VALUES
    with pytest.raises(
        ConfigError, match=rf"convert\.missing_test: '{old}' is now called 'hold_out'"
    ):
        parse_config({"export": "x", "convert": {"missing_test": old}})
    with pytest.raises(ConfigError) as raised:
        parse_config({"export": "x", "predict": {"max_detections": old}})
    assert "now called" not in str(raised.value)


FULL = {"epochs": 20, "batch_size": 8, "learning_rate": 1e-4, "warmup_steps": 20}


def test_the_numbers_of_the_full_model_are_not_those_of_the_miniature() -> None:
    tiny, full = (parse_config({"export": "x", "model": m}).train for m in ("tiny", "full"))
    assert {name: getattr(full, name) for name in FULL} == FULL
    for name in (*FULL, "micro_batch_size", "min_scale"):
        assert getattr(tiny, name) != getattr(full, name)
    assert full.lora["text"].alpha == 32 and tiny.lora["text"].alpha == 16
    assert full.lora["vision"].targets == ("q", "v")
    assert parse_train("full", "{}") == full
    assert parse_train("tiny", "{}") == tiny


def test_what_is_set_overrides_the_recipe_and_null_does_not() -> None:
    given = {"epochs": 3, "learning_rate": None, "lora": {"text": {"alpha": 4.0, "rank": None}}}
    train = parse_config({"export": "x", "model": "full", "train": given}).train
    assert (train.epochs, train.learning_rate) == (3, 1e-4)
    assert (train.lora["text"].alpha, train.lora["text"].rank) == (4.0, 16)
    assert train.lora["vision"].alpha == 32


def test_a_component_is_left_out_or_added() -> None:
    lora = {"vision": False, "geometry": {"rank": 4}, "text": None}
    train = parse_config({"export": "x", "model": "full", "train": {"lora": lora}}).train
    assert set(train.lora) == {"text", "geometry", "detr_encoder", "detr_decoder", "segmentation"}
    assert train.lora["geometry"].rank == 4
    nothing = dict.fromkeys(train.lora, False) | {"vision": False}
    with pytest.raises(ConfigError, match=r"train\.lora"):
        parse_config({"export": "x", "train": {"lora": nothing}})
    assert parse_config({"export": "x", "model": "full", "train": {"lora": {}}}).train.lora


def test_the_lora_of_a_stage_is_just_what_it_is_given() -> None:
    config = parse_config({"export": "x", "train": {"lora": {"vision": False}}})
    assert parse_train("tiny", config.section_json("train")) == config.train


@pytest.mark.parametrize("values", [{"train": 3}, {"train": {"lora": 3}}, {"evaluate": [1]}])
def test_what_is_not_a_table_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        parse_config({"export": "x", **values})


def test_only_execution_settings_are_execution() -> None:
    changed = parse_train("tiny", "{}", '{"micro_batch_size": 1, "masks_per_chunk": 2}')
    assert (changed.micro_batch_size, changed.masks_per_chunk) == (1, 2)
    for text in ('{"epochs": 3}', "[]"):
        with pytest.raises(ConfigError, match="--execution"):
            parse_train("tiny", "{}", text)


def test_the_config_names_the_numbers_of_each_model() -> None:
    """`# ...; tiny: 8, full: 20` beside each setting that follows the model."""
    lines = (ROOT / "config.yaml").read_text("utf-8").splitlines()
    named: dict[str, dict[str, Any]] = {"tiny": {}, "full": {}}
    for line in lines:
        found = re.fullmatch(r" +(\w+): null #.*?tiny: (.+), full: (.+)", line)
        if found:
            named["tiny"][found[1]] = yaml.safe_load(found[2])
            named["full"][found[1]] = yaml.safe_load(found[3])
    for model, numbers in named.items():
        recipe = {**TRAIN[model], **TRAIN[model]["lora"], "max_detections": QUERIES[model]}
        del recipe["lora"]
        assert numbers == recipe


def test_queries_and_sizes_are_those_of_the_architectures() -> None:
    assert {name: found.queries for name, found in ARCHITECTURES.items()} == QUERIES
    assert {name: found.image_size for name, found in ARCHITECTURES.items()} == INPUT_PIXELS


def test_off_in_yaml_is_a_severity() -> None:
    values = yaml.safe_load("{export: e, validate: {severities: {object-tiny: off}}}")
    assert parse_config(values).validate_.severities == {"object-tiny": "off"}


def test_the_gate_has_every_setting_of_validation_but_those_of_its_page() -> None:
    few, many = (parse_config({"export": "e", "validate": {"max_examples": n}}) for n in (1, 2))
    assert few.section_json("validate") != many.section_json("validate")
    assert few.validate_.gate_json() == many.validate_.gate_json()
    other = parse_config({"export": "e", "validate": {"limits": {"duplicate_iou": 0.8}}})
    assert other.validate_.gate_json() != few.validate_.gate_json()
