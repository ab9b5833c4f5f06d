"""Download a version of a Roboflow project as a zip file, with the vendor's own client.

The client, an optional dependency, finds the version and has it exported. Its own download
would unpack without checking the members and wait forever; so the zip file is downloaded here
and left as it is, for `segtune.exports.archive` to unpack. The API key is part of the URLs that
the client requests, so the text of an exception is always redacted before it is shown.
"""

import argparse
import logging
import re
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import requests

from segtune.core.atomic import atomic_path
from segtune.core.console import log_line
from segtune.core.errors import ExportError, exit_on_error
from segtune.core.roboflow import KEY, NAME, api_key, redacted, vendor_client

SCHEME = "roboflow://"
FORMAT = "coco-segmentation"  # as Roboflow calls it
MAX_WAIT = 1800.0  # seconds that Roboflow may take to pack an export
POLL_INTERVAL = 2.0  # seconds between two requests for its state
TIMEOUT = (30.0, 120.0)  # seconds to connect, and between two bytes
CHUNK = 2**20  # bytes
MAX_QUOTE = 300  # characters of Roboflow's own message in an error
ADDRESS = re.compile(rf"{SCHEME}{NAME}/{NAME}/([1-9][0-9]*)", re.ASCII)


@dataclass(frozen=True)
class Version:
    """A version of a project; it never changes once it is generated."""

    workspace: str
    project: str
    number: int

    def __str__(self) -> str:
        return f"{SCHEME}{self.workspace}/{self.project}/{self.number}"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the zip file atomically, replacing a file of that name."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("download"):
        download(parse_address(arguments.export), arguments.out)
        log_line(f"{arguments.out.stat().st_size / 1e6:.1f} MB: {arguments.out}")


def is_remote(export: str) -> bool:
    """Whether an `export` setting names a version on Roboflow, not a file or folder."""
    return export.startswith(SCHEME)


def parse_address(export: str) -> Version:
    """The version that an address names.

    Raises:
        ExportError: when it is not such an address.
    """
    found = ADDRESS.fullmatch(export)
    if not found:
        raise ExportError(
            "not the address of a version on Roboflow",
            file=redacted(export),
            fix=f"Write {SCHEME}workspace/project/version, as in {SCHEME}my-team/reef-life/3",
        )
    workspace, project, number = found.groups()
    return Version(workspace, project, int(number))


def download(version: Version, path: Path) -> None:
    """Download a version to `path`, which appears whole or not at all.

    Raises:
        ExportError: when the key or the client is missing, Roboflow refuses the request, has no
            such version or has not finished it, or the zip file is incomplete.
    """
    key = api_key()
    client = vendor_client()
    # At its debug level it logs every URL, with the key in it.
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    log_line(
        f"Requesting version {version.number} of {version.workspace}/{version.project} "
        "from Roboflow"
    )
    link = _link(client, version, key)
    with atomic_path(path) as partial:
        _save(link, partial, version)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.download", description=__doc__)
    parser.add_argument("--export", required=True, help=f"{SCHEME}workspace/project/version")
    parser.add_argument("--out", type=Path, required=True, help="zip file to write")
    return parser


def _link(client: ModuleType, version: Version, key: str) -> str:
    """The URL of the zip file.

    The project is requested first: only there do errors have a status.
    """
    names = (version.workspace, version.project)
    with _as_export_error(client, version, key):
        _require_listed(version, client.get_project(key, *names)["versions"])
        response = client.get_version(key, *names, str(version.number), nocache=True)
        _require_generated(version, response["version"])
        return _exported(client, version, key)


def _require_listed(version: Version, versions: Sequence[Mapping[str, Any]]) -> None:
    numbers = [str(known["id"]).rsplit("/", maxsplit=1)[-1] for known in versions]
    if str(version.number) not in numbers:
        known = f"has versions {', '.join(numbers)}" if numbers else "has no versions yet"
        raise ExportError(
            "no such version",
            file=str(version),
            fix=f"The project {known}; generate this one in Roboflow, or choose another",
        )


