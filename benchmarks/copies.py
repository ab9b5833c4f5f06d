"""How many changed copies validation finds, and whether it takes different images for copies.

`python -m benchmarks.copies` makes a copy of each of 100 synthetic images for every change, and
puts it into another split. It prints how many are found as copies, how many only as likely, the
lowest correlation, and the largest difference of a pixel: what the thresholds of
`segtune.checks.copies` have to let pass. Then it looks for copies among 2,000 different images,
and prints the highest correlation, and the highest fraction of places that agree: what they have
to stop. With folders, it does the same with the JPEG files below each, whose highest numbers may
be those of copies which were there before.
"""

import argparse
import io
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image as PilImage
from PIL import ImageChops, ImageEnhance, ImageOps

from benchmarks.validation_scan import scene
from segtune.checks.copies import MIN_POSSIBLE, copy_findings
from segtune.core.validate_settings import ValidateLimits
from segtune.dataset.coco import Annotation, Image, Manifest, Split
from segtune.dataset.findings import Found
from segtune.dataset.image_copies import compared_splits, thumbnails_of
from segtune.dataset.image_scan import ImageScan, scan_images
from segtune.dataset.perceptual_hash import (
    Match,
    is_comparable,
    largest_difference,
    oriented,
    similar_pairs,
)
from segtune.dataset.same_scene import agreement

Change = Callable[[PilImage.Image], PilImage.Image]
QUALITY = 90  # of JPEGs, where it is not what changes
SIDE = 256  # pixels of the different images


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print a line for each change and one for different images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--copied", type=int, default=100, help="images of each set, at most")
    parser.add_argument("--different", type=int, default=2000, help="synthetic images")
    arguments = parser.parse_args(argv)
    print_copies("synthetic", [jpeg(scene(seed)) for seed in range(arguments.copied)])
    seeds = range(arguments.copied, arguments.copied + arguments.different)
    print_different("synthetic", [jpeg(scene(seed, SIDE)) for seed in seeds])
    for folder in arguments.folders:
        files = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
        print_copies(folder.name, files[: arguments.copied])
        print_different(folder.name, files)


def print_copies(name: str, originals: Sequence[bytes]) -> None:
    """Plant copies with each change, and print what was found."""
    for title, change, quality in (*changes(), ("augmented", augmented, QUALITY)):
        images = (PilImage.open(io.BytesIO(content)).convert("RGB") for content in originals)
        copies = [jpeg(change(image), quality) for image in images]
        with tempfile.TemporaryDirectory() as folder:
            train = scanned(Path(folder), "train", originals)
            valid = scanned(Path(folder), "valid", copies)
            found = Counter(
                rule
                for rule, place in copies_among([*train, *valid], Path(folder))
                if place.split == "valid" and place.other_image.endswith(Path(place.image).name)
            )
        similarities, differences = zip(*correlations(valid, train), strict=True)
        print(
            f"{name}, {title}: {found['copy-identical'] + found['copy-near']} of {len(valid)}",
            f"{found['copy-likely']} likely",
            f"correlation from {min(similarities):.3f}",
            f"difference to {max(differences):.2f}",
            sep=", ",
        )


def print_different(name: str, contents: Sequence[bytes]) -> None:
    """Print how many of different images are taken for copies of each other."""
    with tempfile.TemporaryDirectory() as folder:
        scans = scanned(Path(folder), "train", contents)
        # Every third one is in another split.
        valid = [replace(scan, split="valid") for scan in scans[::3]]
        divided = [*scans[1::3], *scans[2::3], *valid]
        found = Counter(rule for rule, _ in copies_among(divided, Path(folder)))
        highest, agreeing = most_similar(scans, Path(folder))
    print(f"{name}, {len(scans)} images: {dict(found)}", end=", ")
    print(f"correlation to {highest:.3f}, places agree to {agreeing:.2f}")


