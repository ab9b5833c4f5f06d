"""Every published checkpoint is read as what it is, and any other says what it resembles."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segtune.core.errors import WeightsError
from segtune.model.architecture import build_model
from segtune.model.official_format import read_official, write_official
from segtune.model.parity import outputs_on_random_input
from segtune.model.recognition import release_of
from segtune.model.weight_files import SAM3, SAM31, weights_file
from segtune.model.weights import load_base_model
from tests.weight_files import same_bits, write_sam31

Values = dict[str, Tensor]
NECK = "detector.backbone.vision_backbone."


@pytest.fixture(scope="module")
def sam31(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "sam3.1_multiplex.pt"
    write_sam31(path)
    return path


def test_every_tensor_of_the_image_model_is_loaded_from_sam31(sam31: Path) -> None:
    values = torch.load(sam31, weights_only=True)
    loaded = load_base_model("tiny", str(sam31)).state_dict()
    own = {key: values.pop(f"detector.{key}") for key in loaded}
    assert all(same_bits(value, loaded[key]) for key, value in own.items())
    assert len([key for key in values if key.startswith(NECK)]) == 2 * 18
    rest = read_official(sam31).rest
    assert rest.keys() == values.keys()
    assert all(same_bits(value, rest[key]) for key, value in values.items())


def test_the_scale_that_sam31_lacks_has_no_influence(sam31: Path) -> None:
    model = load_base_model("tiny", str(sam31))
    four = build_model("tiny", seed=6)
    missing, unexpected = four.load_state_dict(model.state_dict(), strict=False)
    assert len(missing) == 4 and not unexpected
    expected = outputs_on_random_input(four, 96)
    for name, value in outputs_on_random_input(model, 96).items():
        assert torch.equal(value, expected[name]), name


def test_a_file_with_only_the_image_model_is_recognized_by_its_neck(tmp_path: Path) -> None:
    for release in (SAM3, SAM31):
        model = build_model("tiny", seed=5, neck_scales=release.neck_scales)
        path = tmp_path / release.file
        write_official(path, model.state_dict(), {}, nested=release == SAM31)
        assert release_of(read_official(path), path) == release
        loaded = load_base_model("tiny", str(path)).state_dict()
        assert loaded.keys() == model.state_dict().keys()


def test_names_on_the_hub_refer_to_no_file() -> None:
    assert weights_file("full", "facebook/sam3.1") is None
    assert weights_file("tiny", "facebook/sam3.1") is None
    assert weights_file("full", "facebook/sam3.1.pt") == Path("facebook/sam3.1.pt")


def without(*beginnings: str) -> Callable[[Values], Values]:
    return lambda values: {k: v for k, v in values.items() if not k.startswith(beginnings)}


def renamed(old: str, new: str) -> Callable[[Values], Values]:
    return lambda values: {k.replace(old, new): v for k, v in values.items()}


def with_copies(old: str, new: str) -> Callable[[Values], Values]:
    return lambda values: values | {k.replace(old, new): v for k, v in values.items()}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            without("detector.dot_prod_scoring.prompt_proj."),
            r"resembles a tiny SAM 3\.1 \(307 of 309 tensors fit\), "
            r"2 missing: dot_prod_scoring\.prompt_proj\.bias, \S+\. Use sam3\.pt of facebook/sam3 ",
        ),
        (
            with_copies("convs.2.conv_1x1", "convs.3.conv_1x1"),
            r"resembles a tiny SAM 3\.1 \(309 of 309 tensors fit\), "
            r"2 unexpected: backbone\.vision_backbone\.convs\.3",
        ),
        (  # as another package calls it, so that its code for SAM 3 finds that neck
            renamed("interactive_convs", "sam2_convs"),
            r"has necks of both SAM 3 \(sam2_convs\) and SAM 3\.1 \(propagation_convs\)\. Use",
        ),
        (
            lambda values: renamed("interactive_convs", "sam2_convs")(
                without(f"{NECK}propagation_convs.")(values)
            ),
            r"resembles a tiny SAM 3 \(309 of 313 tensors fit\), "
            r"4 missing: backbone\.vision_backbone\.convs\.3\.",
        ),
        (
            renamed("detector.", ""),
            r"no key begins with 'detector\.', so stock SAM 3 would load nothing; "
            r"the image model's keys have no prefix\. Save them as \{",
        ),
        (renamed("detector.", "model.image."), "the image model's keys begin with 'model.image.'"),
        (
            lambda values: {"vision_encoder.embeddings.weight": torch.ones(1)},
            r"its keys are those of the transformers package\. Use sam3\.pt of facebook/sam3 or "
            r"sam3\.1_multiplex\.pt of facebook/sam3\.1 as published",
        ),
        (
            lambda values: {"image_encoder.a": torch.ones(1), "b": torch.ones(1)},
            r"its keys: image_encoder\.a, b\.",
        ),
        (lambda values: {"state_dict": values}, "its keys: none"),
        (
            lambda values: {"detector.a": torch.ones(1)},
            r"is not a tiny SAM 3 \(only 0 of 313 tensors fit\), "
            r"313 missing: .*; 1 unexpected: a\.",
        ),
    ],
)
def test_another_file_says_what_it_resembles(
    sam31: Path, tmp_path: Path, edit: Callable[[Values], Values], message: str
) -> None:
    torch.save(edit(torch.load(sam31, weights_only=True)), tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=message) as raised:
        load_base_model("tiny", str(tmp_path / "a.pt"))
    assert "`model" not in str(raised.value)


def full_signs() -> Values:
    """The tensors of a full model by which its architecture is recognized."""
    return {
        f"{NECK}trunk.patch_embed.proj.weight": torch.ones(1024, 3, 14, 14),
        "detector.transformer.decoder.query_embed.weight": torch.ones(200, 256),
        f"{NECK}interactive_convs.0.conv_1x1.bias": torch.ones(256),
    }


def test_a_file_for_the_other_model_is_blamed_on_that_setting(sam31: Path, tmp_path: Path) -> None:
    message = r"multiplex\.pt: holds a tiny SAM 3\.1, and `model` is 'full'\. Set `model: tiny`"
    with pytest.raises(WeightsError, match=message):
        load_base_model("full", str(sam31))
    torch.save(full_signs(), tmp_path / "full.pt")
    message = r"full\.pt: holds SAM 3\.1, and `model` is 'tiny'\. Set `model: full`"
    with pytest.raises(WeightsError, match=message):
        load_base_model("tiny", str(tmp_path / "full.pt"))


def test_the_error_for_a_safetensors_file_names_the_official_ones(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(WeightsError, match=r"cannot read tensors.*Use sam3\.pt of facebook/sam3"):
        load_base_model("full", str(path))
