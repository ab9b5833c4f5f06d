"""A server on this machine, for as long as a test needs it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer

import pytest


@contextmanager
def serving(server: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Answer requests in a thread; the server is bound already."""
    # Behind a proxy, requests to 127.0.0.1 would go to the proxy.
    monkeypatch.setenv("NO_PROXY", "*")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()
