"""Operators of our own: the same numbers as torch's, compiled once, and done without elsewhere."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import gated_nets
import halting_nets
import pytest
import torch
from kernel_ways import allow
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from bench.networks import native
from bench.networks.execution import GateOutput, GateResidual, Merge
from bench.networks.folding import fold_batch_norms
from bench.networks.gated import GatedResNet
from bench.networks.inference import fast_copy, graph_of
from bench.networks.native_parts import NativeBlock, NativeHead, NativeStem, use_native_parts
from bench.networks.resnet import Block, Head, Shortcut, Stem
from bench.networks.unit import DynamicNet

SIDES = [(32, 32), (8, 8), (7, 9), (5, 4), (1, 3)]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def operators(monkeypatch: pytest.MonkeyPatch) -> None:
    allow("operators", monkeypatch)


def folded(module: nn.Module, x_nchw: Tensor) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
            nn.init.normal_(part.running_mean, std=0.3)  # type: ignore[arg-type]
    fold_batch_norms(module, x_nchw)
    return module.requires_grad_(False)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("c_in,c_out", [(16, 16), (32, 32), (64, 64), (16, 32), (32, 64)])
def test_a_block_gives_what_torch_gives(
    c_in: int, c_out: int, shortcut: Shortcut, sides: tuple[int, int]
) -> None:
    x = torch.randn(3, c_in, *sides).relu()
    stride = 1 if c_in == c_out else 2
    block = folded(Block(c_in, c_out, stride=stride, shortcut=shortcut), x)
    assert isinstance(block, Block)
    own = NativeBlock(block)
    for given in (x, x.contiguous(memory_format=torch.channels_last), x.double().float()):
        torch.testing.assert_close(own(given), block(x), **CLOSE)
    assert own(x[:0]).shape == block(x[:0]).shape


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("channels", [1, 3])
def test_stem_and_head_give_what_torch_gives(channels: int, sides: tuple[int, int]) -> None:
    x = torch.randn(4, channels, *sides)
    stem, head = folded(Stem(channels), x), Head(10).requires_grad_(False)
    assert isinstance(stem, Stem)
    torch.testing.assert_close(NativeStem(stem)(x), stem(x), **CLOSE)
    states = torch.randn(4, 64, *sides)
    torch.testing.assert_close(NativeHead(head)(states), head(states), **CLOSE)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("sides", SIDES)
def test_policies_made_of_common_layers_run_as_operators(sides: tuple[int, int]) -> None:
    x = torch.randn(4, 16, *sides)
    layers = nn.Sequential(
        nn.Conv2d(16, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 8, 1),  # not one of ours
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5, bias=False),
    )
    folded(layers, x)
    expected = layers(x)
    assert use_native_parts(nn.Sequential(layers), x)
    kinds = [type(layer).__name__ for layer in layers if type(layer) is not nn.Identity]
    ours = ["NativeConvolution"] * 2
    assert kinds == [*ours, "Conv2d", "ReLU", "NativeConvolution", "NativeHead"]
    torch.testing.assert_close(layers(x), expected, **CLOSE)


@pytest.mark.usefixtures("operators")
def test_what_is_no_number_stays_none() -> None:
    x = torch.full((1, 16, 4, 4), float("nan"))
    block = folded(Block(16, 16, stride=1, shortcut="A"), torch.rand(1, 16, 4, 4))
    assert isinstance(block, Block)
    assert NativeBlock(block)(x).isnan().all()


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("merge", [GateResidual(), GateOutput()])
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_only_images_with_open_gates_change(shortcut: Shortcut, merge: Merge) -> None:
    for c_in, c_out in ((16, 16), (16, 32)):
        x = torch.randn(6, c_in, 8, 8).relu().contiguous(memory_format=torch.channels_last)
        block = folded(Block(c_in, c_out, stride=c_out // c_in, shortcut=shortcut), x)
        assert isinstance(block, Block)
        gates = torch.tensor([1.0, 0, 0, 1, 0, 1])
        skipped = merge.skipped(block, block.shortcut(x))
        expected = torch.where(gates.view(-1, 1, 1, 1) > 0.5, block(x), skipped)
        keeps, clips = c_in == c_out, merge.clips(block)
        assert clips is not None
        for kind in (gates, gates > 0.5):
            states, means = x.clone(), x.mean(dim=(2, 3))
            out = NativeBlock(block).where(states, kind, means if keeps else None, clips)
            torch.testing.assert_close(out, expected, **CLOSE)
            if keeps:
                assert out.data_ptr() == states.data_ptr()
                assert torch.equal(out[1], x[1])
                torch.testing.assert_close(means, expected.mean(dim=(2, 3)), **CLOSE)


def calls_of(net: DynamicNet, x_nchw: Tensor) -> dict[str, int]:
    graph = graph_of(net, x_nchw[:2])
    assert graph is not None
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as seen:
        for x in x_nchw.split(1):
            graph(x)
    return {event.key: event.count for event in seen.key_averages()}


@pytest.mark.usefixtures("operators")
def test_a_gate_and_its_block_are_one_operator_each() -> None:
    base, x = gated_nets.backbone(), gated_nets.images(8)
    net = gated_nets.season(GatedResNet(base, gated_nets.perceptron_gates(base)))
    calls = calls_of(net, x)
    gated = len(net.policy.gated)
    assert calls["skipbench::block_and_sum_if"] == calls["skipbench::perceptron"] == 8 * gated
    assert not {key for key in calls if key.startswith(("aten::conv", "aten::addmm", "Llga"))}


@pytest.mark.usefixtures("operators")
def test_a_stage_whose_positions_halt_is_one_operator() -> None:
    net, x = halting_nets.seasoned("position"), halting_nets.images(8)
    assert calls_of(net, x)["skipbench::position_stage"] == 8 * len(net.policy.stages)
    fast = fast_copy(net, x[:2])
    with torch.inference_mode():
        ran, expected = fast.execute(x), net(x)
    assert torch.equal(ran.executed, expected.executed)
    torch.testing.assert_close(ran.logits, expected.logits, atol=1e-3, rtol=0)


@pytest.mark.usefixtures("operators")
def test_scores_of_another_kind_run_block_by_block() -> None:
    net, x = copy.deepcopy(halting_nets.seasoned("position")), halting_nets.images(6)
    for score in net.policy.scores.values():
        score.local.features = nn.Sequential(score.local.features, nn.Tanh())  # type: ignore[union-attr]
    fast = fast_copy(net, x[:2])
    assert not fast.policy.operators
    with torch.inference_mode():
        assert torch.equal(fast.execute(x).executed, net(x).executed)


class Halved(GateResidual):
    """A rule of a plugin: who skips a block keeps half of its state."""

    def skipped(self, block: Block, shortcut: Tensor) -> Tensor:
        return shortcut / 2

    def masked(self, shortcut: Tensor, residual: Tensor, gate_n: Tensor) -> Tensor:
        gate = gate_n.view(-1, 1, 1, 1)
        return gate * (shortcut + residual).relu() + (1 - gate) * shortcut / 2


@pytest.mark.usefixtures("operators")
def test_a_rule_that_no_operator_knows_runs_with_branches() -> None:
    assert Halved().clips(gated_nets.seasoned().blocks[0]) is None
    base, x = gated_nets.backbone(), gated_nets.images(12)
    net = gated_nets.season(GatedResNet(base, gated_nets.PooledGates(base), merge=Halved()))
    fast, graph = fast_copy(net, x[:2]), graph_of(net, x[:2])
    assert graph is not None
    with torch.inference_mode():
        expected = net(x)
        assert 0 < expected.executed.mean() < 1
        alone = [graph(one) for one in x.split(1)]
        for logits, executed in (
            (fast.execute(x).logits, fast.execute(x).executed),
            (torch.cat([pair[0] for pair in alone]), torch.cat([pair[1] for pair in alone])),
        ):
            torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=0)
            assert torch.equal(executed, expected.executed)


@pytest.mark.usefixtures("operators")
def test_several_threads_are_left_to_torch() -> None:
    net, x = gated_nets.per_unit_net("residual", "A"), gated_nets.images(4)
    torch.set_num_threads(2)
    assert not any(isinstance(part, NativeBlock) for part in fast_copy(net, x).modules())


def test_every_source_is_shipped_and_a_change_of_any_compiles_anew() -> None:
    folder = Path(native.__file__).parent
    sources = {path.name for path in folder.iterdir() if path.suffix in {".h", ".cpp"}}
    assert sources == set(native._SOURCES)
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["bench.networks.native"]
    assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in sources)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A cache of this test alone, and nothing loaded before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    yield tmp_path
    native.library.cache_clear()


@pytest.mark.parametrize(
    ("compiler", "words"),
    [
        ("/nowhere/g++", "No such file"),
        ("false", "false failed"),
        ("g++ 'unbalanced", "$CXX cannot be read"),
        ("{odd}", "{odd} failed"),
    ],
)
def test_without_a_compiler_there_is_a_reason_and_the_rest_works(
    compiler: str, words: str, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = fresh / "odd-words"
    odd.write_bytes(b"#!/bin/sh\nprintf 'error: \\377\\376 \\351' >&2; printf '\\377'; exit 1\n")
    odd.chmod(0o700)
    compiler, words = compiler.format(odd=odd), words.format(odd=odd)
    monkeypatch.setenv("CXX", compiler)
    native.to_be_compiled()
    found = native.library()
    assert found.path is None and words in found.reason
    assert not native.available()
    net, x = gated_nets.per_unit_net("residual", "A"), gated_nets.images(4)
    with torch.inference_mode():
        torch.testing.assert_close(
            fast_copy(net, x).execute(x).logits, net(x).logits, atol=1e-4, rtol=0
        )
    assert not list(fresh.rglob("*.so"))


def test_no_compiler_at_all_is_said(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(fresh))
    assert not native.to_be_compiled()
    assert "no C++ compiler" in native.library().reason


@pytest.mark.usefixtures("operators")
def test_a_cache_that_cannot_be_written_leaves_nothing_behind(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert native.to_be_compiled()
    (fresh / "skipbench").write_text("a file where the folder should be")
    before = set(Path(tempfile.gettempdir()).glob("skipbench-*"))
    done = subprocess.run(
        [sys.executable, "-c", _CHECK], env=dict(os.environ), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert set(Path(tempfile.gettempdir()).glob("skipbench-*")) == before


# In a process of its own: operators can be defined only once.
_CHECK = """
import sys, torch
torch.set_num_threads(1)
from bench.networks import native
if sys.argv[1:]:
    native._FLAGS = (*native._FLAGS, *sys.argv[1:])
