"""Which of torch's operators have instructions, and which.

The instructions, on tensors of one image: `convolution` (bias, stride, padding, dilation, groups),
`product` of matrices, `unary`, `binary`, `where`, `cast`, `reduce`, `pool`, `top`, `cat`, `pad`,
`bits` (the same bits in another type) and views: `select`, `slice`, `reshape`, `permute`, `expand`.
Whatever else there is, softmax or a batch norm, is made of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.errors import Unsupported
from bench.runtimes.instructions import Value

# They read the shape of a tensor and none of its numbers.
CONSTANT = {
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"),
    *("zeros_like", "ones_like", "full_like", "empty_like"),
}


class Recorder(Protocol):
    """Who writes instructions down."""

    def emit(
        self,
        op: str,
        ins: Sequence[Value],
        shape: Iterable[int],
        dtype: torch.dtype,
        **settings: Any,
    ) -> Value: ...

    def cast(self, value: Value, dtype: torch.dtype) -> Value: ...

    def constant(self, numbers: Tensor) -> Value: ...


@dataclass(frozen=True, slots=True)
class Call:
    """One operator that was called: what records it, its arguments by name, what torch returned."""

    recorder: Recorder
    name: str
    given: dict[str, Any]
    out: Any

    def __getitem__(self, name: str) -> Any:
        return self.given[name]

    def tensor(self, of: Any, dtype: torch.dtype) -> Value:
        """Return an argument, which may be a number, as a value of this type."""
        if isinstance(of, bool | int | float):
            return self.recorder.constant(torch.tensor(of, dtype=dtype))
        value: Value = self.recorder.cast(of, dtype)
        return value

    def emit(self, op: str, *ins: Value, **settings: Any) -> Value:
        """Add an instruction whose output is that of the operator."""
        out = self.out[0] if isinstance(self.out, list | tuple) else self.out
        return self.recorder.emit(op, ins, out.shape, out.dtype, **settings)

    def refuse(self, why: str) -> Unsupported:
        return Unsupported(f"no instruction for the operator {self.name} with {why}")


Operator = Callable[[Call], Value | list[Value]]


def _unary(kind: str, **settings: float) -> Operator:
    def operator(call: Call) -> Value:
        value = call.tensor(call["self"], call.out.dtype)
        return call.emit("unary", value, kind=kind, **settings)

    return operator


def _leaky(call: Call) -> Value:
    return call.emit("unary", call["self"], kind="leaky_relu", slope=float(call["negative_slope"]))


def _gelu(call: Call) -> Value:
    if call["approximate"] != "none":
        raise call.refuse(f"approximate={call['approximate']}")
    return call.emit("unary", call["self"], kind="gelu")


def _silu(call: Call) -> Value:
    gate = call.emit("unary", call["self"], kind="sigmoid")
    return call.emit("binary", call["self"], gate, kind="mul")


def _common(call: Call, *names: str) -> torch.dtype:
    """Return the type in which torch computes with these arguments."""
    example = [
        call[name]
        if isinstance(call[name], bool | int | float)
        else torch.empty(call[name].shape, dtype=call[name].dtype, device="meta")
        for name in names
    ]
    return torch.result_type(*example)


def _binary(kind: str) -> Operator:
    def operator(call: Call) -> Value:
        one = call.out.dtype if kind == "div" else _common(call, "self", "other")
        left, right = (call.tensor(call[name], one) for name in ("self", "other"))
        if call.given.get("alpha", 1) != 1:
            factor = call.tensor(call["alpha"], one)
            right = call.recorder.emit("binary", [right, factor], right.shape, one, kind="mul")
        return call.emit("binary", left, right, kind=kind)

    return operator


def _logical(kind: str) -> Operator:
    def operator(call: Call) -> Value:
        left, right = (call.tensor(call[name], torch.bool) for name in ("self", "other"))
        return call.emit("binary", left, right, kind=kind)

    return operator


def _div(call: Call) -> Value:
    if call.given.get("rounding_mode") is not None:
        raise call.refuse(f"rounding_mode={call['rounding_mode']}")
    return _binary("div")(call)  # type: ignore[return-value]


def _power(call: Call) -> Value:
    if call["exponent"] != 2:
        raise call.refuse(f"exponent {call['exponent']}")
    return call.emit("binary", call["self"], call["self"], kind="mul")


def _clamp(low: str | None, high: str | None) -> Operator:
    def operator(call: Call) -> Value:
        value: Value = call["self"]
        for name, kind in ((low, "maximum"), (high, "minimum")):
            if name is not None and call[name] is not None:
                bound = call.tensor(call[name], call.out.dtype)
                value = call.emit("binary", value, bound, kind=kind)
        return value

    return operator


def _where(call: Call) -> Value:
    parts = (call.tensor(call[name], call.out.dtype) for name in ("self", "other"))
    return call.emit("where", call["condition"], *parts)


def _fused(call: Call) -> Value:
    """addcmul: self + value * tensor1 * tensor2."""
    product = call.emit("binary", call["tensor1"], call["tensor2"], kind="mul")
    if call["value"] != 1:
        factor = call.tensor(call["value"], call.out.dtype)
        product = call.emit("binary", product, factor, kind="mul")
    return call.emit("binary", call["self"], product, kind="add")


def _cast(call: Call) -> Value:
    return call.tensor(call["self"], call.out.dtype)


def _copied(call: Call) -> Value:
    return call.emit("expand", call.tensor(call["src"], call.out.dtype))


def _same(call: Call) -> Value:
    value: Value = call["self"]
    return value


def _laid_out_anew(call: Call) -> Value:
    if tuple(call.out.shape) != call["self"].shape:
        raise call.refuse("another shape")
    return _same(call)


def _bits(call: Call) -> Value:
    if call["dtype"].itemsize != call["self"].dtype.itemsize:
        raise call.refuse(f"dtype={call['dtype']}")
    return call.emit("bits", call["self"])


def _reduce(kind: str) -> Operator:
    def operator(call: Call) -> Value:
        value: Value = call["self"]
        if kind in ("sum", "mean", "any"):
            value = call.tensor(value, call.out.dtype)
        dims = call.given.get("dim")
        whole = range(len(value.shape))
        if dims is None or dims == []:
            dims = list(whole)
        listed = [dims] if isinstance(dims, int) else dims
        places = tuple(sorted(whole[dim] for dim in listed))
        return call.emit("reduce", value, kind=kind, dims=places)

    return operator


def _softmax(call: Call) -> Value:
    value, recorder = call.tensor(call["self"], call.out.dtype), call.recorder
    shape, dtype, dim = value.shape, value.dtype, range(len(value.shape))[call["dim"]]
    reduced = (*shape[:dim], 1, *shape[dim + 1 :])

    def over(kind: str, of: Value) -> Value:
        return recorder.emit("reduce", [of], reduced, dtype, kind=kind, dims=(dim,))

    shifted = call.emit("binary", value, over("max", value), kind="sub")
    powers = call.emit("unary", shifted, kind="exp")
    total = over("sum", powers)
    if "log" not in call.name:
        return call.emit("binary", powers, total, kind="div")
    return call.emit(
        "binary", shifted, recorder.emit("unary", [total], reduced, dtype, kind="log"), kind="sub"
    )


def _top(call: Call) -> Value:
    value = call["self"]
    if range(len(value.shape))[call["dim"]] != len(value.shape) - 1 or not call["largest"]:
        raise call.refuse("another dimension than the last, or the smallest")
    return call.emit("top", value, count=call["k"])


def _convolution(call: Call) -> Value:
    if call["transposed"] or len(call["input"].shape) != 4:
        raise call.refuse("transposed weights or other inputs than maps")
    settings = {name: tuple(call[name]) for name in ("stride", "padding", "dilation")}
    ins = [call["input"], call["weight"]] + ([] if call["bias"] is None else [call["bias"]])
    if any(part.constant is None for part in ins[1:]):
        raise call.refuse("weights that depend on the image")
    return call.emit("convolution", *ins, **settings, groups=call["groups"])


def _batch_norm(call: Call) -> Value:
    statistics = call["running_mean"], call["running_var"]
    if call.given.get("training") or None in statistics:
        raise call.refuse("statistics of the batch")
    mean, var = (statistic.constant.double() for statistic in statistics)
    scale = (var + call["eps"]).rsqrt()
    scale = scale * (1 if call["weight"] is None else call["weight"].constant.double())
    shift = (0 if call["bias"] is None else call["bias"].constant.double()) - mean * scale
    value: Value = call["input"]
    shape = (1, -1, *[1] * (len(value.shape) - 2))
    factor, summand = (
        call.recorder.constant(part.view(shape).to(value.dtype)) for part in (scale, shift)
    )
    product = call.emit("binary", value, factor, kind="mul")
    return call.emit("binary", product, summand, kind="add")


def _matrices(call: Call, left: Value, right: Value) -> Value:
    return call.emit("product", left, right)


def _addmm(call: Call) -> Value:
    if call["beta"] != 1 or call["alpha"] != 1:
        raise call.refuse("factors")
    product = _matrices(call, call["mat1"], call["mat2"])
    return call.emit("binary", product, call["self"], kind="add")


def _mm(call: Call) -> Value:
    return _matrices(call, call["self"], call["mat2"])


def _pool(kind: str) -> Operator:
    def operator(call: Call) -> Value:
        size = tuple(call["kernel_size"])
        stride = tuple(call["stride"]) or size
        if kind == "mean" and (call["ceil_mode"] or call["divisor_override"] is not None):
            raise call.refuse("ceil_mode or divisor_override")
        if kind == "mean" and max(call["padding"]) > 0:
            raise call.refuse("padding")
        if set(call.given.get("dilation", [1])) != {1}:
            raise call.refuse("dilation")
        size, stride, padding = ((*n, *n)[:2] for n in (size, stride, tuple(call["padding"])))
        return call.emit("pool", call["self"], kind=kind, size=size, stride=stride, padding=padding)

    return operator


def _adaptive_pool(call: Call) -> Value:
    sides, wanted = call["self"].shape[2:], tuple(call["output_size"])
    if any(side % fields for side, fields in zip(sides, wanted, strict=True)):
        raise call.refuse(f"fields of unequal sizes: {sides} to {wanted}")
    size = tuple(side // fields for side, fields in zip(sides, wanted, strict=True))
    return call.emit("pool", call["self"], kind="mean", size=size, stride=size, padding=(0, 0))


def _cat(call: Call) -> Value:
    parts = [part for part in call["tensors"] if part.shape != (0,)]
    cast = [call.tensor(part, call.out.dtype) for part in parts]
    return call.emit("cat", *cast, dim=range(len(call.out.shape))[call["dim"]])


def _stack(call: Call) -> Value:
    dim = range(len(call.out.shape))[call["dim"]]
    shape = (*call.out.shape[:dim], 1, *call.out.shape[dim + 1 :])
    emit, dtype = call.recorder.emit, call.out.dtype
    parts = [emit("reshape", [call.tensor(p, dtype)], shape, dtype) for p in call["tensors"]]
    return call.emit("cat", *parts, dim=dim)


def _pad(call: Call) -> Value:
    pairs = list(zip(call["pad"][::2], call["pad"][1::2], strict=True))[::-1]
    if min(call["pad"]) < 0:
        raise call.refuse("a negative padding")
    rest = len(call["self"].shape) - len(pairs)
    before = (*[0] * rest, *(low for low, _ in pairs))
    return call.emit("pad", call["self"], before=before, number=float(call["value"]))


def _reshape(call: Call) -> Value:
    return call.emit("reshape", call["self"])


def _expand(call: Call) -> Value:
    return call.emit("expand", call["self"])


def _permute(call: Call) -> Value:
    return call.emit("permute", call["self"], dims=tuple(call["dims"]))


def _transpose(call: Call) -> Value:
    dims = list(range(len(call.out.shape)))
    first, second = (dims[call.given.get(name, default)] for name, default in _TRANSPOSED)
    dims[first], dims[second] = second, first
    return call.emit("permute", call["self"], dims=tuple(dims))


_TRANSPOSED = (("dim0", 0), ("dim1", -1))


def _select(call: Call) -> Value:
    shape = call["self"].shape
    dim = range(len(shape))[call["dim"]]
    return call.emit("select", call["self"], dim=dim, index=range(shape[dim])[call["index"]])


def _slice(call: Call) -> Value:
    value = call["self"]
    dim = range(len(value.shape))[call["dim"]]
    start, _, step = slice(call["start"], call["end"], call["step"]).indices(value.shape[dim])
    return call.emit("slice", value, dim=dim, start=start, step=step)


def _parts(call: Call) -> list[Value]:
    value, found, start = call["self"], [], 0
    dim = range(len(value.shape))[call["dim"]]
    for part in call.out:
        ins, settings = [value], {"dim": dim, "start": start, "step": 1}
        found.append(call.recorder.emit("slice", ins, part.shape, part.dtype, **settings))
        start += part.shape[dim]
    return found


def _unbind(call: Call) -> list[Value]:
    value = call["self"]
    dim = range(len(value.shape))[call["dim"]]
    return [
        call.recorder.emit("select", [value], part.shape, part.dtype, dim=dim, index=index)
        for index, part in enumerate(call.out)
    ]


def _each(names: Sequence[str], operator: Operator) -> dict[str, Operator]:
    return dict.fromkeys(names, operator)


_UNARY = ("relu", "sigmoid", "tanh", "exp", "log", "neg", "abs", "sqrt", "rsqrt", "erf")
_BINARY = ("add", "sub", "mul", "maximum", "minimum", "lt", "le", "gt", "ge", "eq", "ne")
_BITWISE = {"and": "and", "or": "or", "xor": "xor", "left_shift": "shl", "right_shift": "shr"}
_DUNDER = {"__and__": "and", "__or__": "or", "__xor__": "xor", "__lshift__": "shl"}

OPERATORS: dict[str, Operator] = {
    **{name: _unary(name) for name in _UNARY},
    **{name: _binary(name) for name in _BINARY},
    **{f"bitwise_{name}": _binary(kind) for name, kind in _BITWISE.items()},
    **{name: _binary(kind) for name, kind in (_DUNDER | {"__rshift__": "shr"}).items()},
    **{f"logical_{name}": _logical(name) for name in ("and", "or", "xor")},
    **_each(("logical_not", "bitwise_not"), _unary("not")),
    "_to_copy": _cast,
    **_each(("clone", "contiguous", "detach", "alias", "lift_fresh", "lift_fresh_copy"), _same),
    **_each(("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "flatten"), _reshape),
    **_each(("t", "transpose"), _transpose),
    **_each(("native_batch_norm", "cudnn_batch_norm"), _batch_norm),
    **_each(("_native_batch_norm_legit_no_training", "_native_batch_norm_legit"), _batch_norm),
    **_each(("_softmax", "_log_softmax"), _softmax),
    **_each(("split", "split_with_sizes", "unsafe_split", "chunk", "unsafe_chunk"), _parts),
    **_each(("unsafe_split_with_sizes",), _parts),
    **{kind: _reduce(kind) for kind in ("sum", "mean", "any", "all")},
    **{"amax": _reduce("max"), "amin": _reduce("min"), "argmax": _reduce("argmax")},
    "div": _div,
    "pow": _power,
    "leaky_relu": _leaky,
    "gelu": _gelu,
    "silu": _silu,
    "clamp": _clamp("min", "max"),
    "clamp_min": _clamp("min", None),
    "clamp_max": _clamp(None, "max"),
    "hardtanh": _clamp("min_val", "max_val"),
    "where": _where,
    "addcmul": _fused,
    "copy": _copied,
    "as_strided": _laid_out_anew,
    "view_copy": _bits,
    "topk": _top,
    "convolution": _convolution,
    "addmm": _addmm,
    "mm": _mm,
    "bmm": _mm,
    "max_pool2d_with_indices": _pool("max"),
    "avg_pool2d": _pool("mean"),
    "_adaptive_avg_pool2d": _adaptive_pool,
    "cat": _cat,
    "stack": _stack,
    "constant_pad_nd": _pad,
    "expand": _expand,
    "permute": _permute,
    "select": _select,
    "slice": _slice,
    "unbind": _unbind,
}
