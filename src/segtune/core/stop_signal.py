"""SIGINT and SIGTERM, which stop a command at a place where nothing is lost."""

import signal

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED_STATUS = 130  # of a shell command that Ctrl-C ended


class StopSignal:
    """Notes that SIGINT or SIGTERM has arrived, instead of ending the process."""

    def __init__(self) -> None:
        self.arrived = False
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.arrived = True

    def __call__(self) -> bool:
        return self.arrived
