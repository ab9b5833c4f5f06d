"""The settings of the pipeline: one validated section per stage.

Only Snakemake reads `config.yaml`. A stage gets its section as one JSON string
(`--settings`), so that Snakemake compares settings as a whole and a stage can be run by
hand. Every problem of a config is reported at once, each with its dotted path. What follows the
model has its defaults in `recipes.py`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from segtune.core.errors import ConfigError, shown
from segtune.core.foreign import reason
from segtune.core.label_issues_settings import LabelIssuesSettings
from segtune.core.label_settings import LabelSettings
from segtune.core.merge_settings import MergeSettings
from segtune.core.probe_settings import ProbeSettings
from segtune.core.recipes import with_recipe, with_train_recipe
from segtune.core.section import Section
from segtune.core.setting_problems import problem_of
from segtune.core.suggest_settings import SuggestSettings
from segtune.core.tiles_settings import TilesSettings
from segtune.core.validate_settings import ValidateSettings

# Of the attention in each model; checked here, too, because it needs no torch.
WINDOW_PIXELS = {"tiny": 48, "full": 336}
VISION_BLOCKS = {"tiny": 3, "full": 32}
QUERIES = {"tiny": 12, "full": 200}  # detections of a prompt in an image, at most
INPUT_PIXELS = {"tiny": 96, "full": 1008}  # side of the input, unless `image_size` changes it

# Settings of `train` that change how a step is computed, and its result only in rounding (and in
# what dropout drops). A run continues with other ones, and a finished one is not repeated for them.
EXECUTION = ("micro_batch_size", "masks_per_chunk", "activation_checkpointing")

Component = Literal["vision", "text", "geometry", "detr_encoder", "detr_decoder", "segmentation"]
Projection = Literal["q", "k", "v", "out", "mlp"]
# Components whose activations can be computed again, in the order of seconds lost for a gigabyte
# saved (benchmarks/gpu.py).
Checkpointed = Literal["detr_encoder", "segmentation", "vision", "detr_decoder", "text"]
CHECKPOINTED: tuple[Checkpointed, ...] = get_args(Checkpointed)


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
    copies: Literal["keep", "move_to_train"] = Field(
        "keep", description="of images of another split; those of valid and test only go to valid"
    )
    prompts: dict[str, str] = Field(
        default_factory=dict, description="category name -> text prompt"
    )
    template: str = Field(
        "{name}", description="of every prompt; {name}, and fields of an image's record or CSV"
    )
    fields: str = Field("", description="CSV of fields per image, with a column file_name")


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


class TrainSettings(Section):
    """Settings without a default follow the model: see `parse_train`."""

    seed: int = Field(0, ge=0)
    epochs: PositiveInt = Field(description="passes over the training split")
    batch_size: PositiveInt = Field(description="images per optimizer step, all processes")
    micro_batch_size: PositiveInt = Field(
        description="images per forward pass and process, at most; limits memory"
    )
    masks_per_chunk: PositiveInt = Field(
        8, description="masks whose loss is computed at once; limits memory"
    )
    activation_checkpointing: Literal["auto"] | tuple[Checkpointed, ...] = Field(
        description="components whose activations are computed again to save memory"
    )
    max_negatives: int = Field(5, ge=0, description="negative prompts per image")
    extra_negatives: tuple[str, ...] = Field(
        (), description="further negative prompts, for things that no training image shows"
    )
    ood_negatives: tuple[str, ...] | None = Field(
        None, description="out-of-distribution negatives; default: nouns that segtune ships"
    )
    min_negatives: int = Field(
        1, ge=0, description="with fewer others, an image gets out-of-distribution ones, too"
    )
    exclude_issues: str | None = Field(None, description="an issues.json; its pairs are left out")
    horizontal_flip: bool = Field(
        True, description="mirror half of the images; off where left and right differ"
    )
    min_scale: float = Field(
        gt=0, le=1, description="images are shrunk to a random scale from here to 1, padded"
    )
    scale_views: int = Field(
        0, ge=0, description="random scales of an image, drawn once; 0: a new one each time"
    )
    cache_features: bool = Field(
        False, description="compute what frozen vision blocks make of each image once, on disk"
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
    learning_rate: PositiveFloat = Field(description="peak learning rate of AdamW")
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(ge=0, description="optimizer steps of linear warm-up")
    schedule: Literal["cosine", "inverse_sqrt", "constant"] = "cosine"
    clip_norm: PositiveFloat = Field(0.1, description="gradients are clipped to this L2 norm")
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="per step, of a moving average used instead; 0: off"
    )
    select_by: Literal["AP", "cgF1"] = Field(
        "AP", description="score on the valid split that chooses the best epoch"
    )
    validate_every: PositiveInt = Field(description="epochs between validations")
    patience: int = Field(
        0, ge=0, description="validations without improvement until training stops; 0: never"
    )
    checkpoint_every: PositiveInt = Field(50, description="optimizer steps between checkpoints")
    lora: dict[Component, LoraSettings] = Field(min_length=1)

    @model_validator(mode="after")
    def _scales_are_random(self) -> "TrainSettings":
        if self.scale_views and self.min_scale == 1:
            raise ValueError("scale_views: with min_scale 1, an image has only one scale")
        return self

    @model_validator(mode="after")
    def _features_can_be_cached(self) -> "TrainSettings":
        vision = self.lora.get("vision")
        if not self.cache_features:
            return self
        if vision and min(block_numbers(vision.blocks), default=0) == 0:
            raise ValueError(
                "cache_features: lora.vision adapts the first block, so that nothing is frozen; "
                "set its `blocks`, such as 24-31, or `vision: false`"
            )
        if self.color_jitter:
            raise ValueError("cache_features: color_jitter changes an image each time")
        if self.min_scale < 1 and not self.scale_views:
            raise ValueError("cache_features: min_scale needs a number of scale_views")
        return self

    @model_validator(mode="after")
    def _blocks_are_of_vision(self) -> "TrainSettings":
        for component, lora in self.lora.items():
            if lora.blocks and component != "vision":
                raise ValueError(f"lora.{component}.blocks: only vision has blocks to choose")
        return self


def frozen_vision_blocks(settings: TrainSettings, model: str) -> int:
    """How many blocks come before the first one with adapters."""
    vision = settings.lora.get("vision")
    return min(block_numbers(vision.blocks), default=0) if vision else VISION_BLOCKS[model]


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


class PredictSettings(Section):
    prompts_per_pass: PositiveInt = Field(
        8, description="prompts run at once on an encoded image; limits memory"
    )
    confidence_threshold: float = Field(
        0.001, ge=0, le=1, description="detections below it are not written"
    )
    max_detections: PositiveInt | None = Field(
        None, description="per image and prompt; default: one for each query of the model"
    )


class EvaluateSettings(Section):
    confidence_threshold: float = Field(
        0.5, ge=0, le=1, description="for false alarms, forgetting, and classes without their own"
    )
    resamples: PositiveInt = Field(
        1000, description="bootstrap resamples of the images, behind the intervals"
    )
    ood_prompts: tuple[str, ...] = Field(
        (), description="out-of-distribution prompts, by which forgetting is measured"
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
    tiles: TilesSettings = TilesSettings()
    probe: ProbeSettings = ProbeSettings()
    train: TrainSettings
    merge: MergeSettings = MergeSettings()
    predict: PredictSettings = PredictSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    label: LabelSettings = LabelSettings()
    label_issues: LabelIssuesSettings = LabelIssuesSettings()
    suggest: SuggestSettings = SuggestSettings()

    @model_validator(mode="before")
    @classmethod
    def _follow_the_model(cls, values: Any) -> Any:
        return with_recipe(values)

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
        """One stage's section as JSON with sorted keys, defaults filled in; without `EXECUTION`."""
        section: Section = getattr(self, {"validate": "validate_"}.get(stage, stage))
        values = section.model_dump(mode="json", exclude=set(EXECUTION))
        return json.dumps(values, sort_keys=True)

    def feature_json(self) -> str:
        """As much of the train section as decides which features there are, as JSON."""
        names = {"cache_features", "horizontal_flip", "min_scale", "scale_views"}
        names |= {"seed"} if self.train.scale_views else set()  # of the scales
        values = self.train.model_dump(mode="json", include=names)
        vision = self.train.lora.get("vision")
        lora = {"vision": {"blocks": vision.blocks}} if vision else {"detr_decoder": {}}
        return json.dumps({**values, "lora": lora}, sort_keys=True)

    def execution_json(self) -> str:
        """The settings of `EXECUTION`, as JSON with sorted keys."""
        values = self.train.model_dump(mode="json", include=set(EXECUTION))
        return json.dumps(values, sort_keys=True)


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
    return _validated(kind, _parsed(text, "--settings"), "--settings")


