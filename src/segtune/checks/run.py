"""All checks of a dataset, and the report of what they found."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from segtune.checks.bursts import burst_findings
from segtune.checks.classes import class_findings
from segtune.checks.copies import copy_findings
from segtune.checks.masks import mask_findings
from segtune.checks.objects import object_findings
from segtune.checks.prompts import prompt_findings
from segtune.checks.rules import RULES, require_known_rules
from segtune.checks.structure import structure_findings
from segtune.checks.summary import histograms, summary
from segtune.core.console import progress
from segtune.core.validate_settings import Severity, ValidateLimits, ValidateSettings
from segtune.dataset.coco import Manifest, Split
from segtune.dataset.findings import DatasetReport, Finding, Found, Override, Place
from segtune.dataset.image_copies import compared_splits
from segtune.dataset.image_scan import scan_images
from segtune.dataset.tiles import Tiles

MAX_EXAMPLES = 1000  # in a report, per rule
ORDER: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Target:
    """What of the model to be trained matters to the checks."""

    queries: int  # each of which detects one object of a prompt
    input_pixels: int  # side of the square that each image, or each tile, is resized to
    tiles: Tiles | None = None  # in which images are seen; None for whole images


def check_dataset(
    splits: Sequence[Split],
    manifest: Manifest,
    *,
    settings: ValidateSettings,
    target: Target,
    fingerprint: str,
    workers: int,
) -> DatasetReport:
    """Check the training, valid and test splits, in this order.

    Args:
        splits: as they were read.
        manifest: of their images.
        settings: severities and limits.
        target: the model.
        fingerprint: of the dataset, for the report.
        workers: threads that read images.

    Raises:
        ConfigError: when the settings name a rule that does not exist.
    """
    require_known_rules(settings.severities)
    counts, examples = _grouped(_found(splits, manifest, settings.limits, target, workers=workers))
    findings = [_finding(rule, settings, counts[rule], examples[rule]) for rule in counts]
    return DatasetReport(
        fingerprint=fingerprint,
        findings=tuple(sorted((f for f in findings if f.severity != "off"), key=_rank)),
        overridden=tuple(
            Override(rule, RULES[rule].severity, severity, counts.get(rule, 0))
            for rule, severity in settings.severities.items()
            if severity != RULES[rule].severity
        ),
        splits={split.name: summary(split) for split in splits},
        histograms=histograms(splits, target.input_pixels, target.tiles),
    )


def _found(
    splits: Sequence[Split],
    manifest: Manifest,
    limits: ValidateLimits,
    target: Target,
    *,
    workers: int,
) -> Iterator[Found]:
    yield from structure_findings(splits)
    yield from _image_findings(splits, manifest, limits, workers)
    yield from mask_findings(splits)
    yield from prompt_findings(splits)
    yield from class_findings(splits, limits)
    yield from object_findings(
        splits,
        limits,
        queries=target.queries,
        input_pixels=target.input_pixels,
        tiles=target.tiles,
    )


def _image_findings(
    splits: Sequence[Split], manifest: Manifest, limits: ValidateLimits, workers: int
) -> Iterator[Found]:
    """What is wrong with image files, and which of them are copies."""
    images = sum(len(split.images) for split in splits)
    with progress("checked image", images) as advance:
        scans = list(scan_images(splits, manifest, workers=workers, advance=advance))
    for scan in scans:
        yield from scan.findings()
    compared = compared_splits(scans, limits.likely_copy_similarity)
    yield from copy_findings(compared, manifest.root, limits)
    yield from burst_findings(splits, compared)


def _grouped(found: Iterable[Found]) -> tuple[dict[str, int], dict[str, list[Place]]]:
    """How often each rule is broken, and the first places."""
    counts: dict[str, int] = {}
    examples: dict[str, list[Place]] = {}
    for rule, place in found:
        counts[rule] = counts.get(rule, 0) + 1
        places = examples.setdefault(rule, [])
        if len(places) < MAX_EXAMPLES:
            places.append(place)
    return counts, examples


def _finding(
    name: str, settings: ValidateSettings, count: int, examples: Sequence[Place]
) -> Finding:
    rule = RULES[name]
    return Finding(
        rule=name,
        severity=settings.severities.get(name, rule.severity),
        title=rule.title,
        fix=rule.fix,
        count=count,
        examples=tuple(examples),
    )


def _rank(finding: Finding) -> tuple[int, int]:
    return ORDER.index(finding.severity), list(RULES).index(finding.rule)
