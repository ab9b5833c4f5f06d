"""benchmarks/training.py: the reference computes the same loss, and the counter counts right."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from benchmarks import training
from benchmarks.batches import noise_batch
from benchmarks.meta_device import on_meta
from benchmarks.plain_reference import plain_gradients, plain_loss, plain_model
from benchmarks.sizes import MID
from benchmarks.step_account import COMPONENTS, StepAccount
from benchmarks.training_cases import PROMPTS, Prepared, cases, prepared
from segtune.lora.inject import inject_lora, lora_parameters
from segtune.model.architecture import ARCHITECTURES, build_model
from segtune.model.forward import encode_images, encode_prompts
from segtune.model.sam3_package import Sam3Image
from segtune.training.engine import accumulate
from segtune.training.losses import build_loss
from tests.batches import all_specs, randomize_lora

CPU = torch.device("cpu")
TINY = ARCHITECTURES["tiny"]


def adapted(model: Sam3Image) -> Sam3Image:
    inject_lora(model, all_specs())
    randomize_lora(model)
    return model.train()


def gradients(model: Sam3Image) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in lora_parameters(model).items()}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


@pytest.fixture(scope="module")
def plain_tiny() -> Prepared:
    return prepared(cases("tiny")[0], "tiny", CPU)


def test_the_reference_computes_the_loss_and_gradients_of_segtune() -> None:
    batch = noise_batch(TINY.image_size, prompts=PROMPTS)
    plain, ours = adapted(plain_model("tiny")), adapted(build_model("tiny"))
    expected = plain_gradients(plain, plain_loss(plain.matcher), batch, CPU)
    loss, _ = accumulate(
        ours,
        build_loss(ours.matcher, with_masks=True),
        batch,
        device=CPU,
        step_boxes=float(len(batch.boxes_cxcywh)),
        step_prompts=float(PROMPTS),
    )
    assert loss == pytest.approx(float(expected), rel=1e-5)
    reference, found = gradients(plain), gradients(ours)
    assert found.keys() == reference.keys() == lora_parameters(ours).keys()
    for name, gradient in reference.items():
        scale = float(gradient.abs().max())
        assert_close(found[name], gradient, rtol=1e-4, atol=1e-4 * scale + 1e-9)


def test_the_reference_has_the_modules_and_checkpoints_of_the_package() -> None:
    model = plain_model("tiny")
    assert type(model) is Sam3Image
    assert model.use_act_checkpoint_seg_head and model.segmentation_head.act_ckpt
    assert model.backbone.vision_backbone.trunk.use_act_checkpoint
    assert model.transformer.encoder.use_act_checkpoint
    assert model.transformer.decoder.use_act_checkpoint


@pytest.mark.parametrize("number", range(3))
def test_all_ways_take_the_same_step(number: int) -> None:
    every = cases("tiny")
    ways = [case for case in every if case.block == every[number].block]
    names = ["plain", "segtune", "segtune, checkpointed: all"]
    names += [
        ["segtune, checkpointed: vision, detr_encoder"],
        ["segtune, checkpointed: segmentation"],
        [],
    ][number]
    assert [case.way for case in ways] == names
    found = []
    for case in ways:
        ready = prepared(case, "tiny", CPU)
        ready.step()
        found.append(gradients(ready.model))  # after clipping
    plain = found[0]
    for ours in found[1:]:
        assert ours.keys() == plain.keys()
        for name, gradient in plain.items():
            scale = float(gradient.abs().max())
            assert_close(ours[name], gradient, rtol=1e-3, atol=1e-3 * scale + 1e-9)


def test_operations_of_a_block_are_those_counted_by_hand() -> None:
    with on_meta():
        model = build_model("full")
    tokens, width, hidden = 72 * 72, 1024, 4736
    products = 2 * tokens * width * (4 * width + 2 * hidden)  # qkv, proj and the MLP
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        for block, attends_to in {0: 24 * 24, 7: 72 * 72}.items():
            account = StepAccount(model)
            with account.counting():
                model.backbone.vision_backbone.trunk.blocks[block](torch.zeros(1, 72, 72, width))
            attention = 2 * 2 * tokens * attends_to * width  # scores, and the sum of values
            assert account.attention_flops == attention
            assert sum(account.flops.values()) == attention + products


def test_operations_of_a_step_are_those_that_torch_counts(plain_tiny: Prepared) -> None:
    account = StepAccount(plain_tiny.model)
    with account.counting():
        plain_tiny.step()
    added = {torch.ops.aten.addmm_: flop_registry[torch.ops.aten.addmm]}
    # It counts no attention on a CPU, and by itself no product that is added in place.
    with FlopCounterMode(display=False, custom_mapping=added) as counter:
        plain_tiny.step()
    counted = sum(account.flops.values()) - account.attention_flops
    assert counted == counter.get_total_flops() > 0


def test_operations_belong_to_the_component_that_computes_them(plain_tiny: Prepared) -> None:
    model, captions = plain_tiny.model, list(plain_tiny.batch.captions)
    forward, step = StepAccount(model), StepAccount(model)
    with torch.no_grad(), forward.counting():
        encode_images(model, plain_tiny.batch.images)
        encode_prompts(model, captions, CPU)
    with step.counting():
        plain_tiny.step()
    assert forward.flops.keys() == {"vision trunk", "neck", "text"}
    # Forward pass, most of it again, and the gradients of activations; LoRA adds a little.
    for component in ("vision trunk", "text"):
        assert 2.5 < step.flops[component] / forward.flops[component] < 3.4
    # No checkpoint, and 3 of its 4 scales are read.
    assert 1.5 < step.flops["neck"] / forward.flops["neck"] < 2.0
    assert step.flops["segmentation head"] > 3 * sum(forward.flops.values())
    assert not step.flops["optimizer"] and not step.flops["data"]
    assert step.seconds["optimizer"] and step.seconds["loss"]


def test_live_tensors_of_a_step_are_counted(plain_tiny: Prepared) -> None:
    account = StepAccount(plain_tiny.model)
    weights = sum(p.nbytes for p in plain_tiny.model.parameters())
    for tensor in plain_tiny.resident():
        account.add(tensor)
    assert account.bytes > weights
    with account.counting():
        plain_tiny.step()
    assert account.peak > 1.5 * account.bytes > 1.5 * weights


def test_mid_is_a_model_for_cpus_with_the_proportions_of_full() -> None:
    with on_meta():
        models = {"mid": build_model(MID), "full": build_model("full")}
    fractions = {}
    for size, model in models.items():
        total = sum(p.numel() for p in model.parameters())
        backbone = model.backbone
        parts = (backbone.vision_backbone, backbone.language_backbone)
        fractions[size] = [sum(p.numel() for p in part.parameters()) / total for part in parts]
        assert size == "full" or 45e6 < total < 55e6
    assert fractions["mid"] == pytest.approx(fractions["full"], abs=0.03)


def test_both_tables_have_every_case(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = cases("tiny")[:4:3]
    monkeypatch.setattr(training, "cases", lambda size: both)
    training.main(["--size", "tiny", "--repeats", "1"])
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    plain, ours = lines[4:6]
    assert plain[:2] == ["all of vision", "plain"] and ours[:2] == ["all of vision", "segtune"]
    for column in (3, 5, 7, 9):
        assert float(plain[column]) == 1
    # Masks of 3 of 10 prompts, and nothing is computed again.
    assert float(ours[3]) < 0.5
    assert [row[0] for row in lines[9:]] == list(COMPONENTS)


@pytest.mark.slow
def test_operations_at_full_size_are_those_counted_before() -> None:
    found = training.counted_without_values(cases("full")[0])
    total = sum(found.flops.values())
    assert (total - found.attention_flops) / 1e12 == pytest.approx(22.95, rel=0.01)
    assert total / 1e12 == pytest.approx(34.55, rel=0.01)
