"""What every section of the settings has in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section refuses keys it does not know: a misspelled setting is never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)
