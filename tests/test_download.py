"""Downloads with the vendor's client, from a local server that responds like the vendor's."""

import io
import json
import logging
import os
import socket
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from segtune import download
from segtune.core.errors import ExportError
from segtune.core.roboflow import KEY as KEY_VARIABLE
from segtune.core.roboflow import redacted
from segtune.download import Version, is_remote, main, parse_address
from segtune.exports.archive import unpack
from tests.local_server import serving

KEY = "s3cr3tKeyOfOurs"
ODD_KEY = "s3cr3t+Key/of=ours"  # no key has such characters yet
LINK_KEY = "linksecret"
EXPORT = "roboflow://my-team/reef-life/3"
PROJECT = "/my-team/reef-life"
VERSION = f"{PROJECT}/3"
FORMATTED = f"{VERSION}/coco-segmentation"
ZIP = "/ds/abc"


def zip_bytes() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("train/_annotations.coco.json", "{}" * 100)
    return held.getvalue()


@dataclass
class Vendor:
    """The server's responses by path; the last one is repeated."""

    url: str = ""
    responses: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    announced: int | None = None  # Content-Length of the zip file, where it is a wrong one
    requests: list[str] = field(default_factory=list)

    def respond(self, path: str) -> tuple[int, bytes]:
        parts = urlsplit(path)
        self.requests.append(parts.path)
        query = parse_qs(parts.query)
        if parts.path != ZIP and query.get("api_key") != [KEY]:
            return 401, json.dumps({"error": f"no key {query.get('api_key')}"}).encode()
        waiting = self.responses.get(parts.path, [(404, {"error": "does not exist"})])
        status, body = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return status, body if isinstance(body, bytes) else json.dumps(body).encode()


def serve(vendor: Vendor) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = vendor.respond(self.path)
            is_cut = vendor.announced is not None and self.path.startswith(ZIP)
            self.send_response(status)
            self.send_header("Content-Length", str(vendor.announced if is_cut else len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vendor]:
    """A server that has version 3 and delivers it immediately."""
    vendor = Vendor()
    server = serve(vendor)
    vendor.url = f"http://127.0.0.1:{server.server_address[1]}"
    vendor.responses = {
        PROJECT: [(200, {"versions": [{"id": "my-team/reef-life/3"}]})],
        VERSION: [(200, {"version": {"images": 5, "generating": False, "progress": 1}})],
        FORMATTED: [(200, {"export": {"link": f"{vendor.url}{ZIP}?key={LINK_KEY}"}})],
        ZIP: [(200, zip_bytes())],
    }
    with serving(server, monkeypatch):
        yield vendor


@pytest.fixture
def client(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """The vendor's client, pointed at the server, with the key in the environment."""
    # On import it reads a login from the home folder, and replaces this function.
    monkeypatch.setenv("ROBOFLOW_CONFIG_DIR", str(tmp_path_factory.getbasetemp() / "none.json"))
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    client = pytest.importorskip("roboflow.adapters.rfapi")
    monkeypatch.setattr(client, "API_URL", vendor.url)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setattr(download, "POLL_INTERVAL", 0.0)
    return client


@pytest.fixture(autouse=True)
def no_secret_is_shown(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """Neither key is printed or logged, even where everything is logged."""
    caplog.set_level(logging.DEBUG)
    yield
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    shown = "\n".join([*capfd.readouterr(), *(record.getMessage() for record in records)])
    assert "s3cr3t" not in shown and LINK_KEY not in shown


def fetched(export: str, folder: Path) -> Path:
    download.download(parse_address(export), folder / "export.zip")
    return folder / "export.zip"


def error_of(folder: Path, export: str = EXPORT) -> str:
    """The text of the error that a download ends with; it must leave no file."""
    with pytest.raises(ExportError) as raised:
        fetched(export, folder)
    assert not [path for path in folder.rglob("*") if path.is_file()]
    assert raised.value.fix
    text = str(raised.value)
    assert "s3cr3t" not in text and LINK_KEY not in text and "api_key" not in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("export", "remote"),
    [(EXPORT, True), ("roboflow://", True), ("data/demo", False), ("roboflow.zip", False)],
)
def test_an_address_is_distinguished_from_a_path(export: str, remote: bool) -> None:
    assert is_remote(export) is remote


def test_an_address_names_workspace_project_and_version() -> None:
    version = parse_address("roboflow://My_Team-2/-reef.life/12")
    assert version == Version("My_Team-2", "-reef.life", 12)
    assert str(version) == "roboflow://My_Team-2/-reef.life/12"


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "my-team",
        "my-team/reef-life",
        "my-team/reef-life/0",
        "my-team/reef-life/latest",
        "my-team/reef-life/3/",
        "my-team/reef-life/3/coco",
        "my-team//3",
        "../reef-life/3",
        "my-team/re?ef/3",
        "my team/reef-life/3",
        "my-team/reef-life/3\n",
        "my-team/reef-life/³",
        "größe/reef-life/3",
    ],
)
def test_a_malformed_address_shows_the_right_form(rest: str) -> None:
    with pytest.raises(ExportError, match="roboflow://workspace/project/version"):
        parse_address(f"roboflow://{rest}")


