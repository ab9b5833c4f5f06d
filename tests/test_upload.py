"""Uploads of predictions to a local server that speaks Roboflow's documented API."""

import json
import logging
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

from segtune.core.roboflow import KEY as KEY_VARIABLE
from segtune.upload import PREDICTIONS, TAG, main
from tests.local_server import serving

KEY = "s3cr3tKeyOfOurs"
PROJECT = "my-team/reef-life"
Answer = tuple[int, Any, dict[str, str]]  # status, body, headers


@dataclass
class Vendor:
    """A project on the server, and what goes wrong there."""

    url: str = ""
    images: dict[str, bytes] = field(default_factory=dict)  # by id
    names: dict[str, str] = field(default_factory=dict)  # name -> id
    labels: dict[str, Any] = field(default_factory=dict)  # by id
    forms: list[dict[str, bytes]] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, list[str]]]] = field(default_factory=list)
    workspace: str = "my-team"  # of the key
    failures: dict[str, list[Answer | str]] = field(default_factory=dict)  # by the path's end

    def respond(self, method: str, path: str, body: bytes, kind: str) -> Answer | str:
        parts = urlsplit(path)
        query = parse_qs(parts.query)
        self.requests.append((method, parts.path, query))
        if query.get("api_key") != [KEY]:
            return 401, {"error": f"no key {query.get('api_key')}"}, {}
        if (method, parts.path) == ("GET", "/"):
            return 200, {"welcome": "", "workspace": self.workspace}, {}
        waiting = self.failures.get(parts.path.split("/")[3 if method == "POST" else 2], [])
        if waiting:
            return waiting.pop(0)
        if (method, parts.path) == ("GET", f"/{PROJECT}"):
            return 200, {"project": {"id": PROJECT}, "versions": []}, {}
        if method != "POST" or not parts.path.startswith("/dataset/reef-life/"):
            return 404, {"error": {"message": "does not exist"}}, {}
        action, *rest = parts.path.split("/")[3:]
        if action == "upload" and not rest:
            return self.add_image(multipart(body, kind))
        return self.add_labels(rest[0], json.loads(body), query)

    def add_image(self, parts: dict[str, bytes]) -> Answer:
        self.forms.append(parts)
        name = parts["name"].decode()
        if name in self.names:
            return 200, {"duplicate": True, "id": self.names[name]}, {}
        number = f"Img{len(self.images)}"
        self.names[name], self.images[number] = number, parts["file"]
        return 200, {"success": True, "id": number}, {}

    def add_labels(self, number: str, body: Any, query: dict[str, list[str]]) -> Answer:
        if number not in self.images:
            return 404, {"error": {"message": "no such image"}}, {}
        if number in self.labels:
            return 409, {"error": {"message": "This image is already annotated."}}, {}
        assert query["prediction"] == ["true"] and query["name"] == ["annotation.coco.json"]
        self.labels[number] = json.loads(body["annotationFile"])
        return 200, {"success": True}, {}

    def count(self, action: str) -> int:
        return sum(action in path.split("/") for _, path, _ in self.requests)


def multipart(body: bytes, kind: str) -> dict[str, bytes]:
    """The fields of a form."""
    message = message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
    found = {}
    for part in message.walk():
        if name := part.get_param("name", header="content-disposition"):
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            found[str(name)] = content
    return found


def serve(vendor: Vendor) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = vendor.respond(
                self.command, self.path, body, self.headers.get("Content-Type", "")
            )
            if isinstance(found, str):  # the connection breaks
                return
            status, values, headers = found
            content = values if isinstance(values, bytes) else json.dumps(values).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited between requests; nothing waits."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> Iterator[Vendor]:
    vendor = Vendor()
    server = serve(vendor)
    vendor.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("API_URL", vendor.url)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with serving(server, monkeypatch):
        yield vendor


