"""Metrics that cannot be read are refused; those that were written are in test_evaluate."""

from pathlib import Path

import pytest

from segtune.core.errors import DatasetError
from segtune.evaluation.metrics import read_metrics


@pytest.mark.parametrize("content", [None, "{", "{}", "[]", '{"verdict": "better"}'])
def test_metrics_of_another_format_are_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "metrics.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(
        DatasetError, match=r"metrics\.json: (\S+: )?cannot read the file .*evaluate again"
    ):
        read_metrics(path)
