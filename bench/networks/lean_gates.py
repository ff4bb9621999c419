"""Gates of two common shapes in as few operations as they need, for a copy that only infers.

On one image an operation costs a microsecond or two however small it is, so layers without anything
between them become one matrix, and two logits their difference. Decisions are the same but for
rounding. Owns no training and no cost: what deciding costs is said by the policy it is made from.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bench.networks.policy import ByMeans, Policy
from bench.networks.unit import Unit

State = tuple[Tensor, Tensor]  # of an LSTM: (N, D) twice


class LeanGates(Policy):
    """Gates that read the mean of a state; `full` is the policy that they were made from."""

    def __init__(self, full: Policy) -> None:
        super().__init__(full.always_on)
        self.full = full

    def units(self) -> Sequence[Unit]:
        return self.full.units()


class _LeanDecisions(ByMeans):
    """Gates as bools first: nobody waits for a float of a single number."""

    def gate_of(self, index: int, mean_nc: Tensor) -> Tensor | None:
        open_n = self.is_open(index, mean_nc)
        return None if open_n is None else open_n.to(mean_nc.dtype)

    @abstractmethod
    def is_open(self, index: int, mean_nc: Tensor) -> Tensor | None: ...


class LeanPerceptrons(LeanGates):
    """A gate of two layers with a ReLU between them, for two logits: open where the second is
    greater."""

    def __init__(self, full: Policy, layers: Mapping[int, tuple[nn.Linear, nn.Linear]]) -> None:
        super().__init__(full)
        for b, (first, last) in layers.items():
            weight_d, bias_1 = _difference(last)
            self.register_buffer(f"weight{b}", first.weight.detach().t().contiguous())
            self.register_buffer(f"bias{b}", first.bias.detach().clone())
            self.register_buffer(f"last{b}", weight_d)
            self.register_buffer(f"least{b}", -bias_1)

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> ByMeans:
        return _OfPerceptrons(self)


class _OfPerceptrons(_LeanDecisions):
    def __init__(self, gates: LeanPerceptrons) -> None:
        self.gates = gates

    def is_open(self, index: int, mean_nc: Tensor) -> Tensor | None:
        gates = self.gates
        if gates.always_on[index]:
            return None
        bias_d, weight_cd = gates.get_buffer(f"bias{index}"), gates.get_buffer(f"weight{index}")
        hidden_nd = torch.addmm(bias_d, mean_nc, weight_cd).relu_()
        return torch.mv(hidden_nd, gates.get_buffer(f"last{index}")) > gates.get_buffer(
            f"least{index}"
        )


class LeanRecurrent(LeanGates):
    """One LSTM for all gates, fed through a linear layer per block and read by one more layer:
    open where that gives at least 0."""

    def __init__(
        self, full: Policy, embed: Mapping[int, nn.Linear], cell: nn.LSTMCell, last: nn.Linear
    ) -> None:
        super().__init__(full)
        weight_ih = cell.weight_ih.detach()
        bias_4d = (cell.bias_ih + cell.bias_hh).detach()
        for b, layer in embed.items():
            # The cell reads nothing else, so both are one linear map.
            weight = (weight_ih @ layer.weight.detach()).t().contiguous()
            self.register_buffer(f"weight{b}", weight)
            self.register_buffer(f"bias{b}", weight_ih @ layer.bias.detach() + bias_4d)
        self.register_buffer("carry", cell.weight_hh.detach().t().contiguous())
        self.register_buffer("last", last.weight.detach()[0].clone())
        self.register_buffer("least", -last.bias.detach())

    carry: Tensor
    last: Tensor
    least: Tensor

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> ByMeans:
        return _OfLstm(self)

    def step(self, index: int, mean_nc: Tensor, state: State | None) -> State:
        """Feed the mean (N, C) of what block `index` reads; the state before the first is zero."""
        bias, weight = self.get_buffer(f"bias{index}"), self.get_buffer(f"weight{index}")
        if state is not None:
            bias = torch.addmm(bias, state[0], self.carry)
        in_, forget, new, out = torch.addmm(bias, mean_nc, weight).unsafe_chunk(4, dim=1)
        memory = in_.sigmoid_().mul_(new.tanh_())
        if state is not None:
            memory = memory.addcmul_(forget.sigmoid_(), state[1])
        return torch.tanh(memory).mul_(out.sigmoid_()), memory


class _OfLstm(_LeanDecisions):
    def __init__(self, gates: LeanRecurrent) -> None:
        self.gates = gates
        self.state: State | None = None

    def is_open(self, index: int, mean_nc: Tensor) -> Tensor | None:
        gates = self.gates
        if gates.always_on[index]:
            return None
        self.state = gates.step(index, mean_nc, self.state)
        return torch.mv(self.state[0], gates.last) >= gates.least


def _difference(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """Return weights (D,) and bias (1,) of the second output minus the first."""
    weight_2d, bias_2 = layer.weight.detach(), layer.bias.detach()
    return weight_2d[1] - weight_2d[0], bias_2[1:] - bias_2[:1]
