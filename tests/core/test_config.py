"""Settings: every problem at once, each with its path; sections as comparable JSON."""

import json
from typing import Any

import pytest

from segtune.core.config import (
    RENAMED,
    RENAMED_VALUES,
    Config,
    TrainSettings,
    parse_config,
    parse_section,
    require_divisible,
)
from segtune.core.errors import ConfigError
from segtune.model.weight_files import TINY_WEIGHTS, weights_file


def test_defaults_are_filled_in_and_sections_are_sorted_json() -> None:
    config = parse_config({"export": "x"})
    text = config.section_json("train")
    assert json.loads(text)["batch_size"] == 4
    assert text == json.dumps(json.loads(text), sort_keys=True)
    assert parse_section(TrainSettings, text) == config.train
    for stage in ("convert", "validate", "train", "merge", "predict", "evaluate"):
        assert json.loads(config.section_json(stage))


def test_the_order_of_keys_has_no_effect() -> None:
    lora = {"vision": {"rank": 2}, "text": {"rank": 4}}
    one, other = (
        parse_section(TrainSettings, json.dumps({"lora": dict(items)}))
        for items in (lora.items(), reversed(lora.items()))
    )
    # Adapters are drawn in the order of their components.
    assert list(one.lora) == list(other.lora)


@pytest.mark.parametrize(("batch", "processes"), [(3, 2), (4, 3), (1, 2)])
def test_a_batch_that_cannot_be_divided_is_refused(batch: int, processes: int) -> None:
    settings = TrainSettings(batch_size=batch, micro_batch_size=1)
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
        ({"batch_size": 2, "micro_batch_size": 4}, r"micro_batch_size \(4\) is larger"),
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
        parse_section(TrainSettings, json.dumps(section))


def test_text_that_is_not_json_is_refused() -> None:
    with pytest.raises(ConfigError, match="--settings: not JSON"):
        parse_section(TrainSettings, "{epochs: 3}")


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
        parse_section(TrainSettings, text)
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
        parse_section(TrainSettings, '{"lora": {"vision": {"blocks": "0-99999999999"}}}')


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
