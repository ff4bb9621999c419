"""Batch norm folded into the convolution before it: for inference, where both are one affine map.

Which norm follows which convolution is seen in a run, not guessed from names. Owns no speed-up of
what remains.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(net: nn.Module, probe_nchw: Tensor) -> None:
    """Fold, in place, every BatchNorm2d that only ever follows one convolution; Identity is left.

    `probe_nchw` (N, C, H, W) is run once in eval mode to see what follows what: by its `forward`,
    in which every unit runs. A norm in front of a convolution stays. What else a convolution's
    output is used for cannot be seen: compare the network with itself before trusting it.
    """
    net.eval()
    pairs = _pairs(net, probe_nchw)
    for conv, norm in pairs.items():
        folded = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = folded.weight, folded.bias
    gone = {id(norm) for norm in pairs.values()}
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if id(child) in gone:
                parent.register_module(name, nn.Identity())


def _pairs(net: nn.Module, probe_nchw: Tensor) -> dict[nn.Conv2d, nn.BatchNorm2d]:
    # All outputs are kept while looking: the id of a tensor that is gone may come again.
    made_by: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    read_by: dict[nn.Conv2d, set[nn.BatchNorm2d]] = defaultdict(set)
    fed_by: dict[nn.BatchNorm2d, set[nn.Module | None]] = defaultdict(set)

    def note_output(module: nn.Module, _: Any, out: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made_by[id(out)] = module, out

    def note_input(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        conv = made_by.get(id(given[0]), (None, None))[0]
        fed_by[module].add(conv)
        if conv is not None:
            read_by[conv].add(module)

    hooks = [m.register_forward_hook(note_output) for m in net.modules() if type(m) is nn.Conv2d]
    hooks += [
        m.register_forward_pre_hook(note_input)
        for m in net.modules()
        if type(m) is nn.BatchNorm2d and m.track_running_stats
    ]
    try:
        with torch.no_grad():
            net(probe_nchw)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        conv: norm
        for conv, norms in read_by.items()
        for norm in norms
        if len(norms) == 1 and fed_by[norm] == {conv}
    }
