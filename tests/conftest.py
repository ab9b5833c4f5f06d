"""The order of tests, in which two workers take whole files: the longest must not come last.

Also what tests of several files share.
"""

import signal
from collections.abc import Iterator

import pytest

LONGEST = (
    *("test_workflow", "test_quality", "test_train", "test_train_settings"),
    *("test_survival", "test_predict", "test_engine", "test_bootstrap", "test_launch"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.fixture
def signal_handlers() -> Iterator[None]:
    """Restore the handlers that a command in this process replaces."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)