def test_a_key_in_a_malformed_address_is_not_repeated() -> None:
    with pytest.raises(ExportError) as raised:
        parse_address(f"{EXPORT}?api_key={KEY}")
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        f"key {ODD_KEY} is unknown",
        f"url: /a/b?api_key={ODD_KEY}&nocache=true (Caused by x)",
        "url: /a/b?api_key=s3cr3t%2BKey%2Fof%3Dours&nocache=true",
        "url: /a/b?api_key=s3cr3t%2BKey/of%3Dours",
        "no path /s3cr3t%2BKey/of%3Dours",
        "no path /s3cr3t%2BKey%2Fof%3Dours",
        "https://host/ds/abc?KEY=linksecret",
    ],
)
def test_a_key_is_redacted_in_every_encoding(text: str) -> None:
    clean = redacted(text, ODD_KEY)
    assert "***" in clean
    assert not any(part in clean for part in ("s3cr3t", "Key", "ours", "linksecret"))


def test_redaction_leaves_the_rest() -> None:
    assert redacted("/a?api_key=x&nocache=true (Caused by y)") == (
        "/a?api_key=***&nocache=true (Caused by y)"
    )
    assert redacted("nothing to hide") == "nothing to hide"


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_a_missing_key_is_named(
    value: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(KEY_VARIABLE, value)
    assert "Set the environment variable ROBOFLOW_API_KEY" in error_of(tmp_path)


def test_a_missing_client_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setitem(sys.modules, "roboflow.adapters.rfapi", None)
    assert "pip install 'roboflow>=1.7.3,<2'" in error_of(tmp_path)


def test_the_command_ends_with_one_line_and_status_1(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--export", "roboflow://reef-life/3", "--out", str(tmp_path / "a.zip")])
    assert raised.value.code == 1
    shown = capfd.readouterr().err
    assert shown.startswith("segtune download: ExportError: roboflow://reef-life/3: ")
    assert shown.count("\n") == 1


@pytest.mark.usefixtures("client")
def test_a_version_arrives_whole(vendor: Vendor, tmp_path: Path) -> None:
    path = fetched(EXPORT, tmp_path)
    assert path.read_bytes() == zip_bytes()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    assert vendor.requests == [PROJECT, VERSION, FORMATTED, ZIP]
    assert (unpack(path, tmp_path / "out") / "train" / "_annotations.coco.json").is_file()


@pytest.mark.usefixtures("client")
def test_an_unfinished_export_is_awaited(vendor: Vendor, tmp_path: Path) -> None:
    vendor.responses[FORMATTED][:0] = [(202, {"progress": 0.1}), (202, {"progress": 0.6})]
    assert fetched(EXPORT, tmp_path).is_file()
    assert vendor.requests.count(FORMATTED) == 3


@pytest.mark.usefixtures("client")
def test_the_wait_for_an_export_ends(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(download, "MAX_WAIT", 0.0)
    vendor.responses[FORMATTED] = [(202, {"progress": 0.1})]
    assert "not ready" in error_of(tmp_path)


@pytest.mark.usefixtures("client")
def test_a_wrong_key_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "s3cr3t-but-wrong")
    assert "rejects the API key (status 401)" in error_of(tmp_path)


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    ("path", "response", "problem"),
    [
        (PROJECT, (403, {"error": "forbidden"}), "rejects the API key (status 403)"),
        (PROJECT, (404, {"error": "none"}), "no such workspace or project"),
        (PROJECT, (500, f"a\nb {KEY}".encode()), "refused the request: a b ***. "),
        (PROJECT, (200, {"versions": []}), "no such version. The project has no versions yet"),
        (
            PROJECT,
            (200, {"versions": [{"id": "my-team/reef-life/13"}, {"id": "my-team/reef-life/2"}]}),
            "no such version. The project has versions 13, 2;",
        ),
        (PROJECT, (200, b"<html>log in</html>"), "unexpected response from Roboflow"),
        (PROJECT, (200, {}), "unexpected response from Roboflow"),
        (
            VERSION,
            (200, {"version": {"images": 5, "generating": True, "progress": 0.4}}),
            "still being generated (40%)",
        ),
        (VERSION, (200, {"version": {"images": 0}}), "still being generated (0%)"),
        (VERSION, (500, {"error": "oops"}), 'refused the request: {"error": "oops"}'),
        (FORMATTED, (500, {"error": "packing failed"}), "packing failed"),
        (FORMATTED, (200, {"message": "queued"}), "unexpected response from Roboflow"),
        (FORMATTED, (200, {"export": {"link": None}}), "interrupted (MissingSchema)"),
        (ZIP, (403, b"gone"), "download is refused (status 403)"),
        (ZIP, (200, b"<html>log in</html>"), "not a complete zip file"),
        (ZIP, (200, zip_bytes()[:-10]), "not a complete zip file"),
    ],
)
def test_each_failure_is_one_error(
    path: str, response: tuple[int, Any], problem: str, vendor: Vendor, tmp_path: Path
) -> None:
    vendor.responses[path] = [response]
    assert problem in error_of(tmp_path)


@pytest.mark.usefixtures("client")
def test_an_interrupted_download_leaves_no_file(vendor: Vendor, tmp_path: Path) -> None:
    vendor.announced = len(zip_bytes()) + 100
    assert "the download was interrupted" in error_of(tmp_path)


@pytest.mark.usefixtures("client")
def test_a_zip_file_of_another_size_than_announced_leaves_no_file(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Even where the HTTP library does not check it: older versions do not."""
    size = len(zip_bytes())

    def stream(link: str, path: Path, version: Version) -> int:
        path.write_bytes(zip_bytes())
        return size + 1

    monkeypatch.setattr(download, "_stream", stream)
    assert f"{size} of {size + 1} bytes" in error_of(tmp_path)


def closed_port() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}"


def test_a_missing_network_is_reported(
    client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(client, "API_URL", closed_port())
    assert "no connection to Roboflow (ConnectionError)" in error_of(tmp_path)


def test_a_server_that_is_gone_before_the_zip_file_is_reported(
    vendor: Vendor, client: Any, tmp_path: Path
) -> None:
    vendor.responses[FORMATTED] = [(200, {"export": {"link": f"{closed_port()}/?key={LINK_KEY}"}})]
    assert "interrupted (ConnectionError)" in error_of(tmp_path)


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("refused", [False, True])
def test_the_command_uses_the_host_of_the_environment(
    refused: bool, vendor: Vendor, tmp_path: Path
) -> None:
    out = tmp_path / "export.zip"
    key = "s3cr3t-but-wrong" if refused else KEY
    command = [sys.executable, "-m", "segtune.download", "--export", EXPORT, "--out", str(out)]
    environment = {**os.environ, "API_URL": vendor.url, KEY_VARIABLE: key}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "s3cr3t" not in done.stdout + done.stderr
    assert done.returncode == refused, done.stderr
    assert out.exists() is not refused
    if refused:
        assert done.stderr.startswith(f"segtune download: ExportError: {EXPORT}: ")