@pytest.fixture(autouse=True)
def no_key_is_shown(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """The key is neither printed nor logged, even where everything is logged."""
    caplog.set_level(logging.DEBUG)
    yield
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    shown = "\n".join([*capfd.readouterr(), *(record.getMessage() for record in records)])
    assert "s3cr3t" not in shown


def write_predictions(folder: Path, names: tuple[str, ...] = ("a.png", "b.png", "c.png")) -> Path:
    """Images of which all but the last have a prediction; the file of labels."""
    for n, name in enumerate(names):
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), (n, 0, 0)).save(path)
    annotation = {"category_id": 1, "bbox": [1, 1, 5, 5], "area": 25.0, "iscrowd": 0, "score": 0.75}
    annotation["segmentation"] = [[1, 1, 6, 1, 6, 6, 1, 6]]
    values = {
        "images": [
            {"id": n, "file_name": name, "width": 20, "height": 10}
            for n, name in enumerate(names, start=1)
        ],
        "categories": [{"id": 1, "name": "urchin", "prompt": "urchin", "supercategory": "none"}],
        "annotations": [{**annotation, "id": 10 * n, "image_id": n} for n in range(1, len(names))],
    }
    (folder / "labels.json").write_text(json.dumps(values))
    return folder / "labels.json"


def options(labels: Path, project: str = PROJECT) -> list[str]:
    images = ("--images", str(labels.parent / "photos"), "--batch", "October")
    return ["--labels", str(labels), *images, "--project", project]


def refused(labels: Path, capfd: pytest.CaptureFixture[str], project: str = PROJECT) -> str:
    """The one line that an upload ends with."""
    with pytest.raises(SystemExit) as raised:
        main(options(labels, project))
    assert raised.value.code == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "s3cr3t" not in line
    assert line.startswith("segtune upload: ")
    return line