def most_similar(scans: Sequence[ImageScan], root: Path) -> tuple[float, float]:
    """The highest similarity of two images, and the highest agreement of two possible copies."""
    scans = [scan for scan in scans if scan.thumbnail]
    pixels = thumbnails_of(scans)
    usable = np.flatnonzero(is_comparable(pixels))
    pairs = similar_pairs(pixels[usable], pixels[usable], min_similarity=0)
    found = [pair for pair in pairs if isinstance(pair, Match) and pair.query != pair.other]
    paths = [root / scans[number].file_name for number in usable]
    agreeing = (
        agreement(paths[match.query], paths[match.other], match.orientation)
        for match in found
        if match.similarity >= MIN_POSSIBLE
    )
    return max((match.similarity for match in found), default=0), max(agreeing, default=0)


def copies_among(scans: Sequence[ImageScan], root: Path) -> Iterator[Found]:
    """What validation says of images with its default limits."""
    limits = ValidateLimits()
    return copy_findings(compared_splits(scans, limits.likely_copy_similarity), root, limits)


def correlations(
    copies: Sequence[ImageScan], originals: Sequence[ImageScan]
) -> Iterator[tuple[float, float]]:
    """The similarity of each copy and its original, and the largest difference of a pixel."""
    for copy, original in zip(thumbnails_of(copies), thumbnails_of(originals), strict=True):
        pairs = similar_pairs(copy[None], original[None], min_similarity=-1)
        matches = [pair for pair in pairs if isinstance(pair, Match)]
        if not matches:
            yield 0, 0
            continue
        best = max(matches, key=lambda match: match.similarity)
        (turned,) = oriented(copy[None], best.orientation)
        yield best.similarity, largest_difference(turned, original)


def changes() -> Iterator[tuple[str, Change, int]]:
    """What is done to copies: a title, the change, and the quality of the JPEG."""
    for quality in (40, 70, 95):
        yield f"JPEG quality {quality}", resized, quality
    for scale in (0.5, 0.7, 1.3, 2):
        yield f"{scale} of the size", partial(resized, scale=scale), QUALITY
    for gain in (0.75, 1.25):
        yield f"{gain} of the brightness", partial(brighter, gain=gain), QUALITY
    for method in PilImage.Transpose:
        yield method.name, partial(PilImage.Image.transpose, method=method), QUALITY
    yield "all of it", everything, 40


def resized(image: PilImage.Image, scale: float = 1) -> PilImage.Image:
    """With sides of this scale."""
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, PilImage.Resampling.BICUBIC)


def brighter(image: PilImage.Image, gain: float) -> PilImage.Image:
    """With values times a gain, up to white."""
    return ImageEnhance.Brightness(image).enhance(gain)


def everything(image: PilImage.Image) -> PilImage.Image:
    """Half as large, brighter, mirrored and rotated."""
    return brighter(resized(image, 0.5), 1.25).transpose(PilImage.Transpose.TRANSPOSE)


def augmented(image: PilImage.Image) -> PilImage.Image:
    """Mirrored and shifted by 2%, with what is in three boxes rotated, as Roboflow does it."""
    w, h = image.size
    changed = ImageChops.offset(ImageOps.mirror(image), round(0.025 * w), round(-0.02 * h))
    side = round(0.25 * min(w, h))
    for x, y in ((0.06, 0.12), (0.37, 0.56), (0.62, 0.18)):
        left, top = round(x * w), round(y * h)
        box = (left, top, left + side, top + side)
        changed.paste(changed.crop(box).transpose(PilImage.Transpose.ROTATE_90), box)
    return changed


def jpeg(image: PilImage.Image, quality: int = QUALITY) -> bytes:
    """The image as a file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def scanned(root: Path, split: str, contents: Iterable[bytes]) -> list[ImageScan]:
    """Image files of these contents, written and read as validation reads them."""
    (root / split).mkdir()
    images = []
    for number, content in enumerate(contents, start=1):
        images.append(Image(number, f"{split}/{number:04}.jpg", 1, 1))
        (root / images[-1].file_name).write_bytes(content)
    objects: dict[int, tuple[Annotation, ...]] = {image.id: () for image in images}
    dataset = Split(split, root, (), tuple(images), objects)
    return list(scan_images([dataset], Manifest(root, ()), workers=2, advance=unnoticed))


def unnoticed(done: int = 1, note: str = "") -> None:
    """Progress that is not shown."""


if __name__ == "__main__":
    main()
