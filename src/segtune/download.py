"""Fetch a version of a Roboflow project as a zip, by the vendor's own client.

The client, an extra, finds the version and has it exported. Its own download would unpack
without a check of the members and wait without an end; so the zip is fetched here and kept
as it is, for `segtune.exports.archive` to unpack. The key is part of the addresses that the client
asks for, so no text of an exception is passed on before it is redacted.
"""

import argparse
import logging
import os
import re
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import requests

from segtune.core.atomic import atomic_path
from segtune.core.console import log_line
from segtune.core.errors import ExportError, exit_on_error

SCHEME = "roboflow://"
KEY = "ROBOFLOW_API_KEY"
FORMAT = "coco-segmentation"  # Roboflow's name for it
PATIENCE = 1800.0  # seconds that Roboflow may take to pack an export
PAUSE = 2.0  # seconds between two questions whether it is packed
TIMEOUT = (30.0, 120.0)  # seconds to connect, and without a byte
CHUNK = 2**20  # bytes
MAX_QUOTE = 300  # characters of Roboflow's own words in an error
# The names go into an address as they are: nothing that means something there.
NAME = r"([\w-][\w.-]*)"
ADDRESS = re.compile(rf"{SCHEME}{NAME}/{NAME}/([1-9][0-9]*)", re.ASCII)


@dataclass(frozen=True)
class Version:
    """A version of a project, which never changes once it is generated."""

    workspace: str
    project: str
    number: int

    def __str__(self) -> str:
        return f"{SCHEME}{self.workspace}/{self.project}/{self.number}"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the zip, atomically; a file of that name is replaced."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("download"):
        download(parse_address(arguments.export), arguments.out)
        log_line(f"{arguments.out.stat().st_size / 1e6:.1f} MB: {arguments.out}")


def is_remote(export: str) -> bool:
    """Whether an `export` setting names a version on Roboflow, and no file or folder."""
    return export.startswith(SCHEME)


def parse_address(export: str) -> Version:
    """The version that an address names.

    Raises:
        ExportError: when it is no such address.
    """
    found = ADDRESS.fullmatch(export)
    if not found:
        raise ExportError(
            "no address of a version on Roboflow",
            file=redacted(export),
            fix=f"Write {SCHEME}workspace/project/version, as in {SCHEME}my-team/reef-life/3",
        )
    workspace, project, number = found.groups()
    return Version(workspace, project, int(number))


def download(version: Version, path: Path) -> None:
    """Download a version to `path`, which appears whole or not at all.

    Raises:
        ExportError: when the key or the client is missing, Roboflow refuses, has no such
            version or has not finished it, or the zip does not arrive whole.
    """
    key = _key()
    client = _client()
    # At its debug level it logs every address, with the key in it.
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    log_line(
        f"Asking Roboflow for version {version.number} of {version.workspace}/{version.project}"
    )
    link = _link(client, version, key)
    with atomic_path(path) as partial:
        _save(link, partial, version)


