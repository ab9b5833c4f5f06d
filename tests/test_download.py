"""Downloads through the vendor's client, from a server of ours that answers as the vendor's."""

import io
import json
import logging
import os
import socket
import subprocess
import sys
import threading
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
from segtune.download import Version, is_remote, main, parse_address, redacted
from segtune.exports.archive import unpack

KEY = "s3cr3tKeyOfOurs"
ODD_KEY = "s3cr3t+Key/of=ours"  # no key has such signs yet
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
    """What the server answers, by path; of several answers the last one stays."""

    url: str = ""
    answers: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    announced: int | None = None  # Content-Length of the zip, where it is not the true one
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, bytes]:
        parts = urlsplit(path)
        self.asked.append(parts.path)
        query = parse_qs(parts.query)
        if parts.path != ZIP and query.get("api_key") != [KEY]:
            return 401, json.dumps({"error": f"no key {query.get('api_key')}"}).encode()
        waiting = self.answers.get(parts.path, [(404, {"error": "does not exist"})])
        status, body = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return status, body if isinstance(body, bytes) else json.dumps(body).encode()


def serve(vendor: Vendor) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = vendor.answer(self.path)
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
    """A server that has version 3 and delivers it at once."""
    vendor = Vendor()
    server = serve(vendor)
    vendor.url = f"http://127.0.0.1:{server.server_address[1]}"
    vendor.answers = {
        PROJECT: [(200, {"versions": [{"id": "my-team/reef-life/3"}]})],
        VERSION: [(200, {"version": {"images": 5, "generating": False, "progress": 1}})],
        FORMATTED: [(200, {"export": {"link": f"{vendor.url}{ZIP}?key={LINK_KEY}"}})],
        ZIP: [(200, zip_bytes())],
    }
    # Environments behind a proxy would ask that for 127.0.0.1, too.
    monkeypatch.setenv("NO_PROXY", "*")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield vendor
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """The vendor's client, pointed at the server, with the key in the environment."""
    # It would read a login from the home folder, and replaces this at its import.
    monkeypatch.setenv("ROBOFLOW_CONFIG_DIR", str(tmp_path_factory.getbasetemp() / "none.json"))
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    client = pytest.importorskip("roboflow.adapters.rfapi")
    monkeypatch.setattr(client, "API_URL", vendor.url)
    monkeypatch.setenv(download.KEY, KEY)
    monkeypatch.setattr(download, "PAUSE", 0.0)
    return client


