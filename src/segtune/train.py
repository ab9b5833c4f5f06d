"""Fine-tune SAM 3 with LoRA on the training split; select the adapter on the valid split.

Runs alone or under torchrun. Stopped by SIGINT or SIGTERM it finishes its optimizer step,
saves its state and exits; killed at any moment, it has the state of a little earlier. The
same command then goes on, and ends with the same adapter.
"""

import argparse
import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from segtune import __version__
from segtune.core.atomic import atomic_path, write_json
from segtune.core.config import (
    LoraSettings,
    PredictSettings,
    TrainSettings,
    block_numbers,
    parse_section,
)
from segtune.core.console import log_line, progress
from segtune.core.errors import (
    ConfigError,
    DatasetError,
    TrainingError,
    WeightsError,
    exit_on_error,
)
from segtune.core.fingerprints import code_fingerprints, file_digest
from segtune.core.processes import Processes, process_group
from segtune.dataset.batch import Batch
from segtune.dataset.coco import Split, has_masks, read_split
from segtune.lora.adapter import save_adapter
from segtune.lora.inject import count_parameters, inject_lora
from segtune.lora.layers import LoraSpec
from segtune.lora.state import lora_state_dict
from segtune.lora.targets import component_of, lora_specs
from segtune.model.architecture import ARCHITECTURES, set_image_size
from segtune.model.inference import Results, predict_images
from segtune.model.weight_files import HUB_MODEL, weights_file
from segtune.model.weights import load_base_model
from segtune.reports.training_page import write_summary
from segtune.training.augment import Augmentation
from segtune.training.checkpoint import (
    changes_since,
    forget,
    load_state,
    locked,
    remove_damaged,
    run_folder,
)
from segtune.training.engine import Interrupted, StepReport, train_one_epoch
from segtune.training.history import History
from segtune.training.losses import build_loss
from segtune.training.optimizer import build_optimizer
from segtune.training.preflight import require_memory
from segtune.training.prompted_images import PromptedImages, training_batches
from segtune.training.run import (
    Position,
    Run,
    adapter_values,
    dataset_repeat_factors,
    ema_weights,
    load_adapter_values,
    random_state,
    restore,
    save,
    set_learning_rates,
    set_random_state,
    update_ema,
)
from segtune.training.sampling import local_steps
from segtune.training.selection import keep_best, valid_scores

INTERRUPTED_STATUS = 130  # of a shell command that Ctrl-C ended


class StopSignal:
    """Remembers that SIGINT or SIGTERM arrived, instead of dying of it."""

    def __init__(self) -> None:
        self.arrived = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: object) -> None:
        self.arrived = True

    def __call__(self) -> bool:
        return self.arrived


