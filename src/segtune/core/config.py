"""The settings of the pipeline: one validated section per stage.

Only Snakemake reads `config.yaml`. A stage gets its section as one JSON string
(`--settings`), so that Snakemake compares settings as a whole and a stage can be run by
hand. Every problem of a config is reported at once, each with its dotted path.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from segtune.core.errors import MAX_SHOWN, ConfigError, shown
from segtune.core.foreign import reason

# Keys of earlier versions -> today's.
RENAMED = {
    "carved_share": "holdout_fraction",
    "carve_seed": "holdout_seed",
    "smallest_scale": "min_scale",
    "colour_jitter": "color_jitter",
    "repeat_threshold": "repeat_factor_threshold",
    "rank_stabilised": "rank_stabilized",
    "score_threshold": "confidence_threshold",
    "false_alarm_score": "confidence_threshold",
    "outside_prompts": "ood_prompts",
}
RENAMED_VALUES = {("missing_test", "carve"): "hold_out"}

# Of the attention in each model; checked here, too, because it needs no torch.
WINDOW_PIXELS = {"tiny": 48, "full": 336}
VISION_BLOCKS = {"tiny": 3, "full": 32}

Component = Literal["vision", "text", "geometry", "detr_encoder", "detr_decoder", "segmentation"]
Projection = Literal["q", "k", "v", "out", "mlp"]


class Section(BaseModel):
    """A section refuses keys it does not know: a misspelled setting is never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Format = Literal["auto", "coco", "yolo", "voc", "createml", "tensorflow", "sam2", "semantic"]


class ConvertSettings(Section):
    format: Format = "auto"
    class_name: str = Field("", description="class of a SAM 2 export, which has no class names")
    oriented_boxes: bool = Field(
        False, description="YOLO lines of nine values are oriented boxes, not polygons"
    )
    connected_components: bool = Field(
        False, description="each connected component of a semantic mask is an object"
    )
    merge_names: bool = Field(
        False, description="merge classes whose names differ only in case or spaces"
    )
    missing_test: Literal["error", "hold_out", "valid"] = "error"
    holdout_fraction: float = Field(
        0.15, gt=0, lt=0.5, description="of train's original images, for a missing split"
    )
    holdout_seed: int = Field(0, ge=0)
    prompts: dict[str, str] = Field(
        default_factory=dict, description="category name -> text prompt"
    )
    template: str = Field(
        "{name}", description="of every prompt; {name}, and fields of an image's record or CSV"
    )
    fields: str = Field("", description="CSV of fields per image, with a column file_name")


class ValidateSettings(Section):
    max_examples: int = Field(
        20, ge=1, le=1000, description="examples shown per problem on the page"
    )


class LoraSettings(Section):
    """LoRA of one component. The update is (alpha / rank) * B A x, or alpha / sqrt(rank)."""

    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    dropout: float = Field(0.0, ge=0, lt=1, description="on the adapters' input")
    targets: tuple[Projection, ...] = Field(("q", "k", "v", "out", "mlp"), min_length=1)
    blocks: str = Field("", description="of vision, as 24-31 or 7,15,23,31; default: all")
    rank_stabilized: bool = Field(False, description="scale by alpha / sqrt(rank)")
    learning_rate: PositiveFloat | None = Field(None, description="peak; default: train's")

    @field_validator("blocks")
    @classmethod
    def _blocks_can_be_read(cls, blocks: str) -> str:
        block_numbers(blocks)
        return blocks


def block_numbers(blocks: str) -> list[int]:
    """The numbers that "24-31" or "7,15,23-24" name, in order; none for "".

    Raises:
        ValueError: for anything else.
    """
    numbers: set[int] = set()
    for part in filter(None, blocks.replace(" ", "").split(",")):
        bounds = re.fullmatch(r"([0-9]{1,3})(?:-([0-9]{1,3}))?", part)
        if not bounds:
            raise ValueError(f"{shown(part)} is neither a block number nor a range such as 24-31")
        found = range(int(bounds[1]), int(bounds[2] or bounds[1]) + 1)
        if not found:
            raise ValueError(f"the range {part!r} is empty")
        numbers |= set(found)
    return sorted(numbers)


