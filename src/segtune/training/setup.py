"""A training run prepared: model, data and optimizer, and the state of an interrupted run."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segtune.core.config import (
    EXECUTION,
    Component,
    LoraSettings,
    TrainSettings,
    frozen_vision_blocks,
)
from segtune.core.console import log_line
from segtune.core.errors import ConfigError, DatasetError, WeightsError
from segtune.core.fingerprints import code_fingerprints, file_digest
from segtune.core.processes import Processes
from segtune.dataset.coco import Split, has_masks, read_manifest, read_split
from segtune.dataset.tiles import tiles_beside
from segtune.lora.inject import count_parameters, inject_lora, lora_parameters
from segtune.lora.targets import component_of, lora_specs
from segtune.model.architecture import set_image_size
from segtune.model.frozen_prefix import start_after
from segtune.model.frozen_text import keep_embeddings, replace_text_encoder
from segtune.model.frozen_weights import store_frozen_in
from segtune.model.precision import autocast_dtype, loss_scaler
from segtune.model.sam3_package import Sam3Image
from segtune.model.weight_files import weights_file
from segtune.model.weights import load_base_model
from segtune.training.augment import Augmentation
from segtune.training.checkpoint import load_state, remove_damaged
from segtune.training.excluded_issues import excluded_classes, issues_fingerprint
from segtune.training.feature_store import FeatureStore, Records, store_folder
from segtune.training.features import Prefix, complete_features, feature_key, wanted_views
from segtune.training.history import History
from segtune.training.negative_counts import describe_negatives, negatives_per_epoch
from segtune.training.ood_negatives import OodNegatives, names_of, ood_negatives
from segtune.training.optimizer import build_optimizer, set_learning_rates
from segtune.training.preflight import require_memory
from segtune.training.prompted_images import PromptedImages
from segtune.training.restoring import restore_checked
from segtune.training.run import Run, random_state, set_random_state
from segtune.training.sampling import repeat_factors


@dataclass(frozen=True)
class Inputs:
    """What a run needs besides its settings, and where its results go."""

    coco: Path  # folder of the converted splits
    out: Path
    features: Path  # folder of features, with `cache_features`
    model: str  # "tiny" or "full"
    weights: str
    image_size: int | None  # pixels
    workers: int  # data processes per training process


def run_fingerprint(inputs: Inputs, settings: TrainSettings) -> dict[str, Any]:
    """Everything that must stay the same in a run: the settings of `EXECUTION` may change, and the
    number of processes.

    Raises:
        DatasetError: when a file of the dataset, or of its issues, cannot be read.
        WeightsError: when the weights cannot be read.
    """
    names = ("train.json", "valid.json", "manifest.json")
    tiles = tiles_beside(inputs.coco)
    weights = weights_file(inputs.model, inputs.weights)
    return {
        "settings": settings.model_dump(mode="json", exclude=set(EXECUTION)),
        "model": inputs.model,
        "image_size": inputs.image_size,
        "weights": inputs.weights,
        "weights_sha256": weights and file_digest(weights, WeightsError, "Check --weights"),
        "data": {
            name: file_digest(inputs.coco / name, DatasetError, "Run segtune.convert first")
            for name in names
        },
        "code": dict(item.split("@") for item in code_fingerprints("train")),
        **issues_fingerprint(settings.exclude_issues),
        # Other tiles may cut these images alike, and others not.
        **({"tiles": asdict(tiles)} if tiles else {}),
    }


def prepare_run(
    inputs: Inputs,
    settings: TrainSettings,
    *,
    processes: Processes,
    folder: Path,
    stop_wanted: Callable[[], bool] = lambda: False,
) -> Run:
    """Build a run, and put it where an interrupted run was saved.

    Args:
        inputs: files and sizes.
        settings: the train section.
        processes: this process among the others.
        folder: of the unfinished run.
        stop_wanted: while features are computed, true in any process stops all of them.

    Raises:
        ConfigError: when the settings leave nothing to train.
        AdapterError: when a LoRA target matches no module.
        TrainingError: when the saved state is not one of this run.
        ResourceError: when the largest step does not fit into GPU memory.
        StepFailed: when features were to be computed, and that failed in any process.
        Interrupted: when that was stopped.
    """
    run = _new_run(inputs, settings, processes, folder=folder, stop_wanted=stop_wanted)
    if processes.is_main:
        _describe(run)
        counts = negatives_per_epoch(run.dataset, run.repeat_factors)
        describe_negatives(counts, run.nouns, settings)
    require_memory(run.model, run.dataset, settings=settings, processes=processes)
    set_random_state(run.random_state)
    state = _saved_state(folder, processes)
    if state:
        restore_checked(run, state, folder)
    if processes.is_main:
        run.history = _history(inputs.out, folder, state)
        if run.position.step:
            log_line(f"resuming after step {run.position.step}")
    set_learning_rates(
        run.optimizer,
        step=run.position.step,
        total_steps=run.total_steps,
        warmup_steps=settings.warmup_steps,
        schedule=settings.schedule,
    )
    return run


def _new_run(
    inputs: Inputs,
    settings: TrainSettings,
    processes: Processes,
    *,
    folder: Path,
    stop_wanted: Callable[[], bool],
) -> Run:
    train, valid = (read_split(inputs.coco / f"{name}.json") for name in ("train", "valid"))
    excluded = excluded_classes(
        settings.exclude_issues, train, tiled=tiles_beside(inputs.coco) is not None
    )
    nouns = ood_negatives(
        settings.ood_negatives, {*names_of((train, valid)), *settings.extra_negatives}
    )
    model = load_base_model(inputs.model, inputs.weights)
    image_size = set_image_size(model, inputs.model, inputs.image_size)
    components = _trainable_components(settings.lora, with_masks=has_masks(train))
    adapted = inject_lora(model, lora_specs(components), settings.seed)
    parameters = count_parameters(model, component_of)
    store_frozen_in(model, autocast_dtype(processes.device))
    # After the adapters were drawn: on a GPU, a seed gives other values.
    model.to(processes.device)
    dataset = _dataset(
        train, settings, image_size=image_size, nouns=nouns, excluded=excluded.by_image
    )
    if processes.is_main:
        excluded.describe(dataset)
    if settings.cache_features:
        blocks = frozen_vision_blocks(settings, inputs.model)
        prefix = Prefix(model, blocks, image_size, processes.device)
        dataset.features = _cached_features(
            inputs,
            settings,
            prefix,
            splits=(train, valid),
            processes=processes,
            stop_wanted=stop_wanted,
        )
    prompts = names_of((train, valid)) | {*dataset.extra_negatives, *nouns.trained, *nouns.held_out}
    if "text" in components:
        keep_embeddings(model, prompts)
    else:
        replace_text_encoder(model, prompts, device=processes.device)
    present = [dataset.present(image) for image in dataset.images]
    torch.manual_seed(settings.seed + processes.rank)  # for the dropout of LoRA
    return Run(
        settings=settings,
        processes=processes,
        model=model,
        parameters=parameters,
        adapted=adapted,
        dataset=dataset,
        valid=valid,
        workers=inputs.workers,
        repeat_factors=repeat_factors(present, settings.repeat_factor_threshold),
        optimizer=build_optimizer(model, settings),
        scaler=loss_scaler(processes.device),
        folder=folder,
        average=_initial_average(model) if settings.ema_decay else {},
        random_state=random_state(),
        nouns=nouns,
    )


def _cached_features(
    inputs: Inputs,
    settings: TrainSettings,
    prefix: Prefix,
    *,
    splits: tuple[Split, Split],
    processes: Processes,
    stop_wanted: Callable[[], bool],
) -> FeatureStore:
    """The features of all views, of which the rule `features` has computed most or all.

    The model starts with them from then on.
    """
    key = feature_key(inputs.model, inputs.weights, prefix, processes)
    folder = store_folder(inputs.features, key)
    records = Records(read_manifest(inputs.coco))
    wanted = wanted_views(*splits, settings, image_size=prefix.image_size, records=records)
    complete_features(
        prefix,
        wanted,
        folder,
        processes=processes,
        workers=inputs.workers,
        stop_wanted=stop_wanted,
    )
    start_after(prefix.model, prefix.blocks)
    return FeatureStore(folder, records)


def _trainable_components(
    lora: Mapping[Component, LoraSettings], *, with_masks: bool
) -> dict[Component, LoraSettings]:
    # Without a mask loss, adapters of the mask head would never get a gradient.
    components = {
        component: settings
        for component, settings in lora.items()
        if with_masks or component != "segmentation"
    }
    if not components:
        raise ConfigError(
            "train.lora adapts only the segmentation head, and no object has a mask",
            fix="Add detr_decoder to train.lora",
        )
    return components


def _dataset(
    train: Split,
    settings: TrainSettings,
    *,
    image_size: int,
    nouns: OodNegatives,
    excluded: Mapping[str, frozenset[int]],
) -> PromptedImages:
    return PromptedImages(
        train,
        image_size=image_size,
        max_negatives=settings.max_negatives,
        extra_negatives=settings.extra_negatives,
        augmentation=Augmentation(
            horizontal_flip=settings.horizontal_flip,
            min_scale=settings.min_scale,
            scale_views=settings.scale_views,
            color_jitter=settings.color_jitter,
            box_noise=settings.box_noise,
        ),
        seed=settings.seed,
        ood_negatives=nouns.trained,
        min_negatives=settings.min_negatives,
        excluded=excluded,
    )


def _initial_average(model: Sam3Image) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in lora_parameters(model).items()}


def _saved_state(folder: Path, processes: Processes) -> dict[str, Any] | None:
    """The state that the first process finds; another node may still see an older one."""
    state = None
    if processes.is_main:
        state, damaged = load_state(folder)
        fallback = "using the previous one" if state else "there is no other, so starting over"
        for path in damaged:
            log_line(f"WARNING: {path.name} is damaged; {fallback}")
        remove_damaged(folder, damaged)
    found: dict[str, Any] | None = processes.from_main(state)
    return found


def _history(out: Path, folder: Path, state: Mapping[str, Any] | None) -> History:
    return History(
        folder / "history.jsonl",
        out / "tensorboard",
        lines=state["history_lines"] if state else 0,
        step=state["position"]["step"] if state else 0,
    )


def _describe(run: Run) -> None:
    """Print what is trained, component by component."""
    if not has_masks(run.dataset.split):
        log_line("the training split has no masks: training boxes, without a mask loss")
    log_line(f"LoRA on {len(run.adapted)} modules; trainable parameters:")
    counts = run.parameters
    for component, count in counts.items():
        if count.trainable:
            log_line(f"  {component:<14}{count.trainable:>12,}  of {count.total:>13,}")
    trainable = sum(count.trainable for count in counts.values())
    total = sum(count.total for count in counts.values())
    percent = 100 * trainable / total
    log_line(f"  {'total':<14}{trainable:>12,}  of {total:>13,}  ({percent:.2f}%)")