def main(argv: Sequence[str] | None = None) -> None:
    """Train, or go on training; then write the adapter, its history and a summary."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("train"):
        settings = parse_section(TrainSettings, arguments.settings)
        _require_validated(arguments.report)
        with process_group() as processes:
            _require_divisible(settings.batch_size, processes.count)
            parent = arguments.out / "checkpoints"
            with locked(parent) if processes.is_main else nullcontext():
                _train_and_write(arguments, settings, processes, parent)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.train", description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="folder of segtune.convert")
    parser.add_argument("--report", type=Path, required=True, help="of segtune.validate")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--model", choices=sorted(ARCHITECTURES), default="tiny")
    parser.add_argument("--weights", default="default", help="see config.yaml")
    parser.add_argument("--image-size", type=int, help="side of the input, in pixels")
    parser.add_argument("--settings", default="{}", help="the train section, as JSON")
    parser.add_argument("--workers", type=int, default=0, help="data processes per device")
    return parser


def _require_validated(report: Path) -> None:
    try:
        errors = json.loads(report.read_text("utf-8"))["errors"]
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(
            f"no validation report ({error})", file=report, fix="Run segtune.validate first"
        ) from None
    if errors:
        raise DatasetError(
            f"the dataset has {len(errors)} errors", file=report, fix="Fix them first"
        )


def _require_divisible(batch_size: int, processes: int) -> None:
    if batch_size % processes:
        raise ConfigError(
            f"train.batch_size ({batch_size}) cannot be split over {processes} processes",
            fix=f"Choose a multiple of {processes}",
        )


def _train_and_write(
    arguments: argparse.Namespace, settings: TrainSettings, processes: Processes, parent: Path
) -> None:
    # Files of many GB are in it: one process reads them.
    found = processes.gather(_fingerprint(arguments, settings) if processes.is_main else None)
    fingerprint = found[0]
    folder = run_folder(parent, fingerprint)
    if processes.is_main:
        for name, changes in changes_since(parent, fingerprint).items():
            log_line(f"not continuing the interrupted run {name}: {'; '.join(changes)}")
    stop = StopSignal()
    run = _prepare(arguments, settings, processes, folder)
    try:
        _train(run, stop, arguments.out)
    except Interrupted:
        save(run)
        if processes.is_main:
            log_line(f"stopped after step {run.position.step}; the same command goes on from there")
        raise SystemExit(INTERRUPTED_STATUS) from None
    except TrainingError as error:
        raise _reproducible(run, error) from None
    finally:
        if run.history:
            run.history.close()
    if processes.is_main:
        _write_results(run, arguments, fingerprint)
        forget(folder)


def _fingerprint(arguments: argparse.Namespace, settings: TrainSettings) -> dict[str, Any]:
    """Whatever a run must not change on the way; the number of processes is not in it."""
    names = ("train.json", "valid.json", "manifest.json")
    weights = weights_file(arguments.model, arguments.weights)
    return {
        "settings": settings.model_dump(mode="json"),
        "model": arguments.model,
        "image_size": arguments.image_size,
        "weights": arguments.weights,
        "weights_sha256": weights and file_digest(weights, WeightsError, "Check --weights"),
        "data": {
            n: file_digest(arguments.coco / n, DatasetError, "Run segtune.convert first")
            for n in names
        },
        "code": dict(item.split("@") for item in code_fingerprints("train")),
    }


def _prepare(
    arguments: argparse.Namespace, settings: TrainSettings, processes: Processes, folder: Path
) -> Run:
    """Model, data and optimizer, as they were when an interrupted run was saved."""
    train = read_split(arguments.coco / "train.json")
    model = load_base_model(arguments.model, arguments.weights)
    image_size = set_image_size(model, arguments.model, arguments.image_size)
    model.to(processes.device)
    adapted = inject_lora(model, _specs(settings, train, processes.is_main), settings.seed)
    dataset = _dataset(train, image_size, settings)
    state = _saved_state(folder, processes)
    position = Position(**state["position"]) if state else Position()
    torch.manual_seed(settings.seed + processes.rank)  # LoRA's dropout draws from it
    run = Run(
        settings=settings,
        processes=processes,
        model=model,
        adapted=adapted,
        dataset=dataset,
        valid=read_split(arguments.coco / "valid.json"),
        workers=arguments.workers,
        optimizer=build_optimizer(model, settings),
        folder=folder,
        history=_history(arguments.out, folder, state, position) if processes.is_main else None,
        position=position,
        factors=dataset_repeat_factors(dataset, settings),
        average=adapter_values(model) if settings.ema_decay else {},
        best_adapter={},
        random_state=random_state(),
    )
    if processes.is_main:
        _describe(run)
    require_memory(run)
    set_random_state(run.random_state)
    if state:
        restore(run, state)
    return run


def _saved_state(folder: Path, processes: Processes) -> dict[str, Any] | None:
    state, damaged = load_state(folder)
    processes.gather(None)  # nobody reads any more
    if processes.is_main:
        for path in damaged:
            earlier = "the one before it is used" if state else "nothing else is there"
            log_line(f"WARNING: {path.name} is damaged: {earlier}")
        remove_damaged(folder, damaged)
    return state


def _dataset(train: Split, image_size: int, settings: TrainSettings) -> PromptedImages:
    augmentation = Augmentation(
        settings.horizontal_flip,
        settings.min_scale,
        settings.color_jitter,
        settings.box_noise,
    )
    prompted = (settings.max_negatives, settings.extra_negatives)
    return PromptedImages(train, image_size, *prompted, augmentation, settings.seed)


def _specs(settings: TrainSettings, train: Split, is_main: bool) -> dict[str, LoraSpec]:
    components = dict(settings.lora)
    if not has_masks(train):
        if is_main:
            log_line(
                "the training split has no masks: boxes alone are trained, mask loss is skipped"
            )
        # Without mask loss nothing would ever reach adapters of the mask head.
        components.pop("segmentation", None)
    if not components:
        raise ConfigError(
            "train.lora adapts the segmentation head alone, and no object has a mask",
            fix="Add detr_decoder to train.lora",
        )
    specs: dict[str, LoraSpec] = {}
    for name, lora in components.items():
        specs |= lora_specs(name, _spec(lora), lora.targets, block_numbers(lora.blocks))
    return specs


def _spec(lora: LoraSettings) -> LoraSpec:
    return LoraSpec(lora.rank, lora.alpha, lora.dropout, (), lora.rank_stabilized)


def _history(
    out: Path, folder: Path, state: Mapping[str, Any] | None, position: Position
) -> History:
    lines = state["history_lines"] if state else 0
    return History(folder / "history.jsonl", out / "tensorboard", lines, position.step)


def _describe(run: Run) -> None:
    """Print what is trained, component by component."""
    counts = count_parameters(run.model, component_of)
    log_line(f"LoRA on {len(run.adapted)} modules; trainable parameters:")
    for component, (trainable, every) in counts.items():
        if trainable:
            log_line(f"  {component:<14}{trainable:>12,}  of {every:>13,}")
    trainable, every = (sum(column) for column in zip(*counts.values(), strict=True))
    share = 100 * trainable / every
    log_line(f"  {'together':<14}{trainable:>12,}  of {every:>13,}  ({share:.2f} %)")
    if run.position.step:
        log_line(f"going on after step {run.position.step}")


def _train(run: Run, stop: StopSignal, out: Path) -> None:
    settings, position = run.settings, run.position
    loss = build_loss(run.model.matcher, has_masks(run.dataset.split))
    model = _data_parallel(run)
    while True:
        if _validation_is_due(run):
            _validate(run, stop, out)
        if run.is_over:
            return
        set_learning_rates(run)
        with _epoch_progress(run) as after_step:
            train_one_epoch(
                model,
                loss,
                run.optimizer,
                _remaining_steps(run),
                run.processes,
                settings.clip_norm,
                stop,
                after_step,
            )
        position.epoch, position.step_in_epoch = position.epoch + 1, 0
        save(run)


def _data_parallel(run: Run) -> Any:
    if run.processes.count == 1:
        return run.model
    # Every process has loaded the same weights and drawn the same adapters.
    return DistributedDataParallel(run.model, forward_sync_buffers=False, init_sync=False)


def _remaining_steps(run: Run) -> Iterator[list[Batch]]:
    settings, position, processes = run.settings, run.position, run.processes
    sharing = (processes.rank, processes.count, settings.seed, position.epoch)
    steps = local_steps(run.factors, settings.batch_size, *sharing)[position.step_in_epoch :]
    micro = settings.micro_batch_size
    return training_batches(run.dataset, steps, position.epoch, micro, run.workers)


@contextmanager
def _epoch_progress(run: Run) -> Iterator[Callable[[StepReport], None]]:
    position, settings = run.position, run.settings
    title = f"epoch {position.epoch + 1}/{settings.epochs} step"
    total, done = run.steps_per_epoch, position.step_in_epoch
    with progress(title, total, done, visible=run.processes.is_main) as advance:

        def after_step(report: StepReport) -> None:
            position.step += 1
            position.step_in_epoch += 1
            position.seconds += report.seconds
            update_ema(run)
            if run.history:
                run.history.add("train", position.step, _train_record(run, report))
            advance(note=f"loss {report.loss:.3f}  {report.images / report.seconds:.1f} images/s")
            set_learning_rates(run)
            run.random_state = random_state()
            if position.step % settings.checkpoint_every == 0:
                save(run)

        yield after_step


def _train_record(run: Run, report: StepReport) -> dict[str, Any]:
    rates = {group["component"]: group["lr"] for group in run.optimizer.param_groups}
    return {
        "epoch": run.position.epoch + 1,
        "loss": report.loss,
        **report.terms,
        "learning_rate": rates,
        "gradient_norm": report.gradient_norm,
        "images_per_second": report.images / report.seconds,
        "data_wait_share": report.waiting_seconds / report.seconds,
        "peak_memory_gb": report.peak_memory_gb,
    }


def _validation_is_due(run: Run) -> bool:
    epoch, settings = run.position.epoch, run.settings
    due = epoch % settings.validate_every == 0 or epoch == settings.epochs
    at_end_of_epoch = run.position.step_in_epoch == 0
    return due and at_end_of_epoch and run.position.validated_epoch < epoch


def _validate(run: Run, stop: StopSignal, out: Path) -> None:
    """Score the adapter on the valid split and keep it if none was better."""
    processes = run.processes
    share = slice(processes.rank, None, processes.count)
    images = run.valid.images[share]
    size, device = run.dataset.image_size, processes.device
    found = predict_images(run.model, run.valid, images, size, device, PredictSettings())
    shown = progress("valid image", len(images), visible=processes.is_main)
    mine: Results = []
    with shown as advance, ema_weights(run), closing(found):
        for _, results in found:
            mine += results
            advance()
            if stop():
                break
    if any(processes.sum([float(stop())])):
        raise Interrupted
    everyones = [result for results in processes.gather(mine) for result in results]
    # By image, so that ties are broken alike for every number of processes.
    everyones.sort(key=lambda result: result["image_id"])
    keep_best(run, valid_scores(run.valid, everyones), everyones, out)
    run.position.validated_epoch = run.position.epoch
    save(run)


def _reproducible(run: Run, error: TrainingError) -> TrainingError:
    """Save the state before the failed step, so that the same command repeats it."""
    save(run)
    path = run.folder / "failure.json"
    if run.processes.is_main:
        failed = {"step": run.position.step + 1, "epoch": run.position.epoch + 1}
        write_json(path, {**failed, "problem": error.problem, "images": error.record})
    return TrainingError(
        error.problem,
        record=f"step {run.position.step + 1}, {error.record}",
        fix=f"{error.fix}. The same command repeats this step; see {path}",
    )


def _write_results(run: Run, arguments: argparse.Namespace, fingerprint: Mapping[str, Any]) -> None:
    position, out = run.position, arguments.out
    load_adapter_values(run.model, run.best_adapter)
    recipe = {"segtune": __version__, **fingerprint, "result": asdict(position)}
    base = f"segtune/{arguments.model}" if arguments.model == "tiny" else HUB_MODEL
    adapter = lora_state_dict(run.model)
    save_adapter(out / "adapter", adapter, run.adapted, base, recipe)
    with atomic_path(out / "history.jsonl") as temporary:
        temporary.write_bytes((run.folder / "history.jsonl").read_bytes())
    write_summary(out, recipe, count_parameters(run.model, component_of))
    score = f"{run.settings.select_by} {position.best_score:.4f} on valid"
    log_line(f"kept epoch {position.best_epoch}, with {score}")
    if position.epoch < run.settings.epochs:
        log_line(
            f"stopped after epoch {position.epoch}: no better score for a while (train.patience)"
        )
    if position.best_score < position.base_score:
        log_line(
            f"WARNING: this adapter is worse than the base model, which scored "
            f"{position.base_score:.4f} on valid before training"
        )


if __name__ == "__main__":
    main()
