"""The export for transformers answers as segtune does, checked with transformers and PEFT."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoProcessor, PreTrainedModel, Sam3Model, Sam3Processor

from segtune.interchange import transformers_model
from segtune.interchange.safetensors_file import Anew
from segtune.interchange.transformers_adapter import write_transformers_adapter
from segtune.interchange.transformers_keys import (
    POSITIONS,
    from_transformers,
    renamed,
    to_transformers,
)
from segtune.interchange.transformers_model import write_transformers_model
from segtune.lora.adapter import attach_adapter
from segtune.lora.inject import merge_lora
from segtune.model.architecture import ARCHITECTURES, build_model, set_image_size
from segtune.model.official_format import read_official, write_official
from segtune.model.tokenizer import MAX_TOKENS
from segtune.model.weights import load_base_model
from segtune.to_transformers import main
from tests.exported import (
    Run,
    execute_card,
    in_their_form,
    largest_deviation,
    own_detections,
    own_outputs,
    python_of,
    values_of,
    write_parity,
)
from tests.weight_files import same_bits, write_sam31

CLOSE = 1e-4  # of the largest value
DEMO = Path(__file__).parents[1] / "data/demo/test"
# PEFT 0.21 asks transformers 5.23 for a property by a name that is deprecated there.
deprecated_name = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module")
def exported(run: Run) -> Path:
    return run.export(main, run.folder / "transformers")


def demo_images() -> list[Path]:
    return sorted(DEMO.glob("*.jpg"))[2:4]


def loaded(folder: Path) -> PreTrainedModel:
    """A model that has every tensor of its file, and no other."""
    model, found = Sam3Model.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found
    return model.eval()


def theirs(
    model: torch.nn.Module, folder: Path, image: Path, text: str, *, hidden_box: bool = True
) -> Any:
    boxes = {"input_boxes": [[[0, 0, 1, 1]]], "input_boxes_labels": [[-10]]} if hidden_box else {}
    processor = Sam3Processor.from_pretrained(folder)
    pixels = Image.open(image).convert("RGB")
    inputs = processor(images=pixels, text=text, return_tensors="pt", **boxes)
    with torch.inference_mode():
        return model(**inputs)


def test_the_card_s_call_answers_as_segtune(run: Run, exported: Path, tmp_path: Path) -> None:
    from pycocotools import mask as mask_utils

    folder = shutil.copytree(exported, tmp_path / "model")
    # So that some queries are found, and others not.
    (folder / "thresholds.json").write_text(json.dumps({"disc": 0.02}))
    model, found = load_base_model("tiny", str(run.weights)), 0
    for image in demo_images():
        called = execute_card(folder, image)
        expected = own_outputs(model, image, "disc")
        assert largest_deviation(called["outputs"], in_their_form(expected)) < CLOSE
        own = own_detections(run, image, "disc", 0.02)
        order = called["scores"].argsort(descending=True)
        scores, masks = called["scores"][order], called["masks"][order]
        assert len(own) == len(order)
        found += len(own)
        for detection, score, box, mask in zip(
            own, scores, called["boxes_xyxy"][order], masks, strict=True
        ):
            assert detection.score == pytest.approx(score.item(), rel=CLOSE)
            x, y, w, h = detection.bbox_xywh
            assert box.tolist() == pytest.approx([x, y, x + w, y + h], abs=0.02)
            own_mask = torch.from_numpy(mask_utils.decode(detection.rle)).bool()
            assert (own_mask != mask).float().mean() < 1e-3
    assert 0 < found < len(demo_images()) * ARCHITECTURES["tiny"].queries


def test_a_call_with_only_a_text_answers_otherwise(run: Run, exported: Path) -> None:
    # Once this fails, transformers appends the token itself, and the card needs no warning.
    model = load_base_model("tiny", str(run.weights))
    expected = in_their_form(own_outputs(model, demo_images()[0], "disc"))
    only_text = theirs(loaded(exported), exported, demo_images()[0], "disc", hidden_box=False)
    assert largest_deviation(only_text, expected) > 0.02
    assert "**Call it as here, with a hidden box.**" in (exported / "README.md").read_text()


def test_every_tensor_is_mapped_back_from_the_file(run: Run, exported: Path) -> None:
    loaded(exported)
    written = load_file(exported / "model.safetensors")
    own = read_official(run.weights).detector
    names = [name for key in own for name in renamed(key)]
    assert len(names) == len(set(names)) == len(written) == 388
    for key, tensor in own.items():
        if renamed(key):
            back = from_transformers(key, written)
            assert same_bits(back, tensor[:, 1:] if key == POSITIONS else tensor), key
    assert sum(not renamed(key) for key in own) == 9


@deprecated_name
def test_peft_adapts_and_merges_as_segtune(run: Run, exported: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    base = load_base_model("tiny", "default").state_dict()
    write_transformers_model(tmp_path, lambda: base, ARCHITECTURES["tiny"], image_size=96)
    adapted = PeftModel.from_pretrained(loaded(tmp_path), exported / "adapter").eval()
    model = load_base_model("tiny", str(run.weights))
    expected = in_their_form(own_outputs(model, demo_images()[0], "disc"))
    unadapted = in_their_form(
        own_outputs(load_base_model("tiny", "default"), demo_images()[0], "disc")
    )
    outputs = theirs(adapted, exported, demo_images()[0], "disc")
    assert largest_deviation(outputs, expected) < CLOSE
    assert largest_deviation(outputs, unadapted) > 0.02
    merged = adapted.merge_and_unload().state_dict()
    written = load_file(exported / "model.safetensors")
    assert merged.keys() == written.keys()
    assert not [key for key in written if not same_bits(merged[key], written[key])]


@deprecated_name
def test_an_adapter_that_peft_trained_is_the_same_under_other_names(tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    # With one A for queries, keys and values, and attention's output, which PEFT adds twice.
    pattern = r".*(trunk\.blocks\.\d+\.attn\.qkv|encoder\.layers\.0\.self_attn)"
    config = LoraConfig(r=2, lora_alpha=3, target_modules=pattern, init_lora_weights=False)
    get_peft_model(build_model("tiny"), config).save_pretrained(tmp_path / "trained")
    base, model = build_model("tiny"), build_model("tiny")
    attach_adapter(model, tmp_path / "trained")
    write_transformers_adapter(tmp_path / "adapter", model, "segtune/tiny", strength=1)
    arch = ARCHITECTURES["tiny"]
    write_transformers_model(tmp_path / "base", base.state_dict, arch, image_size=96)
    adapted = PeftModel.from_pretrained(loaded(tmp_path / "base"), tmp_path / "adapter")
    merged = adapted.merge_and_unload().state_dict()
    merge_lora(model)
    changed = 0
    for key, tensor in model.state_dict().items():
        for name, part in to_transformers(key, tensor).items():
            assert_close(merged[name], part, rtol=1e-5, atol=1e-6, msg=name)
        changed += not torch.equal(tensor, base.state_dict()[key])
    assert changed == 3 + 2


TEXTS = [
    *("apple", "Sea  Urchin", "it's a dog's", "can't-won't 'em", "3 cats, 12!", "a_b-c", "x<y"),
    *("naïve café", "cafe\u0301", "漢字", "emoji 😀", "İstanbul", "ß", "a—b", "½ inch", "№5", ""),
    *("don\u2019t", "\u201cquoted\u201d", "\ufb01sh", "\uff37ide", "a&amp;b", "&lt;b&gt;"),
    *("&amp;lt;", "tab\tnew\nline", "Ⅳ", "™", "zero\u200bwidth", "soft\u00adhyphen"),
]


def test_texts_become_the_tokens_that_segtune_reads(exported: Path) -> None:
    tokenizer = AutoProcessor.from_pretrained(exported).tokenizer
    own = build_model("tiny").backbone.language_backbone.tokenizer
    for text in TEXTS:
        inputs = tokenizer(text, padding="max_length", max_length=MAX_TOKENS)
        read = own([text], context_length=MAX_TOKENS)[0].tolist()
        assert inputs["input_ids"][: sum(inputs["attention_mask"])] == read, text
        assert len(inputs["input_ids"]) == MAX_TOKENS


def test_another_image_size_answers_as_segtune(run: Run, tmp_path: Path) -> None:
    out = run.export(main, tmp_path / "out", image_size=144)
    model = load_base_model("tiny", str(run.weights))
    set_image_size(model, "tiny", 144)
    expected = in_their_form(own_outputs(model, demo_images()[0], "disc", 144))
    assert largest_deviation(theirs(loaded(out), out, demo_images()[0], "disc"), expected) < CLOSE
    assert "Input: a square of 144 pixels" in (out / "README.md").read_text()


def test_sam31_has_a_feature_map_that_is_not_read(run: Run, tmp_path: Path) -> None:
    weights = tmp_path / "sam3.1_multiplex.pt"
    write_sam31(weights, dtype=torch.bfloat16)
    out = run.export(main, tmp_path / "out", weights=weights)
    model = loaded(out)
    assert model.dtype == torch.float32  # as evaluated; the file has the precision of the weights
    assert all(t.dtype == torch.bfloat16 for t in load_file(out / "model.safetensors").values())
    expected = in_their_form(
        own_outputs(load_base_model("tiny", str(weights)), demo_images()[0], "a")
    )
    assert largest_deviation(theirs(model, out, demo_images()[0], "a"), expected) < CLOSE


def test_the_card_states_what_is_known(exported: Path, run: Run) -> None:
    card = (exported / "README.md").read_text("utf-8")
    metrics = values_of(run.folder / "evaluate" / "metrics.json")
    assert card.startswith("---\nlicense: other\n")
    assert card.index("How to call it") < card.index("## Scores")
    interval = metrics["difference"]["average_precision"]["mask"]["mean"]
    for text in (
        "train.json `0123456789abcdef`",
        '"select_by": "AP"',
        "AP on the valid split: 0.5000 after epoch 2",
        f"{metrics['tuned']['mask']['AP']:.4f}",
        f"({interval['low']:+.4f} to {interval['high']:+.4f})",
        "Only 4 images were evaluated.",
        "SAM License",
        "Input: a square of 96 pixels",
    ):
        assert text in card
    assert values_of(exported / "prompts.json") == {n: n for n in ("disc", "square", "cross")}
    thresholds = metrics["tuned"]["calibration"]["thresholds"]
    assert values_of(exported / "thresholds.json") == {
        name: chosen["threshold"] for name, chosen in thresholds.items()
    }


def refused(run: Run, out: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    with pytest.raises(SystemExit) as raised:
        run.export(main, out, **options)
    assert raised.value.code == 1
    assert not out.exists()
    return capsys.readouterr().err


def renamed_classes(run: Run, folder: Path, names: Sequence[str]) -> Path:
    """The dataset with other names of classes and prompts."""
    coco = shutil.copytree(run.coco.parent, folder / "coco") / "valid.json"
    values = values_of(coco)
    for category, name in zip(values["categories"], names, strict=True):
        category["name"] = category["prompt"] = name
    coco.write_text(json.dumps(values))
    return coco


def test_metrics_of_other_classes_are_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = renamed_classes(run, tmp_path, ["disc", "square", "star"])
    assert "computed on other classes" in refused(run, tmp_path / "out", capsys, coco=coco)


def test_names_of_classes_are_only_text(run: Run, tmp_path: Path) -> None:
    names = ["a'b```\n# c", "<b>|", "{x} \x1b[2J"]
    coco = renamed_classes(run, tmp_path, names)
    text = (run.folder / "evaluate" / "metrics.json").read_text()
    for old, new in zip(("disc", "square", "cross"), names, strict=True):
        text = text.replace(f'"{old}"', json.dumps(new))
    (tmp_path / "metrics.json").write_text(text)
    out = run.export(main, tmp_path / "out", coco=coco, metrics=tmp_path / "metrics.json")
    card = (out / "README.md").read_text("utf-8")
    assert "<b>" not in card and "\x1b" not in card and "# c" not in card.splitlines()
    assert "&lt;b&gt;&#124;" in card
    assert card.count("```") % 2 == 0
    (line,) = [line for line in python_of(out / "README.md").splitlines() if "name = " in line]
    values: dict[str, Any] = {}
    exec(line, values)
    assert values["name"] == names[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "recipe.json: settings: not the recipe"),
        ({"result": {"best_score": "high"}}, "recipe.json: "),
    ],
)
def test_a_recipe_of_another_kind_is_refused(
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: dict[str, Any],
    message: str,
) -> None:
    adapter = shutil.copytree(run.adapter, tmp_path / "adapter")
    (adapter / "recipe.json").write_text(json.dumps(content))
    assert message in refused(run, tmp_path / "out", capsys, adapter=adapter)


def test_damaged_weights_leave_nothing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "sam3.pt"
    content = bytearray(run.weights.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert "checksum" in refused(run, tmp_path / "out", capsys, weights=damaged)
    official = read_official(run.weights)
    official.detector.popitem()
    write_official(damaged, official.detector, {})
    assert "1 missing" in refused(run, tmp_path / "out", capsys, weights=damaged)


def test_weights_of_another_merge_are_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = shutil.copy(run.weights, tmp_path / "sam3.pt")
    parity = write_parity(weights)
    write_sam31(weights)
    message = refused(run, tmp_path / "out", capsys, weights=weights, parity=parity)
    assert "sam3.pt: not the weights that" in message


def test_the_adapter_has_the_strength_of_the_merge(
    run: Run, exported: Path, tmp_path: Path
) -> None:
    weights = shutil.copy(run.weights, tmp_path / "sam3.pt")
    parity = write_parity(weights, strength=0.5)
    out = run.export(main, tmp_path / "out", weights=weights, parity=parity)
    whole, half = (values_of(f / "adapter/adapter_config.json") for f in (exported, out))
    assert half["alpha_pattern"] == {n: a / 2 for n, a in whole["alpha_pattern"].items()}
    assert half["rank_pattern"] == whole["rank_pattern"]
    assert "Merged at 0.5 of the strength" in (out / "README.md").read_text()
    assert "of the strength" not in (exported / "README.md").read_text()


def test_a_tensor_that_is_written_otherwise_is_noticed(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, anew: Anew) -> None:
        changed = {name: tensor.contiguous() for name, tensor in anew().items()}
        name = "detr_decoder.layers.0.self_attn.k_proj.weight"
        changed[name] = torch.nextafter(changed[name], torch.tensor(9.0))
        save_file(changed, path)

    monkeypatch.setattr(transformers_model, "write_safetensors", write)
    message = refused(run, tmp_path / "out", capsys)
    assert "transformer.decoder.layers.0.self_attn.in_proj_weight" in message
