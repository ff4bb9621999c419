"""Gates of two common shapes in as few operations as they need, for a copy that only infers.

On one image an operation costs a microsecond or two however small it is, so layers without anything
between them become one matrix, two logits their difference, and a sum is divided by what it is
multiplied with. Decisions are the same but for rounding. Owns no training and no cost: what
deciding costs is said by the policy it is made from.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bench.networks.policy import ByMeans, Policy
from bench.networks.unit import Unit

State = tuple[Tensor, Tensor]  # what an LSTM leaves: (N, 4 D + 1) and (N, D), see LeanRecurrent


class LeanGates(Policy):
    """Gates that read the mean of a state; `full` is the policy that they were made from.

    `native`: they are operators of our own (native_parts.py).
    """

    def __init__(self, full: Policy) -> None:
        super().__init__(full.always_on)
        self.full = full
        self.native = False

    def units(self) -> Sequence[Unit]:
        return self.full.units()


class _LeanDecisions(ByMeans):
    """Gates as bools first: nobody waits for a float of a single number."""

    def gate_of(self, index: int, mean_nc: Tensor) -> Tensor | None:
        open_n = self.is_open(index, mean_nc)
        return None if open_n is None else open_n.to(mean_nc.dtype)

    @abstractmethod
    def is_open(self, index: int, sum_nc: Tensor, positions: int = 1) -> Tensor | None: ...


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

    def is_open(self, index: int, sum_nc: Tensor, positions: int = 1) -> Tensor | None:
        gates = self.gates
        if gates.always_on[index]:
            return None
        bias_d, weight_cd = gates.get_buffer(f"bias{index}"), gates.get_buffer(f"weight{index}")
        last_d, least_1 = gates.get_buffer(f"last{index}"), gates.get_buffer(f"least{index}")
        if gates.native:
            open_n: Tensor = torch.ops.skipbench.perceptron(
                sum_nc, 1 / positions, weight_cd, bias_d, last_d, least_1
            )
            return open_n
        hidden_nd = torch.addmm(bias_d, sum_nc, weight_cd, alpha=1 / positions).relu_()
        return torch.mv(hidden_nd, last_d) > least_1


class LeanRecurrent(LeanGates):
    """One LSTM for all gates, fed through a linear layer per block and read by one more layer:
    open where that gives at least 0.

    Of the hidden state (N, D) only one product is kept, (N, 4 D + 1): what it adds to the next
    gate's four parts, their bias included, and the log-odds of the gate that has just been asked.
    """

    def __init__(
        self, full: Policy, embed: Mapping[int, nn.Linear], cell: nn.LSTMCell, last: nn.Linear
    ) -> None:
        super().__init__(full)
        self.size = cell.hidden_size
        weight_ih = cell.weight_ih.detach()
        bias = (cell.bias_ih + cell.bias_hh).detach()
        # The cell reads nothing but the layer, so both are one linear map; no part of the log-odds.
        weights = {b: weight_ih @ layer.weight.detach() for b, layer in embed.items()}
        biases = {b: weight_ih @ layer.bias.detach() + bias for b, layer in embed.items()}
        order = sorted(embed)
        for b, later in zip(order, [*order[1:], order[0]], strict=True):
            widened = torch.cat([_with_new_doubled(weights[b]), torch.zeros_like(weights[b][:1])])
            self.register_buffer(f"weight{b}", widened.t().contiguous())
            next_bias = torch.cat([_with_new_doubled(biases[later]), last.bias.detach()])
            self.register_buffer(f"bias{b}", next_bias)
        self.register_buffer("first", self.get_buffer(f"bias{order[-1]}").clone())
        carry = torch.cat([_with_new_doubled(cell.weight_hh.detach()), last.weight.detach()])
        # Halved here and doubled there: TorchScript makes two operations of a product with a sum,
        # unless it has a factor.
        self.register_buffer("half_carry", carry.t().contiguous() / 2)

    first: Tensor
    half_carry: Tensor

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> ByMeans:
        return _OfLstm(self)

    def step(self, index: int, sum_nc: Tensor, positions: int, state: State | None) -> State:
        """Feed the sum (N, C) over the positions of what block `index` reads; the state before the
        first is zero."""
        carried = self.first if state is None else state[0]
        weight_cp = self.get_buffer(f"weight{index}")
        parts = torch.addmm(carried, sum_nc, weight_cp, alpha=1 / positions).sigmoid_()
        in_, forget, new, out, _ = parts.split_with_sizes([*[self.size] * 4, 1], dim=1)
        # tanh(x) = 2 sigmoid(2 x) - 1, so that one operation does for all four.
        memory = in_.neg().addcmul_(in_, new, value=2)
        if state is not None:
            memory = memory.addcmul_(forget, state[1])
        hidden = torch.tanh(memory).mul_(out)
        bias_p = self.get_buffer(f"bias{index}")
        return torch.addmm(bias_p, hidden, self.half_carry, alpha=2), memory


class _OfLstm(_LeanDecisions):
    def __init__(self, gates: LeanRecurrent) -> None:
        self.gates = gates
        self.state: State | None = None

    def is_open(self, index: int, sum_nc: Tensor, positions: int = 1) -> Tensor | None:
        gates = self.gates
        if gates.always_on[index]:
            return None
        if gates.native:
            return self._native_step(index, sum_nc, positions)
        self.state = gates.step(index, sum_nc, positions, self.state)
        return self.state[0].select(1, 4 * gates.size) >= 0

    def _native_step(self, index: int, sum_nc: Tensor, positions: int) -> Tensor:
        gates = self.gates
        carried, memory_nd = self.state or (gates.first, gates.first.new_empty(0))
        open_n: Tensor
        carried, memory_nd, open_n = torch.ops.skipbench.lstm_gate(
            sum_nc,
            1 / positions,
            carried,
            memory_nd,
            gates.get_buffer(f"weight{index}"),
            gates.get_buffer(f"bias{index}"),
            gates.half_carry,
        )
        self.state = carried, memory_nd
        return open_n


def _with_new_doubled(parts: Tensor) -> Tensor:
    """Return rows for the four parts of an LSTM with the third doubled, for its sigmoid."""
    in_, forget, new, out = parts.chunk(4)
    return torch.cat([in_, forget, 2 * new, out])


def _difference(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """Return weights (D,) and bias (1,) of the second output minus the first."""
    weight_2d, bias_2 = layer.weight.detach(), layer.bias.detach()
    return weight_2d[1] - weight_2d[0], bias_2[1:] - bias_2[:1]