assert native.available(), native.library().reason
from bench.networks.native_parts import NativeBlock
from bench.networks.resnet import Block
for c_in, c_out in ((16, 16), (32, 32), (64, 64), (16, 32)):
    block = Block(c_in, c_out, stride=c_out // c_in, shortcut="A")
    block.residual.bn1 = block.residual.bn2 = torch.nn.Identity()
    x = torch.rand(2, c_in, 9, 7)
    with torch.no_grad():
        torch.testing.assert_close(NativeBlock(block)(x), block(x), atol=1e-5, rtol=1e-5)
print(native.library().path)
"""


def path_of(cache: Path, *flags: str) -> Path:
    done = subprocess.run(
        [sys.executable, "-c", _CHECK, *flags],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.mark.usefixtures("operators")
def test_what_was_compiled_is_kept_and_taken_again(tmp_path: Path) -> None:
    first = path_of(tmp_path)
    compiled = first.stat()
    assert first.parent == tmp_path / "skipbench" / "native"
    assert path_of(tmp_path) == first
    assert first.stat().st_mtime_ns == compiled.st_mtime_ns and len(list(tmp_path.rglob("*"))) == 3


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("flags", [("-mno-avx512f",), ("-mno-avx",)])
def test_a_processor_with_narrower_vectors_gives_the_same(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    if "avx512f" not in native._instructions():
        pytest.skip("this processor has no wide vectors to leave out")
    path_of(tmp_path, *flags)
