"""A merged model with everything that its exports read, made without training."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segtune.core.config import Component, LoraSettings, PredictSettings
from segtune.dataset.batch import load_image
from segtune.dataset.detections import Detection
from segtune.lora.adapter import save_adapter
from segtune.lora.inject import inject_lora
from segtune.lora.layers import LoraSpec
from segtune.lora.state import lora_state_dict
from segtune.lora.targets import lora_specs
from segtune.merge import main as merge
from segtune.model.forward import detect_encoded, encode_images, encode_prompts, evaluating
from segtune.model.inference import PreparedImage, predict
from segtune.model.sam3_package import Sam3Image
from segtune.model.weights import load_base_model
from segtune.soup import main as soup
from tests.batches import randomize_lora
from tests.converted import write_converted
from tests.evaluate_runs import evaluate
from tests.predictions import perfect

RECIPE = {
    "segtune": "0",
    "base_model": "segtune/tiny",
    "model": "tiny",
    "weights": "default",
    "image_size": None,
    "settings": {"select_by": "AP", "epochs": 2},
    "data": {"train.json": "0123456789abcdef"},
    "result": {"best_score": 0.5, "best_epoch": 2, "base_score": 0.1},
}


@dataclass(frozen=True)
class Run:
    """The files of a finished run."""

    folder: Path

    @property
    def weights(self) -> Path:
        return self.folder / "merge" / "sam3.pt"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def coco(self) -> Path:
        return self.folder / "coco" / "valid.json"

    def export(self, main: Callable[[list[str]], None], out: Path, **options: Any) -> Path:
        """Run the command of an export; other weights are as if merge had written them."""
        if "weights" in options and "parity" not in options:
            options["parity"] = write_parity(options["weights"])
        given = {
            "weights": self.weights,
            "parity": self.folder / "merge" / "parity.json",
            "adapter": self.adapter,
            "metrics": self.folder / "evaluate" / "metrics.json",
            "coco": self.coco,
            "out": out,
            **options,
        }
        main([f"--{name.replace('_', '-')}={value}" for name, value in given.items()])
        return out


def write_parity(weights: Path, **values: Any) -> Path:
    """What tells of merged weights, beside them."""
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    path = weights.with_name("parity.json")
    path.write_text(json.dumps({"sha256": digest, **values}))
    return path


def finished_run(folder: Path) -> Run:
    """A run with the shipped tiny weights and a random adapter of every kind."""
    coco = write_converted(folder)
    evaluate(coco, [], perfect(coco))
    model = load_base_model("tiny", "default")
    adapted = inject_lora(model, mixed_specs())
    randomize_lora(model)
    save_adapter(
        folder / "adapter",
        lora_state_dict(model),
        specs=adapted,
        base_model="segtune/tiny",
        recipe=RECIPE,
    )
    merge([f"--adapter={folder / 'adapter'}", f"--out={folder / 'merge'}"])
    return Run(folder)


def soup_of(run: Run, folder: Path) -> Run:
    """The run with its adapter times 0.25 and another one times 2, merged."""
    for name in ("coco", "evaluate"):
        shutil.copytree(run.folder / name, folder / name)
    model = load_base_model("tiny", "default")
    components: Mapping[Component, LoraSettings] = {"detr_decoder": LoraSettings(rank=2, alpha=3)}
    adapted = inject_lora(model, lora_specs(components))
    randomize_lora(model, scale=0.05)
    settings = {"select_by": "cgF1", "seed": 7}
    recipe = {**RECIPE, "settings": settings, "data": {"train.json": "fedcba9876543210"}}
    state = lora_state_dict(model)
    other = folder / "other"
    save_adapter(other, state, specs=adapted, base_model="segtune/tiny", recipe=recipe)
    adapters = ["--adapters", str(run.adapter), str(other)]
    soup([*adapters, "--weights-of", "0.25", "2", "--out", str(folder / "adapter")])
    merge([f"--adapter={folder / 'adapter'}", f"--out={folder / 'merge'}"])
    return Run(folder)


def mixed_specs() -> dict[str, LoraSpec]:
    """Of different ranks, rank-stabilized or not, and of all projections or some."""
    components: Mapping[Component, LoraSettings] = {
        "vision": LoraSettings(rank=3, alpha=3, targets=("q", "v", "mlp"), rank_stabilized=True),
        "text": LoraSettings(rank=2, alpha=3),
        "geometry": LoraSettings(rank=2, alpha=5, targets=("v", "out")),
        "detr_encoder": LoraSettings(rank=4, alpha=3, targets=("out",), rank_stabilized=True),
        "detr_decoder": LoraSettings(rank=5, alpha=3),
        "segmentation": LoraSettings(rank=2, alpha=3),
    }
    return lora_specs(components)


def own_outputs(model: Sam3Image, image: Path, text: str, image_size: int = 96) -> dict[str, Any]:
    """segtune's outputs for one prompt in one image."""
    pixels, _ = load_image(image, image_size)
    with evaluating(model), torch.inference_mode():
        prompt = encode_prompts(model, [text], torch.device("cpu"))
        first = torch.zeros(1, dtype=torch.long)
        features = {**encode_images(model, pixels[None]), **prompt}
        return detect_encoded(model, features, image_ids=first, text_ids=first)


def own_detections(run: Run, image: Path, text: str, threshold: float) -> list[Detection]:
    model = load_base_model("tiny", str(run.weights))
    pixels, size = load_image(image, 96)
    prepared = PreparedImage(1, pixels, size=size, prompts=((1, text),), probes=())
    settings = PredictSettings(confidence_threshold=threshold)
    ((_, found),) = predict(
        model, [prepared], [text], device=torch.device("cpu"), settings=settings
    )
    return found


def execute_card(folder: Path, image: Path) -> dict[str, Any]:
    """Execute what the card shows, beside an image; its variables."""
    shutil.copy(image, folder / "image.jpg")
    values: dict[str, Any] = {}
    with chdir(folder):
        exec(compile(python_of(folder / "README.md"), "README.md", "exec"), values)
    (folder / "image.jpg").unlink()
    return values


def in_their_form(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """segtune's outputs with the names and shapes of transformers."""
    center, size = outputs["pred_boxes"].split(2, dim=-1)
    return {
        "pred_logits": outputs["pred_logits"][..., 0],
        "pred_boxes": torch.cat([center - size / 2, center + size / 2], -1),
        "pred_masks": outputs["pred_masks"],
        "presence_logits": outputs["presence_logit_dec"],
    }


def largest_deviation(theirs: Any, expected: Mapping[str, Tensor]) -> float:
    """The largest difference of an output, relative to its largest value."""
    return max(
        ((getattr(theirs, name).view_as(value) - value).abs().max() / value.abs().max()).item()
        for name, value in expected.items()
    )


def python_of(card: Path) -> str:
    """The code that a model card shows."""
    code = card.read_text("utf-8").partition("```python\n")[2].partition("```")[0]
    assert code
    return code


def values_of(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))
