"""Where LoRA goes in SAM 3: every component can be adapted, trained and merged."""

import pytest
import torch

from benchmarks.meta_device import on_meta
from segtune.core.config import Component, LoraSettings
from segtune.lora.inject import inject_lora, lora_parameters, merge_lora
from segtune.lora.targets import LORA_PATTERNS, component_of, lora_specs
from segtune.model.architecture import build_model
from segtune.model.forward import evaluating, grounding_outputs, loss_targets
from segtune.training.losses import build_loss, prompted_loss
from tests.batches import OUTPUTS, adapted_tiny, all_specs, largest_difference, random_batch


@pytest.mark.parametrize("component", sorted(LORA_PATTERNS))
def test_every_component_of_full_can_be_adapted(component: Component) -> None:
    with on_meta():
        model = build_model("full")
    adapted = inject_lora(model, lora_specs({component: LoraSettings()}))
    expected = {
        "vision": 32 * 4,
        "text": 24 * 3,
        "geometry": 3 * 4,
        "detr_encoder": 6 * 4,
        "detr_decoder": 6 * 5,
        "segmentation": 1 + 3,
    }
    assert len(adapted) == expected[component]
    assert {component_of(name) for name in adapted} == {component}


def test_full_has_the_expected_lora_parameters_per_component() -> None:
    with on_meta():
        model = build_model("full")
    inject_lora(model, all_specs(rank=8))
    counts: dict[str, int] = {}
    for name, parameter in lora_parameters(model).items():
        component = component_of(name)
        counts[component] = counts.get(component, 0) + parameter.numel()
    # rank * (in + out) per matrix, by hand. ViT: 3 * (1024 + 1024) for q, k, v, 2048 for the
    # output, 2 * (1024 + 4736) for the MLP; attention of width 256 has 4 * 512; an MLP of the
    # DETR layers has 2 * (256 + 2048).
    assert counts["vision"] == 32 * 8 * (3 * 2048 + 2048 + 2 * 5760)
    assert counts["text"] == 24 * 8 * (4 * 2048 + 2 * 5120)
    assert counts["detr_encoder"] == 6 * 8 * (2 * 4 * 512 + 2 * 2304)
    assert counts["detr_decoder"] == 6 * 8 * (3 * 4 * 512 + 2 * 2304)
    assert counts["geometry"] == 3 * 8 * (2 * 512 + 4 * 512 + 2 * 2304)
    assert counts["segmentation"] == 8 * (4 * 512 + 3 * 512)


def test_merged_and_adapted_models_agree() -> None:
    model, _ = adapted_tiny()
    batch, base = random_batch(((0, 0), (0,))), build_model("tiny")
    with evaluating(model), evaluating(base), torch.inference_mode():
        adapted, untouched = grounding_outputs(model, batch), grounding_outputs(base, batch)
        merge_lora(model)
        merged = grounding_outputs(model, batch)
    for name in OUTPUTS:
        size = adapted[name].abs().max().item()
        assert largest_difference(adapted[name], merged[name]) < 1e-4 * size
        # A new box head is zero, so every random model starts from the same boxes.
        if name != "pred_boxes":
            assert largest_difference(adapted[name], untouched[name]) > 1e-2 * size


def test_a_step_updates_every_adapter_and_no_base_weight() -> None:
    model, batch = build_model("tiny"), random_batch(((1, 0), (2,)))
    base = {name: value.clone() for name, value in model.state_dict().items()}
    inject_lora(model, all_specs())
    model.train()
    loss = build_loss(model.matcher, with_masks=True)
    optimizer = torch.optim.AdamW(lora_parameters(model).values(), lr=1e-3)
    outputs, targets = grounding_outputs(model, batch), loss_targets(model, batch)
    prompted_loss(loss, outputs, targets, step_boxes=3.0, step_prompts=3.0)[0].backward()
    for name, parameter in lora_parameters(model).items():
        if "lora_B" in name:
            assert parameter.grad is not None and parameter.grad.any(), name
    optimizer.step()
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in base.items())
