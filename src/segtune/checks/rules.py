"""The rules of validation: what breaks one, how bad that is by default, and what to do.

An error stops the run before anything expensive. A warning makes later results doubtful. An info
is worth knowing and may be intended.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from segtune.core.errors import ConfigError, shown
from segtune.core.validate_settings import Severity

CONVERT_AGAIN = "run segtune.convert again"
MOVE = "set convert.copies to move_to_train, or remove it from all splits but one"
DESCRIBE = "describe in convert.prompts what it shows"
TELL_APART = "tell the classes apart in convert.prompts, or merge them"


@dataclass(frozen=True)
class Rule:
    """What is found, as a title; and what a user can do."""

    severity: Severity
    title: str
    fix: str


# In the order of a report: the structure first, because what follows is only as good.
RULES: Mapping[str, Rule] = {
    "structure-split-empty": Rule(
        "error", "split without images", "add some, or move some into it"
    ),
    "structure-no-objects": Rule("error", "split without objects", "label some objects in it"),
    "structure-classes-differ": Rule(
        "error", "split whose classes differ from train's", CONVERT_AGAIN
    ),
    "structure-id-invalid": Rule("error", "id below 1", CONVERT_AGAIN),
    "structure-id-duplicate": Rule("error", "id that is a duplicate", CONVERT_AGAIN),
    "structure-file-duplicate": Rule("error", "image file that a split lists twice", CONVERT_AGAIN),
    "structure-class-unknown": Rule("error", "object of an unknown class", CONVERT_AGAIN),
    "structure-box-not-finite": Rule(
        "error", "box with a number that is not finite", CONVERT_AGAIN
    ),
    "structure-box-empty": Rule("error", "empty box", CONVERT_AGAIN),
    "structure-box-outside": Rule("error", "box beyond its image", CONVERT_AGAIN),
    "structure-area-invalid": Rule("error", "area that is negative or not finite", CONVERT_AGAIN),
    "structure-iscrowd-invalid": Rule("error", "iscrowd that is not 0 or 1", CONVERT_AGAIN),
    "structure-mask-unreadable": Rule("error", "mask that cannot be read", CONVERT_AGAIN),
    "structure-mask-size": Rule("error", "mask whose size differs from its image's", CONVERT_AGAIN),
    "structure-mask-empty": Rule("error", "mask without a pixel", CONVERT_AGAIN),
    "image-missing": Rule("error", "image that cannot be read", "restore it, or convert again"),
    "image-unlisted": Rule("error", "image that the manifest does not list", CONVERT_AGAIN),
    "image-changed": Rule("error", "image that has changed since conversion", CONVERT_AGAIN),
    "image-format": Rule(
        "error", "file that is not a JPEG, PNG, BMP, WEBP or TIFF image", "save it as JPEG or PNG"
    ),
    "image-damaged": Rule(
        "error",
        "image that cannot be decoded to its end",
        "restore it, or export the dataset again",
    ),
    "image-size": Rule(
        "error",
        "image of another size than its record",
        "export the dataset again, with its images",
    ),
    "image-rotated": Rule(
        "error",
        "image rotated by its EXIF orientation, so that the orientation of its labels is ambiguous",
        "export with Roboflow's Auto-Orient preprocessing",
    ),
    "image-depth": Rule(
        "error",
        "image whose pixels cannot be brought to 8 bits",
        "save it with 8 bits, or stretch it to the full range of 16",
    ),
    "image-animated": Rule(
        "warning",
        "image of several frames or pages, of which only the first is used",
        "save each as an image of its own",
    ),
    "image-cmyk": Rule(
        "warning",
        "CMYK image, whose colors are converted only roughly",
        "save it in RGB with its color profile applied",
    ),
    "image-transparent": Rule(
        "warning",
        "image with transparent pixels, which the model sees in the color that they hide",
        "save it without an alpha channel",
    ),
    "image-16-bit": Rule(
        "info",
        "image of 16 bits, of which the upper 8 are used",
        "stretch it to the full range before you save it with 8 bits, if details are lost",
    ),
    "image-palette": Rule("info", "image with a palette, which becomes RGB", "nothing to do"),
    "image-suffix": Rule(
        "info", "image whose suffix names another format, which is read by its content", "rename it"
    ),
    "copy-identical": Rule(
        "error", "image in more than one split, which makes scores meaningless", MOVE
    ),
    "copy-near": Rule(
        "error", "changed copy of an image of another split, which makes scores meaningless", MOVE
    ),
    "copy-likely": Rule(
        "warning",
        "image that is probably a copy of one of another split, or from the same moment",
        "look at both; keep images of one scene in one split",
    ),
    "copy-same-source": Rule(
        "info",
        "image named after the same original as one of another split",
        "look at both: an augmented copy belongs in the split of its original",
    ),
    "copy-within": Rule(
        "info",
        "copy of an image of the same split, which counts twice",
        "remove it, unless it is an augmentation of train",
    ),
    "copy-unchecked": Rule(
        "info",
        "image whose copies cannot be found for certain",
        "look at it, and at images from the same time or place",
    ),
    "prompt-empty": Rule("error", "class without a prompt", DESCRIBE),
    "prompt-too-long": Rule(
        "error",
        "prompt of more tokens than SAM 3 reads, which are 32 with a start and an end",
        "use fewer words in convert.prompts or convert.template",
    ),
    "prompt-duplicate": Rule(
        "error",
        "prompt of more than one class: SAM 3 reads neither case nor the number of spaces",
        TELL_APART,
    ),
    "prompt-alike": Rule(
        "warning",
        "prompts that differ only in hyphens, spaces, punctuation or the plural",
        TELL_APART,
    ),
    "prompt-contains-class": Rule(
        "warning",
        "prompt that contains that of another class, which may then detect both",
        "use words in convert.prompts that fit only one of them",
    ),
    "prompt-coordinates": Rule("warning", "prompt with coordinates", DESCRIBE),
    "prompt-digits": Rule(
        "warning", "prompt with digits, each of which SAM 3 reads by itself", DESCRIBE
    ),
    "prompt-not-ascii": Rule(
        "warning",
        "prompt with characters that are not ASCII, though SAM 3 has learned English",
        "translate it in convert.prompts",
    ),
    "prompt-misspelled": Rule(
        "warning",
        "prompt with a word that is likely misspelled",
        "correct it in convert.prompts, unless it is a technical term",
    ),
    "class-missing-train": Rule(
        "error",
        "class without objects in train, though other splits have some",
        "label some in train, or remove the class",
    ),
    "class-missing-valid": Rule(
        "warning",
        "class without objects in valid, by which the best epoch is chosen",
        "label some in that split, or move some images into it",
    ),
    "class-missing-test": Rule(
        "warning",
        "class without objects in test, which cannot be evaluated",
        "label some in that split, or move some images into it",
    ),
    "class-unused": Rule(
        "warning",
        "class without objects in any split, which is only prompted where it is absent",
        "remove the class, unless that is intended",
    ),
    "class-few-objects": Rule(
        "warning", "class with few objects in train", "label more, or merge it with another class"
    ),
    "class-imbalance": Rule(
        "info",
        "class with far fewer objects in train than another",
        "label more, or set train.repeat_factor_threshold",
    ),
    "class-box-only": Rule(
        "warning",
        "class many of whose objects have only a box, though others have masks",
        "outline them: without a mask, they teach the model only boxes",
    ),
    "class-no-negatives": Rule(
        "warning",
        "split where almost every image shows the only class, so that false alarms go unnoticed",
        "add images without it",
    ),
    "object-crowded": Rule(
        "warning",
        "image with more objects of a prompt than the model can detect",
        "use tiles (`tiles: auto`)",
    ),
    "object-tiny": Rule(
        "warning",
        "object that is tiny once the image is resized for the model",
        "use tiles (`tiles: auto`), set a larger image_size, or remove what nobody could recognize",
    ),
    "object-duplicate": Rule("warning", "object that is labeled twice", "remove one of them"),
    "object-mask-is-box": Rule(
        "info",
        "mask that fills its box exactly, as if a box had been converted",
        "outline the object, unless it is a rectangle",
    ),
    "object-none": Rule(
        "info",
        "image without objects, which counts as showing none",
        "label it, unless that is true",
    ),
    "object-missing-in-burst": Rule(
        "info",
        "image without a class that is labeled in almost the same images of its split",
        "look at both, and label what is missing",
    ),
}


def require_known_rules(names: Iterable[str]) -> None:
    """Check the rules that settings name.

    Raises:
        ConfigError: for the first that does not exist, with the closest that does.
    """
    for name in names:
        if name not in RULES:
            closest = get_close_matches(name, RULES, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"validate.severities: there is no rule {shown(name)}",
                fix=f"Did you mean {closest}? docs/validation.md lists all rules",
            )
