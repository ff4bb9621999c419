"""Batch norm folded into the layer before it: for inference, where both are one affine map.

Which norm follows which convolution or linear layer is seen in a run, not guessed from names. Owns
no speed-up of what remains.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

Layer = nn.Conv2d | nn.Linear
Norm = nn.BatchNorm2d | nn.BatchNorm1d


def fold_batch_norms(net: nn.Module, probe_nchw: Tensor) -> None:
    """Fold, in place, every batch norm that only ever follows one convolution or linear layer.

    An Identity is left in its place. `probe_nchw` (N, C, H, W) is run once in eval mode to see what
    follows what: by `forward`, in which every unit runs. A norm in front of a layer stays. What
    else a layer's output is used for cannot be seen: compare the network with itself before
    trusting it.
    """
    net.eval()
    pairs = _pairs(net, probe_nchw)
    for layer, norm in pairs.items():
        fuse: Any = fuse_conv_bn_eval if isinstance(layer, nn.Conv2d) else fuse_linear_bn_eval
        folded = fuse(layer, norm)
        layer.weight, layer.bias = folded.weight, folded.bias
    gone = {id(norm) for norm in pairs.values()}
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if id(child) in gone:
                parent.register_module(name, nn.Identity())


def _pairs(net: nn.Module, probe_nchw: Tensor) -> dict[Layer, Norm]:
    # All outputs are kept while looking: the id of a tensor that is gone may come again.
    made_by: dict[int, tuple[Layer, Tensor]] = {}
    read_by: dict[Layer, set[Norm]] = defaultdict(set)
    fed_by: dict[Norm, set[Layer | None]] = defaultdict(set)

    def note_output(module: nn.Module, _: Any, out: Tensor) -> None:
        assert isinstance(module, Layer)
        made_by[id(out)] = module, out

    def note_input(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(module, Norm)
        layer = made_by.get(id(given[0]), (None, None))[0]
        fed_by[module].add(layer)
        if layer is not None:
            read_by[layer].add(module)

    modules = list(net.modules())
    layers = [m for m in modules if type(m) in (nn.Conv2d, nn.Linear)]
    norms = [m for m in modules if type(m) in (nn.BatchNorm2d, nn.BatchNorm1d)]
    hooks = [layer.register_forward_hook(note_output) for layer in layers]
    hooks += [norm.register_forward_pre_hook(note_input) for norm in norms]
    try:
        with torch.no_grad():
            net(probe_nchw)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        layer: norm
        for layer, readers in read_by.items()
        for norm in readers
        if len(readers) == 1 and fed_by[norm] == {layer} and norm.track_running_stats
    }
