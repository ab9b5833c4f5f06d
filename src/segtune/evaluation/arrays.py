"""The type of the arrays here; shapes are in comments and docstrings."""

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
