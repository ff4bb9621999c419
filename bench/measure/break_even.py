"""From which share of active positions on skipping positions takes longer than masking them.

Gathering has a price that depends on the machine, the width and side of a stage and on whether
there is one image or a batch. Owns the measurement, and that a network gets what was measured on
this machine before; what is done with it is the policy's (bench.networks.positions), the file is
remembered.py's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from bench.measure.contention import ContentionMeter
from bench.measure.modes import evaluating
from bench.measure.remembered import machine_key, recall, remember
from bench.measure.timing import synchronise
from bench.networks.halting import HaltingResNet
from bench.networks.padded_rows import Dilation, grid_of
from bench.networks.position_crowd import Rows
from bench.networks.positions import PositionHalting, kind_of
from bench.networks.resnet import Block, Residual
from bench.networks.unit import DynamicNet

_STEPS = 8  # shares are told apart in eighths
_ROUNDS, _ROUND_S = 3, 0.004
_SEARCHES = 5  # one wrong comparison leads a search astray; the median of five stands


def measure_break_even(
    net: HaltingResNet, batch_size: int, device: torch.device | str
) -> dict[str, float]:
    """Return for each kind of block of `net` the share of active positions where skipping ends.

    Times one block per stage with states of its shape on `device`, where the network is, with as
    many threads as are set: everywhere and masked, and at the active positions only, which are
    discs or scattered; the slower of the two counts. Below the share skipping was faster at every
    share tried; 0 if it never was, 1 if it always was. Takes about two seconds. Assign the
    result, or several for different batch sizes put together, to `PositionHalting.break_even`.

    Raises:
        ValueError: positions do not halt in `net`.
    """
    if not isinstance(net.policy, PositionHalting):
        raise ValueError("only a network whose positions halt has a break-even share")
    with evaluating(net):
        return {
            kind: _break_even(block, shape, torch.device(device))
            for kind, (block, shape) in _kinds(net, batch_size).items()
        }


def use_break_even(net: DynamicNet, batch_size: int, device: torch.device) -> None:
    """Have a network whose positions halt use the shares of this machine from now on.

    Shares that were measured here before are taken from the user's cache. Others are measured, and
    kept unless other processes took part of the machine meanwhile. Stages that are operators need
    none.
    """
    if not (isinstance(net, HaltingResNet) and isinstance(net.policy, PositionHalting)):
        return
    if len(net.policy.operators) == len(net.policy.stages):
        return  # an operator never runs a block everywhere
    kinds = _kinds(net, batch_size)
    layers = {type(part).__name__ for block, _ in kinds.values() for part in block.modules()}
    key = machine_key(device, layers=" ".join(sorted(layers)), batch_size=batch_size)
    shares = recall(key)
    if not kinds.keys() <= shares.keys():
        with ContentionMeter() as meter:
            shares = measure_break_even(net, batch_size, device)
        if not meter.sharing.contended(threads=torch.get_num_threads()):
            remember(key, shares)
    known = net.policy.break_even or {}
    net.policy.break_even = {**known, **{kind: shares[kind] for kind in kinds}}


def break_even_values(net: DynamicNet) -> dict[str, object]:
    """Return for a record the shares in use, and the share of blocks masked in the last call."""
    if not (isinstance(net, HaltingResNet) and isinstance(net.policy, PositionHalting)):
        return {}
    ways = list(net.policy.how_it_ran.values())
    masked = ways.count("masked") / len(ways) if ways else None
    return {"break_even_shares": net.policy.break_even, "blocks_masked_in_last_call": masked}


def _kinds(
    net: HaltingResNet, batch_size: int
) -> dict[str, tuple[Block, tuple[int, int, int, int]]]:
    """Return by kind a block that skips positions, and the shape (N, C, h, w) of its states."""
    assert isinstance(net.policy, PositionHalting)
    found: dict[str, tuple[Block, tuple[int, int, int, int]]] = {}
    for stage in net.policy.stages:
        later = [net.blocks[b] for b in stage.blocks[1:]]
        alive = [block for block in later if isinstance(block.residual, Residual)]
        if alive:
            found[kind_of(stage.shape, batch_size)] = alive[0], (batch_size, *stage.shape)
    return found


def _break_even(block: Block, shape: tuple[int, int, int, int], device: torch.device) -> float:
    return statistics.median(_search(block, shape, device) for _ in range(_SEARCHES))


def _search(block: Block, shape: tuple[int, int, int, int], device: torch.device) -> float:
    """Halve the interval of shares until one step is left."""
    low, high = 0, _STEPS
    while low < high:
        middle = (low + high + 1) // 2
        # At a share of 1 nothing is masked, so the last step is tried just below it.
        share = min(middle / _STEPS, 0.97)
        if _skipping_pays(block, shape, share, device):
            low = middle
        else:
            high = middle - 1
    return low / _STEPS


def _skipping_pays(
    block: Block, shape: tuple[int, int, int, int], share: float, device: torch.device
) -> bool:
    count, _, height, width = shape
    grid = grid_of(count, height, width, device)
    draws = torch.Generator().manual_seed(1)
    state = torch.rand(shape, generator=draws).to(device, memory_format=torch.channels_last)
    rows, residual, dilate = Rows(grid, state), block.residual, Dilation(grid)
    assert isinstance(residual, Residual)
    calls: list[Callable[[], None]] = []
    for order_p in (_from_the_middle(height, width), torch.rand(height * width, generator=draws)):
        mask_nchw = _ranked(order_p, share).view(1, 1, height, width).expand(count, 1, -1, -1)
        active_r = grid.rows_of(mask_nchw.to(device)).view(-1) > 0

        def gathered(active_r: Tensor = active_r) -> None:
            # The places of the active positions are also needed for a block that is masked.
            rows.run_at(residual, grid.places(active_r), grid.places(dilate(active_r)))

        calls.append(gathered)
    calls.append(lambda: rows.run_masked(block, active_r))
    disc_s, scattered_s, masked_s = _seconds(calls, device)
    return max(disc_s, scattered_s) < masked_s


def _from_the_middle(height: int, width: int) -> Tensor:
    y, x = (torch.arange(side) - (side - 1) / 2 for side in (height, width))
    return (y[:, None].square() + x.square()).flatten()


def _ranked(order_p: Tensor, share: float) -> Tensor:
    """Return the mask (P,), as floats, of that share of positions that comes first."""
    mask_p = torch.zeros_like(order_p)
    mask_p[order_p.argsort()[: max(1, round(share * len(order_p)))]] = 1
    return mask_p


def _seconds(calls: list[Callable[[], None]], device: torch.device) -> list[float]:
    """Return the least time of each call, in turns, so that a slow moment hits all alike."""
    best = [float("inf")] * len(calls)
    for call in calls:
        call()
    for _ in range(_ROUNDS):
        for number, call in enumerate(calls):
            spent_s = 0.0
            while spent_s < _ROUND_S:
                begin_s = time.perf_counter()
                call()
                synchronise(device)
                took_s = time.perf_counter() - begin_s
                best[number] = min(best[number], took_s)
                spent_s += took_s
    return best
