"""Label errors planted in the demo's training split: how many are found, and what they cost.

`python -m benchmarks.label_repair` plants errors in the labels of `train` (a third of them removed,
a third given another class, a third added where there is no object), trains the tiny model with
the shipped settings, and looks for label issues. It then trains again without them
(`train.exclude_issues`), and with the patch imported. Merged at strength 1; `valid` and `test` have
no errors.
"""

import argparse
import io
import json
import shutil
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from segtune.dataset.coco import Split, read_split, with_rle_masks, write_split
from segtune.dataset.detections import read_detections
from segtune.evaluation.average_precision import average_precision
from segtune.evaluation.label_repair import Repair, read_repairs
from tests.corrupted_labels import Corrupted, corrupt, is_missing

ROOT = Path(__file__).parent.parent
ANNOTATIONS = "_annotations.coco.json"
MIN_SCORES = (0.5, 0.7, 0.8, 0.9)  # issue scores in the first table
WITH_ERRORS = "the labels with errors"
WHOLE = json.dumps({"strength": 1})


def main(argv: Sequence[str] | None = None) -> None:
    """Plant, train, find, train again, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--per-kind", type=int, default=20, help="errors of each kind")
    parser.add_argument("--min-score", type=float, default=0.7, help="of what is left out")
    arguments = parser.parse_args(argv)
    rows: list[dict[str, float]] = []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as name:
            folder, per_kind = Path(name), arguments.per_kind
            rows.append(of_seed(folder, seed, per_kind=per_kind, min_score=arguments.min_score))
    print("| trained on | test mask AP by seed | mean | against the errors, by seed |")
    print("|---|---|---|---|")
    for name in rows[0]:
        scores = [row[name] for row in rows]
        gains = [row[name] - row[WITH_ERRORS] for row in rows]
        shown = " ".join(f"{score:.3f}" for score in scores)
        changes = " ".join(f"{gain:+.3f}" for gain in gains)
        print(f"| {name} | {shown} | {statistics.mean(scores):.3f} | {changes} |", flush=True)


def of_seed(folder: Path, seed: int, *, per_kind: int, min_score: float) -> dict[str, float]:
    """Test AP by what was trained on; prints what was found, and each AP."""
    original = read_split(converted(ROOT / "data/demo", folder / "clean") / "train.json")
    corrupted = corrupt(original, seed, per_kind)
    export = export_of(corrupted.split, folder / "export")
    coco = converted(export, folder / "errors")
    planted = placed(corrupted, read_split(coco / "train.json"))
    scores = {WITH_ERRORS: trained(coco, seed, splits=("train", "valid", "test"))}
    print("| seed | issue score | issues in train | planted | corrected as they were | by reason |")
    print("|---|---|---|---|---|---|")
    for score in MIN_SCORES:
        issues = find_issues(coco, score)
        describe(seed, score, issues, planted, original, total=3 * per_kind)
    return scores | without_issues(folder, seed, min_score)


def without_issues(folder: Path, seed: int, min_score: float) -> dict[str, float]:
    """Test AP without the issues, and with the patch imported."""
    coco = folder / "errors" / "coco"
    find_issues(coco, min_score)
    results = coco.parent / "label_issues"
    excluded = {"exclude_issues": str(results / "issues.json")}
    scores = {"the same without the label issues": trained(coco, seed, "excluded", **excluded)}
    patch = results / "patch" / "train" / ANNOTATIONS
    imported = converted(
        with_patch(folder / "export", patch, folder / "patched"), folder / "repaired"
    )
    scores["the same with the patch imported"] = trained(imported, seed)
    return scores


def stage(name: str, *arguments: object) -> None:
    """Run one command, in this process: importing torch takes longer than most of them."""
    with redirect_stdout(io.StringIO()):
        import_module(f"segtune.{name}").main([str(argument) for argument in arguments])


def converted(export: Path, folder: Path) -> Path:
    """Convert and validate an export; the folder of its splits."""
    coco = folder / "coco"
    stage("convert", "--export", export, "--out", coco)
    stage("validate", "--coco", coco, "--out", folder)
    return coco


def export_of(train: Split, folder: Path) -> Path:
    """The demo with other labels in train."""
    shutil.copytree(ROOT / "data/demo", folder)
    write_split(folder / "train.json", train)
    values = json.loads((folder / "train.json").read_text())
    (folder / "train.json").unlink()
    for image in values["images"]:
        image["file_name"] = Path(image["file_name"]).name
    (folder / "train" / ANNOTATIONS).write_text(json.dumps(values))
    return folder


def with_patch(export: Path, patch: Path, folder: Path) -> Path:
    """The export after the patch was imported: it replaces the labels of its images."""
    shutil.copytree(export, folder)
    path = folder / "train" / ANNOTATIONS
    before, new = json.loads(path.read_text()), json.loads(patch.read_text())
    ids = {image["file_name"]: image["id"] for image in before["images"]}
    images = {image["id"]: ids[image["file_name"]] for image in new["images"]}
    replaced = set(images.values())
    classes = {c["name"]: c["id"] for c in before["categories"]}
    category = {c["id"]: classes[c["name"]] for c in new["categories"]}
    kept = [a for a in before["annotations"] if a["image_id"] not in replaced]
    imported = [
        {**a, "image_id": images[a["image_id"]], "category_id": category[a["category_id"]]}
        for a in new["annotations"]
    ]
    labels = [{**a, "id": number} for number, a in enumerate([*kept, *imported], start=1)]
    path.write_text(json.dumps({**before, "annotations": labels}))
    return folder


def trained(
    coco: Path, seed: int, name: str = "run", *, splits: Sequence[str] = ("test",), **settings: Any
) -> float:
    """Train, merge and predict on some splits; mask AP on test."""
    out = coco.parent / name
    paths = ("--coco", coco, "--report", coco.parent / "report.json", "--out", out)
    stage("train", *paths, "--settings", json.dumps({"seed": seed, **settings}))
    stage("merge", "--adapter", out / "adapter", "--out", out, "--settings", WHOLE)
    weights = ("--weights", out / "sam3.pt")
    for split in splits:
        predictions = out / f"{split}.json"
        stage("predict", "--coco", coco / f"{split}.json", "--out", predictions, *weights)
    return scored(coco, out)


def scored(coco: Path, out: Path) -> float:
    """Mask AP on test, which is printed."""
    test = with_rle_masks(read_split(coco / "test.json"))
    found = average_precision(test, read_detections(out / "test.json", test), "mask").AP or 0.0
    print(f"{coco.parent.name}, {out.name}: {found:.4f}", flush=True)
    return found


def find_issues(coco: Path, min_score: float) -> list[Repair]:
    """The label issues of train."""
    run, out = coco.parent / "run", coco.parent / "label_issues"
    predictions = [f"--{split}={run / split}.json" for split in ("train", "valid", "test")]
    settings = json.dumps({"min_score": min_score})
    stage("label_issues", "--coco", coco, *predictions, "--out", out, "--settings", settings)
    return [issue for issue in read_repairs(out / "issues.json").issues if issue.split == "train"]


def placed(corrupted: Corrupted, split: Split) -> Corrupted:
    """The errors with the ids that images and annotations have after conversion."""
    names = {image.id: image.file_name for image in corrupted.split.images}
    images = {image.file_name: image.id for image in split.images}
    ids = dict(
        zip(
            (a.id for a in corrupted.split.objects),
            (a.id for a in split.objects),
            strict=True,
        )
    )
    return Corrupted(
        split,
        tuple(replace(a, image_id=images[names[a.image_id]]) for a in corrupted.removed),
        frozenset(ids[number] for number in corrupted.wrong),
    )


def describe(
    seed: int,
    score: float,
    issues: Sequence[Repair],
    planted: Corrupted,
    original: Split,
    *,
    total: int,
) -> None:
    """Print one line: how many of the planted errors are listed, and how many are corrected."""
    found = [issue for issue in issues if is_planted(issue, planted)]
    right = sum(is_right(issue, planted, original) for issue in found)
    every, of_planted = (Counter(issue.reason for issue in listed) for listed in (issues, found))
    reasons = ", ".join(f"{reason} {of_planted[reason]} of {n}" for reason, n in every.items())
    print(
        f"| {seed} | {score} | {len(issues)} | {planted.found(issues)} of {total} | {right} | "
        f"{reasons} |",
        flush=True,
    )


def is_planted(issue: Repair, planted: Corrupted) -> bool:
    """Whether an issue is about a planted error."""
    return issue.annotation_id in planted.wrong or any(
        is_missing(a, issue) for a in planted.removed
    )


def is_right(issue: Repair, planted: Corrupted, original: Split) -> bool:
    """Whether the proposal has the class that the label had; or none, if there was no label."""
    names = {category.id: category.name for category in original.categories}
    proposed = issue.proposal.label if issue.proposal else None
    removed = [a for a in planted.removed if is_missing(a, issue)]
    if removed:
        return proposed == names[removed[0].category_id]
    label = next(a for a in planted.split.objects if a.id == issue.annotation_id)
    file_names = {image.id: image.file_name for image in original.images}
    before = [
        names[a.category_id]
        for a in original.objects
        if a.bbox_xywh == label.bbox_xywh and file_names[a.image_id] == issue.file_name
    ]
    return proposed == (before[0] if before else None)


if __name__ == "__main__":
    main()
