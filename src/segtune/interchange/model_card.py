"""The model card of an exported model, as the Hugging Face Hub shows it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path
from statistics import mean

from segtune.core.atomic import atomic_path, write_json
from segtune.core.errors import printable
from segtune.evaluation.bootstrap import Interval
from segtune.evaluation.metrics import Metrics
from segtune.interchange.facts import Facts
from segtune.lora.recipe import Ingredient
from segtune.model.weight_files import RELEASES

LICENSE_ADDRESS = "https://github.com/facebookresearch/sam3/blob/main/LICENSE"
# This code is executed by the tests, as a card shows it.
TRANSFORMERS_CALL = """\
import json
from pathlib import Path

import torch
from PIL import Image, ImageOps
from transformers import Sam3Model, Sam3Processor

folder = Path(".")  # where this card is
model = Sam3Model.from_pretrained(folder).eval()
processor = Sam3Processor.from_pretrained(folder)
prompts = json.loads((folder / "prompts.json").read_text("utf-8"))
thresholds = json.loads((folder / "thresholds.json").read_text("utf-8"))

image = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")
name = {name}
inputs = processor(
    images=image,
    text=prompts[name],
    input_boxes=[[[0, 0, 1, 1]]],  # any box, which the label -10 hides:
    input_boxes_labels=[[-10]],  # without boxes, the model leaves out a token
    return_tensors="pt",
)
with torch.inference_mode():
    outputs = model(**inputs)

scores = (outputs.pred_logits.sigmoid() * outputs.presence_logits.sigmoid())[0]
found = scores >= thresholds[name]
scores = scores[found]
boxes_xyxy = outputs.pred_boxes[0, found] * torch.tensor([image.width, image.height] * 2)
size = (image.height, image.width)
masks = torch.nn.functional.interpolate(outputs.pred_masks, size, mode="bilinear")[0, found] > 0
"""
TRANSFORMERS_INTRODUCTION = """\
**Call it as here, with a hidden box.** The usual call, with only an image and a text, leaves out
a token that SAM 3 always appends to its prompt: scores, boxes and masks are others than those
evaluated below, and on the demo of segtune most objects are not found."""
OFFICIAL_CALL = """\
import torch
from safetensors.torch import load_file

torch.save({"model": load_file("sam3.safetensors")}, "sam3.pt")
"""
OFFICIAL_INTRODUCTION = """\
`sam3.safetensors` has the keys and tensors of `sam3.pt`, in a file that cannot run code. **Programs
that prompt SAM 3 only with text may leave out a token** that it always appends to its prompt, such
as the text prompts of ultralytics: what they answer is not what was evaluated below."""

ONNX_CALL = """\
import json
from pathlib import Path

import numpy as np
import onnxruntime
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional

folder = Path(".")  # where this card is
prompts = json.loads((folder / "prompts.json").read_text("utf-8"))
thresholds = json.loads((folder / "thresholds.json").read_text("utf-8"))
image = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")
name = {name}
size = (image.height, image.width)

known = {{
    "image": functional.resize(functional.pil_to_tensor(image), [{side}, {side}]).numpy(),
    "tokens": SimpleTokenizer(context_length=32)([prompts[name]]).numpy(),
    "original_height": np.array(size[0]),
    "original_width": np.array(size[1]),
}}
for part in ("image_encoder", "language_encoder", "decoder"):
    session = onnxruntime.InferenceSession(folder / f"sam3_{{part}}.onnx")
    names = [one.name for one in session.get_outputs()]
    inputs = {{one.name: known[one.name] for one in session.get_inputs()}}
    known.update(zip(names, session.run(names, inputs)))

