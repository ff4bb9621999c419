"""Which of torch's operators have instructions, and which.

The instructions, on tensors of one image: `convolution` (bias, stride, padding, dilation, groups),
`product` of matrices, `unary`, `binary`, `where`, `cast`, `reduce`, `pool`, `top`, `cat`, `pad`,
`bits` (the same bits in another type) and views: `select`, `slice`, `reshape`, `permute`, `expand`.
Whatever else there is, softmax or a layer norm, torch decomposes into operators that are here, its
own primitive ones (`prims::`) included; a few are decomposed here, into fewer instructions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bench.errors import Unsupported
from bench.runtimes.instructions import InstructionWriter, Value

# They read the shape of a tensor and none of its numbers.
CONSTANT = {
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"),
    *("zeros_like", "ones_like", "full_like", "empty_like"),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One operator that was called: what writes it down, its first argument as it was given, all by
    name as values, and what torch returned."""

    writer: InstructionWriter
    name: str
    first: Any
    given: dict[str, Any]
    out: Any

    def __getitem__(self, name: str) -> Any:
        return self.given[name]

    def tensor(self, of: Any, dtype: torch.dtype) -> Value:
        """Return an argument, which may be a number, as a value of this type."""
        if isinstance(of, bool | int | float):
            return self.writer.constant(torch.tensor(of, dtype=dtype))
        return self.writer.cast(of, dtype)

    def emit(self, op: str, *ins: Value, **settings: Any) -> Value:
        """Add an instruction whose output is that of the operator."""
        out = self.out[0] if isinstance(self.out, list | tuple) else self.out
        return self.writer.emit(op, ins, out.shape, out.dtype, **settings)

    def dim(self, name: str = "dim") -> int:
        """Return a dimension of the first tensor, counted from the front."""
        rank, dim = len(self.given[next(iter(self.given))].shape), int(self.given[name])
        return dim % rank

    def refuse(self, why: str) -> Unsupported:
        return Unsupported(f"no instruction for the operator {self.name} with {why}")


Operator = Callable[[Call], Value | list[Value]]


def _unary(kind: str) -> Operator:
    return lambda call: call.emit("unary", call.tensor(call["self"], call.out.dtype), kind=kind)


def _as_is(op: str, **settings: Any) -> Operator:
    return lambda call: call.emit(op, call["self"], **settings)


def _leaky(call: Call) -> Value:
    return call.emit("unary", call["self"], kind="leaky_relu", slope=float(call["negative_slope"]))


def _gelu(call: Call) -> Value:
    if call["approximate"] != "none":
        raise call.refuse(f"approximate={call['approximate']}")
    return call.emit("unary", call["self"], kind="gelu")


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
            right = call.writer.emit("binary", [right, factor], right.shape, one, kind="mul")
        return call.emit("binary", left, right, kind=kind)

    return operator


def _logical(kind: str) -> Operator:
    return lambda call: call.emit(
        "binary", *(call.tensor(call[name], torch.bool) for name in ("self", "other")), kind=kind
    )


def _div(call: Call) -> Value:
    if call.given.get("rounding_mode") is not None:
        raise call.refuse(f"rounding_mode={call['rounding_mode']}")
    return _binary("div")(call)  # type: ignore[return-value]


def _power(call: Call) -> Value:
    value, exponent = call["self"], call["exponent"]
    if exponent in (0.5, -0.5):
        return call.emit("unary", value, kind="sqrt" if exponent > 0 else "rsqrt")
    if exponent not in (2, 3):
        raise call.refuse(f"exponent {exponent}")
    square = call.emit("binary", value, value, kind="mul")
    return square if exponent == 2 else call.emit("binary", square, value, kind="mul")


def _log1p(call: Call) -> Value:
    total = call.emit("binary", call["self"], call.tensor(1, call.out.dtype), kind="add")
    return call.emit("unary", total, kind="log")


def _expm1(call: Call) -> Value:
    power = call.emit("unary", call["self"], kind="exp")
    return call.emit("binary", power, call.tensor(1, call.out.dtype), kind="sub")


def _broadcast(call: Call) -> Value:
    value, shape = call["a"], [1] * len(call["shape"])
    for size, dim in zip(value.shape, call["broadcast_dimensions"], strict=True):
        shape[dim] = size
    return call.emit("expand", call.writer.emit("reshape", [value], shape, value.dtype))


