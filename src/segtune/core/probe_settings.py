"""The settings of the zero-shot probe, which compares phrasings of the prompts."""

from pydantic import Field, PositiveInt

from segtune.core.section import Section


class ProbeSettings(Section):
    images: PositiveInt = Field(50, description="of train, on which phrasings are compared")
    phrasings: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="category name -> further phrasings to compare"
    )
