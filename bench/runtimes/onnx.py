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
        self._opset = _OPSET

    def model(self) -> Any:
        """Return the model, checked."""
        helper = self.onnx.helper
        image, ends = self.program.image, (self.program.logits, self.program.executed)
        nodes = self._nodes(self.program.code)
        for value, name in zip(ends, OUTPUTS, strict=True):
            nodes += self._end(value, name)
        graph = helper.make_graph(
            nodes,
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

    def _end(self, value: Value, name: str) -> list[Any]:
        if value.constant is None or self._batch is None:
            return [self._node("Identity", [self.name(value)], [name])]
        return self._for_all(value, name)

    def _for_all(self, value: Value, name: str) -> list[Any]:
        """A constant (1, ...), once for every image of a batch."""
        sizes, count, rest = self._fresh(), self._fresh(), self._ints(value.shape[1:])
        return [
            self._node("Shape", ["images"], [count], start=0, end=1),
            self._node("Concat", [count, rest], [sizes], axis=0),
            self._node("Expand", [self.name(value), sizes], [name]),
        ]

    def _cat(self, one: Instruction, ins: list[str], outs: list[str]) -> list[Any]:
        nodes: list[Any] = []
        for n, value in enumerate(one.ins):
            if value.constant is not None and self._batch is not None:
                ins[n] = self._fresh()
                nodes += self._for_all(value, ins[n])
        return [*nodes, self._node("Concat", ins, outs, axis=one.settings["dim"])]

    def name(self, value: Value) -> str:
        """Return what a value is called; constants become initializers."""
        if id(value) not in self._names:
            self._names[id(value)] = self._fresh()
            if value.constant is not None:
                self._initializer(self._names[id(value)], value.constant)
        return self._names[id(value)]

    def _initializer(self, name: str, numbers: Tensor) -> None:
        array = numbers.detach().cpu().contiguous().numpy()
        self._initializers.append(self.onnx.numpy_helper.from_array(array, name))

    def _ints(self, numbers: Sequence[int]) -> str:
        name = self._fresh()
        self._initializer(name, torch.tensor(list(numbers), dtype=torch.int64))
        return name

    def _fresh(self) -> str:
        return f"v{next(self._numbers)}"

    def _type(self, dtype: torch.dtype) -> int:
        return int(
            self.onnx.helper.np_dtype_to_tensor_dtype(torch.empty(0, dtype=dtype).numpy().dtype)
        )

    def _node(self, op: str, ins: Sequence[str], outs: Sequence[str], **settings: Any) -> Any:
        return self.onnx.helper.make_node(op, list(ins), list(outs), **settings)

    def _nodes(self, code: Sequence[Instruction]) -> list[Any]:
        return [node for one in code for node in self._nodes_of(one)]

    def _nodes_of(self, one: Instruction) -> list[Any]:
        ins, outs = [self.name(value) for value in one.ins], [self.name(out) for out in one.outs]
        kind, settings = one.settings.get("kind", ""), one.settings
        if one.op in ("unary", "binary", "reduce", "pool"):
            return getattr(self, f"_{one.op}")(one, kind, ins, outs)  # type: ignore[no-any-return]
        match one.op:
            case "branch":
                if one.ins[0].shape != (1,):
                    raise Unsupported("ONNX has no branch for some positions of a map")
                then, otherwise = (self._side(side) for side in one.regions)
                return [self._node("If", ins, outs, then_branch=then, else_branch=otherwise)]
            case "convolution":
                pads = [*settings["padding"], *settings["padding"]]
                sizes = {"strides": settings["stride"], "dilations": settings["dilation"]}
                return [self._node("Conv", ins, outs, pads=pads, group=settings["groups"], **sizes)]
            case "product":
                return [self._node("MatMul", ins, outs)]
            case "where":
                return [self._node("Where", ins, outs)]
            case "cast":
                return [self._node("Cast", ins, outs, to=self._type(one.outs[0].dtype))]
            case "cat":
                return self._cat(one, ins, outs)
            case "top":
                count = self._ints([settings["count"]])
                return [self._node("TopK", [*ins, count], [*outs, self._fresh()])]
            case "pad":
                return self._pad(one, ins, outs)
        return self._view(one, ins, outs)

    def _side(self, side: Region) -> Any:
        nodes = self._nodes(side.code)
        outs: list[Any] = []
        for value in side.outs:
            outs.append(self._described(self._fresh(), value))
            nodes.append(self._node("Identity", [self.name(value)], [outs[-1].name]))
        return self.onnx.helper.make_graph(nodes, self._fresh(), [], outs)

    def _unary(self, one: Instruction, kind: str, ins: list[str], outs: list[str]) -> list[Any]:
        if kind == "rsqrt":
            root = self._fresh()
            return [self._node("Sqrt", ins, [root]), self._node("Reciprocal", [root], outs)]
        if kind == "not" and one.ins[0].dtype != torch.bool:
            return [self._node("BitwiseNot", ins, outs)]
        slope = {"alpha": one.settings["slope"]} if kind == "leaky_relu" else {}
        return [self._node(_UNARY.get(kind, kind.title()), ins, outs, **slope)]

    def _binary(self, one: Instruction, kind: str, ins: list[str], outs: list[str]) -> list[Any]:
        whole = one.ins[0].dtype != torch.bool and kind in ("and", "or", "xor")
        if kind in ("shl", "shr"):
            return self._shift(one, kind, ins, outs)
        op = f"Bitwise{kind.title()}" if whole else _BINARY.get(kind, kind.title())
        if kind != "ne":
            return [self._node(op, ins, outs)]
        equal = self._fresh()
        return [self._node("Equal", ins, [equal]), self._node("Not", [equal], outs)]

    def _shift(self, one: Instruction, kind: str, ins: list[str], outs: list[str]) -> list[Any]:
        """ONNX shifts no signed numbers: products and quotients of powers of 2, of what is not
        negative: all bits are turned over where a number is, and once more behind."""
        by = one.ins[1].constant
        if by is None or by.numel() != 1 or one.ins[0].dtype != torch.int64:
            raise Unsupported("ONNX has no shift of these numbers")
        power, zero, ones = (self._ints([number]) for number in (1 << int(by), 0, -1))
        if kind == "shl":
            return [self._node("Mul", [ins[0], power], outs)]
        below, turned, before, after = (self._fresh() for _ in range(4))
        return [
            self._node("Less", [ins[0], zero], [below]),
            self._node("Where", [below, ones, zero], [turned]),
            self._node("BitwiseXor", [ins[0], turned], [before]),
            self._node("Div", [before, power], [after]),
            self._node("BitwiseXor", [after, turned], outs),
        ]

    def _reduce(self, one: Instruction, kind: str, ins: list[str], outs: list[str]) -> list[Any]:
        dims, keep = one.settings["dims"], int(len(one.outs[0].shape) == len(one.ins[0].shape))
        if kind == "argmax":
            if len(dims) != 1:
                raise Unsupported("ONNX has no ArgMax over several dimensions")
            return [self._node("ArgMax", ins, outs, axis=dims[0], keepdims=keep)]
        if kind in ("any", "all"):
            number, found = self._fresh(), self._fresh()
            op = "ReduceMax" if kind == "any" else "ReduceMin"
            to_int = self._node("Cast", ins, [number], to=self._type(torch.int32))
            reduced = self._node(op, [number, self._ints(dims)], [found], keepdims=keep)
            return [to_int, reduced, self._node("Cast", [found], outs, to=self._type(torch.bool))]
        if kind == "sum" and one.outs[0].dtype == torch.int64:
            return self._whole_sum(one, dims, keep, ins, outs)
        return [self._node(f"Reduce{kind.title()}", [*ins, self._ints(dims)], outs, keepdims=keep)]

    def _whole_sum(
        self, one: Instruction, dims: Sequence[int], keep: int, ins: list[str], outs: list[str]
    ) -> list[Any]:
        """A product with ones: onnxruntime's sum of integers does not wrap around as torch's."""
        last = len(one.ins[0].shape) - 1
        if tuple(dims) != (last,):
            raise Unsupported("ONNX has no exact sum of integers but over the last dimension")
        ones = self._fresh()
        count = one.ins[0].shape[-1]
        self._initializer(ones, torch.ones((count, 1) if keep else count, dtype=torch.int64))
        return [self._node("MatMul", [*ins, ones], outs)]

    def _pool(self, one: Instruction, kind: str, ins: list[str], outs: list[str]) -> list[Any]:
        size, stride, padding = (one.settings[name] for name in ("size", "stride", "padding"))
        # Pads behind as far as the last window reaches: torch may round up.
        sides = zip(one.ins[0].shape[2:], one.outs[0].shape[2:], size, stride, padding, strict=True)
        behind = [max(0, (o - 1) * s + k - p - n) for n, o, k, s, p in sides]
        op = "MaxPool" if kind == "max" else "AveragePool"
        sizes = {"kernel_shape": size, "strides": stride, "pads": [*padding, *behind]}
        return [self._node(op, ins, outs, **sizes)]

    def _pad(self, one: Instruction, ins: list[str], outs: list[str]) -> list[Any]:
        before = one.settings["before"]
        shapes = zip(one.outs[0].shape, one.ins[0].shape, before, strict=True)
        pads = self._ints([*before, *(out - given - low for out, given, low in shapes)])
        number = self._fresh()
        self._initializer(number, torch.tensor(one.settings["number"], dtype=one.ins[0].dtype))
        return [self._node("Pad", [*ins, pads, number], outs)]

    def _view(self, one: Instruction, ins: list[str], outs: list[str]) -> list[Any]:
        settings, shape = one.settings, one.outs[0].shape
        match one.op:
            case "bits":
                self._opset = _OPSET_OF_BITS
                return [self._node("BitCast", ins, outs, to=self._type(one.outs[0].dtype))]
            case "select":
                index = self._fresh()
                self._initializer(index, torch.tensor(settings["index"]))
                return [self._node("Gather", [*ins, index], outs, axis=settings["dim"])]
            case "slice":
                dim, start, step = settings["dim"], settings["start"], settings["step"]
                end = start + (shape[dim] - 1) * step + 1
                where = [self._ints([number]) for number in (start, end, dim, step)]
                return [self._node("Slice", [*ins, *where], outs)]
            case "permute":
                return [self._node("Transpose", ins, outs, perm=settings["dims"])]
            case "expand":
                return [self._node("Expand", [*ins, self._ints(shape)], outs)]
            case "reshape":
                # The batch is in the first dimension, alone or with heads of attention.
                first = list(shape[:1]) if self._batch is None else [-1]
                return [self._node("Reshape", [*ins, self._ints([*first, *shape[1:]])], outs)]
        raise Unsupported(f"ONNX has no operator for {one.op}")


_UNARY = {"relu": "Relu", "leaky_relu": "LeakyRelu"}
_BINARY = {
    **{"maximum": "Max", "minimum": "Min", "lt": "Less", "le": "LessOrEqual", "gt": "Greater"},
    **{"ge": "GreaterOrEqual", "eq": "Equal"},
}
