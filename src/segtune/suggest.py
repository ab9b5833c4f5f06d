"""Suggest which images of a folder to label next, with pre-labels to start from.

The merged model of a finished run detects the classes in every image, down to low scores. Images
are suggested in which it is uncertain, above all about classes that the evaluation found weak, and
which are unlike the training images and each other, and no copies of images of the dataset.
`suggestions.json` has them with the reasons, `labels.json` their pre-labels as a COCO dataset, and
`images.txt` their names. Under torchrun, the processes split the images among them. The results of
a killed run are kept beside the output, and the same command resumes it.
"""

import argparse
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segtune.core.atomic import require_writable
from segtune.core.config import PredictSettings, parse_section
from segtune.core.console import Advance, log_line, progress
from segtune.core.errors import DatasetError, exit_on_error, shown
from segtune.core.fingerprints import code_fingerprints
from segtune.core.gpu_memory import memory_errors
from segtune.core.partial_results import gathered_records, partial_folder
from segtune.core.processes import Processes, process_group
from segtune.core.publishing import exclusive, published
from segtune.core.suggest_settings import SuggestSettings
from segtune.core.typed_json import write_typed
from segtune.dataset.coco import SPLITS, Category, Image, Split, read_split
from segtune.dataset.image_folder import split_of_folder
from segtune.dataset.known_images import KnownImages, known_images
from segtune.dataset.labels import distinct_records, write_labels
from segtune.dataset.trained_run import (
    TrainedClass,
    TrainedModel,
    read_class_scores,
    read_run,
    require_plain_prompts,
)
from segtune.evaluation.arrays import Array
from segtune.evaluation.suggestion import (
    LOWEST_SCORE,
    ClassState,
    Suggestion,
    Suggestions,
    choose,
    image_uncertainty,
    nearest,
    uncertain_classes,
)
from segtune.model.architecture import set_image_size
from segtune.model.image_features import describe_into
from segtune.model.partial_predictions import images_to_predict, prediction_fingerprint
from segtune.model.weights import load_base_model

SUGGESTIONS, LABELS, IMAGES = "suggestions.json", "labels.json", "images.txt"


@dataclass(frozen=True)
class _Task:
    """What is described, and with what."""

    out: Path
    model: TrainedModel
    classes: Sequence[ClassState]
    photos: Split  # without labels: the images of the folder that are not known
    known: KnownImages
    training: Split  # whose labels the model knows; without categories
    predict: PredictSettings
    count: int

    @property
    def parts(self) -> list[tuple[Split, Path]]:
        """What is described, each with the folder of its unfinished results."""
        return [
            (self.photos, partial_folder(self.out / SUGGESTIONS)),
            (self.training, partial_folder(self.out / "training")),
        ]


@dataclass(frozen=True)
class _Described:
    """The images of a split."""

    vectors: Array  # (n, d)
    scores: list[dict[int, list[float]]]  # of each image's detections, by category


