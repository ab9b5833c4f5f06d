"""The package's own loss, for the plain way and as an oracle of tests.

As in `segtune.model.sam3_package`, the import is silent, and its TorchScript functions stay plain.
"""

import warnings
from typing import cast

from torch import Tensor
from torch.jit import _state as torchscript
from torchvision.ops import sigmoid_focal_loss

torchscript.disable()

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sam3.train.loss import loss_fns
    from sam3.train.loss.sam3_loss import Sam3LossWrapper

torchscript.enable()


def _focal_loss_sum(inputs: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    loss = sigmoid_focal_loss(inputs, targets, alpha=alpha, gamma=gamma, reduction="sum")
    return cast(Tensor, loss)


# The package computes this sum with a Triton kernel, which runs only on CUDA and whose atomic
# additions make two equal runs differ in the last bits.
loss_fns.triton_sigmoid_focal_loss_reduce = _focal_loss_sum

__all__ = ["Sam3LossWrapper", "loss_fns"]
