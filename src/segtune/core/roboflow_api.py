"""Requests to Roboflow: tried again where that may help, and never with the key in a message."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests

from segtune.core.errors import ExportError
from segtune.core.roboflow import KEY, redacted

TIMEOUT = (30.0, 300.0)  # seconds to connect, and between two bytes
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each further try
MAX_RETRY_AFTER = 300  # seconds that Roboflow may ask to wait
# Errors after which a request is sent again; the last is an answer that was cut.
PASSING = (requests.Timeout, requests.ConnectionError, requests.exceptions.ChunkedEncodingError)
MAX_QUOTE = 200  # characters of Roboflow's own message
AGAIN = "The same command continues with the images that are missing"


@dataclass(frozen=True)
class Api:
    """Where the API is, and the key for it."""

    address: str
    key: str


@dataclass(frozen=True)
class Response:
    """What came back; errors that concern one request only are left to the caller."""

    status: int
    values: Mapping[str, Any]
    message: str  # Roboflow's own words, without the key

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later."""
        return _may_pass(self.status)


def request(
    api: Api,
    method: str,
    path: str,
    *,
    place: str,
    params: Mapping[str, str] | None = None,
    **content: Any,
) -> Response:
    """Send a request; after a timeout, status 408, 429 or 5xx again, up to six times in all.

    Args:
        api: address and key.
        method: GET or POST.
        path: below the address.
        place: what is meant, for messages.
        params: of the query, besides the key.
        content: as in `requests`; bytes, so that they can be sent again.

    Returns:
        The response; one with such a status, if it was the last one.

    Raises:
        ExportError: when the key is rejected, nothing comes back, or something else than JSON.
    """
    # At its debug level it logs every URL, with the key in it.
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    for wait in (*WAITS, None):
        try:
            response = requests.request(
                method,
                api.address + path,
                params={"api_key": api.key, **(params or {})},
                timeout=TIMEOUT,
                allow_redirects=False,  # another address gets neither key nor image
                **content,
            )
        except PASSING as error:
            problem, demanded = type(error).__name__, 0
        except requests.RequestException as error:
            # The text would contain the URL, and with it the key.
            raise _unreachable(type(error).__name__, place) from None
        else:
            if wait is None or not _may_pass(response.status_code):
                return _accepted(response, api, place)
            demanded = _retry_after(response)
        if wait is not None:
            time.sleep(max(wait, demanded))
    raise _unreachable(f"{problem}, {len(WAITS) + 1} times", place)


def _may_pass(status: int) -> bool:
    return status >= 500 or status in (408, 429)


def unexpected(place: str) -> ExportError:
    """The error for a response that the documentation does not describe."""
    return ExportError("unexpected response from Roboflow", file=place, fix=AGAIN)


def _accepted(response: requests.Response, api: Api, place: str) -> Response:
    status = response.status_code
    if status in (401, 403):
        raise ExportError(
            f"Roboflow rejects the API key (status {status})",
            file=place,
            fix=f"Check {KEY}: its workspace must have access to this project",
        )
    try:
        values = response.json()
    except ValueError:
        values = None
    if not isinstance(values, dict):
        if status < 400:
            raise unexpected(place)
        values = {}
    return Response(status, values, _message(status, values, api.key))


def _retry_after(response: requests.Response) -> int:
    """Seconds that the response asks to wait; 0 where it does not say."""
    text = response.headers.get("Retry-After", "")
    return min(int(text), MAX_RETRY_AFTER) if text.isdecimal() and len(text) < 9 else 0


def _message(status: int, values: Mapping[str, Any], key: str) -> str:
    found = values.get("error") or values.get("message") or f"status {status}"
    if isinstance(found, dict):
        found = found.get("message") or found
    return " ".join(redacted(str(found), key).split())[:MAX_QUOTE]


def _unreachable(problem: str, place: str) -> ExportError:
    return ExportError(f"no connection to Roboflow ({problem})", file=place, fix=AGAIN)
