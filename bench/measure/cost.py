"""MACs: of each unit, of the dense network, of each image, of any call.

The unit of cost is the multiply-accumulate of convolutions and matrix products, biases left out.
Counts come from torch's own counter; those of a unit must agree with ptflops' `aten` backend on all
operators that it knows. What is neither counted nor free (FREE) is refused by name. Owns no
evaluation: which units ran is in the trace it is given.
"""

from __future__ import annotations

import contextlib
import copy
import io
import re
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bench.errors import PluginError
from bench.measure.modes import in_plain_operators
from bench.networks.gated import GatedResNet
from bench.networks.macs import FORMULAS
from bench.networks.trunk import Backbone
from bench.networks.unit import DynamicNet, RemovedResidual, Unit

aten = torch.ops.aten

FREE = re.compile(
    r"""
    # Memory: making, copying, placing, padding, picking, sorting.
    (new_)?(empty|zeros?|ones|full|randn?|randint)(_like|_permuted|_strided)? | fill | set | put
    | arange | range | (lin|log)space | eye | scalar_tensor | from_file | complex | polar
    | \w+_copy(_from)? | _?copy(_from)? | \w*clone | lift(_fresh)? | detach | alias | _unsafe_view
    | as_strided | \w*resize\w* | is_same_size | is_pinned | _pin_memory | _local_scalar_dense
    | _efficientzerotensor | _has_same_storage_numel | flip | roll | rot90 | repeat(_interleave)?
    | _?(cat|stack) | (unsafe_)?split(_with_sizes)? | (un)?squeeze | t | transpose
    | tri[lu](_indices)? | block_diag | diag_embed | channel_shuffle | pixel_(un)?shuffle
    | im2col | col2im | constant_pad_nd | (reflection|replication)_pad[123]d
    | _pack_padded_sequence | (_unsafe_)?(masked_)?index(_\w+)? | _index_put_impl
    | \w*scatter\w* | gather | take | masked_(fill|select) | nonzero(_static)? | \w*unique\w*
    | isin | searchsorted | bucketize | sort | topk | kthvalue | mode | (nan)?median
    # Comparisons, sums and other reductions.
    | _?(a?min|a?max|aminmax) | arg(min|max) | all | any | allclose | equal | _is_(all|any)_true
    | (nan)?sum | mean | prod | (std|var)(_mean)? | trace | dist | count_nonzero | bincount | histc
    | _?cum(max|min|prod|sum)(_helper)? | _?log(cum)?sumexp | segment_reduce
    | linalg_(cross|vector_norm) | value_selecting_reduction
    # Norms, softmax, pooling, resampling, embeddings.
    | (re)?norm | \w*(batch|layer|group|native|rms|weight)_norm(?!_diff)\w* | \w*softmax
    | \w*(avg|max)_(un)?pool\w* | _?upsample_\w+ | affine_grid_generator | grid_sampler_[23]d
    | _?embedding(_bag|_renorm)?(_forward_only|_dense)?
    # Element-wise, where torch does not say so.
    | _add_relu | _masked_scale | _prelu_kernel | _thnn_fused_(gru|lstm)_cell | floor_divide | glu
    | hardswish | hardtanh | log_sigmoid_forward | rrelu_with_noise | threshold
    # Random numbers.
    | randperm | random | bernoulli | binomial | cauchy | exponential | geometric | multinomial
    | (log_)?normal(_functional)? | poisson | uniform | native_dropout | _sample_dirichlet
    | _standard_gamma | _fill_mem_eff_dropout_mask
    # Losses, assertions.
    | \w*_loss(2d)?(_forward)? | binary_cross_entropy(_with_logits)? | \w*_assert_\w+
    """,
    re.VERBOSE,
)
"""Free operators of torch by name. Those in place, with a `_` behind, and the gradients of free
ones, with `_backward`, are free too."""


def is_free(operator: OpOverload) -> bool:
    """Whether an operator does no work that MACs measure."""
    if operator.namespace == "prim":
        return True
    if operator.namespace != "aten":
        return False
    whole = operator._schema.name[len("aten::") :]
    name = re.sub(r"(_dense)?_backward(_data|_impl)?$|_$", "", whole)
    return (
        _is_easy(operator)
        or FREE.fullmatch(name) is not None
        or (name != whole and _is_easy_by_name(name))
    )


def _is_easy_by_name(name: str) -> bool:
    """Whether the operator that a gradient is of, or one in place, is a view or element-wise."""
    packet = getattr(aten, name, None)
    return packet is not None and any(_is_easy(getattr(packet, o)) for o in packet.overloads())


def _is_easy(operator: OpOverload) -> bool:
    return bool(operator.is_view) or torch.Tag.pointwise in operator.tags


