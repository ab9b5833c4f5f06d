"""Fine-tune SAM 3 with LoRA on the training split; select the adapter on the valid split.

Runs alone or under torchrun. Stopped by SIGINT or SIGTERM it finishes its optimiser step,
saves its state and exits; the same command then goes on where it stopped.
"""

import argparse
import hashlib
import json
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from segtune import __version__
from segtune.adapter import save_adapter
from segtune.atomic import atomic_path
from segtune.checkpoint import changes_since, forget, load_state, locked, run_folder, save_state
from segtune.coco import Split, read_split
from segtune.config import PredictSettings, TrainSettings, parse_section
from segtune.dataset import Batch, PromptedImages, has_masks, local_steps, training_batches
from segtune.distributed import Processes, joined
from segtune.engine import Interrupted, StepReport, train_one_epoch
from segtune.errors import ConfigError, DatasetError, exit_on_error
from segtune.history import History
from segtune.inference import predict_split
from segtune.lora import LoraSpec, inject_lora, lora_parameters, lora_state_dict
from segtune.losses import build_loss
from segtune.metrics import average_precision
from segtune.model import ARCHITECTURES
from segtune.provenance import code_fingerprints
from segtune.reporting import progress, say
from segtune.sam3_package import Sam3Image
from segtune.targets import component_of, lora_specs
from segtune.weights import HUB_MODEL, load_base_model

INTERRUPTED_STATUS = 130  # of a shell command that Ctrl-C ended


@dataclass
class Position:
    """Where a run stands."""

    step: int = 0  # optimiser steps done
    epoch: int = 0  # epochs done
    step_in_epoch: int = 0
    validated_epoch: int = -1  # 0 is the base model
    base_score: float = 0.0
    best_score: float = -1.0
    best_epoch: int = 0


