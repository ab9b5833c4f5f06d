"""The base model's weights: random ones, and those of the hub with its errors."""

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from huggingface_hub import constants

from segtune.core.errors import WeightsError
from segtune.model.architecture import build_model
from segtune.model.weight_files import RELEASES
from segtune.model.weights import load_base_model
from tests.weight_files import write_sam31


def test_random_weights_follow_the_seed() -> None:
    one, same, other = (load_base_model("tiny", f"random:{seed}") for seed in (1, 1, 2))
    weights = [model.dot_prod_scoring.prompt_proj.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("seed", ["x", "", "-", "1.5", "²", "9" * 19, "9" * 5000])
def test_a_seed_that_is_not_an_integer_is_refused(seed: str) -> None:
    with pytest.raises(WeightsError, match=r"the seed in 'random:.*' is not an integer"):
        load_base_model("tiny", f"random:{seed}")


class Hub(BaseHTTPRequestHandler):
    """A hub with one file, or with the same response to every request."""

    status, error, content = 200, "", b""

    paths: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.paths.append(self.path)
        self.send_response(self.status)
        if self.error:
            self.send_header("X-Error-Code", self.error)
        self.send_header("ETag", '"0123456789"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("Response", (Hub,), {"paths": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    # The client waits longer and longer between retries.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    yield handler
    server.shutdown()
    server.server_close()


def test_weights_come_from_the_hub(hub: type[Hub]) -> None:
    file, model = io.BytesIO(), build_model("tiny", seed=5)
    torch.save({"model": {f"detector.{k}": v for k, v in model.state_dict().items()}}, file)
    hub.content = file.getvalue()
    loaded = load_base_model("tiny", "facebook/sam3")
    name = "dot_prod_scoring.prompt_proj.weight"
    assert torch.equal(loaded.state_dict()[name], model.state_dict()[name])


def test_sam31_comes_from_its_own_repository(hub: type[Hub], tmp_path: Path) -> None:
    write_sam31(tmp_path / "a.pt")
    hub.content = (tmp_path / "a.pt").read_bytes()
    loaded = load_base_model("tiny", "facebook/sam3.1")
    assert set(hub.paths) == {"/facebook/sam3.1/resolve/main/sam3.1_multiplex.pt"}
    assert len(loaded.backbone.vision_backbone.convs) == 3


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, "", "the Hugging Face Hub returned status 401.*hf auth login"),
        (401, "RepoNotFound", "the Hugging Face Hub returned status 401.*HF_TOKEN"),
        (403, "GatedRepo", r"access denied \(403\).*Request access"),
        (404, "RepoNotFound", "the Hugging Face Hub returned status 404.*hf auth login"),
        (500, "", "the Hugging Face Hub returned status 500|cannot be reached"),
    ],
)
def test_a_hub_error_says_what_to_do(hub: type[Hub], status: int, error: str, message: str) -> None:
    hub.status, hub.error = status, error
    for release in RELEASES:
        with pytest.raises(WeightsError, match=message) as raised:
            load_base_model("tiny", release.repository)
        assert str(raised.value).startswith(f"{release.repository}/{release.file}: ")
        assert "Request access" not in message or f"page of {release.repository}," in str(
            raised.value
        )


def test_an_unreachable_hub_without_cache_is_an_error(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/{revision}/{filename}",
    )
    with pytest.raises(WeightsError, match=r"cannot be reached.*local cache"):
        load_base_model("tiny", "facebook/sam3")
