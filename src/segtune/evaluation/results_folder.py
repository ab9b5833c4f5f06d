"""A finished results folder: its data, settings, predictions and confidence thresholds."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat

from segtune.core.errors import DatasetError
from segtune.core.fingerprints import file_digest
from segtune.core.foreign import read_json
from segtune.core.kept import all_kept, is_in_place, store_of
from segtune.core.typed_json import read_typed
from segtune.dataset.coco import MANIFEST, SPLITS, read_manifest, read_split, with_rle_masks
from segtune.dataset.detections import Detections, read_detections
from segtune.dataset.image_pairs import Dataset
from segtune.evaluation.metrics import Metrics, read_metrics
from segtune.evaluation.run_settings import flattened

FIX = "Give the results folder of a workflow that has finished"
RECIPE, METRICS, PARITY = "train/adapter/recipe.json", "evaluate/metrics.json", "merge/parity.json"
PREDICTIONS = "predict/tuned.json"
NEEDED = (
    *(f"coco/{name}.json" for name in (*SPLITS, "manifest")), RECIPE, PARITY, PREDICTIONS, METRICS,
)  # fmt: skip
TRAINED_ON = ("train.json", "valid.json", MANIFEST)
# Of a recipe: what has its own place here, or follows from settings and data.
NOT_SETTINGS = {
    *("segtune", "settings", "execution", "data", "code"),
    *("adapted", "parameters", "result", "negatives", "adapter_sha256"),
}


@dataclass(frozen=True)
class ResultsFolder:
    """What a finished run says of itself."""

    path: Path
    data: Dataset  # the masks of `test` are RLEs
    detections: Detections  # of the fine-tuned model on `test`
    thresholds: Mapping[str, float]  # of each class by name, for its detections
    confidence_threshold: float  # for false alarms
    held_out: bool
    version: str  # of segtune
    settings: Mapping[str, str]  # dotted path -> JSON
    code: Mapping[str, str]  # file -> its hash, of what the training depends on


@dataclass(frozen=True)
class _Merge:
    """The part of `parity.json` that is compared."""

    strength: FiniteFloat = 1.0
    sha256: str | None = None  # of the merged weights
    adapter_sha256: str | None = None  # as in the recipe; earlier versions wrote none


def read_results_folder(path: Path) -> ResultsFolder:
    """Read a results folder.

    Raises:
        DatasetError: when the run has not finished, was made by another version, or when its
            files are not of one run.
    """
    for name in NEEDED:
        if not _exists(path / name):
            raise DatasetError(f"this run has not finished: {name} is missing", file=path, fix=FIX)
    _require_links(path)
    splits = {name: read_split(path / "coco" / f"{name}.json") for name in SPLITS}
    splits["test"] = with_rle_masks(splits["test"])
    manifest = read_manifest(path / "coco")
    data = Dataset(splits, {entry.path: entry.sha256 for entry in manifest.images})
    metrics = read_metrics(path / METRICS)
    recipe = _read_recipe(path)
    merge = read_typed(path / PARITY, _Merge, "Run segtune.merge again")
    predicting = _predicting(path)
    _require_one_run(path, data, metrics, merge=merge, predicting=predicting)
    _require_merged(path, recipe, merge)
    _require_trained_on_this(path, recipe)
    chosen = metrics.tuned.calibration.thresholds
    return ResultsFolder(
        path=path,
        data=data,
        detections=read_detections(path / PREDICTIONS, splits["test"]),
        thresholds={name: at.threshold for name, at in chosen.items()},
        confidence_threshold=metrics.confidence_threshold,
        held_out=metrics.held_out,
        version=str(recipe.get("segtune", "")),
        settings=flattened(
            {
                **_trained_with(recipe),
                "merge": {"strength": merge.strength},
                "predict": _mapping(predicting, "settings"),
                "tiles": _mapping(recipe, "tiles"),  # null for whole images
            }
        ),
        code={str(file): str(digest) for file, digest in _mapping(recipe, "code").items()},
    )


def _exists(path: Path) -> bool:
    # Unlike that of Path, this is False where a name is too long or a folder cannot be read.
    return os.path.exists(path)  # noqa: PTH110


def _require_links(path: Path) -> None:
    """Check that no stage is being repeated: Snakemake removes its links then.

    A folder without any was made without Snakemake, or was copied without links.
    """
    needed = (name.partition("/") for name in (RECIPE, PARITY, PREDICTIONS, METRICS))
    links = {stage: path / stage / "finished" / file for stage, _, file in needed}
    missing = [stage for stage, link in links.items() if not _exists(link)]
    if 0 < len(missing) < len(links):
        raise _mixed(path, f"{missing[0]} is being repeated, or has failed")


def _read_recipe(path: Path) -> dict[str, Any]:
    recipe = read_json(path / RECIPE, DatasetError, "Run segtune.train again", what="recipe")
    known = isinstance(recipe, dict) and ("soup" in recipe or _mapping(recipe, "settings"))
    if not known:
        raise DatasetError(
            "not the recipe of a training", file=path / RECIPE, fix="Run segtune.train again"
        )
    return dict(recipe)


def _predicting(path: Path) -> Mapping[str, Any]:
    """What is known of how the predictions in place were made; nothing where none are kept."""
    place = path / PREDICTIONS
    found = (k for k in all_kept(store_of(place)) if is_in_place(k, place.parent))
    return next((kept.fingerprint for kept in found), {})


def _require_one_run(
    path: Path,
    data: Dataset,
    metrics: Metrics,
    *,
    merge: _Merge,
    predicting: Mapping[str, Any],
) -> None:
    """Check that a run is not being repeated: then some of its files are newer than others."""
    test = data.splits["test"]
    if (
        metrics.counts.images != len(test.images)
        or metrics.counts.objects != len(test.objects)
        or metrics.tuned.calibration.thresholds.keys() != {c.name for c in test.categories}
    ):
        raise _mixed(path, "its metrics are of another test split than that in coco/")
    missing = [
        image.file_name
        for split in data.splits.values()
        for image in split.images
        if image.file_name not in data.digests
    ]
    if missing:
        raise _mixed(path, f"coco/manifest.json has no entry for {missing[0][:200]}")
    weights = predicting.get("weights_sha256")
    if merge.sha256 and isinstance(weights, str) and not merge.sha256.startswith(weights):
        raise _mixed(path, "its predictions are of other weights than those in merge/")


def _require_merged(path: Path, recipe: Mapping[str, Any], merge: _Merge) -> None:
    """Check that no other training has finished since: its settings would be beside old scores."""
    adapter = recipe.get("adapter_sha256")
    if adapter and merge.adapter_sha256 and adapter != merge.adapter_sha256:
        raise _mixed(path, "its weights in merge/ are not of the adapter in train/")


def _require_trained_on_this(path: Path, recipe: Mapping[str, Any]) -> None:
    """Check that the adapter was trained on the data in `coco`, or on tiles of it."""
    digests = _mapping(recipe, "data")
    folder = path / ("tiles" if _mapping(recipe, "tiles") else "coco")
    for name in TRAINED_ON:
        if (
            name in digests
            and digests[name] != file_digest(folder / name, DatasetError, FIX)
            and not (name == MANIFEST and _is_of_whole_images(path, digests[name]))
        ):
            raise _mixed(path, f"its adapter was trained on other data than lies in {folder.name}/")


def _is_of_whole_images(path: Path, digest: object) -> bool:
    """Whether a manifest is the one in `tiles`, with the images of that in `coco`.

    Where `tiles: auto` ends in whole images, training reads a copy there, whose splits are the
    same to the byte. Its path to the images may be another one.
    """
    tiles, coco = path / "tiles", path / "coco"
    return (
        _exists(tiles / MANIFEST)
        and file_digest(tiles / MANIFEST, DatasetError, FIX) == digest
        and read_manifest(tiles).images == read_manifest(coco).images
    )


def _mixed(path: Path, problem: str) -> DatasetError:
    return DatasetError(f"this run has not finished: {problem}", file=path, fix=FIX)


def _mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key)
    return found if isinstance(found, Mapping) else {}


def _trained_with(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training, by section of `config.yaml` where they have one."""
    return {
        **{key: value for key, value in recipe.items() if key not in NOT_SETTINGS},
        "train": {**_mapping(recipe, "settings"), **_mapping(recipe, "execution")},
    }
