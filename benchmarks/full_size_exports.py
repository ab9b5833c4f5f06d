"""Exporting at full size: seconds and memory, against the size of the checkpoint.

`python -m benchmarks.full_size_exports` writes the files of `benchmarks.full_size_merge`, takes
the base as if it had been merged, and runs `segtune.to_transformers` and `segtune.to_safetensors`,
each as a process of its own. Needs 12 GB of disk.
"""

import argparse
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.full_size_merge import forked, measured, write_files
from segtune.core.atomic import write_json, write_records
from segtune.dataset.coco import Split, read_split
from segtune.dataset.detections import Detection, to_record
from segtune.dataset.masks import segmentation_to_rle
from segtune.evaluate import main as evaluate

EXPORTS = ("to_transformers", "to_safetensors")


def main(argv: Sequence[str] | None = None) -> None:
    """Write the files, export, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="for all files; default: a temporary folder")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        forked(_write_run, folder)
        size = (folder / "sam3.pt").stat().st_size / 1e9
        print(f"checkpoint {size:.2f} GB")
        for export in EXPORTS:
            seconds, resident, anonymous = measured(
                *("-m", f"segtune.{export}", "--model", "full", "--out", str(folder / export)),
                *("--weights", str(folder / "sam3.pt"), "--parity", str(folder / "parity.json")),
                *("--adapter", str(folder / "adapter"), "--coco", str(folder / "coco/valid.json")),
                *("--metrics", str(folder / "evaluate" / "metrics.json")),
            )
            print(
                f"{export} {seconds:.0f} s, peak of resident memory {resident / 1e9:.2f} GB, "
                f"of anonymous memory {anonymous / 1e9:.2f} GB"
            )


def _write_run(folder: Path) -> None:
    write_files(folder, folder / "sam3.pt")
    with (folder / "sam3.pt").open("rb") as file:
        write_json(
            folder / "parity.json", {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        )
    split = read_split(folder / "coco" / "test.json")
    write_records(folder / "found.json", map(to_record, _perfect(split)))
    files = [f"--{name}={folder / 'found.json'}" for name in ("base", "tuned")]
    coco = f"--coco={folder / 'coco' / 'test.json'}"
    evaluate([coco, f"--out={folder / 'evaluate'}", *files])


def _perfect(split: Split) -> list[Detection]:
    """Every object as it is labeled."""
    sizes = {image.id: (image.height, image.width) for image in split.images}
    return [
        Detection(
            image_id=label.image_id,
            category_id=label.category_id,
            score=0.9,
            bbox_xywh=label.bbox_xywh,
            rle=segmentation_to_rle(label.segmentation or [], *sizes[label.image_id]),
        )
        for label in split.objects
    ]


if __name__ == "__main__":
    main()