@dataclass
class Run:
    """A training run in this process."""

    settings: TrainSettings
    processes: Processes
    model: Sam3Image
    adapted: dict[str, LoraSpec]
    dataset: PromptedImages
    valid: Split
    workers: int
    optimizer: torch.optim.Optimizer
    folder: Path  # of the unfinished run
    history: History | None  # of the main process
    position: Position
    best_adapter: dict[str, Tensor]
    stop: "StopSignal"

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.dataset) // self.settings.batch_size)


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
    """Train, or go on training; then write the adapter and its history."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("train"):
        settings = parse_section(TrainSettings, arguments.settings)
        _require_validated(arguments.report)
        with joined() as processes:
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
    parser.add_argument("--settings", default="{}", help="the train section, as JSON")
    parser.add_argument("--workers", type=int, default=0, help="data processes per device")
    return parser


def _require_validated(report: Path) -> None:
    try:
        errors = json.loads(report.read_text("utf-8"))["errors"]
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(
            f"no validation report ({error})", file=report, remedy="Run segtune.validate first"
        ) from None
    if errors:
        raise DatasetError(
            f"the dataset has {len(errors)} errors", file=report, remedy="Mend them first"
        )


def _require_divisible(batch_size: int, processes: int) -> None:
    if batch_size % processes:
        raise ConfigError(
            f"train.batch_size ({batch_size}) cannot be split over {processes} processes",
            remedy=f"Choose a multiple of {processes}",
        )


def _train_and_write(
    arguments: argparse.Namespace, settings: TrainSettings, processes: Processes, parent: Path
) -> None:
    fingerprint = _fingerprint(arguments, settings)
    folder = run_folder(parent, fingerprint)
    if processes.is_main:
        for name, changes in changes_since(parent, fingerprint).items():
            say(f"not continuing the interrupted run {name}: {'; '.join(changes)}")
    run = _prepare(arguments, settings, processes, folder)
    try:
        _train(run)
    except Interrupted:
        _save(run)
        if processes.is_main:
            say(f"stopped after step {run.position.step}; the same command goes on from there")
        raise SystemExit(INTERRUPTED_STATUS) from None
    finally:
        if run.history:
            run.history.close()
    if processes.is_main:
        _write_results(run, arguments, fingerprint)
        forget(folder)


def _fingerprint(arguments: argparse.Namespace, settings: TrainSettings) -> dict[str, Any]:
    """Whatever a run must not change on the way; the number of processes is not in it."""
    names = ("train.json", "valid.json", "manifest.json")
    return {
        "settings": settings.model_dump(mode="json"),
        "model": arguments.model,
        "weights": arguments.weights,
        "data": {name: _sha256(arguments.coco / name) for name in names},
        "code": dict(item.split("@") for item in code_fingerprints("train")),
    }


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise DatasetError(
            f"cannot be read ({error.strerror})", file=path, remedy="Run segtune.convert first"
        ) from None


def _prepare(
    arguments: argparse.Namespace, settings: TrainSettings, processes: Processes, folder: Path
) -> Run:
    """Model, data and optimiser, as they were when an interrupted run was saved."""
    train = read_split(arguments.coco / "train.json")
    size = ARCHITECTURES[arguments.model].image_size
    prompted = (settings.max_negatives, settings.extra_negatives, settings.horizontal_flip)
    model = load_base_model(arguments.model, arguments.weights).to(processes.device)
    adapted = inject_lora(model, _specs(settings, train, processes.is_main), settings.seed)
    parameters = list(lora_parameters(model).values())
    state = load_state(folder)
    position = Position(**state["position"]) if state else Position()
    run = Run(
        settings=settings,
        processes=processes,
        model=model,
        adapted=adapted,
        dataset=PromptedImages(train, size, *prompted, settings.seed),
        valid=read_split(arguments.coco / "valid.json"),
        workers=arguments.workers,
        optimizer=torch.optim.AdamW(parameters, weight_decay=settings.weight_decay),
        folder=folder,
        history=_history(arguments.out, folder, state, position) if processes.is_main else None,
        position=position,
        best_adapter={},
        stop=StopSignal(),
    )
    torch.manual_seed(settings.seed + processes.rank)  # LoRA's dropout draws from it
    if state:
        _restore(run, state)
    if processes.is_main:
        _describe(run)
    return run


def _specs(settings: TrainSettings, train: Split, is_main: bool) -> dict[str, LoraSpec]:
    components = dict(settings.lora)
    if not has_masks(train):
        if is_main:
            say("the training split has no masks: boxes alone are trained, mask loss is skipped")
        # Without mask loss nothing would ever reach adapters of the mask head.
        components.pop("segmentation", None)
    if not components:
        raise ConfigError(
            "train.lora adapts the segmentation head alone, and no object has a mask",
            remedy="Add detr_decoder to train.lora",
        )
    specs: dict[str, LoraSpec] = {}
    for name, lora in components.items():
        specs |= lora_specs(name, lora.rank, lora.alpha, lora.dropout, lora.targets)
    return specs


def _history(
    out: Path, folder: Path, state: Mapping[str, Any] | None, position: Position
) -> History:
    lines = state["history_lines"] if state else 0
    return History(folder / "history.jsonl", out / "tensorboard", lines, position.step)


def _describe(run: Run) -> None:
    trainable: dict[str, int] = {}
    for name, parameter in lora_parameters(run.model).items():
        component = component_of(name)
        trainable[component] = trainable.get(component, 0) + parameter.numel()
    total = sum(parameter.numel() for parameter in run.model.parameters())
    say(f"LoRA on {len(run.adapted)} modules; trainable parameters:")
    for component, count in trainable.items():
        say(f"  {component:<14}{count:>12,}")
    count = sum(trainable.values())
    say(f"  {'together':<14}{count:>12,}  ({100 * count / total:.2f} % of {total:,})")
    if run.position.step:
        say(f"going on after step {run.position.step}")


def _train(run: Run) -> None:
    settings, position = run.settings, run.position
    loss = build_loss(run.model.matcher, has_masks(run.dataset.split))
    model = _data_parallel(run)
    while True:
        if _validation_is_due(run):
            _validate(run)
        if position.epoch == settings.epochs:
            return
        _set_learning_rate(run)
        with _epoch_progress(run) as after_step:
            train_one_epoch(
                model,
                loss,
                run.optimizer,
                _remaining_steps(run),
                run.processes,
                settings.clip_norm,
                run.stop,
                after_step,
            )
        position.epoch, position.step_in_epoch = position.epoch + 1, 0
        _save(run)


def _data_parallel(run: Run) -> Sam3Image | DistributedDataParallel:
    if run.processes.count == 1:
        return run.model
    # Every process has loaded the same weights and drawn the same adapters.
    return DistributedDataParallel(run.model, forward_sync_buffers=False, init_sync=False)


def _remaining_steps(run: Run) -> Iterator[list[Batch]]:
    settings, position, processes = run.settings, run.position, run.processes
    images = len(run.dataset)
    sharing = (processes.rank, processes.count, settings.seed, position.epoch)
    steps = local_steps(images, settings.batch_size, *sharing)[position.step_in_epoch :]
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
            if run.history:
                run.history.add("train", position.step, _train_record(run, report))
            advance(note=f"loss {report.loss:.3f}  {report.images / report.seconds:.1f} images/s")
            _set_learning_rate(run)
            if position.step % settings.checkpoint_every == 0:
                _save(run)

        yield after_step


def _train_record(run: Run, report: StepReport) -> dict[str, float]:
    return {
        "epoch": run.position.epoch + 1,
        "loss": report.loss,
        **report.terms,
        "learning_rate": run.optimizer.param_groups[0]["lr"],
        "gradient_norm": report.gradient_norm,
        "images_per_second": report.images / report.seconds,
        "data_wait_share": report.waiting_seconds / report.seconds,
    }


def _set_learning_rate(run: Run) -> None:
    total = run.steps_per_epoch * run.settings.epochs
    factor = learning_rate_factor(
        run.position.step, total, run.settings.warmup_steps, run.settings.schedule
    )
    for group in run.optimizer.param_groups:
        group["lr"] = run.settings.learning_rate * factor


def learning_rate_factor(step: int, total: int, warmup: int, schedule: str) -> float:
    """What the peak learning rate is multiplied with in a step, counted from 0.

    Linear warm-up, then constant or a half cosine that would reach 0 after the last step.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _validation_is_due(run: Run) -> bool:
    epoch, settings = run.position.epoch, run.settings
    due = epoch % settings.validate_every == 0 or epoch == settings.epochs
    at_end_of_epoch = run.position.step_in_epoch == 0
    return due and at_end_of_epoch and run.position.validated_epoch < epoch


