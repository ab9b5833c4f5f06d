"""The page that people look at: `report.html`, self-contained, with nothing to load.

`report.html.j2`, `report.css` and `report.js` beside this module are put into one file. Its
policy forbids every connection; images are thumbnails inside it.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from segtune.core.atomic import atomic_path
from segtune.dataset.coco import Split
from segtune.evaluation.average_precision import SUMMARY
from segtune.evaluation.error_types import KINDS, ErrorRecord
from segtune.reports.charts import BASE, TUNED, forest, precision_recall, reliability
from segtune.reports.gallery import SUSPECTS, crop, gallery

MODELS = {"base": "zero-shot", "tuned": "fine-tuned"}
UNKNOWN = "n/a"
KIND_MEANINGS = {
    "correct": "met an object of its class: half of what both cover is shared (IoU 0.5)",
    "classification": "lies on an object, but of another class",
    "localization": "touches an object of its class, but its outline is poor (IoU 0.1 to 0.5)",
    "both": "touches an object of another class, and its outline is poor",
    "duplicate": "is a second detection of an object that was found already",
    "background": "lies where nothing is labeled",
    "missed": "is an object that was not found at all",
}


def write_report(
    path: Path,
    split: Split,
    metrics: Mapping[str, Any],
    judged: Mapping[str, Sequence[ErrorRecord]],
    others: Iterable[Split] = (),
) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        split: the test split; some of its images are read.
        metrics: all that `metrics.json` holds.
        judged: per model, its detections and misses on the test split.
        others: splits, beside the test split, that suspicious labels may be in.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"number": _number, "signed": _signed, "percent": _percent}
    page = environment.from_string(_companion("html.j2")).render(
        m=metrics,
        tone=_tone(metrics["verdict"]),
        models=MODELS,
        colors={"base": BASE, "tuned": TUNED},
        cards=_cards(metrics),
        classes=_classes(split, metrics),
        images=gallery(split, judged),
        kinds=KIND_MEANINGS,
        mistakes=_mistakes(metrics),
        summary=SUMMARY,
        plots=_plots(metrics),
        crops=_crops({s.name: s for s in [split, *others]}, metrics["label_issues"]),
        style=Markup(_companion("css")),
        script=Markup(_companion("js")),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, "utf-8")


def _companion(suffix: str) -> str:
    return Path(__file__).with_suffix(f".{suffix}").read_text("utf-8")


def _tone(verdict: str) -> str:
    words = {"better": "better than", "worse": "WORSE than"}
    return next((tone for tone, word in words.items() if word in verdict), "undecided")


def _cards(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The key numbers, each with what it means."""
    kind, found = metrics["kind"], metrics["difference"]
    cards = [
        _card(
            f"{kind} AP",
            [metrics[model][kind]["AP"] for model in MODELS],
            found[kind]["AP"],
            "How well objects are found and outlined over all scores, 1 at best: COCO's average "
            "precision, the mean over classes and over overlaps from 0.50 to 0.95.",
        ),
        _card(
            "cgF1",
            [metrics[model]["cgF1"][kind]["cgF1"] for model in MODELS],
            found["cgF1"][kind]["cgF1"],
            "Are things found, and only where there are some? The metric of SAM 3's paper, 1 at "
            "best and 0 for a model that says yes to everything (or where nothing is ever absent).",
        ),
        _card(
            "false alarms",
            [_mean(metrics[model]["false_alarms"].values()) for model in MODELS],
            found["false_alarms"]["mean"],
            "The share of images without a class in which it is detected all the same, from a "
            f"score of {metrics['confidence_threshold']:g} on; mean over classes. Lower is better.",
        ),
    ]
    if metrics["base"]["overlap"]:
        cards.append(
            _card(
                "mask IoU",
                [metrics[model]["overlap"]["iou"]["mean"] for model in MODELS],
                found["overlap"]["iou"]["mean"],
                "Shared pixels over all pixels of a class, its objects taken together and from "
                "its threshold on; mean over classes. For things without clear instances.",
            )
        )
    return cards


def _card(
    name: str, values: Sequence[float | None], interval: Mapping[str, Any], meaning: str
) -> dict[str, Any]:
    base, tuned = values
    return {"name": name, "base": base, "tuned": tuned, "interval": interval, "meaning": meaning}


def _classes(split: Split, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    kind = metrics["kind"]
    objects = [a.category_id for found in split.annotations.values() for a in found]
    return [
        {
            "name": category.name,
            "prompt": category.prompt,
            "objects": objects.count(category.id),
            "base": metrics["base"][kind]["per_class"][category.name],
            "tuned": metrics["tuned"][kind]["per_class"][category.name],
            "interval": metrics["difference"][kind]["per_class"][category.name],
            "at": metrics["tuned"]["calibration"]["thresholds"][category.name],
            "alarms": metrics["tuned"]["false_alarms"][category.name],
        }
        for category in split.categories
    ]


def _mistakes(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per kind, its number for each model over all classes, and as a share of the largest."""
    totals = {
        model: {
            kind: sum(row[kind] for row in metrics[model]["mistakes"].values()) for kind in KINDS
        }
        for model in MODELS
    }
    most = max(max(found.values()) for found in totals.values()) or 1
    return [
        {
            "kind": kind,
            "counts": {model: totals[model][kind] for model in MODELS},
            "widths": {model: 100 * totals[model][kind] / most for model in MODELS},
        }
        for kind in KINDS
    ]


def _plots(metrics: Mapping[str, Any]) -> dict[str, Any]:
    found = metrics["difference"][metrics["kind"]]
    curves = {model: metrics[model]["calibration"]["curves"] for model in MODELS}
    bins = {m: metrics[m]["calibration"]["reliability"]["bins"] for m in MODELS}
    return {
        "forest": Markup(forest({"all classes": found["AP"], **found["per_class"]})),
        "curves": [
            (name, Markup(precision_recall({m: curves[m][name] for m in MODELS}, name)))
            for name in curves["tuned"]
            if curves["tuned"][name]
        ],
        "reliability": Markup(reliability(bins)),
    }


def _crops(splits: Mapping[str, Split], label_issues: Sequence[Mapping[str, Any]]) -> list[Any]:
    found = []
    for label_issue in label_issues[:SUSPECTS]:
        split = splits[label_issue["split"]]
        image = next(image for image in split.images if image.id == label_issue["image_id"])
        found.append((label_issue, crop(split, image, label_issue["bbox_xywh"])))
    return found


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:+.3f}"


def _percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{100 * value:.0f} %"