def _default_lora() -> dict[Component, LoraSettings]:
    # New words are learned where they are read; the rest changes little, and forgets little.
    alphas: dict[Component, float] = {
        "text": 24.0,
        "vision": 2.0,
        "detr_encoder": 1.5,
        "detr_decoder": 2.0,
        "segmentation": 8.0,
    }
    return {component: LoraSettings(alpha=alpha) for component, alpha in alphas.items()}


class TrainSettings(Section):
    seed: int = Field(0, ge=0)
    epochs: PositiveInt = Field(8, description="passes over the training split")
    batch_size: PositiveInt = Field(4, description="images per optimizer step, all processes")
    micro_batch_size: PositiveInt = Field(
        4, description="images per forward pass and process; limits memory"
    )
    max_negatives: int = Field(5, ge=0, description="negative prompts per image")
    extra_negatives: tuple[str, ...] = Field(
        (), description="negative prompts for things that no training image shows"
    )
    horizontal_flip: bool = Field(
        True, description="mirror half of the images; off where left and right differ"
    )
    min_scale: float = Field(
        1.0, gt=0, le=1, description="images are shrunk to a random scale from here to 1, padded"
    )
    color_jitter: float = Field(
        0.0, ge=0, lt=1, description="brightness, contrast, saturation vary by up to this fraction"
    )
    box_noise: float = Field(
        0.0, ge=0, lt=1, description="standard deviation of target boxes' sides, relative"
    )
    repeat_factor_threshold: float = Field(
        0.0, ge=0, le=1, description="classes in a smaller fraction of images are seen more often"
    )
    learning_rate: PositiveFloat = Field(2e-3, description="peak learning rate of AdamW")
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(10, ge=0, description="optimizer steps of linear warm-up")
    schedule: Literal["cosine", "inverse_sqrt", "constant"] = "cosine"
    clip_norm: PositiveFloat = Field(0.1, description="gradients are clipped to this L2 norm")
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="per step, of a moving average used instead; 0: off"
    )
    select_by: Literal["AP", "cgF1"] = Field(
        "AP", description="score on the valid split that chooses the best epoch"
    )
    validate_every: PositiveInt = Field(2, description="epochs between validations")
    patience: int = Field(
        0, ge=0, description="validations without improvement until training stops; 0: never"
    )
    checkpoint_every: PositiveInt = Field(50, description="optimizer steps between checkpoints")
    lora: dict[Component, LoraSettings] = Field(default_factory=_default_lora, min_length=1)

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> "TrainSettings":
        if self.micro_batch_size > self.batch_size:
            raise ValueError(
                f"micro_batch_size ({self.micro_batch_size}) is larger than "
                f"batch_size ({self.batch_size})"
            )
        return self

    @model_validator(mode="after")
    def _blocks_are_of_vision(self) -> "TrainSettings":
        for component, lora in self.lora.items():
            if lora.blocks and component != "vision":
                raise ValueError(f"lora.{component}.blocks: only vision has blocks to choose")
        return self


def require_divisible(settings: TrainSettings, processes: int) -> None:
    """Refuse a batch that cannot be divided equally.

    Raises:
        ConfigError: in that case.
    """
    if settings.batch_size % processes:
        raise ConfigError(
            f"train.batch_size ({settings.batch_size}) cannot be divided among {processes} "
            "processes",
            fix=f"Choose a multiple of {processes}",
        )


class MergeSettings(Section):
    tolerance: PositiveFloat = Field(
        1e-3, description="largest relative difference between adapted and merged outputs"
    )


