"""What an adapter's recipe says of its base model, and of the trainings behind it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, FiniteFloat, TypeAdapter, ValidationError

from segtune.core.errors import AdapterError, shown
from segtune.core.tiles_settings import TilesSettings
from segtune.lora.adapter import FIX, RECIPE, read_recipe


@dataclass(frozen=True)
class Result:
    """Of a training, on its valid split."""

    best_score: FiniteFloat
    best_epoch: int
    base_score: FiniteFloat


def _with_score(settings: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(settings.get("select_by"), str):
        raise ValueError("without the name of a score, `select_by`")
    return settings


@dataclass(frozen=True)
class Ingredient:
    """A training whose update is part of an adapter."""

    weight: FiniteFloat  # by which its update is multiplied
    settings: Annotated[dict[str, Any], AfterValidator(_with_score)]  # `select_by`: the score
    result: Result
    image_size: int | None  # pixels
    data: dict[str, str] = field(default_factory=dict)  # file -> fingerprint
    adapter_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Base model and trainings; of a soup, several."""

    segtune: str
    base_model: str | None = None  # its name
    model: str
    weights: str
    weights_sha256: str | None = None
    adapted: dict[str, Any]
    soup: tuple[Ingredient, ...]
    tiles: TilesSettings | None = None  # in which it sees images; None for whole ones

    @property
    def is_soup(self) -> bool:
        """Whether this is more than one training, with its whole update."""
        return [one.weight for one in self.soup] != [1]

    @property
    def what_is_seen(self) -> str:
        """What the model gets resized: images, or tiles of which size."""
        if not self.tiles or not self.tiles.side:
            return "images"
        return f"tiles of {self.tiles.side} pixels that overlap by {self.tiles.overlap:g} of that"


def read_base_recipe(adapter: Path) -> Recipe | None:
    """The recipe of an adapter; None for an adapter of PEFT, which names no base to compare.

    Raises:
        AdapterError: when it cannot be read, or is not a recipe.
    """
    values = read_recipe(adapter)
    if values is None:
        return None
    try:
        if "soup" not in values:
            # The recipe of a training has what that of a soup has of each training.
            only = TypeAdapter(Ingredient).validate_python({**values, "weight": 1.0})
            values = {**values, "soup": [only]}
        return TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        raise _not_a_recipe(error, adapter) from None


def require_same_base(recipe: Recipe, base: tuple[str, str, str | None], adapter: Path) -> None:
    """Check that an adapter was trained on a base model.

    The content counts, where it is known of both: a file may have been moved, or another one put
    in its place.

    Args:
        recipe: of the adapter.
        base: `model`, `weights` and the digest of the weights' content.
        adapter: its folder.

    Raises:
        AdapterError: naming both base models.
    """
    model, weights, digest = base
    by_content = recipe.weights_sha256 and digest
    same = recipe.weights_sha256 == digest if by_content else recipe.weights == weights
    if not same or recipe.model != model:
        raise AdapterError(
            f"trained on model {shown(recipe.model)} with weights {shown(recipe.weights)}, not on "
            f"{shown(model)} with {shown(weights)}"
            + (", whose content is another" if recipe.weights == weights else ""),
            file=adapter,
            fix="Set `model` and `weights` to those that the adapter was trained with",
        )


def _not_a_recipe(error: ValidationError, adapter: Path) -> AdapterError:
    """The error for a `recipe.json` of another kind, in the folder of an adapter."""
    first = error.errors()[0]
    return AdapterError(
        f"not the recipe of an adapter ({first['msg']})",
        file=adapter / RECIPE,
        record=".".join(map(str, first["loc"])) or None,
        fix=FIX,
    )
