"""The settings of the merge: how strongly the update is applied, and how exact that must be."""

import math
from typing import Any, Literal

from pydantic import Field, PositiveFloat, field_validator

from segtune.core.section import Section


class MergeSettings(Section):
    strength: float | Literal["auto"] = Field(
        "auto", description="times that the update is added: 0 is the base model; auto: chosen"
    )
    retain: float = Field(
        0.8, ge=0, le=1, description="of what the base model detects, at least, with auto"
    )
    retain_images: str | None = Field(
        None, description="folder of images on which it is measured what is retained"
    )
    tolerance: PositiveFloat = Field(
        1e-3, description="largest relative difference between adapted and merged outputs"
    )

    @field_validator("strength", mode="before")
    @classmethod
    def _is_auto_or_a_number(cls, value: Any) -> Any:
        if value == "auto":
            return value
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 <= number < math.inf:
            raise ValueError("neither auto nor a number from 0 on")
        return number