class PredictSettings(Section):
    prompts_per_pass: PositiveInt = Field(
        8, description="prompts run at once on an encoded image; limits memory"
    )
    confidence_threshold: float = Field(
        0.001, ge=0, le=1, description="detections below it are not written"
    )
    max_detections: PositiveInt = Field(100, description="per image and prompt")


class EvaluateSettings(Section):
    confidence_threshold: float = Field(
        0.5, ge=0, le=1, description="for false alarms, forgetting, and classes without their own"
    )
    resamples: PositiveInt = Field(
        1000, description="bootstrap resamples of the images, behind the intervals"
    )
    ood_prompts: tuple[str, ...] = Field(
        ("circle", "square", "star", "red", "blue"),
        description="out-of-distribution prompts, by which forgetting is measured",
    )


class Config(Section):
    """The whole of `config.yaml`."""

    export: str
    results: str = "results"
    keep: int = Field(5, ge=0, description="earlier trainings, and predictions, that are kept")
    model: Literal["tiny", "full"] = "tiny"
    weights: str = "default"
    image_size: PositiveInt | None = Field(
        None, description="side of the input in pixels; default: 1008, tiny 96"
    )
    convert: ConvertSettings = ConvertSettings()
    validate_: ValidateSettings = Field(ValidateSettings(), alias="validate")
    train: TrainSettings = TrainSettings()
    merge: MergeSettings = MergeSettings()
    predict: PredictSettings = PredictSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    @model_validator(mode="after")
    def _image_size_fits(self) -> "Config":
        window = WINDOW_PIXELS[self.model]
        if self.image_size and self.image_size % window:
            raise ValueError(
                f"image_size ({self.image_size}) is not a multiple of {window}, the side of a "
                f"window of the {self.model} model in pixels"
            )
        return self

    @model_validator(mode="after")
    def _blocks_exist(self) -> "Config":
        vision, count = self.train.lora.get("vision"), VISION_BLOCKS[self.model]
        last = max(block_numbers(vision.blocks), default=0) if vision else 0
        if last >= count:
            raise ValueError(
                f"train.lora.vision.blocks: the {self.model} model has no block {last}, only 0 to "
                f"{count - 1}"
            )
        return self

    def section_json(self, stage: str) -> str:
        """One stage's section as JSON with sorted keys, defaults filled in."""
        section: Section = getattr(self, {"validate": "validate_"}.get(stage, stage))
        return json.dumps(section.model_dump(mode="json"), sort_keys=True)


SectionT = TypeVar("SectionT", bound=Section)


def parse_config(values: Mapping[str, Any]) -> Config:
    """Validate a whole config.

    Raises:
        ConfigError: naming every problem with its dotted path.
    """
    return _validated(Config, values, "config")


def parse_section(kind: type[SectionT], text: str) -> SectionT:
    """Validate the JSON that a stage was given as `--settings`; the order of keys has no effect.

    Raises:
        ConfigError: naming every problem with its dotted path, or the error in the JSON.
    """
    try:
        values = json.loads(text, object_pairs_hook=_distinct)
        ordered = json.loads(json.dumps(values, sort_keys=True))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON: {reason(error)}", file="--settings") from None
    return _validated(kind, ordered, "--settings")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"a key of {shown(sorted(values))} is given twice")
    return values


def _validated(kind: type[SectionT], values: object, source: str) -> SectionT:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(map(_problem, error.errors()))
        raise ConfigError(
            problems, file=source, fix="config.yaml lists all settings with their units"
        ) from None


def _problem(details: ErrorDetails) -> str:
    """One problem with its dotted path, and today's name where an old one was used."""
    path = ".".join(map(str, details["loc"]))[:MAX_SHOWN] or "settings"
    key = details["loc"][-1] if details["loc"] else ""
    if details["type"] == "extra_forbidden":
        old, new = key, RENAMED.get(str(key))
    else:
        old, new = details["input"], RENAMED_VALUES.get((str(key), str(details["input"])))
    return f"{path}: {old!r} is now called {new!r}" if new else f"{path}: {details['msg']}"
