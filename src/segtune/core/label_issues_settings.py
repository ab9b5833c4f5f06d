"""The settings of what is done about suspected label errors."""

from pydantic import Field

from segtune.core.section import Section


class LabelIssuesSettings(Section):
    min_score: float = Field(0.7, ge=0, le=1, description="issue score of an issue, at least")
