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

# Memory: making, copying, placing, padding, picking, sorting.
_MEMORY = """
    _conj_copy _copy_from _efficientzerotensor _has_same_storage_numel _index_put_impl _lazy_clone
    _local_scalar_dense _neg_view_copy _pin_memory _reshape_copy _resize_output _stack _to_copy
    _unsafe_index _unsafe_index_put _unsafe_masked_index _unsafe_masked_index_put_accumulate
    _unsafe_view alias_copy arange as_strided as_strided_copy as_strided_scatter block_diag cat
    channel_shuffle clone col2im complex constant_pad_nd copy detach detach_copy diag_embed
    diagonal_copy diagonal_scatter embedding empty empty_like empty_permuted empty_strided
    expand_copy eye fill flip from_file full full_like gather im2col index index_add index_copy
    index_fill index_put index_reduce index_select lift lift_fresh lift_fresh_copy linspace logspace
    masked_fill masked_scatter masked_select narrow_copy new_empty new_empty_strided new_full
    new_ones new_zeros nonzero nonzero_static ones ones_like permute_copy pixel_shuffle
    pixel_unshuffle polar put range reflection_pad1d reflection_pad2d reflection_pad3d repeat
    repeat_interleave replication_pad1d replication_pad2d replication_pad3d resize resize_as roll
    rot90 scalar_tensor scatter scatter_add scatter_reduce searchsorted bucketize select_copy
    select_scatter set slice_copy slice_scatter sort split_copy split_with_sizes_copy squeeze
    squeeze_copy stack t t_copy take topk transpose transpose_copy tril tril_indices triu
    triu_indices unbind_copy unfold_copy unsafe_split unsafe_split_with_sizes unsqueeze
    unsqueeze_copy view_copy zero zeros zeros_like kthvalue median nanmedian mode
    _pack_padded_sequence unique_consecutive unique_dim _unique _unique2 isin
"""
# Comparisons, sums and other reductions.
_REDUCTIONS = """
    _aminmax _is_all_true _is_any_true all allclose amax amin aminmax any argmax argmin bincount
    count_nonzero cummax cummin _cummax_helper _cummin_helper cumprod cumsum dist equal histc
    is_pinned is_same_size linalg_cross linalg_vector_norm logcumsumexp _logcumsumexp logsumexp max
    mean min nansum norm prod std std_mean sum trace var var_mean
"""
# Element-wise, where torch does not say so.
_ELEMENTWISE = """
    _add_relu _masked_scale _prelu_kernel _thnn_fused_gru_cell _thnn_fused_lstm_cell floor_divide
    glu hardswish hardtanh log_sigmoid_forward rrelu_with_noise renorm embedding_renorm
    _weight_norm_interface threshold
"""
# Norms and softmax.
_NORMS = """
    _batch_norm_no_update _batch_norm_with_update _batch_norm_with_update_functional _fused_rms_norm
    _log_softmax _masked_softmax _native_batch_norm_legit _native_batch_norm_legit_functional
    _native_batch_norm_legit_no_training _safe_softmax _softmax batch_norm_elemt
    batch_norm_gather_stats batch_norm_stats cudnn_batch_norm log_softmax native_batch_norm
    native_group_norm native_layer_norm native_norm softmax
"""
# Pooling and resampling.
_POOLING = """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _embedding_bag _embedding_bag_forward_only
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d affine_grid_generator avg_pool1d
    avg_pool2d avg_pool3d fractional_max_pool2d fractional_max_pool3d grid_sampler_2d
    grid_sampler_3d max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d
    segment_reduce upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_trilinear3d
"""
# Random numbers.
_RANDOM = """
    _fill_mem_eff_dropout_mask _sample_dirichlet _standard_gamma bernoulli binomial cauchy
    exponential geometric log_normal multinomial native_dropout normal normal_functional poisson
    rand rand_like randint randint_like randn randn_like random randperm uniform
"""
# Losses, assertions.
_LOSSES = """
    _assert_async _assert_scalar _assert_tensor_metadata _ctc_loss _cudnn_ctc_loss
    _functional_assert_async _functional_assert_scalar _use_cudnn_ctc_loss binary_cross_entropy
    binary_cross_entropy_with_logits huber_loss mse_loss multi_margin_loss
    multilabel_margin_loss_forward nll_loss nll_loss2d nll_loss2d_forward nll_loss_forward
    smooth_l1_loss soft_margin_loss
"""
# What only gradients are called after.
_GRADIENTS = "batch_norm value_selecting_reduction"
_KINDS = (_MEMORY, _REDUCTIONS, _ELEMENTWISE, _NORMS, _POOLING, _RANDOM, _LOSSES, _GRADIENTS)
FREE = frozenset(" ".join(_KINDS).split())
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
    return _is_easy(operator) or name in FREE or (name != whole and _is_easy_by_name(name))


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
