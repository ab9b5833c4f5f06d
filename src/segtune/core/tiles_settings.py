"""The settings of tiles: windows of large images in place of the whole ones."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from segtune.core.section import Section

MIN_SIDE = 32  # pixels of a tile
MAX_OVERLAP = 0.5  # fraction of the side


class TilesSettings(Section):
    side: int | Literal["auto"] | None = Field(
        None, description="of square tiles, in pixels of the image; auto: from the objects' sizes"
    )
    overlap: float = Field(
        0.25,
        ge=0.05,
        le=MAX_OVERLAP,
        description="of neighboring tiles, at least; fraction of the side",
    )

    @model_validator(mode="before")
    @classmethod
    def _side_is_enough(cls, values: Any) -> Any:
        """`tiles: auto` and `tiles: 1024` are short for a table with this side."""
        return values if isinstance(values, dict) else {"side": values}

    @field_validator("side", mode="before")
    @classmethod
    def _is_auto_or_pixels(cls, value: Any) -> Any:
        # In YAML, `off` without quotes is false; on the command line, values are text.
        if value is None or value is False or value in ("null", "off"):
            return None
        if value == "auto":
            return value
        try:
            pixels = 0 if isinstance(value, bool) else int(value)
        except (TypeError, ValueError):
            pixels = 0
        if pixels < MIN_SIDE or pixels != float(value):
            raise ValueError(f"neither auto nor an integer of at least {MIN_SIDE} pixels")
        return pixels
