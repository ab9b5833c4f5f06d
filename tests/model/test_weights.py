"""Official weight files: strict both ways, readable by stock code, and the hub's answers."""

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from torch import Tensor

from segtune.core.errors import WeightsError
from segtune.model.architecture import build_model
from segtune.model.weights import HUB_FILE, load_base_model, read_official, write_official

TRACKER = {
    "tracker.memory.weight": torch.ones(2, 3),
    "detector.backbone.vision_backbone.sam2_convs.0.bias": torch.ones(4),
}


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A file as Meta publishes it, for the tiny size: with what only the video model needs."""
    path = tmp_path / "sam3.pt"
    write_official(path, build_model("tiny", seed=5).state_dict(), TRACKER)
    return path


def test_an_official_file_loads_whole(official: Path) -> None:
    expected = build_model("tiny", seed=5).state_dict()
    loaded = load_base_model("tiny", str(official)).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())


def test_what_the_image_model_does_not_use_is_kept(official: Path) -> None:
    rest = read_official(official).rest
    assert rest.keys() == TRACKER.keys()
    assert all(torch.equal(rest[key], value) for key, value in TRACKER.items())


def test_the_stock_loader_finds_every_key(
    official: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sam3.model_builder import _load_checkpoint

    model = build_model("tiny", seed=6)
    _load_checkpoint(model, str(official))
    assert "missing" not in capsys.readouterr().out
    expected = build_model("tiny", seed=5).state_dict()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in expected.items())


def change(path: Path, edit: str) -> None:
    values: dict[str, Tensor] = torch.load(path, weights_only=True)["model"]
    key = "detector.dot_prod_scoring.prompt_proj.weight"
    if edit == "missing":
        del values[key]
    elif edit == "unexpected":
        values["detector.surprise"] = torch.zeros(1)
    else:
        values[key] = torch.zeros(3, 3)
    torch.save({"model": values}, path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("missing", r"1 missing: dot_prod_scoring\.prompt_proj\.weight"),
        ("unexpected", "1 unexpected: surprise"),
        ("shape", r"1 of another shape: dot_prod\S+ \(3, 3\) instead of \(64, 64\)"),
    ],
)
def test_a_key_that_does_not_fit_is_an_error(official: Path, edit: str, message: str) -> None:
    change(official, edit)
    with pytest.raises(WeightsError, match=message):
        load_base_model("tiny", str(official))


def test_a_plain_state_dict_is_refused(tmp_path: Path) -> None:
    # The stock loader takes it and loads nothing.
    torch.save(build_model("tiny").state_dict(), tmp_path / "plain.pt")
    with pytest.raises(WeightsError, match=r"plain\.pt: no key begins with 'detector\.'"):
        load_base_model("tiny", str(tmp_path / "plain.pt"))


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"model": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(WeightsError, match="not a readable file of tensors"):
        load_base_model("tiny", str(tmp_path / "trap.pt"))
    assert not (tmp_path / "sprung").exists()


def test_a_damaged_or_missing_file_is_an_error(official: Path, tmp_path: Path) -> None:
    official.write_bytes(official.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="not a readable file"):
        load_base_model("tiny", str(official))
    with pytest.raises(WeightsError, match="no such file"):
        load_base_model("tiny", str(tmp_path / "nothing.pt"))
    with pytest.raises(WeightsError, match="no seed in 'random:x'"):
        load_base_model("tiny", "random:x")


def test_random_weights_follow_the_seed() -> None:
    one, same, other = (load_base_model("tiny", f"random:{seed}") for seed in (1, 1, 2))
    weights = [model.dot_prod_scoring.prompt_proj.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


class Hub(BaseHTTPRequestHandler):
    """A hub with one file, or with one answer to everything."""

    status, error, content = 200, "", b""

    def do_HEAD(self) -> None:
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
    handler = type("Answer", (Hub,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    # The client waits longer and longer between its tries.
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


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, "", "the hub answered 401.*hf auth login"),
        (401, "RepoNotFound", "the hub answered 401.*HF_TOKEN"),
        (403, "GatedRepo", r"access denied \(403\).*Ask for access"),
        (404, "RepoNotFound", "the hub answered 404.*hf auth login"),
        (500, "", "the hub answered 500|cannot be reached"),
    ],
)
def test_the_hubs_refusals_say_what_to_do(
    hub: type[Hub], status: int, error: str, message: str
) -> None:
    hub.status, hub.error = status, error
    with pytest.raises(WeightsError, match=message) as raised:
        load_base_model("tiny", "facebook/sam3")
    assert str(raised.value).startswith(f"facebook/sam3/{HUB_FILE}: ")


def test_without_network_and_cache_the_message_says_so(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/{revision}/{filename}",
    )
    with pytest.raises(WeightsError, match=r"cannot be reached.*local cache"):
        load_base_model("tiny", "facebook/sam3")
