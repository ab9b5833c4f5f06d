"""The settings of validation: which rules stop a run, and where their limits are."""

import json
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, field_validator

from segtune.core.section import Section

Severity = Literal["error", "warning", "info", "off"]


class ValidateLimits(Section):
    min_class_objects: NonNegativeInt = Field(
        10, description="objects of a class in train; with fewer, a warning"
    )
    max_imbalance: PositiveFloat = Field(
        30, description="times as many objects as another class has in train; beyond, an info"
    )
    max_box_only_fraction: float = Field(
        0.2, ge=0, le=1, description="of a class's objects in train, where others have masks"
    )
    min_object_pixels: PositiveFloat = Field(
        4, description="side of a square of an object's area, in the resized image; pixels"
    )
    duplicate_iou: float = Field(
        0.9, ge=0.5, le=1, description="IoU from which two objects of a class are one"
    )
    copy_similarity: float = Field(
        0.93, gt=0, le=1, description="correlation of two images from which one is a copy"
    )
    likely_copy_similarity: float = Field(
        0.9, gt=0, le=1, description="correlation from which a pair is worth looking at"
    )
    min_negative_fraction: float = Field(
        0.05, ge=0, le=1, description="of a split's images without a dataset's only class"
    )


class ValidateSettings(Section):
    max_examples: int = Field(20, ge=1, le=1000, description="examples shown per rule on the page")
    severities: dict[str, Severity] = Field(
        default_factory=dict, description="rule -> error, warning, info or off"
    )
    limits: ValidateLimits = ValidateLimits()

    @field_validator("severities", mode="before")
    @classmethod
    def _off_is_a_severity(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        # In YAML, `off` without quotes is false.
        return {rule: "off" if value is False else value for rule, value in values.items()}

    def gate_json(self) -> str:
        """What decides the report, as JSON with sorted keys; not how much of it a page shows."""
        values = self.model_dump(mode="json", exclude={"max_examples"})
        return json.dumps(values, sort_keys=True)
