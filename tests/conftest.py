"""The order of tests, in which two workers take whole files: the longest must not come last.

Also what tests of several files share.
"""

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.exported import Run

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


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> "Run":
    """The files of a finished run of the tiny model, for what is made of them."""
    from tests.exported import finished_run  # which imports most of segtune

    return finished_run(tmp_path_factory.mktemp("run"))