def test_images_arrive_with_their_predictions(
    vendor: Vendor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    labels = write_predictions(tmp_path)
    main(options(labels))
    assert list(vendor.names) == ["a.png", "b.png", "c.png"]
    assert vendor.images["Img1"] == (tmp_path / "photos" / "b.png").read_bytes()
    assert vendor.labels.keys() == {"Img0", "Img1"}
    sent = vendor.labels["Img1"]
    assert [image["file_name"] for image in sent["images"]] == ["b.png"]
    (annotation,) = sent["annotations"]
    assert annotation["image_id"] == sent["images"][0]["id"]
    assert annotation["segmentation"] == [[1, 1, 6, 1, 6, 6, 1, 6]]
    assert (annotation["id"], annotation["score"]) == (1, 0.75)
    assert sent["categories"] == [{"id": 1, "name": "urchin", "supercategory": "none"}]
    shown = capfd.readouterr().out
    assert "2 uploaded with predictions, 1 without predictions" in shown


def test_they_are_marked_as_predictions(vendor: Vendor, tmp_path: Path) -> None:
    main(options(write_predictions(tmp_path)))
    uploads = [query for _, path, query in vendor.requests if path.endswith("/upload")]
    assert all(q["batch"] == [f"October ({PREDICTIONS})"] and q["tag"] == [TAG] for q in uploads)
    annotations = [query for _, path, query in vendor.requests if "/annotate/" in path]
    assert len(annotations) == 2
    assert all(query["prediction"] == ["true"] for query in annotations)
    assert vendor.labels["Img0"]["info"] == {"description": PREDICTIONS}


def test_the_vendors_own_client_sends_the_same(
    vendor: Vendor,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On import it reads a login from the home folder, and replaces this function.
    monkeypatch.setenv("ROBOFLOW_CONFIG_DIR", str(tmp_path_factory.getbasetemp() / "none.json"))
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    client = pytest.importorskip("roboflow.adapters.rfapi")
    monkeypatch.setattr(client, "API_URL", vendor.url)
    main(options(write_predictions(tmp_path, ("a.png", "b.png"))))
    ours, forms, labels = vendor.requests[1:3], vendor.forms[:1], vendor.labels.pop("Img0")
    vendor.requests.clear()
    vendor.names.clear()
    vendor.images.clear()
    batch = {"batch_name": f"October ({PREDICTIONS})", "tag_names": [TAG]}
    image = str(tmp_path / "photos" / "a.png")
    answer = client.upload_image(KEY, "reef-life", image, split="train", **batch)
    name, text = "annotation.coco.json", json.dumps(labels)
    marked = {"job_name": "", "is_prediction": True}
    client.save_annotation(KEY, "reef-life", name, text, answer["id"], **marked)
    assert vendor.requests == ours
    assert vendor.forms[-1:] == forms
    assert vendor.labels["Img0"] == labels


def test_the_same_name_in_two_folders_stays_apart(vendor: Vendor, tmp_path: Path) -> None:
    main(options(write_predictions(tmp_path, ("one/a.png", "two/a.png"))))
    assert list(vendor.names) == ["one_a.png", "two_a.png"]


def test_names_that_cannot_stay_apart_are_refused(
    vendor: Vendor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    labels = write_predictions(tmp_path, ("one/a.png", "a.png", "one_a.png"))
    assert "image one_a.png: two images would have the same name" in refused(labels, capfd)
    assert vendor.images == {}


def test_an_image_that_is_there_gets_its_predictions(
    vendor: Vendor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    labels = write_predictions(tmp_path)
    vendor.names["a.png"], vendor.images["Old"] = "Old", b""
    main(options(labels))
    assert "Old" in vendor.labels
    assert "1 uploaded with predictions (the image was there)" in capfd.readouterr().out


def test_labels_of_people_are_not_replaced(
    vendor: Vendor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    labels = write_predictions(tmp_path)
    vendor.names["a.png"], vendor.images["Old"], vendor.labels["Old"] = "Old", b"", "by hand"
    main(options(labels))
    assert vendor.labels["Old"] == "by hand"
    assert "1 already annotated and left so (the image was there)" in capfd.readouterr().out


@pytest.mark.parametrize(
    "failure",
    [
        (429, {"error": "slow down"}, {}),
        (500, b"<html>oops</html>", {}),
        (502, {"error": "bad gateway"}, {}),
        (503, {}, {}),
        (520, b"<html>", {}),
        (200, {"cut": "in the middle"}, {"Transfer-Encoding": "chunked"}),
        "broken",
    ],
)
@pytest.mark.parametrize("action", ["upload", "annotate", "reef-life"])
def test_what_may_pass_is_tried_again(
    vendor: Vendor, waits: list[float], tmp_path: Path, failure: Answer | str, action: str
) -> None:
    vendor.failures[action] = [failure, failure]
    main(options(write_predictions(tmp_path)))
    assert vendor.labels.keys() == {"Img0", "Img1"}
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize(
    ("header", "waited"), [("7", 7.0), ("0", 1.0), ("soon", 1.0), ("-5", 1.0), ("999999", 300.0)]
)
def test_it_waits_as_long_as_roboflow_wants(
    vendor: Vendor, waits: list[float], tmp_path: Path, header: str, waited: float
) -> None:
    vendor.failures["upload"] = [(429, {}, {"Retry-After": header})]
    main(options(write_predictions(tmp_path)))
    assert waits == [waited]


def test_it_gives_up_at_last_and_says_how_to_continue(
    vendor: Vendor, waits: list[float], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [f"{n}.png" for n in range(9)]
    vendor.failures["upload"] = [(503, {"error": KEY}, {}) for _ in range(99)]
    line = refused(write_predictions(tmp_path, names), capfd)
    assert "3 of 9 images were refused: 0.png (***), 1.png (***), 2.png (***)" in line
    assert "; the others were not tried" in line and "The same command continues" in line
    assert waits == 3 * [1.0, 2.0, 4.0, 8.0, 16.0]
    assert vendor.count("upload") == 3 * 6


def test_without_any_answer_it_gives_up(
    vendor: Vendor, waits: list[float], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    vendor.failures["upload"] = ["broken"] * 99
    line = refused(write_predictions(tmp_path), capfd)
    assert "no connection to Roboflow (ConnectionError, 6 times)" in line
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_an_image_that_never_passes_does_not_stop_the_others(
    vendor: Vendor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    labels = write_predictions(tmp_path, ("a.png", "b.png", "c.png", "d.png", "e.png"))
    vendor.failures["upload"] = [(500, {}, {}) for _ in range(2 * 6)]
    assert "2 of 5 images were refused: a.png (status 500), b.png" in refused(labels, capfd)
    assert [*vendor.names] == ["c.png", "d.png", "e.png"]


def test_a_journal_that_cannot_be_read_is_named(
    vendor: Vendor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    labels = write_predictions(tmp_path)
    (tmp_path / "labels.json.uploaded.jsonl").mkdir()
    assert "cannot read the journal" in refused(labels, capfd)
    assert vendor.images == {}


@pytest.mark.parametrize("status", [401, 403])
def test_a_rejected_key_is_one_error_at_once(
    vendor: Vendor,
    waits: list[float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    status: int,
) -> None:
    if status == 401:
        monkeypatch.setenv(KEY_VARIABLE, "s3cr3t-but-wrong")
    else:
        vendor.failures["reef-life"] = [(403, {"error": f"key {KEY}"}, {})]
    line = refused(write_predictions(tmp_path), capfd)
    assert f"Roboflow rejects the API key (status {status})" in line
    assert "Check ROBOFLOW_API_KEY" in line
    assert (len(vendor.requests), waits) == (1 if status == 401 else 2, [])


def test_a_key_that_is_rejected_in_between_stops_everything(
    vendor: Vendor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    vendor.failures["upload"] = [(403, {}, {})]
    assert "rejects the API key" in refused(write_predictions(tmp_path), capfd)
    assert vendor.count("upload") == 1


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_a_missing_key_is_named_before_any_request(
    vendor: Vendor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    value: str | None,
) -> None:
    monkeypatch.delenv(KEY_VARIABLE)
    if value is not None:
        monkeypatch.setenv(KEY_VARIABLE, value)
    line = refused(write_predictions(tmp_path), capfd)
    assert "Set the environment variable ROBOFLOW_API_KEY" in line
    assert vendor.requests == []


def test_without_an_address_the_client_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.delenv("API_URL", raising=False)
    monkeypatch.setitem(sys.modules, "roboflow.adapters.rfapi", None)
    assert "pip install 'roboflow>=1.7.3,<2'" in refused(write_predictions(tmp_path), capfd)


@pytest.mark.parametrize(
    ("project", "problem"),
    [
        ("reef-life", "is not a workspace and a project"),
        ("my-team/reef-life/3", "is not a workspace and a project"),
        ("../reef-life", "is not a workspace and a project"),
        (f"my-team/reef?api_key={KEY}", "is not a workspace and a project"),
        (KEY, "--project '***' is not a workspace and a project"),
        ("other-team/reef-life", "the API key is of the workspace 'my-team'"),
        ("my-team/other", "no such workspace or project"),
    ],
)
def test_a_wrong_project_is_named(
    vendor: Vendor,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    project: str,
    problem: str,
) -> None:
    assert problem in refused(write_predictions(tmp_path), capfd, project)
    assert vendor.images == {}


@pytest.mark.parametrize(
    ("action", "failure", "problem"),
    [
        ("upload", (400, {"error": {"message": f"a\nb {KEY}"}}, {}), "a.png (a b ***)"),
        ("upload", (413, b"<html>", {}), "a.png (status 413)"),
        ("upload", (200, {"message": "not an image"}, {}), "a.png (not an image)"),
        ("annotate", (400, {"error": "bad labels"}, {}), "a.png (its labels: bad labels)"),
        ("annotate", (404, {}, {}), "a.png (its labels: status 404)"),
        ("annotate", (409, {"error": "busy"}, {}), "a.png (its labels: busy)"),
    ],
)
def test_a_refused_image_does_not_stop_the_others(
    vendor: Vendor,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    action: str,
    failure: Answer,
    problem: str,
) -> None:
    labels = write_predictions(tmp_path)
    vendor.failures[action] = [failure]
    line = refused(labels, capfd)
    assert "1 of 3 images were refused" in line and problem in line
    assert {"b.png", "c.png"} <= vendor.names.keys()
    main(options(labels))  # only what is missing
    assert vendor.names.keys() == {"a.png", "b.png", "c.png"}
    assert {vendor.names["a.png"], vendor.names["b.png"]} == vendor.labels.keys()
    assert vendor.count("upload") == (4 if action == "upload" else 3)


@pytest.mark.parametrize(
    "failure",
    [
        (200, b"<html>log in</html>", {}),
        (200, [], {}),
        (302, {}, {"Location": "/elsewhere"}),
        (200, {"success": True, "id": "../../other"}, {}),
        (200, {"success": True}, {}),
    ],
)
def test_a_response_that_is_not_documented_stops_it(
    vendor: Vendor, tmp_path: Path, capfd: pytest.CaptureFixture[str], failure: Answer
) -> None:
    vendor.failures["upload"] = [failure]
    line = refused(write_predictions(tmp_path), capfd)
    assert "unexpected response from Roboflow" in line or "status 302" in line
    assert not any("elsewhere" in path or "other" in path for _, path, _ in vendor.requests)


def test_an_interrupted_upload_continues(
    vendor: Vendor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    labels = write_predictions(tmp_path, ("a.png", "b.png", "c.png", "d.png"))
    vendor.failures["annotate"] = [(403, {}, {})]
    refused(labels, capfd)  # a.png is there, without its labels
    journal = tmp_path / "labels.json.uploaded.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"place": "my-t')  # of a process that was killed while it wrote
    vendor.failures["upload"] = [(403, {}, {})]
    refused(labels, capfd)
    assert (list(vendor.names), list(vendor.labels)) == (["a.png"], ["Img0"])
    vendor.requests.clear()
    main(options(labels))
    assert (vendor.count("upload"), vendor.count("annotate")) == (3, 2)
    assert list(vendor.names) == ["a.png", "b.png", "c.png", "d.png"]
    vendor.requests.clear()
    capfd.readouterr()
    main(options(labels))
    assert (vendor.count("upload"), vendor.count("annotate")) == (0, 0)
    assert "4 uploaded before" in capfd.readouterr().out
    assert KEY not in journal.read_text()


def test_other_labels_or_another_batch_are_uploaded_again(vendor: Vendor, tmp_path: Path) -> None:
    labels = write_predictions(tmp_path)
    main(options(labels))
    values = json.loads(labels.read_text())
    values["annotations"][0]["score"] = 0.5
    labels.write_text(json.dumps(values))
    vendor.requests.clear()
    main(options(labels))
    assert vendor.count("upload") == 1
    vendor.requests.clear()
    main([*options(labels), "--batch", "November"])
    assert vendor.count("upload") == 3


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../labels.json", "leaves the folder"),
        ("/etc/hostname", "has an absolute path"),
        ("gone.png", "No such file"),
    ],
)
def test_nothing_outside_the_folder_is_sent(
    vendor: Vendor, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, problem: str
) -> None:
    labels = write_predictions(tmp_path)
    values = json.loads(labels.read_text())
    values["images"][2]["file_name"] = name
    labels.write_text(json.dumps(values))
    assert problem in refused(labels, capfd)
    assert vendor.requests == []


def test_a_missing_network_is_reported(
    vendor: Vendor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        monkeypatch.setenv("API_URL", f"http://127.0.0.1:{held.getsockname()[1]}")
    line = refused(write_predictions(tmp_path), capfd)
    assert "no connection to Roboflow (ConnectionError, 6 times)" in line


def test_the_command_ends_with_one_line(vendor: Vendor, tmp_path: Path) -> None:
    labels = write_predictions(tmp_path)
    command = [sys.executable, "-m", "segtune.upload", *options(labels)]
    environment = {**os.environ, KEY_VARIABLE: "s3cr3t-but-wrong"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "s3cr3t" not in done.stdout + done.stderr
    assert done.returncode == 1
    assert done.stderr.startswith(f"segtune upload: ExportError: {PROJECT}, batch October")
