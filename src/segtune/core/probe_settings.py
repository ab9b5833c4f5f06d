"""The settings of the zero-shot probe, which compares phrasings of the prompts."""

from typing import Annotated

from pydantic import Field, PositiveInt, StringConstraints

from segtune.core.section import Section

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class ProbeSettings(Section):
    images: PositiveInt = Field(50, description="of train, on which phrasings are compared")
    phrasings: dict[str, tuple[Text, ...]] = Field(
        default_factory=dict, description="category name -> further phrasings to compare"
    )