@pytest.fixture(autouse=True)
def no_secret_is_told(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """Neither key is printed or logged, even where everything is logged."""
    caplog.set_level(logging.DEBUG)
    yield
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    told = "\n".join([*capfd.readouterr(), *(record.getMessage() for record in records)])
    assert "s3cr3t" not in told and LINK_KEY not in told


def fetched(export: str, folder: Path) -> Path:
    download.download(parse_address(export), folder / "export.zip")
    return folder / "export.zip"


def error_of(folder: Path, export: str = EXPORT) -> str:
    """The text of the error that a download ends with, after which nothing may lie there."""
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
def test_an_address_is_told_from_a_path(export: str, remote: bool) -> None:
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
def test_a_key_is_redacted_however_it_is_written(text: str) -> None:
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
    monkeypatch.delenv(download.KEY, raising=False)
    if value is not None:
        monkeypatch.setenv(download.KEY, value)
    assert "Set the environment variable ROBOFLOW_API_KEY" in error_of(tmp_path)


def test_a_missing_client_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(download.KEY, KEY)
    monkeypatch.setitem(sys.modules, "roboflow.adapters.rfapi", None)
    assert "pip install 'segtune[roboflow]'" in error_of(tmp_path)


def test_the_command_ends_with_one_line_and_status_1(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--export", "roboflow://reef-life/3", "--out", str(tmp_path / "a.zip")])
    assert raised.value.code == 1
    told = capfd.readouterr().err
    assert told.startswith("segtune download: ExportError: roboflow://reef-life/3: ")
    assert told.count("\n") == 1


@pytest.mark.usefixtures("client")
def test_a_version_arrives_whole(vendor: Vendor, tmp_path: Path) -> None:
    path = fetched(EXPORT, tmp_path)
    assert path.read_bytes() == zip_bytes()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    assert vendor.asked == [PROJECT, VERSION, FORMATTED, ZIP]
    assert (unpack(path, tmp_path / "out") / "train" / "_annotations.coco.json").is_file()


@pytest.mark.usefixtures("client")
def test_an_export_is_waited_for(vendor: Vendor, tmp_path: Path) -> None:
    vendor.answers[FORMATTED][:0] = [(202, {"progress": 0.1}), (202, {"progress": 0.6})]
    assert fetched(EXPORT, tmp_path).is_file()
    assert vendor.asked.count(FORMATTED) == 3


@pytest.mark.usefixtures("client")
def test_the_wait_for_an_export_ends(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(download, "PATIENCE", 0.0)
    vendor.answers[FORMATTED] = [(202, {"progress": 0.1})]
    assert "not ready" in error_of(tmp_path)


@pytest.mark.usefixtures("client")
def test_a_wrong_key_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(download.KEY, "s3cr3t-but-wrong")
    assert "refuses the key (status 401)" in error_of(tmp_path)


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    ("path", "answer", "problem"),
    [
        (PROJECT, (403, {"error": "forbidden"}), "refuses the key (status 403)"),
        (PROJECT, (404, {"error": "none"}), "no such workspace or project"),
        (PROJECT, (500, f"a\nb {KEY}".encode()), "says: a b ***. "),
        (PROJECT, (200, {"versions": []}), "no such version. It has none yet"),
        (
            PROJECT,
            (200, {"versions": [{"id": "my-team/reef-life/13"}, {"id": "my-team/reef-life/2"}]}),
            "no such version. The project has 13, 2;",
        ),
        (PROJECT, (200, b"<html>log in</html>"), "answer is not understood"),
        (PROJECT, (200, {}), "answer is not understood"),
        (
            VERSION,
            (200, {"version": {"images": 5, "generating": True, "progress": 0.4}}),
            "still being generated (40%)",
        ),
        (VERSION, (200, {"version": {"images": 0}}), "still being generated (0%)"),
        (VERSION, (500, {"error": "oops"}), 'says: {"error": "oops"}'),
        (FORMATTED, (500, {"error": "packing failed"}), "packing failed"),
        (FORMATTED, (200, {"message": "queued"}), "answer is not understood"),
        (FORMATTED, (200, {"export": {"link": None}}), "broke off (MissingSchema)"),
        (ZIP, (403, b"gone"), "download is refused (status 403)"),
        (ZIP, (200, b"<html>log in</html>"), "no whole zip"),
        (ZIP, (200, zip_bytes()[:-10]), "no whole zip"),
    ],
)
def test_each_failure_is_one_error(
    path: str, answer: tuple[int, Any], problem: str, vendor: Vendor, tmp_path: Path
) -> None:
    vendor.answers[path] = [answer]
    assert problem in error_of(tmp_path)


@pytest.mark.usefixtures("client")
def test_a_download_that_breaks_off_is_not_kept(vendor: Vendor, tmp_path: Path) -> None:
    vendor.announced = len(zip_bytes()) + 100
    assert "the download broke off" in error_of(tmp_path)


@pytest.mark.usefixtures("client")
def test_a_zip_of_another_length_than_announced_is_not_kept(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever the library below checks: older ones accept such an answer."""
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


def test_without_a_network_there_is_no_connection(
    client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(client, "API_URL", closed_port())
    assert "no connection to Roboflow (ConnectionError)" in error_of(tmp_path)


def test_a_server_that_is_gone_before_the_zip(vendor: Vendor, client: Any, tmp_path: Path) -> None:
    vendor.answers[FORMATTED] = [(200, {"export": {"link": f"{closed_port()}/?key={LINK_KEY}"}})]
    assert "broke off (ConnectionError)" in error_of(tmp_path)


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("refused", [False, True])
def test_the_command_asks_the_host_of_the_environment(
    refused: bool, vendor: Vendor, tmp_path: Path
) -> None:
    out = tmp_path / "export.zip"
    key = "s3cr3t-but-wrong" if refused else KEY
    command = [sys.executable, "-m", "segtune.download", "--export", EXPORT, "--out", str(out)]
    environment = {**os.environ, "API_URL": vendor.url, download.KEY: key}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "s3cr3t" not in done.stdout + done.stderr
    assert done.returncode == refused, done.stderr
    assert out.exists() is not refused
    if refused:
        assert done.stderr.startswith(f"segtune download: ExportError: {EXPORT}: ")
