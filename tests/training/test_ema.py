"""The average of the adapters: how it moves, and that the trained values come back."""

import pytest
import torch
from torch import Tensor, nn

from segtune.lora.inject import inject_lora
from segtune.training.ema import adapter_values, ema_weights, load_adapter_values, update_ema
from tests.lora_net import SPECS, net, randomize


def adapted() -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """A net, its adapters' values, and other values for them."""
    model = net()
    inject_lora(model, SPECS)
    randomize(model)
    trained = adapter_values(model)
    return model, trained, {name: value + 1 for name, value in trained.items()}


def has_values(model: nn.Module, values: dict[str, Tensor]) -> bool:
    found = adapter_values(model)
    assert found.keys() == values.keys()
    return all(torch.equal(found[name], value) for name, value in values.items())


@pytest.mark.parametrize(
    ("step", "decay"), [(0, 1 / 10), (1, 2 / 11), (80, 0.9), (81, 0.9), (10**6, 0.9)]
)
def test_the_average_moves_with_a_decay_that_grows(step: int, decay: float) -> None:
    average = {"a": torch.tensor([1.0, 5.0])}
    parameters = {
        "a": nn.Parameter(torch.tensor([3.0, 1.0])),
        "not averaged": nn.Parameter(torch.zeros(1)),
    }
    update_ema(average, parameters, decay=0.9, step=step)
    expected = decay * torch.tensor([1.0, 5.0]) + (1 - decay) * torch.tensor([3.0, 1.0])
    torch.testing.assert_close(average, {"a": expected})
    assert not average["a"].requires_grad
    assert parameters["a"].tolist() == [3.0, 1.0]


def test_the_trained_adapters_come_back_after_the_average() -> None:
    model, trained, average = adapted()
    with ema_weights(model, average):
        assert has_values(model, average)
    assert has_values(model, trained)
    with pytest.raises(ZeroDivisionError), ema_weights(model, average):
        raise ZeroDivisionError
    assert has_values(model, trained)


def test_without_an_average_the_model_keeps_its_adapters() -> None:
    model, trained, _ = adapted()
    with ema_weights(model, {}):
        assert has_values(model, trained)


def test_values_are_copies_that_can_be_loaded() -> None:
    model, trained, other = adapted()
    load_adapter_values(model, other)
    assert has_values(model, other)
    assert not any(torch.equal(trained[name], value) for name, value in other.items())
