"""The magnitude of the gradient at each block of a trained network, beside how often it runs.

    g(block) = sqrt( mean over batches and weights of (dL / dw)^2 )

L is the mean cross-entropy of a batch, through the masked forward in eval mode; an image that skips
a block adds nothing there. w are the weights of the block's convolutions. A mean, so that wide
blocks compare with narrow ones; squares, so that signs do not cancel between batches.

The idea is that of Fig. 4 of the SGAD paper (arXiv 1807.01430); what exactly is drawn there is not
known, so the numbers are not the paper's. Owns no choice of images; changes nothing in the network.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.augment import Batch
from bench.errors import Unsupported
from bench.networks.unit import DynamicNet
from bench.seeding import seeded


def block_gradients(net: DynamicNet, batches: Iterable[Batch]) -> dict[str, float]:
    """Return g of each block that has convolutions, by the block's name; 0 where no image runs it.

    On a copy; the random state is afterwards as it was.

    Raises:
        Unsupported: no gradient reaches the blocks, or it is not finite.
        ValueError: there is no batch.
    """
    net = copy.deepcopy(net).eval().requires_grad_(True)
    blocks = {
        unit.name: [m.weight for m in unit.module.modules() if isinstance(m, nn.Conv2d)]
        for unit in net.units()
        if unit.role == "block"
    }
    weights = [weight for members in blocks.values() for weight in members]
    if not weights:
        return {}
    try:
        with seeded(0, "gradients"), torch.enable_grad():
            squares = iter(_mean_squares(net, batches, weights))
    except RuntimeError as error:  # a forward that autograd cannot follow fails in many ways
        reason = str(error).partition("\n")[0]
        raise Unsupported(f"The masked forward gives no gradient: {reason}") from error
    found = {}
    for name, members in blocks.items():
        if members:
            total = sum(next(squares) * weight.numel() for weight in members)
            found[name] = math.sqrt(total / sum(weight.numel() for weight in members))
    broken = [name for name, value in found.items() if not math.isfinite(value)]
    if broken:
        raise Unsupported(f"The gradient of {broken[0]} is {found[broken[0]]}.")
    return found


def _mean_squares(
    net: DynamicNet, batches: Iterable[Batch], weights: Sequence[Tensor]
) -> list[float]:
    """Return the mean over batches and entries of the squared gradient, for each weight."""
    totals: list[Tensor] = []
    for batch in batches:
        # Not a call of the network: one that is compiled would be compiled again for this.
        logits_nk = net.forward(batch.x_nchw).logits.float()
        loss = F.cross_entropy(logits_nk, batch.labels_n)
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        zero = torch.zeros((), dtype=torch.float64, device=loss.device)
        squares = [zero if g is None else g.detach().double().square().mean() for g in found]
        totals.append(torch.stack(squares))
    if not totals:
        raise ValueError("there are no images to take gradients of")
    means: list[float] = torch.stack(totals).mean(dim=0).tolist()
    return means
