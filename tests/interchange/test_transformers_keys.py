"""The key map at full size, checked with transformers' own model."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import Sam3Config, Sam3Model, Sam3Processor

from segtune.interchange.processor_files import write_processor
from segtune.interchange.transformers_config import model_config
from segtune.interchange.transformers_keys import renamed, to_transformers
from segtune.interchange.transformers_model import write_transformers_model
from segtune.model.architecture import ARCHITECTURES, build_model, set_image_size
from tests.exported import in_their_form, largest_deviation, own_outputs

FULL = ARCHITECTURES["full"]


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """A folder for files of several GB."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_a_tensor_of_another_model_has_no_name() -> None:
    with pytest.raises(KeyError):
        renamed("backbone.vision_backbone.trunk.blocks.0.attn.rel_pos_h")


def test_the_configuration_is_the_package_s_own_but_for_an_epsilon() -> None:
    own = Sam3Config(**model_config(FULL, 1008)).to_dict()
    theirs = Sam3Config().to_dict()
    for values in (own, theirs):
        for name in ("architectures", "dtype", "transformers_version"):
            values.pop(name, None)
    assert own["vision_config"]["backbone_config"].pop("layer_norm_eps") == 1e-5
    assert theirs["vision_config"]["backbone_config"].pop("layer_norm_eps") == 1e-6
    assert own == theirs


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_full_model_answers_as_segtune(large: Path) -> None:
    model = build_model("full")
    shapes = {
        name: part.shape
        for key, tensor in model.state_dict().items()
        for name, part in to_transformers(key, tensor).items()
    }
    with torch.device("meta"):
        theirs = Sam3Model(Sam3Config(**model_config(FULL, 1008))).state_dict()
    assert shapes == {name: tensor.shape for name, tensor in theirs.items()}
    assert len(shapes) == 1468

    size = set_image_size(model, "full", 336)
    write_transformers_model(large, model.state_dict, FULL, image_size=size)
    write_processor(large, size)
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (30, 40, 3), generator=noise).byte().numpy()
    Image.fromarray(pixels).resize((400, 300)).save(large / "image.png")
    expected = in_their_form(own_outputs(model, large / "image.png", "a thing", size))
    del model

    loaded, found = Sam3Model.from_pretrained(large, output_loading_info=True)
    assert not any(found.values()), found
    inputs = Sam3Processor.from_pretrained(large)(
        images=Image.open(large / "image.png"),
        text="a thing",
        input_boxes=[[[0, 0, 1, 1]]],
        input_boxes_labels=[[-10]],
        return_tensors="pt",
    )
    with torch.inference_mode():
        outputs = loaded.eval()(**inputs)
    assert largest_deviation(outputs, expected) < 1e-4