def _validate(run: Run) -> None:
    """Score the adapter on the valid split and keep it if none was better."""
    position, processes = run.position, run.processes
    share = slice(processes.rank, None, processes.count)
    total = len(run.valid.images[share])
    with progress("valid picture", total, visible=processes.is_main) as advance:
        size, device = run.dataset.image_size, processes.device
        mine = predict_split(
            run.model, run.valid, size, device, PredictSettings(), advance, share, run.stop
        )
    if any(processes.sum([float(run.stop())])):
        raise Interrupted
    everyones = [result for results in processes.gather(mine) for result in results]
    # By picture, so that ties are broken alike for every number of processes.
    _keep_best(run, _scores(run.valid, sorted(everyones, key=lambda r: r["image_id"])))
    position.validated_epoch = position.epoch
    _save(run)


def _scores(valid: Split, results: list[dict[str, Any]]) -> dict[str, float]:
    scores = {"box_AP": average_precision(valid, results, "bbox")["AP"] or 0.0}
    if has_masks(valid):
        scores["mask_AP"] = average_precision(valid, results, "segm")["AP"] or 0.0
    return scores


def _keep_best(run: Run, scores: dict[str, float]) -> None:
    position = run.position
    score = scores.get("mask_AP", scores["box_AP"])
    if position.epoch == 0:
        position.base_score = score
    elif score >= position.best_score:
        position.best_score, position.best_epoch = score, position.epoch
        run.best_adapter = _parameters(run.model)
    if run.history:
        run.history.add("valid", position.step, {"epoch": position.epoch, **scores})
        told = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
        say(f"valid after epoch {position.epoch}: {told}")


def _parameters(model: Sam3Image) -> dict[str, Tensor]:
    return {name: p.detach().cpu().clone() for name, p in lora_parameters(model).items()}


def _load_parameters(model: Sam3Image, values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in lora_parameters(model).items():
            parameter.copy_(values[name])


def _save(run: Run) -> None:
    """Save everything that the next optimiser step depends on; all processes take part."""
    random_states = run.processes.gather(_random_state())
    if run.history:
        state = {
            "position": asdict(run.position),
            "adapter": _parameters(run.model),
            "best_adapter": run.best_adapter,
            "optimizer": run.optimizer.state_dict(),
            "random_states": random_states,
            "history_lines": run.history.lines,
        }
        save_state(run.folder, state)


def _restore(run: Run, state: Mapping[str, Any]) -> None:
    _load_parameters(run.model, state["adapter"])
    run.best_adapter = state["best_adapter"]
    run.optimizer.load_state_dict(state["optimizer"])
    if run.processes.rank < len(state["random_states"]):
        _set_random_state(state["random_states"][run.processes.rank])


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_random_state(state: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _write_results(run: Run, arguments: argparse.Namespace, fingerprint: Mapping[str, Any]) -> None:
    position = run.position
    _load_parameters(run.model, run.best_adapter)
    recipe = {"segtune": __version__, **fingerprint, "result": asdict(position)}
    base = f"segtune/{arguments.model}" if arguments.model == "tiny" else HUB_MODEL
    adapter = lora_state_dict(run.model)
    save_adapter(arguments.out / "adapter", adapter, run.adapted, base, recipe)
    with atomic_path(arguments.out / "history.jsonl") as temporary:
        temporary.write_bytes((run.folder / "history.jsonl").read_bytes())
    say(f"kept epoch {position.best_epoch}, with AP {position.best_score:.4f} on valid")
    if position.best_score < position.base_score:
        say(
            f"WARNING: this adapter is worse than the base model, which scored "
            f"{position.base_score:.4f} on valid before training"
        )


if __name__ == "__main__":
    main()