found = known["scores"] >= thresholds[name]
scores, boxes_xyxy, masks = (known[key][found] for key in ("scores", "boxes", "masks"))
"""
ONNX_INTRODUCTION = """\
**In X-AnyLabeling**, load `x-anylabeling.yaml` as a custom model, and enter the prompts below as
they are; a comma or a period separates several. It resizes images without smoothing, so that its
answers differ somewhat from those evaluated below. The confidence threshold is set in its panel."""


def transformers_card(facts: Facts) -> str:
    """The card of a folder for transformers, as Markdown with a front matter in YAML."""
    name = _literal(next(iter(facts.prompts)))
    adapter = (
        "`adapter/` is the fine-tuning by itself, for "
        '`peft.PeftModel.from_pretrained(base, "adapter")`, where `base` is the base model as a '
        "`Sam3Model` with the configuration in this folder. Call the result in the same way."
    )
    calling = [
        TRANSFORMERS_INTRODUCTION,
        _code(TRANSFORMERS_CALL.format(name=name)),
        adapter,
        "`transformers` does not cut prompts of more than 32 tokens, as SAM 3 does, but fails.",
    ]
    return _card(facts, library="transformers", calling=calling)


def official_card(facts: Facts) -> str:
    """The card of a safetensors file with the official layout."""
    calling = [
        OFFICIAL_INTRODUCTION,
        "`build_sam3_image_model` of the `sam3` package reads `sam3.pt`, which this makes of it:",
        _code(OFFICIAL_CALL),
    ]
    return _card(facts, library="sam3", calling=calling)


def onnx_card(facts: Facts, min_score: float) -> str:
    """The card of a folder with ONNX files that return what scores at least `min_score`."""
    name = _literal(next(iter(facts.prompts)))
    calling = [
        ONNX_INTRODUCTION,
        "**In Python**, this answers as was evaluated:",
        _code(ONNX_CALL.format(name=name, side=facts.image_size)),
        f"The decoder returns what scores at least {min_score:g}. It has no input for boxes.",
    ]
    return _card(facts, library="onnx", calling=calling)


def write_card(folder: Path, card: str, facts: Facts) -> None:
    """Write the card, `README.md`, with the prompts and confidence thresholds beside it."""
    write_json(folder / "prompts.json", dict(facts.prompts))
    write_json(folder / "thresholds.json", facts.thresholds)
    with atomic_path(folder / "README.md") as temporary:
        temporary.write_text(card, "utf-8")


def _card(facts: Facts, *, library: str, calling: Sequence[str]) -> str:
    parts = [
        _front_matter(facts, library),
        "# SAM 3, fine-tuned with segtune",
        "## How to call it",
        *calling,
        "## Scores",
        *_scores(facts.metrics),
        "## Classes, prompts and confidence thresholds",
        *_classes(facts),
        "## Training",
        *_training(facts),
        "## Limits",
        _bullets(_limits(facts)),
        "## License",
        "SAM 3 and its derivatives are under the SAM License, which must accompany these weights:",
        distribution("sam3").read_text("licenses/LICENSE") or LICENSE_ADDRESS,
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _front_matter(facts: Facts, library: str) -> str:
    lines = [
        "license: other",
        "license_name: sam-license",
        f"license_link: {LICENSE_ADDRESS}",
        f"library_name: {library}",
        "pipeline_tag: mask-generation",
        "tags: [sam3, segtune, instance-segmentation]",
    ]
    if facts.base in {release.repository for release in RELEASES}:
        lines += [f"base_model: {facts.base}", "base_model_relation: finetune"]
    return "\n".join(["---", *lines, "---"])


def _scores(metrics: Metrics) -> list[str]:
    kind, base, tuned = metrics.kind, metrics.base, metrics.tuned
    difference = metrics.difference
    alarms = [_mean(model.false_alarms.values()) for model in (base, tuned)]
    rows = [
        _row(
            f"{kind} AP",
            base.average_precision(kind).AP,
            tuned.average_precision(kind).AP,
            interval=difference.average_precision[kind].mean,
        ),
        _row(
            f"{kind} cgF1",
            base.cgf1[kind].cgf1,
            tuned.cgf1[kind].cgf1,
            interval=difference.cgf1[kind].cgf1,
        ),
        _row("false alarms", alarms[0], alarms[1], interval=difference.false_alarms.mean),
    ]
    heading = ["test split", "zero-shot", "fine-tuned", "difference (95% interval)"]
    counted = f"{metrics.counts.images} images with {metrics.counts.objects} objects"
    return [
        f"{_capitalized(printable(metrics.verdict.sentence))}.",
        _table(heading, rows),
        f"On {counted}. False alarms: of the images without a class, the fraction in which it is "
        f"detected nevertheless, with a score of at least {metrics.confidence_threshold:g}; mean "
        "over classes.",
        *_retained(metrics),
    ]


def _retained(metrics: Metrics) -> list[str]:
    forgetting = metrics.forgetting
    if forgetting is None or forgetting.total.fraction is None:
        return []
    prompts = ", ".join(map(_cell, forgetting.per_prompt))
    return [
        f"Of the base model's detections for other prompts ({prompts}), "
        f"{forgetting.total.fraction:.0%} are retained."
    ]


def _classes(facts: Facts) -> list[str]:
    chosen = facts.metrics.tuned.calibration.thresholds
    scores = facts.metrics.tuned.average_precision(facts.metrics.kind).per_class
    rows = [
        [
            _cell(name),
            _cell(prompt),
            f"{chosen[name].threshold:.4f}{'' if chosen[name].chosen_on_valid else ' (default)'}",
            _number(chosen[name].precision),
            _number(chosen[name].recall),
            _number(scores[name]),
        ]
        for name, prompt in facts.prompts.items()
    ]
    heading = ["class", "prompt", "threshold", "precision", "recall", f"{facts.metrics.kind} AP"]
    return [
        "Thresholds have the highest F1 on the valid split; precision and recall are those on the "
        "test split at that threshold. `prompts.json` and `thresholds.json` have them by class.",
        _table(heading, rows),
    ]


def _training(facts: Facts) -> list[str]:
    lines = [f"Base: {facts.base}", f"Input: a square of {facts.image_size} pixels"]
    if facts.strength != 1:
        lines.append(f"Merged at {facts.strength:g} of the strength of the fine-tuning")
    recipe = facts.recipe
    if recipe is None:
        return [_bullets([*lines, "LoRA adapters trained with PEFT, merged"])]
    lines.append(
        f"LoRA on {len(recipe.adapted)} modules, merged; segtune {printable(recipe.segtune)}"
    )
    if not recipe.is_soup:
        (only,) = recipe.soup
        return [_bullets([*lines, *_history(only, facts)]), *_settings(only)]
    lines.append(f"The sum of the updates of {len(recipe.soup)} trainings, each times a weight")
    parts = [_bullets(lines)]
    for one in recipe.soup:
        adapter = f"adapter `{_cell(one.adapter_sha256)}`" if one.adapter_sha256 else "an adapter"
        parts.append(f"### {one.weight:g} times the update of {adapter}")
        parts += [_bullets(_history(one, facts)), *_settings(one)]
    return parts


def _history(one: Ingredient, facts: Facts) -> list[str]:
    result = one.result
    lines = [
        f"{_cell(one.settings['select_by'])} on the valid split: {result.best_score:.4f} after "
        f"epoch {result.best_epoch}; {result.base_score:.4f} before training"
    ]
    if one.image_size not in (None, facts.image_size):
        lines.append(f"Trained with an input of {one.image_size} pixels")
    if one.data:
        data = ", ".join(f"{_cell(file)} `{_cell(digest)}`" for file, digest in one.data.items())
        lines.append(f"Fingerprints of the data: {data}")
    return lines


def _settings(one: Ingredient) -> list[str]:
    text = json.dumps(one.settings, indent=1).replace("`", r"\u0060")
    return ["The settings:", f"```json\n{text}\n```"]


def _limits(facts: Facts) -> list[str]:
    metrics = facts.metrics
    found = [
        "Fine-tuned and evaluated with the prompts above. Other prompts are answered otherwise "
        "than by the base model.",
        "Fine-tuned and evaluated with text prompts. Prompts with boxes or points, and video, "
        "were not.",
        f"Evaluated on {facts.recipe.what_is_seen if facts.recipe else 'images'} resized to a "
        f"square of {facts.image_size} pixels.",
    ]
    if not metrics.held_out:
        found.append("The test split was not held out: scores are optimistically biased.")
    if metrics.counts.few_images:
        found.append(f"Only {metrics.counts.images} images were evaluated.")
    if any("{" in prompt for prompt in facts.prompts.values()):
        found.append("Words in braces stand for what is known of an image, as in training.")
    return found


def _row(name: str, base: float | None, tuned: float | None, *, interval: Interval) -> list[str]:
    values = (interval.difference, interval.low, interval.high)
    text = "-"
    if None not in values:
        text = "{:+.4f} ({:+.4f} to {:+.4f})".format(*values)
    return [name, _number(base), _number(tuned), text]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _code(text: str) -> str:
    return f"```python\n{text}```"


def _cell(text: str) -> str:
    """Text of the dataset, which is neither Markdown nor HTML."""
    escapes: Mapping[str, str] = {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        **{sign: f"&#{ord(sign)};" for sign in "|`*_[]\\"},
    }
    return "".join(escapes.get(sign, sign) for sign in printable(text))


def _literal(text: str) -> str:
    """A Python literal that ends no block of code."""
    return repr(text).replace("`", r"\x60")


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]
