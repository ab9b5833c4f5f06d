"""Upload images with their predicted labels to a Roboflow project, as a batch of predictions.

Nothing is sent but what `--labels` lists below `--images`, and only to the project that is named.
The labels are marked as predictions, the batch and a tag say that they are segtune's, and none of
the images joins the dataset before a person has looked at it. What has been uploaded is noted in a
journal beside the labels: the same command continues after an interruption.
"""

import argparse
import hashlib
import json
import mimetypes
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from http.client import CONFLICT, NOT_FOUND, OK
from pathlib import Path, PurePosixPath

from segtune.core.console import log_line, progress
from segtune.core.errors import DatasetError, ExportError, exit_on_error, listed
from segtune.core.foreign import file_problem, read_bytes
from segtune.core.publishing import exclusive
from segtune.core.roboflow import KEY, NAME, api_address, api_key, redacted
from segtune.core.roboflow_api import AGAIN, Api, Response, request, unexpected
from segtune.core.upload_journal import Uploaded, add_to_journal, read_journal
from segtune.dataset.coco import Image, Split, annotation_record, image_record
from segtune.dataset.labels import read_labels
from segtune.exports.archive import path_danger

PREDICTIONS = "segtune predictions"  # in the name of every batch
TAG = "segtune-predictions"
ANNOTATION_NAME = "annotation.coco.json"  # by which Roboflow recognizes the format
MAX_LISTED = 5  # refused images
MAX_FAILING = 3  # images in a row that fail though they may pass later; nothing more is tried then


@dataclass(frozen=True)
class Destination:
    """Where images go."""

    api: Api
    workspace: str
    project: str
    batch: str

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.workspace}/{self.project}, batch {self.batch}"

    @property
    def address(self) -> str:
        """For the journal."""
        return f"{self.api.address}/{self.place}"


class Refused(Exception):
    """Roboflow does not accept this image or its labels; others may be fine."""

    def __init__(self, response: Response, what: str = "") -> None:
        super().__init__(what + response.message)
        self.may_pass = response.may_pass


