"""Fine-tune SAM 3 with LoRA on the training split; the valid split chooses the best epoch.

Runs as a single process or under torchrun. On SIGINT or SIGTERM it finishes its optimizer
step, saves its state and exits; if it is killed, the last checkpoint remains. The same command
then resumes the run, and ends with a bitwise identical adapter. The results in place change
only when the new ones are complete, all together; earlier ones are kept and found again.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segtune import __version__
from segtune.core.atomic import write_records
from segtune.core.config import EXECUTION, Config, TrainSettings, parse_train, require_divisible
from segtune.core.console import log_line
from segtune.core.errors import exit_on_error
from segtune.core.gpu_memory import memory_errors
from segtune.core.kept import STORE, find_kept, just_kept, kept_result, place, remove_oldest
from segtune.core.processes import Processes, process_group
from segtune.core.publishing import finish_publishing
from segtune.core.stop_signal import INTERRUPTED_STATUS, StopSignal
from segtune.dataset.detections import to_record
from segtune.dataset.gate import require_validated
from segtune.dataset.tiles import tiles_beside
from segtune.lora.adapter import save_adapter
from segtune.lora.state import lora_state_dict
from segtune.model.architecture import ARCHITECTURES
from segtune.model.recognition import base_model_name
from segtune.model.weights import weights_digest
from segtune.training.checkpoint import changes_since, locked, remove_run, run_folder
from segtune.training.ema import load_adapter_values
from segtune.training.engine import Interrupted
from segtune.training.failures import StepFailed
from segtune.training.loop import train
from segtune.training.negative_counts import negatives_per_epoch
from segtune.training.run import Position, Run, save, save_failure
from segtune.training.setup import Inputs, prepare_run, run_fingerprint


def main(argv: Sequence[str] | None = None) -> None:
    """Train, or resume training; then write the adapter, its recipe and its history."""
    arguments = _parser().parse_args(argv)
    inputs = Inputs(
        coco=arguments.coco,
        out=arguments.out,
        features=arguments.features or arguments.out / "features",
        model=arguments.model,
        weights=arguments.weights,
        image_size=arguments.image_size,
        workers=arguments.workers,
    )
    with exit_on_error("train"):
        settings = parse_train(arguments.model, arguments.settings, arguments.execution)
        require_validated(arguments.report, arguments.validated or arguments.coco)
        with process_group() as processes:
            require_divisible(settings, processes.count)
            parent = inputs.out / "checkpoints"
            lock = locked(parent) if processes.is_main else nullcontext()
            with lock, memory_errors():
                _train(inputs, settings, processes=processes, parent=parent)
                if processes.is_main:
                    remove_oldest(inputs.out / STORE, inputs.out, limit=arguments.keep)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.train", description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="folder of segtune.convert")
    parser.add_argument("--report", type=Path, required=True, help="report.json of validate")
    parser.add_argument(
        "--validated", type=Path, help="folder that it is of, where --coco is a part of that"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--features", type=Path, help="folder of segtune.features (default: one in --out)"
    )
    parser.add_argument("--model", choices=sorted(ARCHITECTURES), default="tiny")
    parser.add_argument("--weights", default="default", help="see config.yaml")
    parser.add_argument("--image-size", type=int, help="side of the input, in pixels")
    parser.add_argument("--settings", default="{}", help="the train section, as JSON")
    parser.add_argument(
        "--execution",
        default="{}",
        help=f"its {', '.join(EXECUTION)}, as JSON; a run continues with other ones",
    )
    parser.add_argument("--workers", type=int, default=0, help="data loaders per process")
    parser.add_argument(
        "--keep",
        type=int,
        default=Config.model_fields["keep"].default,
        help="earlier trainings to keep (default: %(default)s)",
    )
    return parser


def _train(inputs: Inputs, settings: TrainSettings, *, processes: Processes, parent: Path) -> None:
    # It hashes files of many GB, so only one process does.
    fingerprint = processes.from_main(
        run_fingerprint(inputs, settings) if processes.is_main else None
    )
    folder = processes.from_main(run_folder(parent, fingerprint) if processes.is_main else None)
    if not processes.from_main(processes.is_main and _place_kept(inputs.out, fingerprint)):
        _run(inputs, settings, processes=processes, fingerprint=fingerprint, folder=folder)
    if processes.is_main:
        remove_run(folder)


def _place_kept(out: Path, fingerprint: Mapping[str, Any]) -> bool:
    """Put the result of an earlier training with this fingerprint in place, if it is kept."""
    finish_publishing(out)
    kept = find_kept(out / STORE, fingerprint)
    if kept:
        place(kept, out)
        log_line(f"not training again: found the training of {kept.finished} ({kept.summary})")
    return bool(kept)


def _run(
    inputs: Inputs,
    settings: TrainSettings,
    *,
    processes: Processes,
    fingerprint: Mapping[str, Any],
    folder: Path,
) -> None:
    if processes.is_main:
        for name, changes in changes_since(folder.parent, fingerprint).items():
            log_line(f"not resuming the interrupted run {name}: {'; '.join(changes)}")
    stop = StopSignal()
    try:
        run = prepare_run(inputs, settings, processes=processes, folder=folder, stop_wanted=stop)
    except StepFailed as failed:
        raise failed.error from None
    except Interrupted:
        if processes.is_main:
            log_line("stopped while computing features; the same command continues with them")
        raise SystemExit(INTERRUPTED_STATUS) from None
    try:
        train(run, out=inputs.out, stop_wanted=stop)
    except Interrupted:
        save(run)
        if processes.is_main:
            log_line(f"stopped after step {run.position.step}; the same command resumes the run")
        raise SystemExit(INTERRUPTED_STATUS) from None
    except StepFailed as failed:
        raise save_failure(run, failed.error) from None
    finally:
        if run.history:
            run.history.close()
    if processes.is_main:
        _keep_results(run, inputs, fingerprint)
        _report(run.position, settings)


def _keep_results(run: Run, inputs: Inputs, fingerprint: Mapping[str, Any]) -> None:
    """Write all results to the store, then put them in place together."""
    store = inputs.out / STORE
    summary = f"{run.settings.select_by} {run.position.best_score:.4f} on valid"
    with kept_result(store, fingerprint, summary) as folder:
        _write_adapter(folder / "adapter", run, inputs, fingerprint)
        shutil.copyfile(run.folder / "history.jsonl", folder / "history.jsonl")
        write_records(folder / "valid_base.json", map(to_record, run.base_detections))
        write_records(folder / "valid_best.json", map(to_record, run.best_detections))
    place(just_kept(store, fingerprint), inputs.out)


def _write_adapter(folder: Path, run: Run, inputs: Inputs, fingerprint: Mapping[str, Any]) -> None:
    load_adapter_values(run.model, run.best_adapter)
    base_model = base_model_name(run.model, inputs.model)
    tiles = tiles_beside(inputs.coco)
    save_adapter(
        folder,
        lora_state_dict(run.model),
        specs=run.adapted,
        base_model=base_model,
        recipe={
            "segtune": __version__,
            "base_model": base_model,
            **fingerprint,
            "tiles": tiles and asdict(tiles),
            # Of the hub's weights, the fingerprint has only the name.
            "weights_sha256": fingerprint["weights_sha256"]
            or weights_digest(inputs.model, inputs.weights),
            "execution": run.settings.model_dump(mode="json", include=set(EXECUTION)),
            "result": asdict(run.position),
            "negatives": asdict(negatives_per_epoch(run.dataset, run.repeat_factors)),
            "parameters": {component: asdict(count) for component, count in run.parameters.items()},
        },
    )


def _report(position: Position, settings: TrainSettings) -> None:
    score = f"{settings.select_by} {position.best_score:.4f} on valid"
    log_line(f"the best epoch is {position.best_epoch}, with {score}")
    if position.epoch < settings.epochs:
        log_line(f"stopped early, after epoch {position.epoch}: no improvement (train.patience)")
    if position.best_score < position.base_score:
        log_line(
            f"WARNING: this adapter is worse than the base model, which scored "
            f"{position.base_score:.4f} on valid before training"
        )


if __name__ == "__main__":
    main()
