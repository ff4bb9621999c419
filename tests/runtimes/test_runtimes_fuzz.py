"""Random small networks on random images: every runtime computes what the masked path computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from gated_nets import MERGES, PooledGates, lstm_gates
from halting_nets import draw_norms, images, policy_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.errors import EquivalenceError, Unsupported
from bench.measure.equivalence import check_execution
from bench.method import Method, MethodConfig
from bench.networks.exit_rules import EntropyBelow, ProbabilityReaches
from bench.networks.exits import NUM_EXITS, ExitResNet
from bench.networks.gated import GatedResNet
from bench.networks.halting import HaltingResNet
from bench.networks.policy import Policy
from bench.networks.trunk import Backbone
from bench.networks.unit import DynamicNet
from bench.runtimes.contract import RUNTIMES, Runtime
from bench.runtimes.native import Native
from bench.runtimes.native.build import library
from methods.blockdrop import PolicyNet
from methods.learned_exit import LearnedRule
from methods.pbee import Pbee, PbeeConfig
from methods.sdn import Sdn, SdnConfig
from methods.ztw import Ztw, ZtwConfig

UNEQUAL = "fields of unequal sizes"


def gated(policy: Callable[[Backbone], Policy] | None, merge: str) -> Callable[..., DynamicNet]:
    return lambda base: GatedResNet(
        base, None if policy is None else policy(base), merge=MERGES[merge]()
    )


def with_exits(rule: type, head: str) -> Callable[..., DynamicNet]:
    return lambda base: ExitResNet(base, rule(3, NUM_EXITS), head=head)  # type: ignore[arg-type]


def that_remember(of: str) -> Callable[..., DynamicNet]:
    """Exits whose rules carry something on: the surest answer, a count, all answers."""
    methods: dict[str, tuple[Method, MethodConfig]] = {
        "surest": (Sdn(), SdnConfig(budgets=(0.5,))),
        "patience": (Pbee(), PbeeConfig(patience=(1,))),
        "ensembles": (Ztw(), ZtwConfig(budgets=(0.5,))),
        "convolutions": (Ztw(), ZtwConfig(head="convolution", last="trunk", budgets=(0.5,))),
    }
    method, config = methods[of]
    return lambda base: method.build(base, config)


def halting(kind: str) -> Callable[..., DynamicNet]:
    return lambda base: HaltingResNet(base, policy_of(kind, base, bias=0.0))


builds = st.one_of(
    st.builds(
        gated,
        st.sampled_from([None, PooledGates, lstm_gates, PolicyNet]),
        st.sampled_from(["output", "residual"]),
    ),
    st.builds(
        with_exits,
        st.sampled_from([EntropyBelow, ProbabilityReaches, LearnedRule]),
        st.sampled_from(["pooled", "grid", "mixed", "convolution"]),
    ),
    st.builds(that_remember, st.sampled_from(["surest", "patience", "ensembles", "convolutions"])),
    st.builds(halting, st.sampled_from(["image", "position"])),
)
backbones = st.builds(
    Backbone,
    st.sampled_from(["resnet8", "resnet14"]),
    st.integers(2, 11),
    st.tuples(st.sampled_from([1, 2, 3]), st.integers(4, 19), st.integers(4, 19)),
    st.sampled_from(["A", "B"]),
)


def made(build: Callable[..., DynamicNet], base: Backbone, seed: int) -> DynamicNet:
    """Return a network whose norms have seen images and whose decisions differ between them."""
    torch.manual_seed(seed)
    net = build(base)
    draws = torch.Generator().manual_seed(seed)
    draw_norms(net, draws)
    rule = getattr(net, "rule", None)
    if rule is not None:
        for name, buffer in rule.named_buffers():
            if not buffer.is_floating_point():  # counts
                continue
            buffer.uniform_(-1, 1, generator=draws) if "weights" in name or "biases" in name else (
                buffer.uniform_(0, 2, generator=draws)
            )
    with torch.no_grad():
        net.train()(1.5 * torch.randn(24, *base.image_shape, generator=draws))
        for name, parameter in net.named_parameters():
            if name.startswith("policy") and name.endswith("weight") and parameter.ndim == 2:
                parameter.mul_(4)
    return net.eval()


def others() -> list[Runtime]:
    found: list[Runtime] = [] if library().loaded is None else [Native()]
    runtime = RUNTIMES.get("onnxruntime")()
    return found if runtime.refuses(None, torch.device("cpu"), 1) else [*found, runtime]  # type: ignore[arg-type]


@given(build=builds, base=backbones, seed=st.integers(0, 999), count=st.integers(0, 9))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_random_networks_run_alike_everywhere(
    build: Callable[..., DynamicNet], base: Backbone, seed: int, count: int
) -> None:
    net = made(build, base, seed)
    x = images(count, seed, base.image_shape)
    spoilt = torch.cat([x, x.new_full((1, *base.image_shape), torch.nan), x[:1]])
    with torch.no_grad():
        scale = max(
            1.0, float(net(torch.cat([x, x.new_zeros(1, *x.shape[1:])])).logits.abs().max())
        )
    for runtime in [RUNTIMES.get("eager")(), *others()]:
        try:
            run = runtime.prepare(net, x.new_ones(1, *base.image_shape))
        except Unsupported as refused:
            assert UNEQUAL in refused.message
            continue
        check_execution(net, x, run=run, atol=1e-4 * scale)
        logits, executed = run(spoilt)
        assert logits.shape == (len(spoilt), base.num_classes)
        assert executed.shape == (len(spoilt), len(net.units()))
        assert logits[count].isnan().all() and logits[:count].isfinite().all()
        assert run(x[:0])[0].shape == (0, base.num_classes)
        strided = torch.stack([x, x], dim=-1)[..., 0]
        torch.testing.assert_close(run(strided)[0], logits[:count], atol=1e-4 * scale, rtol=1e-5)


def test_a_wrong_answer_is_noticed() -> None:
    base = Backbone("resnet8", 5, (1, 7, 6))
    net, x = made(gated(PooledGates, "output"), base, 1), images(5, 1, base.image_shape)
    run = Native().prepare(net, x[:1]) if library().loaded else net.execute

    def off(x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        logits, executed = run(x_nchw)  # type: ignore[misc]
        return logits + 1e-2, executed

    with pytest.raises(EquivalenceError):
        check_execution(net, x, run=off)
