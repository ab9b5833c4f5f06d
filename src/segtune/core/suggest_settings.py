"""The settings of suggesting what to label next: of which images, and how many."""

from pydantic import Field, PositiveInt

from segtune.core.section import Section


class SuggestSettings(Section):
    images: str | None = Field(
        None, description="folder of images without labels, with its subfolders"
    )
    count: PositiveInt = Field(50, description="images to suggest")