def _require_generated(version: Version, state: Mapping[str, Any]) -> None:
    if state.get("generating") or not state.get("images"):
        raise ExportError(
            f"still being generated ({float(state.get('progress') or 0):.0%})",
            file=str(version),
            fix="Wait until Roboflow shows it as finished, then try again",
        )


def _exported(client: ModuleType, version: Version, key: str) -> str:
    deadline = time.monotonic() + MAX_WAIT
    names = (version.workspace, version.project, str(version.number))
    # The first request makes Roboflow pack the export.
    while (state := client.get_version_export(key, *names, FORMAT)).get("ready") is False:
        if time.monotonic() >= deadline:
            raise ExportError(
                f"the export is not ready after {MAX_WAIT / 60:.0f} minutes",
                file=str(version),
                fix="Roboflow is still packing it; try again later",
            )
        time.sleep(POLL_INTERVAL)
    return str(state["export"]["link"])


@contextmanager
def _as_export_error(client: ModuleType, version: Version, key: str) -> Iterator[None]:
    """Report what goes wrong between the client and Roboflow, without the key."""
    try:
        yield
    except client.RoboflowError as error:
        status = getattr(error, "status_code", None)
        raise _refusal(status, redacted(str(error), key), version) from None
    # Before connection errors: the error for a response that is not JSON is both.
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"unexpected response from Roboflow ({type(error).__name__})",
            file=str(version),
            fix="Try again; if it persists, export the zip file by hand",
        ) from None
    except requests.RequestException as error:
        raise ExportError(
            f"no connection to Roboflow ({type(error).__name__})",
            file=str(version),
            fix="Check the network, or export the zip file by hand and set `export` to its path",
        ) from None


def _refusal(status: int | None, message: str, version: Version) -> ExportError:
    """The error for a failed request; `message` is Roboflow's own, redacted."""
    if status in (401, 403):
        problem = f"Roboflow rejects the API key (status {status})"
        fix = f"Check {KEY}: its workspace must have access to this project"
    elif status == 404:
        problem = "no such workspace or project, or the key has no access to it"
        fix = f"Compare the names with the project's URL in the browser, and check {KEY}"
    else:
        quote_line = " ".join(message.split())[:MAX_QUOTE]
        problem = f"Roboflow refused the request: {quote_line}"
        fix = "Check in Roboflow that this version is generated and can be exported; then try again"
    return ExportError(problem, file=str(version), fix=fix)


def _save(link: str, path: Path, version: Version) -> None:
    try:
        expected = _stream(link, path, version)
    except requests.RequestException as error:
        # The text would contain the link, which gives access to the data.
        raise _failed(f"the download was interrupted ({type(error).__name__})", version) from None
    written = path.stat().st_size
    if expected is not None and written != expected:
        raise _failed(f"the download was interrupted: {written} of {expected} bytes", version)
    if not _is_zip(path):
        raise _failed("the downloaded file is not a complete zip file", version)


def _stream(link: str, path: Path, version: Version) -> int | None:
    """Write the file at a link; return the size in bytes that was announced, if any."""
    # A compressed transfer would announce another size than the file's.
    headers = {"Accept-Encoding": "identity"}
    with requests.get(link, stream=True, timeout=TIMEOUT, headers=headers) as response:
        if response.status_code != requests.codes.ok:
            raise _failed(f"the download is refused (status {response.status_code})", version)
        with path.open("wb") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None


def _failed(problem: str, version: Version) -> ExportError:
    return ExportError(
        problem, file=str(version), fix="Nothing was written; check the network and try again"
    )


def _is_zip(path: Path) -> bool:
    # A zip file has its table of contents at the end, so a truncated one does not open.
    try:
        with zipfile.ZipFile(path):
            return True
    except (OSError, zipfile.BadZipFile):
        return False


if __name__ == "__main__":
    main()
