"""The gate refuses what is not a report, in one clear error."""

import json
from pathlib import Path
from typing import Any

import pytest

from segtune.core.errors import DatasetError
from segtune.dataset.gate import require_validated


@pytest.mark.parametrize("values", [[], {}, {"findings": 1}, {"findings": [1]}, "report"])
def test_what_is_not_a_report_is_refused(tmp_path: Path, values: Any) -> None:
    report = tmp_path / "report.json"
    report.write_text(json.dumps(values))
    with pytest.raises(DatasetError, match="this is not a validation report"):
        require_validated(report, tmp_path)
