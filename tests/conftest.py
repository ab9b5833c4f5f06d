"""The order of tests: two workers take whole files, so the longest must not come last."""

import pytest

LONGEST = (
    *("test_workflow", "test_quality", "test_train", "test_train_settings"),
    *("test_survival", "test_predict", "test_engine", "test_bootstrap", "test_launch"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))
