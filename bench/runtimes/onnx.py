"""onnxruntime: the program as an ONNX model with `If`, the very file that `bench export` writes.

Needs the packages of `skipbench[export]`. A branch decides for one image, so a network with
branches is called image by image; one without takes batches whole.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench.errors import Unsupported
from bench.networks.unit import DynamicNet
from bench.runtimes.contract import Run, Runtime
from bench.runtimes.eager import folded_copy
from bench.runtimes.instructions import Instruction, Program, Region, Value
from bench.runtimes.program import program_of

PACKAGES = ("onnx", "onnxruntime")
OUTPUTS = ["logits", "executed"]
_OPSET, _IR_VERSION = 20, 9
_OPSET_OF_BITS = 26  # the first with BitCast


class OnnxRuntime(Runtime):
    """onnxruntime's CPU provider."""

    name = "onnxruntime"
    summary = "onnxruntime on a CPU, decisions as If; needs skipbench[export]"

    def refuses(self, net: DynamicNet, device: torch.device, threads: int) -> str | None:
        missing = missing_packages()
        if missing:
            return f"{' and '.join(missing)} not installed (skipbench[export])"
        if device.type != "cpu":
            return f"the provider for a CPU is used, not for {device.type}"
        return None

    def prepare(self, net: DynamicNet, example_nchw: Tensor) -> Run:
        program = program_of(folded_copy(net, example_nchw), example_nchw)
        return OnnxSession(onnx_model(program).SerializeToString())


