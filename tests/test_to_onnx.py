"""The export to ONNX answers as segtune does, checked with onnxruntime where it is installed."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from segtune import to_onnx
from segtune.core.errors import WeightsError
from segtune.interchange import onnx_files
from segtune.interchange.onnx_files import NEEDED, require_same_answers
from segtune.model.architecture import build_model, set_image_size
from segtune.model.weights import load_base_model
from segtune.to_onnx import main
from tests.exported import Run, execute_card, own_outputs

DEMO = Path(__file__).parents[1] / "data/demo/test"
# What X-AnyLabeling gives to its decoder; it leaves out what the file does not ask for.
GIVEN = {
    *("original_height", "original_width", "language_mask", "language_features"),
    *("language_embeds", "box_coords", "box_labels", "box_masks"),
    *(f"{name}_{n}" for name in ("vision_pos_enc", "backbone_fpn") for n in range(3)),
}


def test_packages_that_are_missing_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_files, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="1"):
        Run(tmp_path).export(main, tmp_path / "out")
    message = capsys.readouterr().err
    assert "packages that are not installed: onnx, onnxruntime, onnxscript" in message
    assert "pip install onnx onnxruntime onnxscript" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.skipif(not all(map(find_spec, NEEDED)), reason="the packages for ONNX are missing")
@pytest.mark.parametrize("side", [96, 144])
def test_the_card_s_call_answers_as_segtune(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    import onnxruntime

    lowest = 0.002  # so that some queries are found, and others not
    monkeypatch.setattr(to_onnx, "MIN_SCORE", lowest)
    out = run.export(main, tmp_path / "out", image_size=side)
    model = load_base_model("tiny", str(run.weights))
    set_image_size(model, "tiny", side)
    (out / "thresholds.json").write_text('{"disc": 0}')
    found = 0
    for image in sorted(DEMO.glob("*.jpg"))[2:6]:
        called = execute_card(out, image)
        outputs = own_outputs(model, image, "disc", side)
        presence = outputs["presence_logit_dec"].sigmoid()
        scores = (outputs["pred_logits"][..., 0].sigmoid() * presence)[0]
        kept = scores >= lowest
        assert called["scores"] == pytest.approx(scores[kept].numpy(), abs=1e-5)
        logits = torch.nn.functional.interpolate(
            outputs["pred_masks"], called["size"], mode="bilinear"
        )
        differing = (logits[0, kept] > 0).numpy() != called["masks"][:, 0]
        assert not differing.size or differing.mean() <= 1e-4
        found += len(called["scores"])
    assert 0 < found < 4 * 12

    config = yaml.safe_load((out / "x-anylabeling.yaml").read_text())
    assert config["type"] == "segment_anything_3"
    assert all((out / path).exists() for key, path in config.items() if key.endswith("_path"))
    decoder = onnxruntime.InferenceSession(out / config["decoder_model_path"])
    assert {one.name for one in decoder.get_inputs()} <= GIVEN
    assert [one.name for one in decoder.get_outputs()] == ["boxes", "scores", "masks"]
    encoder = onnxruntime.InferenceSession(out / config["encoder_model_path"])
    (pixels,) = encoder.get_inputs()
    assert (pixels.shape, pixels.type) == ([3, side, side], "tensor(uint8)")
    assert len(encoder.get_outputs()) == 6

    other = build_model("tiny", seed=3).eval()
    set_image_size(other, "tiny", side)
    with pytest.raises(WeightsError, match="answers otherwise"):
        require_same_answers(out, other, image_size=side, min_score=0)
