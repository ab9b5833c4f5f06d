"""The gate before training: a report without errors, of this very dataset."""

import hashlib
from pathlib import Path

from segtune.core.errors import DatasetError
from segtune.core.fingerprints import file_digest
from segtune.core.foreign import read_json
from segtune.dataset.coco import MANIFEST, SPLITS

AGAIN = "Run segtune.validate again"


def dataset_fingerprint(coco: Path) -> str:
    """SHA-256 of the contents of the split files and the manifest.

    Raises:
        DatasetError: when one of them cannot be read.
    """
    digest = hashlib.sha256()
    for name in (*(f"{split}.json" for split in SPLITS), MANIFEST):
        # A folder without one of them is another dataset, which can't have been validated.
        path = coco / name
        found = file_digest(path, DatasetError, AGAIN) if path.exists() else "missing"
        digest.update(f"{name} {found}\n".encode())
    return digest.hexdigest()


def require_fresh(fingerprint: object, coco: Path, report: Path) -> None:
    """Check that a report is of a dataset as it is now.

    Args:
        fingerprint: that the report has.
        coco: folder of the dataset.
        report: the file, for the message.

    Raises:
        DatasetError: when it is of another one.
    """
    if fingerprint != dataset_fingerprint(coco):
        raise DatasetError(
            f"this report is of another dataset, or {coco} has changed since",
            file=report,
            fix=AGAIN,
        )


def require_validated(report: Path, coco: Path) -> None:
    """Check that a dataset was validated and has no errors.

    Raises:
        DatasetError: when it has, or when the report is missing or of another dataset.
    """
    fix = "Run segtune.validate first"
    values = read_json(report, DatasetError, fix, what="validation report")
    findings = values.get("findings") if isinstance(values, dict) else None
    if not isinstance(findings, list) or not all(isinstance(found, dict) for found in findings):
        raise DatasetError("this is not a validation report", file=report, fix=fix)
    require_fresh(values.get("fingerprint"), coco, report)
    errors = [str(found.get("rule")) for found in findings if found.get("severity") == "error"]
    if errors:
        names = ", ".join(errors)
        raise DatasetError(
            f"the dataset has validation errors: {names}", file=report, fix="Fix them first"
        )