def redacted(text: str, key: str = "") -> str:
    """The text without the key, however written, and without any `key=` in an address."""
    for secret in {key, quote(key), quote(key, safe="")} - {""}:
        text = text.replace(secret, "***")
    return re.sub(r"(key=)[^&\s\"'<>]*", r"\1***", text, flags=re.IGNORECASE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.download", description=__doc__)
    parser.add_argument("--export", required=True, help=f"{SCHEME}workspace/project/version")
    parser.add_argument("--out", type=Path, required=True, help="the zip file to write")
    return parser


def _key() -> str:
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise ExportError(
            "no key for Roboflow",
            fix=f"Set the environment variable {KEY} to the private API key of your workspace",
        )
    return key


def _client() -> ModuleType:
    # By its name, so that type checks pass alike where the extra is installed and where not.
    try:
        return import_module("roboflow.adapters.rfapi")
    except ImportError as error:
        raise ExportError(
            f"Roboflow's client cannot be imported ({error})",
            fix="Install it: pip install 'segtune[roboflow]'",
        ) from None


def _link(client: ModuleType, version: Version, key: str) -> str:
    """Where the zip lies. The project is asked for first: only there errors have a status."""
    names = (version.workspace, version.project)
    with _as_export_error(client, version, key):
        _require_listed(version, client.get_project(key, *names)["versions"])
        answer = client.get_version(key, *names, str(version.number), nocache=True)
        _require_generated(version, answer["version"])
        return _exported(client, version, key)


def _require_listed(version: Version, versions: Sequence[Mapping[str, Any]]) -> None:
    numbers = [str(known["id"]).rsplit("/", maxsplit=1)[-1] for known in versions]
    if str(version.number) not in numbers:
        having = f"The project has {', '.join(numbers)}" if numbers else "It has none yet"
        raise ExportError(
            "no such version", file=str(version), fix=f"{having}; generate it, or name another"
        )


def _require_generated(version: Version, state: Mapping[str, Any]) -> None:
    if state.get("generating") or not state.get("images"):
        raise ExportError(
            f"still being generated ({float(state.get('progress') or 0):.0%})",
            file=str(version),
            fix="Wait until Roboflow shows it as finished, then run this again",
        )


def _exported(client: ModuleType, version: Version, key: str) -> str:
    deadline = time.monotonic() + PATIENCE
    names = (version.workspace, version.project, str(version.number))
    # The first question makes Roboflow pack the export.
    while (answer := client.get_version_export(key, *names, FORMAT)).get("ready") is False:
        if time.monotonic() >= deadline:
            raise ExportError(
                f"the export is not ready after {PATIENCE / 60:.0f} minutes",
                file=str(version),
                fix="Roboflow goes on packing it; run this again later",
            )
        time.sleep(PAUSE)
    return str(answer["export"]["link"])


@contextmanager
def _as_export_error(client: ModuleType, version: Version, key: str) -> Iterator[None]:
    """Tell what goes wrong between the client and Roboflow, without the key."""
    try:
        yield
    except client.RoboflowError as error:
        status = getattr(error, "status_code", None)
        raise _refusal(status, redacted(str(error), key), version) from None
    # Before the connection's errors: an answer that is no JSON is one of both.
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"Roboflow's answer is not understood ({type(error).__name__})",
            file=str(version),
            fix="Run this again; should it stay so, export the zip by hand",
        ) from None
    except requests.RequestException as error:
        raise ExportError(
            f"no connection to Roboflow ({type(error).__name__})",
            file=str(version),
            fix="Check the network, or export the zip by hand and name it in `export`",
        ) from None


def _refusal(status: int | None, words: str, version: Version) -> ExportError:
    """The error for an answer of Roboflow's; `words` are its own, redacted."""
    if status in (401, 403):
        problem = f"Roboflow refuses the key (status {status})"
        fix = f"Check {KEY}: it must be a key of a workspace that may read this project"
    elif status == 404:
        problem = "no such workspace or project, or the key may not see it"
        fix = f"Compare the names with the project's address in the browser, and check {KEY}"
    else:
        said = " ".join(words.split())[:MAX_QUOTE]
        problem = f"Roboflow does not deliver it, but says: {said}"
        fix = "See on its page that it is generated and can be exported; then run this again"
    return ExportError(problem, file=str(version), fix=fix)


def _save(link: str, path: Path, version: Version) -> None:
    try:
        expected = _stream(link, path, version)
    except requests.RequestException as error:
        # The text would hold the link, which is as good as a key to the data.
        raise _broken(f"the download broke off ({type(error).__name__})", version) from None
    written = path.stat().st_size
    if expected is not None and written != expected:
        raise _broken(f"the download broke off: {written} of {expected} bytes", version)
    if not _is_zip(path):
        raise _broken("what was downloaded is no whole zip", version)


def _stream(link: str, path: Path, version: Version) -> int | None:
    """Write what lies at a link; return how many bytes it was said to have, if any."""
    # Compressed on the way, it would have another length than the one announced.
    headers = {"Accept-Encoding": "identity"}
    with requests.get(link, stream=True, timeout=TIMEOUT, headers=headers) as answer:
        if answer.status_code != requests.codes.ok:
            raise _broken(f"the download is refused (status {answer.status_code})", version)
        with path.open("wb") as file:
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
        length = answer.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None


def _broken(problem: str, version: Version) -> ExportError:
    return ExportError(
        problem, file=str(version), fix="Nothing was kept; check the network and run this again"
    )


def _is_zip(path: Path) -> bool:
    # A zip's table of contents is at its end, so one that was cut off does not open.
    try:
        with zipfile.ZipFile(path):
            return True
    except (OSError, zipfile.BadZipFile):
        return False


if __name__ == "__main__":
    main()