def main(argv: Sequence[str] | None = None) -> None:
    """Upload, and print what has become of the images."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("upload"):
        address, key = api_address(), api_key()
        workspace, project = parse_project(arguments.project, key)
        split, scores = read_labels(arguments.labels, arguments.images)
        _require_images(split, arguments.labels)
        destination = Destination(
            api=Api(address, key),
            workspace=workspace,
            project=project,
            batch=f"{arguments.batch} ({PREDICTIONS})",
        )
        journal = arguments.labels.with_name(f"{arguments.labels.name}.uploaded.jsonl")
        with exclusive(journal):
            upload(split, scores, destination, journal)


def parse_project(text: str, key: str) -> tuple[str, str]:
    """Workspace and project of `workspace/project`; the key does not appear in the error.

    Raises:
        ExportError: when it is neither.
    """
    found = re.fullmatch(rf"{NAME}/{NAME}", text, re.ASCII)
    if not found:
        raise ExportError(
            f"--project {redacted(text, key)!r} is not a workspace and a project",
            fix="Write workspace/project, as in my-team/reef-life",
        )
    return found[1], found[2]


def upload(
    split: Split, scores: Mapping[int, float], destination: Destination, journal: Path
) -> None:
    """Upload every image of a split with its labels, but for those that the journal lists.

    An image that Roboflow refuses does not stop the others.

    Args:
        split: images and labels.
        scores: by annotation id, where there are any.
        destination: where they go.
        journal: the file of what was uploaded; it is continued.

    Raises:
        ExportError: when the key or the project is rejected, when Roboflow cannot be reached, or
            in the end, when it has refused images.
    """
    done = read_journal(journal, destination.address)
    _require_project(destination)
    names, counts, refused, failing = _names(split), Counter[str](), [], 0
    with progress("image", len(split.images)) as advance:
        for image in split.images:
            task = _task(split, image, scores, names[image.id])
            before = done.get((image.file_name, task.digest))
            try:
                counts[_uploaded(task, destination, journal, before)] += 1
                failing = 0
            except Refused as error:
                refused.append(f"{image.file_name} ({error})")
                failing = failing + 1 if error.may_pass else 0
            advance()
            if failing == MAX_FAILING:
                break
    summary = ", ".join(f"{count} {what}" for what, count in counts.items())
    log_line(f"{destination.place}: {summary or 'nothing'}")
    if refused:
        others = "; the others were not tried" if failing == MAX_FAILING else ""
        raise ExportError(
            f"{len(refused)} of {len(split.images)} images were refused: "
            f"{listed(refused, MAX_LISTED)}{others}",
            file=destination.place,
            fix=AGAIN,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.upload", description=__doc__)
    parser.add_argument("--labels", type=Path, required=True, help="COCO file of predictions")
    parser.add_argument("--images", type=Path, required=True, help="folder of its images")
    parser.add_argument("--project", required=True, help="workspace/project on Roboflow")
    parser.add_argument("--batch", required=True, help="name of the batch; it is extended")
    return parser


def _require_images(split: Split, labels: Path) -> None:
    """Everything is looked at before the first request; nothing outside the folder is sent."""
    for image in split.images:
        problem = path_danger(image.file_name) or file_problem(split.image_path(image))
        if problem:
            raise DatasetError(
                f"cannot upload the image ({problem})",
                file=labels,
                record=f"image {image.file_name}",
                fix="Give the folder that the file names are relative to as --images",
            )


def _names(split: Split) -> dict[int, str]:
    """Image id -> its name there: without folders where that is unique.

    Raises:
        DatasetError: when two images would have the same name.
    """
    names = {image.id: PurePosixPath(image.file_name).name for image in split.images}
    if len(set(names.values())) == len(names):
        return names
    names = {image.id: image.file_name.replace("/", "_") for image in split.images}
    if len(set(names.values())) < len(names):
        raise DatasetError(
            "two images would have the same name on Roboflow",
            record=f"image {Counter(names.values()).most_common(1)[0][0]}",
            fix="Rename one of them, in its folder and in the labels",
        )
    return names


@dataclass(frozen=True)
class _Task:
    """An image to upload."""

    file_name: str
    name: str  # there
    content: bytes
    labels: str  # COCO of this image; empty where nothing was detected

    @property
    def digest(self) -> str:
        """Of all that is sent."""
        return hashlib.sha256(self.content + b"\n" + self.labels.encode()).hexdigest()[:32]


def _task(split: Split, image: Image, scores: Mapping[int, float], name: str) -> _Task:
    content = read_bytes(split.image_path(image), DatasetError, "Check the image", what="image")
    return _Task(image.file_name, name, content, _labels(split, image, scores, name))


def _labels(split: Split, image: Image, scores: Mapping[int, float], name: str) -> str:
    annotations = [
        {**annotation_record(replace(a, id=number)), **_score(scores.get(a.id))}
        for number, a in enumerate(split.annotations[image.id], start=1)
    ]
    tables = {
        "info": {"description": PREDICTIONS},
        "licenses": [],
        "categories": [
            {"id": c.id, "name": c.name, "supercategory": c.supercategory} for c in split.categories
        ],
        "images": [{**image_record(image), "file_name": name}],
        "annotations": annotations,
    }
    return json.dumps(tables, allow_nan=False) if annotations else ""


def _score(score: float | None) -> dict[str, float]:
    return {} if score is None else {"score": score}


def _uploaded(task: _Task, destination: Destination, journal: Path, before: Uploaded | None) -> str:
    """Upload an image and its labels; in a word, what has become of them.

    Raises:
        Refused: when Roboflow does not accept one of them.
        ExportError: when nothing else would be accepted either.
    """
    if before and before.is_complete:
        return "uploaded before"
    image_id, is_new = (before.id, False) if before else _send_image(task, destination)
    one = Uploaded(destination.address, task.file_name, task.digest, image_id, is_complete=False)
    if not before:
        add_to_journal(journal, one)
    outcome = _send_labels(task, destination, image_id) if task.labels else "without predictions"
    add_to_journal(journal, replace(one, is_complete=True))
    return outcome if is_new or before else f"{outcome} (the image was there)"


def _send_image(task: _Task, destination: Destination) -> tuple[str, bool]:
    """The id of an image there, and whether it is new."""
    kind = mimetypes.guess_type(task.name)[0] or "application/octet-stream"
    response = request(
        destination.api,
        "POST",
        f"/dataset/{destination.project}/upload",
        place=destination.place,
        params={"batch": destination.batch, "tag": TAG},
        data={"name": task.name, "split": "train"},
        files={"file": (task.name, task.content, kind)},
    )
    _require_found(response, destination)
    is_there = response.values.get("success") or response.values.get("duplicate")
    if response.status != OK or not is_there:
        raise Refused(response)
    number = response.values.get("id")
    if not isinstance(number, str) or not re.fullmatch(r"[\w-]+", number):
        raise unexpected(destination.place)
    return number, not response.values.get("duplicate")


def _send_labels(task: _Task, destination: Destination, image_id: str) -> str:
    response = request(
        destination.api,
        "POST",
        f"/dataset/{destination.project}/annotate/{image_id}",
        place=destination.place,
        params={"name": ANNOTATION_NAME, "prediction": "true"},
        json={"annotationFile": task.labels, "labelmap": None},
    )
    if response.status == CONFLICT and "already annotated" in response.message:
        return "already annotated and left so"
    if response.status != OK or not response.values.get("success"):
        raise Refused(response, "its labels: ")
    return "uploaded with predictions"


def _require_project(destination: Destination) -> None:
    """Check that the project exists, in the workspace of the key: an upload goes there."""
    owner = _information(destination, "/").get("workspace")
    if owner != destination.workspace:
        raise ExportError(
            f"the API key is of the workspace {owner!r}",
            file=destination.place,
            fix=f"Set {KEY} to the private API key of {destination.workspace}",
        )
    _information(destination, f"/{destination.workspace}/{destination.project}")


def _information(destination: Destination, path: str) -> Mapping[str, object]:
    response = request(destination.api, "GET", path, place=destination.place)
    _require_found(response, destination)
    if response.status != OK:
        raise ExportError(
            f"Roboflow refused the request: {response.message}",
            file=destination.place,
            fix="Check the names in the browser, then try again",
        )
    return response.values


def _require_found(response: Response, destination: Destination) -> None:
    if response.status == NOT_FOUND:
        raise ExportError(
            "no such workspace or project, or the key has no access to it",
            file=destination.place,
            fix=f"Compare the names with the project's URL in the browser, and check {KEY}",
        )


if __name__ == "__main__":
    main()