def missing_packages() -> list[str]:
    """Return which of the packages needed are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def has_branches(program: Program) -> bool:
    """Whether anything is decided."""
    return any(one.op == "branch" for one in program.code)


class OnnxSession:
    """A model from its bytes, ready to be called with any number of images."""

    work_bytes = None  # onnxruntime keeps what it once allocated, and does not say how much

    def __init__(self, data: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(data, options, providers=providers)
        self._nothing = [(torch.empty(0, one.shape[1]),) for one in self._session.get_outputs()]
        self._one_image = self._session.get_inputs()[0].shape[0] == 1

    def __call__(self, x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        if not self._one_image:
            return self._run(x_nchw)
        parts = [self._run(x_1chw) for x_1chw in torch.split(x_nchw, 1) if len(x_1chw)]
        logits, executed = zip(*parts, strict=True) if parts else self._nothing
        return torch.cat(logits), torch.cat(executed)

    def _run(self, x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        images = x_nchw.detach().contiguous().numpy()
        logits, executed = self._session.run(OUTPUTS, {"images": images})
        return torch.from_numpy(logits), torch.from_numpy(executed)


def onnx_model(program: Program) -> Any:
    """Return a program as an onnx.ModelProto, for one image, or without branches for any number.

    Raises:
        Unsupported: ONNX has no operator for one of its instructions.
    """
    return _Writer(program).model()


class _Writer:
    def __init__(self, program: Program) -> None:
        import onnx

        self.onnx, self.program = onnx, program
        self._batch = None if has_branches(program) else "batch"
        self._names: dict[int, str] = {id(program.image): "images"}
        self._numbers = itertools.count()
        self._initializers: list[Any] = []
        self._nodes: list[Any] = []  # of the graph, or of the side of a branch, that is written
        self._opset = _OPSET

    def model(self) -> Any:
        """Return the model, checked."""
        helper = self.onnx.helper
        image, ends = self.program.image, (self.program.logits, self.program.executed)
        self._write(self.program.code)
        for value, name in zip(ends, OUTPUTS, strict=True):
            if value.constant is None or self._batch is None:
                self._node("Identity", [self.name(value)], [name])
            else:
                self._for_all(value, name)
        graph = helper.make_graph(
            self._nodes,
            "network",
            [self._described("images", image)],
            [self._described(name, value) for value, name in zip(ends, OUTPUTS, strict=True)],
            self._initializers,
        )
        opsets = [helper.make_opsetid("", self._opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        self.onnx.checker.check_model(model)
        return model

    def _described(self, name: str, value: Value) -> Any:
        shape = [self._batch or 1, *value.shape[1:]]
        return self.onnx.helper.make_tensor_value_info(name, self._type(value.dtype), shape)

    def _for_all(self, value: Value, name: str) -> None:
        """A constant (1, ...), once for every image of a batch."""
        sizes, count, rest = self._fresh(), self._fresh(), self._ints(value.shape[1:])
        self._node("Shape", ["images"], [count], start=0, end=1)
        self._node("Concat", [count, rest], [sizes], axis=0)
        self._node("Expand", [self.name(value), sizes], [name])

    def name(self, value: Value) -> str:
        """Return what a value is called; constants become initializers."""
        if id(value) not in self._names:
            constant = value.constant
            self._names[id(value)] = self._fresh() if constant is None else self._constant(constant)
        return self._names[id(value)]

    def _constant(self, numbers: Tensor) -> str:
        name, array = self._fresh(), numbers.detach().cpu().contiguous().numpy()
        self._initializers.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def _ints(self, numbers: Sequence[int]) -> str:
        return self._constant(torch.tensor(list(numbers), dtype=torch.int64))

    def _fresh(self) -> str:
        return f"v{next(self._numbers)}"

    def _type(self, dtype: torch.dtype) -> int:
        return int(
            self.onnx.helper.np_dtype_to_tensor_dtype(torch.empty(0, dtype=dtype).numpy().dtype)
        )

    def _node(self, op: str, ins: Sequence[str], outs: Sequence[str], **settings: Any) -> None:
        self._nodes.append(self.onnx.helper.make_node(op, list(ins), list(outs), **settings))

    def _write(self, code: Sequence[Instruction]) -> None:
        for one in code:
            ins = [self.name(value) for value in one.ins]
            write = getattr(self, f"_{one.op}", None)
            if write is None:
                raise Unsupported(f"ONNX has no operator for {one.op}")
            write(one, ins, [self.name(out) for out in one.outs])

    def _branch(self, one: Instruction, ins: list[str], outs: list[str]) -> None:
        if one.ins[0].shape != (1,):
            raise Unsupported("ONNX has no branch for some positions of a map")
        then, otherwise = (self._side(side) for side in one.regions)
        self._node("If", ins, outs, then_branch=then, else_branch=otherwise)

    def _side(self, side: Region) -> Any:
        before, self._nodes = self._nodes, []
        self._write(side.code)
        outs = [self._described(self._fresh(), value) for value in side.outs]
        for value, out in zip(side.outs, outs, strict=True):
            self._node("Identity", [self.name(value)], [out.name])
        nodes, self._nodes = self._nodes, before
        return self.onnx.helper.make_graph(nodes, self._fresh(), [], outs)

    def _convolution(self, one: Instruction, ins: list[str], outs: list[str]) -> None:
        settings = one.settings
        pads = [*settings["padding"], *settings["padding"]]
        sizes = {"strides": settings["stride"], "dilations": settings["dilation"]}
        self._node("Conv", ins, outs, pads=pads, group=settings["groups"], **sizes)

    def _product(self, _: Instruction, ins: list[str], outs: list[str]) -> None:
        self._node("MatMul", ins, outs)

    def _where(self, _: Instruction, ins: list[str], outs: list[str]) -> None:
        self._node("Where", ins, outs)

    def _cast(self, one: Instruction, ins: list[str], outs: list[str]) -> None:
        self._node("Cast", ins, outs, to=self._type(one.outs[0].dtype))

    def _top(self, one: Instruction, ins: list[str], outs: list[str]) -> None:
        self._node("TopK", [*ins, self._ints([one.settings["count"]])], [*outs, self._fresh()])

    def _cat(self, one: Instruction, ins: list[str], outs: list[str]) -> None:
        for n, value in enumerate(one.ins):
            if value.constant is not None and self._batch is not None:
                ins[n] = self._fresh()
                self._for_all(value, ins[n])
        self._node("Concat", ins, outs, axis=one.settings["dim"])

    def _unary(self, one: Instruction, ins: list[str], outs: list[str]) -> None:
        kind = one.settings["kind"]
        if kind == "rsqrt":
            root = self._fresh()
            self._node("Sqrt", ins, [root])
            self._node("Reciprocal", [root], outs)
        elif kind == "not" and one.ins[0].dtype != torch.bool:
            self._node("BitwiseNot", ins, outs)
        else:
            slope = {"alpha": one.settings["slope"]} if kind == "leaky_relu" else {}
            self._node(_UNARY.get(kind, kind.title()), ins, outs, **slope)

    def _binary(self, one: Instruction, ins: list[str], outs: list[str]) -> None:
        kind = one.settings["kind"]
        if kind in ("shl", "shr"):
            self._shift(one, kind, ins, outs)
        elif kind == "ne":
            equal = self._fresh()
            self._node("Equal", ins, [equal])
            self._node("Not", [equal], outs)
        elif kind in ("and", "or", "xor") and one.ins[0].dtype != torch.bool:
            self._node(f"Bitwise{kind.title()}", ins, outs)
        else:
            self._node(_BINARY.get(kind, kind.title()), ins, outs)

    def _shift(self, one: Instruction, kind: str, ins: list[str], outs: list[str]) -> None:
        """ONNX shifts no signed numbers: products and quotients of powers of 2, of what is not
        negative: all bits are turned over where a number is, and once more behind."""
        by = one.ins[1].constant
        if by is None or by.numel() != 1 or one.ins[0].dtype != torch.int64:
            raise Unsupported("ONNX has no shift of these numbers")
        power, zero, ones = (self._ints([number]) for number in (1 << int(by), 0, -1))
        if kind == "shl":
            self._node("Mul", [ins[0], power], outs)
            return
        below, turned, before, after = (self._fresh() for _ in range(4))
        self._node("Less", [ins[0], zero], [below])
        self._node("Where", [below, ones, zero], [turned])
        self._node("BitwiseXor", [ins[0], turned], [before])
        self._node("Div", [before, power], [after])
        self._node("BitwiseXor", [after, turned], outs)

    def _reduce(self, one: Instruction, ins: list[str], outs: list[str]) -> None:
        kind, dims = one.settings["kind"], one.settings["dims"]
        keep = int(len(one.outs[0].shape) == len(one.ins[0].shape))
        if kind == "argmax":
            if len(dims) != 1:
                raise Unsupported("ONNX has no ArgMax over several dimensions")
            self._node("ArgMax", ins, outs, axis=dims[0], keepdims=keep)
        elif kind in ("any", "all"):
            number, found = self._fresh(), self._fresh()
            op = "ReduceMax" if kind == "any" else "ReduceMin"
            self._node("Cast", ins, [number], to=self._type(torch.int32))
            self._node(op, [number, self._ints(dims)], [found], keepdims=keep)
            self._node("Cast", [found], outs, to=self._type(torch.bool))
        elif kind == "sum" and one.outs[0].dtype == torch.int64:
            # A product with ones: onnxruntime's sum of integers does not wrap around as torch's.
            if tuple(dims) != (len(one.ins[0].shape) - 1,):
                raise Unsupported("ONNX has no exact sum of integers but over the last dimension")
            count = one.ins[0].shape[-1]
            ones = torch.ones((count, 1) if keep else count, dtype=torch.int64)
            self._node("MatMul", [*ins, self._constant(ones)], outs)
        else:
            self._node(f"Reduce{kind.title()}", [*ins, self._ints(dims)], outs, keepdims=keep)

    def _pool(self, one: Instruction, ins: list[str], outs: list[str]) -> None:
        size, stride, padding = (one.settings[name] for name in ("size", "stride", "padding"))
        # Pads behind as far as the last window reaches: torch may round up.
        sides = zip(one.ins[0].shape[2:], one.outs[0].shape[2:], size, stride, padding, strict=True)
        behind = [max(0, (o - 1) * s + k - p - n) for n, o, k, s, p in sides]
        op = "MaxPool" if one.settings["kind"] == "max" else "AveragePool"
        self._node(op, ins, outs, kernel_shape=size, strides=stride, pads=[*padding, *behind])

    def _pad(self, one: Instruction, ins: list[str], outs: list[str]) -> None:
        before = one.settings["before"]
        shapes = zip(one.outs[0].shape, one.ins[0].shape, before, strict=True)
        pads = self._ints([*before, *(out - given - low for out, given, low in shapes)])
        number = torch.tensor(one.settings["number"], dtype=one.ins[0].dtype)
        self._node("Pad", [*ins, pads, self._constant(number)], outs)

    def _bits(self, one: Instruction, ins: list[str], outs: list[str]) -> None:
        self._opset = _OPSET_OF_BITS
        self._node("BitCast", ins, outs, to=self._type(one.outs[0].dtype))

    def _select(self, one: Instruction, ins: list[str], outs: list[str]) -> None:
        index = self._constant(torch.tensor(one.settings["index"]))
        self._node("Gather", [*ins, index], outs, axis=one.settings["dim"])

    def _slice(self, one: Instruction, ins: list[str], outs: list[str]) -> None:
        dim, start, step = (one.settings[name] for name in ("dim", "start", "step"))
        end = start + (one.outs[0].shape[dim] - 1) * step + 1
        where = [self._ints([number]) for number in (start, end, dim, step)]
        self._node("Slice", [*ins, *where], outs)

    def _permute(self, one: Instruction, ins: list[str], outs: list[str]) -> None:
        self._node("Transpose", ins, outs, perm=one.settings["dims"])

    def _expand(self, one: Instruction, ins: list[str], outs: list[str]) -> None:
        self._node("Expand", [*ins, self._ints(one.outs[0].shape)], outs)

    def _reshape(self, one: Instruction, ins: list[str], outs: list[str]) -> None:
        # The batch is in the first dimension, alone or with heads of attention.
        shape = one.outs[0].shape
        first = shape[:1] if self._batch is None else (-1,)
        self._node("Reshape", [*ins, self._ints([*first, *shape[1:]])], outs)


_UNARY = {"relu": "Relu", "leaky_relu": "LeakyRelu"}
_BINARY = {
    **{"maximum": "Max", "minimum": "Min", "lt": "Less", "le": "LessOrEqual", "gt": "Greater"},
    **{"ge": "GreaterOrEqual", "eq": "Equal"},
}
