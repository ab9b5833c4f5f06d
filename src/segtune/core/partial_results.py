"""Results that survive a killed process: one JSON line per finished image, beside the output.

Each process appends to a file of its own, so one that is killed in the middle of a line does
not damage the results of others. Results of other settings, weights, data or code are
discarded.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

FINGERPRINT = "fingerprint.json"


def partial_folder(out: Path) -> Path:
    """The folder of the unfinished results for an output."""
    return out.with_name(f".{out.name}.partial")


def finished_images(folder: Path, fingerprint: dict[str, Any]) -> set[int]:
    """The ids of images that earlier processes have finished; creates the folder.

    Args:
        folder: from `partial_folder`.
        fingerprint: everything the results depend on; a folder with another one is emptied.
    """
    path = folder / FINGERPRINT
    text = json.dumps(fingerprint, sort_keys=True)
    if not path.exists() or path.read_text("utf-8") != text:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        temporary = folder / "fingerprint"
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    return {image_id for image_id, _, _ in _lines(folder)}


def new_part(folder: Path) -> IO[str]:
    """A file for the results of this process."""
    return tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=folder, suffix=".jsonl", delete=False
    )


def add_image(part: IO[str], image_id: int, records: list[dict[str, Any]]) -> None:
    """Write the records of an image."""
    part.write(json.dumps([image_id, records]) + "\n")
    part.flush()


def gathered_records(folder: Path, image_ids: list[int]) -> Iterator[dict[str, Any]]:
    """The records of all processes, read one image at a time, in the order of `image_ids`."""
    places = {image_id: (path, offset) for image_id, path, offset in _lines(folder)}
    for image_id in image_ids:
        path, offset = places[image_id]
        with path.open("rb") as file:
            file.seek(offset)
            yield from json.loads(file.readline())[1]


def _lines(folder: Path) -> Iterator[tuple[int, Path, int]]:
    """Image id, file and offset of every complete line."""
    for path in sorted(folder.glob("*.jsonl")):
        offset = 0
        with path.open("rb") as file:
            for line in file:
                # A kill leaves half a line; a power loss may leave zeros.
                with contextlib.suppress(ValueError):
                    yield json.loads(line)[0], path, offset
                offset += len(line)
