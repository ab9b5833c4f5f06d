"""The settings of labeling new images: which ones, and in shards of how many."""

from pydantic import Field, PositiveInt

from segtune.core.section import Section


class LabelSettings(Section):
    images: str | None = Field(None, description="folder of images to label, with its subfolders")
    images_per_shard: PositiveInt = Field(
        5000, description="images of a new shard, which one job labels"
    )
