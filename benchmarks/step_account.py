"""Where one optimizer step spends its floating-point operations, its time and its memory.

`StepAccount` sees every operation that torch dispatches, in the forward pass, in the backward pass
and in what a checkpoint computes again, and attributes it to a component: in the forward pass to
the module that is running, in the backward pass to the module that made the node of the graph. A
checkpoint's second forward pass belongs to the node that asked for it.

A multiplication and an addition are two operations; matrix products, convolutions and attention
are counted, with torch's formulas, and nothing else.
"""

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import (
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from benchmarks.memory import LiveStorage
from segtune.model.sam3_package import Sam3Image

COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "vision trunk": ("backbone.vision_backbone.trunk",),
    "neck": ("backbone.vision_backbone.convs",),
    "text": ("backbone.language_backbone",),
    "geometry, DETR encoder": ("geometry_encoder", "transformer.encoder"),
    "decoder": ("transformer.decoder", "dot_prod_scoring"),
    "segmentation head": ("segmentation_head",),
    "loss": (),  # and matching: what is computed after the forward pass of the modules
    "optimizer": (),  # and clipping: what is computed after the backward pass
    "data": (),  # what is computed before the forward pass
}


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


# torch counts the attention of GPUs only, and no product that is added in place.
FORMULAS: Mapping[Any, Callable[..., int]] = {
    **flop_registry,
    torch.ops.aten.addmm_: flop_registry[torch.ops.aten.addmm],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class StepAccount(LiveStorage):
    """Counts a step of training, within which it is the dispatch mode."""

    def __init__(self, model: Sam3Image) -> None:
        super().__init__()
        self.flops: dict[str, int] = defaultdict(int)
        self.attention_flops = 0  # of all components; torch counts them on GPUs only
        self.seconds: dict[str, float] = defaultdict(float)  # of CPU time, in operations
        self._model = model
        self._between = "data"  # what is computed where no module of a component runs
        self._running: list[str] = []
        # From which sequence number on the nodes of the graph belong to which component.
        self._first_node: list[int] = []
        self._owner: list[str] = []

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what happens within."""
        with ExitStack() as stack:
            for component, names in COMPONENTS.items():
                for module in (m for name in names for m in _called(self._model, name)):
                    stack.enter_context(self._watched(module, component))
            started = self._model.register_forward_pre_hook(self._forward_starts)
            stack.callback(started.remove)
            stack.enter_context(self)
            yield

    @contextmanager
    def _watched(self, module: nn.Module, component: str) -> Iterator[None]:
        def enter(*_: Any) -> None:
            self._running.append(component)
            self._note_owner()

        def leave(*_: Any) -> None:
            self._running.pop()
            self._note_owner()

        # A checkpoint's second forward pass ends with an exception where all is computed.
        hooks = (
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave, always_call=True),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _forward_starts(self, *_: Any) -> None:
        self._between = "loss"
        self._note_owner()

    def _note_owner(self) -> None:
        if torch._C._current_autograd_node() is None:
            self._first_node.append(torch._C._autograd._get_sequence_nr())
            self._owner.append(self._running[-1] if self._running else self._between)

    def _component(self) -> str:
        node = torch._C._current_autograd_node()
        if node is None:
            return self._running[-1] if self._running else self._between
        self._between = "optimizer"
        if node.name() == "torch::autograd::AccumulateGrad":
            return self._between
        position = bisect_right(self._first_node, node._sequence_nr()) - 1
        return self._owner[position] if position >= 0 else "loss"

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        packet, kwargs = getattr(function, "overloadpacket", None), kwargs or {}
        component = self._component()
        began = time.process_time()
        result = super().__torch_dispatch__(function, types, args, kwargs)
        self.seconds[component] += time.process_time() - began
        if packet in FORMULAS:
            flops = FORMULAS[packet](*args, **kwargs, out_val=result)
            self.flops[component] += flops
            self.attention_flops += flops if "scaled_dot_product" in str(packet) else 0
        return result


def _called(model: nn.Module, name: str) -> list[nn.Module]:
    """The module of this name; of a list, its members, because a list itself is never called."""
    module = model.get_submodule(name)
    return list(module) if isinstance(module, nn.ModuleList) else [module]