def main(argv: Sequence[str] | None = None) -> None:
    """Write the suggestions, their labels and their names, as a group."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("suggest"), process_group() as processes:
        if processes.is_main:
            require_writable(arguments.out / SUGGESTIONS)
        task = _task(arguments, processes)
        advice = f"Lower predict.prompts_per_pass (now {task.predict.prompts_per_pass})"
        lock = exclusive(arguments.out / SUGGESTIONS) if processes.is_main else nullcontext()
        with lock, memory_errors(advice):
            _describe(task, processes)
            if processes.is_main:
                _write(task)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.suggest", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="results folder of a finished run")
    parser.add_argument("--images", type=Path, required=True, help="folder of unlabeled images")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--settings", default="{}", help="the suggest section, as JSON")
    parser.add_argument("--predict", default="{}", help="the predict section, as JSON")
    return parser


def _task(arguments: argparse.Namespace, processes: Processes) -> _Task:
    settings = parse_section(SuggestSettings, arguments.settings)
    predict = parse_section(PredictSettings, arguments.predict)
    model, classes = read_run(arguments.run)
    require_plain_prompts(classes)
    scores = read_class_scores(arguments.run)
    lowest = min([LOWEST_SCORE, *(c.threshold for c in classes)])
    dataset = {name: read_split(arguments.run / "coco" / f"{name}.json") for name in SPLITS}
    photos = split_of_folder(arguments.images, _categories(classes), setting="--images")
    _require_plain_names(photos)
    known: KnownImages = processes.from_main(
        known_images(photos, [*dataset.values()]) if processes.is_main else None
    )
    return _Task(
        out=arguments.out,
        model=model,
        classes=[ClassState(c.name, c.threshold, scores.get(c.name)) for c in classes],
        photos=_without(photos, known),
        known=known,
        training=replace(dataset["train"], categories=()),
        predict=predict.model_copy(update={"confidence_threshold": lowest}),
        count=settings.count,
    )


def _require_plain_names(photos: Split) -> None:
    """Refuse names that neither a list with a name in each line nor JSON can have."""
    for name in (image.file_name for image in photos.images):
        if re.search("[\n\r\ud800-\udfff]", name):
            problem = f"the name {shown(name)} has a line break or characters that are not UTF-8"
            raise DatasetError(problem, file=photos.root, fix="Rename the image")


def _without(photos: Split, known: KnownImages) -> Split:
    left_out = known.labeled | known.repeated
    new = tuple(image for image in photos.images if image.file_name not in left_out)
    return replace(photos, images=new, annotations={image.id: () for image in new})


def _categories(classes: Sequence[TrainedClass]) -> tuple[Category, ...]:
    return tuple(Category(n, c.name, c.prompt) for n, c in enumerate(classes, start=1))


def _describe(task: _Task, processes: Processes) -> None:
    """Describe the images that no earlier process has described."""
    # They hash files of many GB, so only one process does.
    missing = [
        images_to_predict(
            folder, _fingerprint(task, split) if processes.is_main else {}, split, processes
        )
        for split, folder in task.parts
    ]
    everything = sum(len(split.images) for split, _ in task.parts)
    done = everything - sum(map(len, missing))
    if done and processes.is_main:
        log_line(f"resuming: {done} of {everything} images are finished")
    own = [images[processes.rank :: processes.count] for images in missing]
    if any(own):
        with progress("image", sum(map(len, own)), visible=processes.is_main) as advance:
            _describe_missing(task, own, processes, advance)
    processes.sum([0.0])  # wait until all have finished


def _describe_missing(
    task: _Task, missing: Sequence[list[Image]], processes: Processes, advance: Advance
) -> None:
    model = load_base_model(task.model.name, task.model.weights)
    image_size = set_image_size(model, task.model.name, task.model.image_size)
    model.to(processes.device)
    for (split, folder), images in zip(task.parts, missing, strict=True):
        if images:
            describe_into(
                folder,
                model,
                split,
                images,
                image_size=image_size,
                device=processes.device,
                settings=task.predict,
                advance=advance,
                tiles=task.model.tiles,
            )


def _fingerprint(task: _Task, split: Split) -> dict[str, Any]:
    """Everything that the description of a split depends on."""
    common = prediction_fingerprint(
        split,
        model=task.model.name,
        weights=task.model.weights,
        image_size=task.model.image_size,
        settings=task.predict,
    )
    tiles = task.model.tiles and asdict(task.model.tiles)
    return {**common, "tiles": tiles, "code": code_fingerprints("suggest")}


def _write(task: _Task) -> None:
    result, images = _suggested(task)
    with published(task.out) as folder:
        write_typed(folder / SUGGESTIONS, result)
        _write_labels(folder / LABELS, task, images)
        names = b"".join(os.fsencode(image.file_name) + b"\n" for image in images)
        (folder / IMAGES).write_bytes(names)
    for _, partial in task.parts:
        shutil.rmtree(partial, ignore_errors=True)
    log_line(
        f"{len(images)} of {result.images} images suggested ({result.labeled} are copies of images "
        f"of the dataset, {result.repeated} of another one): {task.out}"
    )


def _suggested(task: _Task) -> tuple[Suggestions, list[Image]]:
    """The suggestions, and their images."""
    labeled, repeated = len(task.known.labeled), len(task.known.repeated)
    chosen = _chosen(task)
    found = Suggestions(
        images=len(task.photos.images) + labeled + repeated,
        labeled=labeled,
        repeated=repeated,
        training_images=len(task.training.images),
        classes=[*task.classes],
        suggestions=[suggestion for suggestion, _ in chosen],
    )
    return found, [image for _, image in chosen]


def _chosen(task: _Task) -> list[tuple[Suggestion, Image]]:
    """Suggest some of the images that are not known."""
    photos, training = (_described(folder, split.images) for split, folder in task.parts)
    new = task.photos.images
    by_class = [
        {c.name: scores[number] for number, c in enumerate(task.classes, start=1)}
        for scores in photos.scores
    ]
    doubts = np.array([image_uncertainty(scores, task.classes) for scores in by_class])
    places = choose(doubts, photos.vectors, training.vectors, count=task.count)
    apart, closest = nearest(photos.vectors, training.vectors)
    known = bool(task.training.images)
    suggestions = [
        Suggestion(
            file_name=new[place].file_name,
            uncertainty=float(doubts[place]),
            uncertain=uncertain_classes(by_class[place], task.classes),
            nearest=task.training.images[closest[place]].file_name if known else None,
            distance=float(apart[place]) if known else None,
            unlike=float((apart < apart[place]).mean()) if known else None,
        )
        for place in places
    ]
    return [(one, new[place]) for one, place in zip(suggestions, places, strict=True)]


def _described(folder: Path, images: Sequence[Image]) -> _Described:
    """What `_describe` has written; one image at a time is in memory with its masks."""
    vectors: list[Array] = []

    def detections() -> Iterator[dict[str, Any]]:
        for record in gathered_records(folder, [image.id for image in images]):
            if "vector" in record:
                vectors.append(np.array(record["vector"], np.float32))
            else:
                yield record

    scores: dict[int, dict[int, list[float]]] = {image.id: defaultdict(list) for image in images}
    # A second detection of an object is not another doubt.
    for record in distinct_records(detections()):
        scores[record["image_id"]][record["category_id"]].append(record["score"])
    return _Described(np.array(vectors), [*scores.values()])


def _write_labels(path: Path, task: _Task, images: Sequence[Image]) -> None:
    """Detections above the thresholds, as labels; images are numbered in their order."""
    numbers = {image.id: number for number, image in enumerate(images, start=1)}
    ordered = tuple(replace(image, id=numbers[image.id]) for image in images)
    split = replace(task.photos, images=ordered, annotations={image.id: () for image in ordered})
    write_labels(path, split, _confident(task, numbers))


def _confident(task: _Task, numbers: Mapping[int, int]) -> Iterator[dict[str, Any]]:
    thresholds = {number: c.threshold for number, c in enumerate(task.classes, start=1)}
    _, folder = task.parts[0]
    for record in gathered_records(folder, [*numbers]):
        if "score" in record and record["score"] >= thresholds[record["category_id"]]:
            yield {**record, "image_id": numbers[record["image_id"]]}


if __name__ == "__main__":
    main()