class UncountedOperators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the names of operators that run and are neither in `counted` nor free."""

    def __init__(self, counted: Mapping[Any, object]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted = counted
        self.names: dict[str, None] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func._overloadpacket not in self.counted and not is_free(func):
            self.names[str(func._overloadpacket)] = None
        return func(*args, **(kwargs or {}))


Made = TypeVar("Made")


def unit_macs(net: DynamicNet) -> dict[str, int]:
    """Return the MACs of each unit at batch 1, in the order of `net.units()`.

    Raises:
        PluginError: a unit cannot be run on its input shape, its MACs cannot be counted in full,
            or two units share a name.
    """
    units = net.units()
    names = Counter(unit.name for unit in units)
    twice = sorted(name for name, count in names.items() if count > 1)
    if twice:
        raise PluginError(
            f"Several units share the name {', '.join(twice)}.",
            hint="Each unit of a network needs a name of its own.",
        )
    return {unit.name: _macs_of(unit) for unit in units}


def dense_macs(backbone: Backbone) -> int:
    """Return the MACs of one image through the plain trunk of `backbone`."""
    return sum(unit_macs(GatedResNet(backbone)).values())


def macs_per_image(executed_nu: Tensor, unit_macs: Sequence[int]) -> Tensor:
    """Return the MACs (N,), float64, of images whose trace (N, U) is given."""
    # Not a matrix product: a sum over float64 columns is exact for whole units up to 2^53.
    macs_u = torch.tensor(list(unit_macs), dtype=torch.float64, device=executed_nu.device)
    return (executed_nu.double() * macs_u).sum(dim=1)


def counted_macs(call: Callable[[], object]) -> int:
    """Return the MACs of whatever `call` really runs; errors as `counting`."""
    return counting(call)[0]


def counting(call: Callable[[], Made]) -> tuple[int, Made]:
    """Return the MACs of whatever `call` really runs, and what it returns.

    Raises:
        PluginError: it runs an operator that is neither counted nor free.
    """
    macs, made = _macs_by_operator(call)
    return sum(macs.values()), made


def _macs_by_operator(call: Callable[[], Made]) -> tuple[Mapping[Any, int], Made]:
    counter = FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))
    # The counter takes operators apart, so `unknown`, behind it, meets what really runs.
    with in_plain_operators(), UncountedOperators(counter.flop_registry) as unknown, counter:
        made = call()
    if unknown.names:
        raise PluginError(
            f"The MACs of {', '.join(unknown.names)} cannot be counted: neither a known product"
            " nor known to be free. Use convolutions, linear layers, matrix products or attention"
            " of torch, or give it a formula with torch.utils.flop_counter.register_flop_formula."
        )
    flops = counter.get_flop_counts().get("Global", {})
    return {operator: count // 2 for operator, count in flops.items()}, made


def _macs_of(unit: Unit) -> int:
    if isinstance(unit.module, RemovedResidual):
        return 0
    # In inference mode ptflops would meet `linear` whole, which it does not know.
    with torch.inference_mode(mode=False), torch.no_grad():
        # A copy, because ptflops leaves its hooks on the module; on the CPU, to leave no trace in
        # the accelerator's memory.
        module = copy.deepcopy(unit.module).cpu().float().eval()
        probe = torch.ones(1, *unit.input_shape)
        try:
            macs, _ = _macs_by_operator(partial(module, probe))
        except PluginError as error:
            raise PluginError(f"Unit '{unit.name}': {error.message}") from error
        except Exception as error:
            raise PluginError(
                f"Unit '{unit.name}' does not run on an input of shape {tuple(probe.shape)}:"
                f" {error}",
                hint="A unit's module takes one tensor of shape (N, *input_shape).",
            ) from error
        with in_plain_operators():
            by_ptflops, known = _macs_by_ptflops(module, probe)
    by_torch = sum(count for operator, count in macs.items() if operator in known)
    if by_ptflops != by_torch:
        given = "no count" if by_ptflops is None else f"{by_ptflops:,} MACs"
        raise PluginError(
            f"The MACs of unit '{unit.name}' are in doubt: ptflops gives {given},"
            f" torch's own counter {by_torch:,}.",
            hint="Build the unit from convolutions, linear layers and matrix products.",
        )
    return sum(macs.values())


def _macs_by_ptflops(module: nn.Module, probe: Tensor) -> tuple[int | None, Container[Any]]:
    """Return the MACs at one input (1, ...) without biases, None if ptflops fails; and the
    operators that it knows."""
    # Late: it imports all of torchvision, a second that reading records does without.
    from ptflops import get_model_complexity_info
    from ptflops.aten_ops import ATEN_OPS_MAPPING, addmm_flop, conv_flop

    # Dropping biases here, not from the module, also reaches those of recurrent cells.
    without_bias = {
        aten.addmm: lambda given, made: int(addmm_flop([None, *given[1:]], made)),
        **dict.fromkeys(
            (aten.convolution, aten._convolution),
            lambda given, made: int(conv_flop([*given[:2], None, *given[3:9]], made)),
        ),
    }
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        macs, params = get_model_complexity_info(
            module,
            tuple(probe.shape[1:]),
            backend="aten",
            input_constructor=lambda shape: probe,
            as_strings=False,
            print_per_layer_stat=False,
            verbose=False,
            ost=silence,
            custom_modules_hooks=without_bias,
        )
    return None if macs is None or params is None else int(macs), ATEN_OPS_MAPPING