def _variance(call: Call) -> Value:
    value, emit = call["inp"], call.writer.emit
    shape, dtype, dims = value.shape, value.dtype, tuple(sorted(call["dims"]))
    kept = tuple(1 if dim in dims else size for dim, size in enumerate(shape))
    mean = emit("reduce", [value], kept, dtype, kind="mean", dims=dims)
    apart = emit("binary", [value, mean], shape, dtype, kind="sub")
    squares = emit("binary", [apart, apart], shape, dtype, kind="mul")
    total = call.emit("reduce", squares, kind="sum", dims=dims)
    count = math.prod(shape[dim] for dim in dims) - call["correction"]
    return call.emit("binary", total, call.tensor(count, dtype), kind="div")


def _clamp(call: Call) -> Value:
    value: Value = call["self"]
    for name, kind in (("min", "maximum"), ("max", "minimum")):
        if call.given.get(name) is not None:
            bound = call.tensor(call[name], call.out.dtype)
            value = call.emit("binary", value, bound, kind=kind)
    return value


def _where(call: Call) -> Value:
    parts = (call.tensor(call[name], call.out.dtype) for name in ("self", "other"))
    return call.emit("where", call["condition"], *parts)


def _same(call: Call) -> Value:
    value: Value = call["self"]
    return value


def _as_strided(call: Call) -> Value:
    pair = call.first, call.out
    if tuple(call.out.shape) == call["self"].shape and torch.equal(*pair):  # laid out anew
        return _same(call)
    whole = pair[0].numel() == pair[1].numel() and all(x.is_contiguous() for x in pair)
    if not whole or pair[0].data_ptr() != pair[1].data_ptr():
        raise call.refuse("another shape")
    return call.emit("reshape", call["self"])


def _bits(call: Call) -> Value:
    if call["dtype"].itemsize != call["self"].dtype.itemsize:
        raise call.refuse(f"dtype={call['dtype']}")
    return call.emit("bits", call["self"])


def _reduce(kind: str, reduced: str = "self", over: str = "dim") -> Operator:
    """`reduced` and `over` are the names of the tensor and of the dimensions."""

    def operator(call: Call) -> Value:
        value: Value = call[reduced]
        if kind in ("sum", "mean", "any", "prod"):
            value = call.tensor(value, call.out.dtype)
        dims, whole = call.given.get(over), range(len(value.shape))
        if dims is None or dims == []:
            dims = whole
        listed = [dims] if isinstance(dims, int) else dims
        places = tuple(sorted(whole[dim] for dim in listed))
        return call.emit("reduce", value, kind=kind, dims=places)

    return operator


def _top(call: Call) -> Value:
    if call.dim() != len(call["self"].shape) - 1 or not call["largest"]:
        raise call.refuse("another dimension than the last, or the smallest")
    return call.emit("top", call["self"], count=call["k"])


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
        call.writer.constant(part.view(shape).to(value.dtype)) for part in (scale, shift)
    )
    product = call.emit("binary", value, factor, kind="mul")
    return call.emit("binary", product, summand, kind="add")


def _addmm(call: Call) -> Value:
    if call["beta"] != 1 or call["alpha"] != 1:
        raise call.refuse("factors")
    product = call.emit("product", call["mat1"], call["mat2"])
    return call.emit("binary", product, call["self"], kind="add")


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
    parts = [part for part in call["tensors"] if 0 not in part.shape]
    cast = [call.tensor(part, call.out.dtype) for part in parts]
    return call.emit("cat", *cast, dim=range(len(call.out.shape))[call["dim"]])


def _pad(call: Call) -> Value:
    pairs = list(zip(call["pad"][::2], call["pad"][1::2], strict=True))[::-1]
    if min(call["pad"]) < 0:
        raise call.refuse("a negative padding")
    rest = len(call["self"].shape) - len(pairs)
    before = (*[0] * rest, *(low for low, _ in pairs))
    return call.emit("pad", call["self"], before=before, number=float(call["value"]))


def _transpose(call: Call) -> Value:
    dims = list(range(len(call.out.shape)))
    first, second = call.given.get("dim0", 0), call.given.get("dim1", -1)
    dims[first], dims[second] = dims[second], dims[first]
    return call.emit("permute", call["self"], dims=tuple(dims))


