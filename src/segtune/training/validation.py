"""Validation at the end of an epoch: predict on the valid split, score, select, record."""

from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

from torch import Tensor

from segtune.core.console import log_line, progress
from segtune.dataset.batch import Size
from segtune.dataset.coco import Image, Split
from segtune.dataset.detections import Detection, Detections
from segtune.dataset.mask_grid import at_full_size
from segtune.dataset.preview import preview_detections, preview_images
from segtune.model.inference import Prompts, ReadImage, read_pixels
from segtune.reports.drawing import contact_sheet, save_sheet
from segtune.training.augment import View
from segtune.training.ema import adapter_values, ema_weights
from segtune.training.engine import Interrupted
from segtune.training.failures import agreed, attempt
from segtune.training.feature_store import FeatureStore
from segtune.training.held_out import FalseAlarms, false_alarms, noun_probes, without_probes
from segtune.training.history import History
from segtune.training.run import Position, Run
from segtune.training.selection import ValidScores, note_score, valid_scores
from segtune.training.valid_detections import detections_on_grid


def validate(run: Run, grid: Split, *, out: Path, stop_wanted: Callable[[], bool]) -> None:
    """Score the adapter on the valid split, and select it if no earlier one was better.

    Args:
        run: at the end of an epoch.
        grid: the valid split from `on_grid`.
        out: gets `valid_images/epoch_XXXX.jpg`.
        stop_wanted: called after each image; true in any process stops all of them.

    Raises:
        Interrupted: when any process wanted to stop; the run is as before.
        StepFailed: when memory or an image failed in any process; the run is as before.
    """
    probes = noun_probes(run.valid, run.nouns.held_out)
    with ema_weights(run.model, run.average):
        found = _valid_detections(run, stop_wanted=stop_wanted, probes=probes)
        adapter = adapter_values(run.model)
    detections = without_probes(run.valid, found)
    scores = valid_scores(run.valid, grid, detections)
    shown = _shown(run.valid, detections)
    if run.position.epoch == 0:
        run.base_detections = shown
    if note_score(run.position, scores.score(run.settings.select_by)):
        run.best_adapter, run.best_detections = adapter, shown
    if run.history:
        alarms = false_alarms(run.valid, found, probes)
        _record(run.history, scores, alarms, position=run.position)
        sheet = contact_sheet(run.valid, preview_images(run.valid), shown)
        save_sheet(out / "valid_images" / f"epoch_{run.position.epoch:04d}.jpg", sheet)
        run.history.image("valid/images", run.position.step, sheet)
    run.position.validated_epoch = run.position.epoch


def _valid_detections(
    run: Run, *, stop_wanted: Callable[[], bool], probes: Mapping[int, Prompts]
) -> list[Detection]:
    """Detections in all images, each process predicting on some of them."""
    processes = run.processes
    images = run.valid.images[processes.rank :: processes.count]
    predictions = detections_on_grid(
        run.model,
        run.valid,
        images,
        _reader(run),
        image_size=run.dataset.image_size,
        device=processes.device,
        probes=probes,
        workers=run.workers,
        # As in training, so that a lower setting saves memory here, too.
        images_per_pass=run.settings.micro_batch_size,
    )
    own: list[Detection] = []
    shown = progress("valid image", len(images), visible=processes.is_main)

    def predict_own() -> None:
        with shown as advance, closing(predictions):
            for _, found in predictions:
                own.extend(found)
                advance()
                if stop_wanted():
                    break

    agreed(attempt(predict_own), processes)
    if any(processes.sum([float(stop_wanted())])):
        raise Interrupted
    gathered = [found for part in processes.gather(own) for found in part]
    # By image, so that ties are broken the same way for every number of processes.
    return sorted(gathered, key=lambda found: found.image_id)


def _reader(run: Run) -> ReadImage:
    """What reads an image of valid as the model takes it."""
    size = run.dataset.image_size
    if run.dataset.features is None:
        return partial(read_pixels, run.valid, image_size=size)
    return partial(_features, run.dataset.features, image_size=size)


def _features(store: FeatureStore, image: Image, *, image_size: int) -> tuple[Tensor, Size]:
    return store.read(image, View(image_size)), (image.height, image.width)


def _shown(valid: Split, detections: Detections) -> Detections:
    """What is shown of the detections, with masks of the images' sizes."""
    images = {image.id: image for image in valid.images}
    shown = preview_detections(valid, detections)
    return Detections(at_full_size(found, images[found.image_id]) for found in shown)


def _record(
    history: History, scores: ValidScores, alarms: FalseAlarms, *, position: Position
) -> None:
    record = {**scores.to_record(), "false_alarms": alarms.to_record()}
    history.add("valid", position.step, {"epoch": position.epoch, **record})
    totals = "  ".join(f"{name} {value:.4f}" for name, value in scores.totals().items())
    rates = [f"{name.replace('_', ' ')} {value:.1%}" for name, value in alarms.to_record().items()]
    shown = f"  false alarms: {', '.join(rates)}" if rates else ""
    log_line(f"valid after epoch {position.epoch}: {totals}{shown}")