def parse_train(model: str, text: str, execution: str = "{}") -> TrainSettings:
    """Validate the train section of a stage; what it leaves open follows the model.

    Args:
        model: "tiny" or "full".
        text: the JSON that was given as `--settings`.
        execution: the JSON that was given as `--execution`, with settings of `EXECUTION`.

    Raises:
        ConfigError: as `parse_section`.
    """
    values, more = _parsed(text, "--settings"), _parsed(execution, "--execution")
    unknown = sorted(set(more) - set(EXECUTION)) if isinstance(more, dict) else ["settings"]
    if unknown:
        raise ConfigError(f"{shown(unknown)}: not of {', '.join(EXECUTION)}", file="--execution")
    if isinstance(values, dict):
        values |= more
    return _validated(TrainSettings, with_train_recipe(model, values), "--settings")


def _parsed(text: str, source: str) -> Any:
    try:
        values = json.loads(text, object_pairs_hook=_distinct)
        return json.loads(json.dumps(values, sort_keys=True))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON: {reason(error)}", file=source) from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"a key of {shown(sorted(values))} is given twice")
    return values


def _validated(kind: type[SectionT], values: object, source: str) -> SectionT:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(map(problem_of, error.errors()))
        raise ConfigError(
            problems, file=source, fix="config.yaml lists all settings with their units"
        ) from None