def _select(call: Call) -> Value:
    index = range(call["self"].shape[call.dim()])[call["index"]]
    return call.emit("select", call["self"], dim=call.dim(), index=index)


def _slice(call: Call) -> Value:
    value, dim = call["self"], call.dim()
    start, _, step = slice(call["start"], call["end"], call["step"]).indices(value.shape[dim])
    return call.emit("slice", value, dim=dim, start=start, step=step)


def _parts(call: Call) -> list[Value]:
    ins, dim, found, start = [call["self"]], call.dim(), [], 0
    for part in call.out:
        where = {"dim": dim, "start": start, "step": 1}
        found.append(call.writer.emit("slice", ins, part.shape, part.dtype, **where))
        start += part.shape[dim]
    return found


def _unbind(call: Call) -> list[Value]:
    ins, dim, emit = [call["self"]], call.dim(), call.writer.emit
    return [
        emit("select", ins, part.shape, part.dtype, dim=dim, index=n)
        for n, part in enumerate(call.out)
    ]


_UNARY = ("relu", "sigmoid", "tanh", "exp", "log", "neg", "abs", "sqrt", "rsqrt", "erf", "floor")
_BINARY = ("add", "sub", "mul", "maximum", "minimum", "lt", "le", "gt", "ge", "eq", "ne")
_BITWISE = {"and": "and", "or": "or", "xor": "xor", "left_shift": "shl", "right_shift": "shr"}
_NORMS = (
    *("native_batch_norm", "cudnn_batch_norm"),
    *("_native_batch_norm_legit_no_training", "_native_batch_norm_legit"),
)
_SPLITS = (
    *("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"),
    *("chunk", "unsafe_chunk"),
)
_RESHAPING = ("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "flatten")
_DUNDER = {"__and__": "and", "__or__": "or", "__xor__": "xor", "__lshift__": "shl"}

OPERATORS: dict[str, Operator] = {
    **{name: _unary(name) for name in _UNARY},
    **{name: _binary(name) for name in _BINARY},
    **{f"bitwise_{name}": _binary(kind) for name, kind in _BITWISE.items()},
    **{name: _binary(kind) for name, kind in (_DUNDER | {"__rshift__": "shr"}).items()},
    **{f"logical_{name}": _logical(name) for name in ("and", "or", "xor")},
    **dict.fromkeys(("logical_not", "bitwise_not"), _unary("not")),
    "_to_copy": lambda call: call.tensor(call["self"], call.out.dtype),
    "prims::convert_element_type": lambda call: call.tensor(call["a"], call.out.dtype),
    "prims::broadcast_in_dim": _broadcast,
    "prims::log1p": _log1p,
    "prims::expm1": _expm1,
    "prims::var": _variance,
    "prims::sum": _reduce("sum", "inp", "dims"),
    "prims::prod": _reduce("prod", "inp", "dims"),
    **dict.fromkeys(
        ("clone", "contiguous", "detach", "alias", "lift_fresh", "lift_fresh_copy"), _same
    ),
    **dict.fromkeys(_RESHAPING, _as_is("reshape")),
    **dict.fromkeys(("t", "transpose"), _transpose),
    **dict.fromkeys(_NORMS, _batch_norm),
    **dict.fromkeys(_SPLITS, _parts),
    **{kind: _reduce(kind) for kind in ("sum", "mean", "any", "all", "prod")},
    **{"amax": _reduce("max"), "amin": _reduce("min"), "argmax": _reduce("argmax")},
    "div": _div,
    "pow": _power,
    "leaky_relu": _leaky,
    "gelu": _gelu,
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), _clamp),
    "where": _where,
    "copy": lambda call: call.emit("expand", call.tensor(call["src"], call.out.dtype)),
    "as_strided": _as_strided,
    "view_copy": _bits,
    "topk": _top,
    "convolution": _convolution,
    "addmm": _addmm,
    **dict.fromkeys(("mm", "bmm"), lambda call: call.emit("product", call["self"], call["mat2"])),
    "max_pool2d_with_indices": _pool("max"),
    "avg_pool2d": _pool("mean"),
    "_adaptive_avg_pool2d": _adaptive_pool,
    "cat": _cat,
    "constant_pad_nd": _pad,
    "expand": _as_is("expand"),
    "permute": lambda call: call.emit("permute", call["self"], dims=tuple(call["dims"])),
    "select": _select,
    "slice": _slice,
    "unbind": _unbind,
}
