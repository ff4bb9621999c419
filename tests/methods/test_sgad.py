"""SGAD against its conformance points: guideline, map, straight-through rounding, last block."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_nets import BACKBONE, batch_of, built
from small_runs import nflops, trained_on_digits

from bench.data.augment import Batch
from bench.errors import ConfigError
from bench.method import Budget, OptimizerSpec
from bench.networks.trunk import Backbone
from bench.plugins import method_config
from methods.sgad import (
    JointTraining,
    Sgad,
    SgadBeta,
    SgadConfig,
    SgadConstant,
    expected_drop,
    guideline_variance,
    straight_through_round,
)

_net = partial(built, Sgad())


def _softmax_of(top: float, classes: int = 10) -> torch.Tensor:
    rest = (1 - top) / (classes - 1)
    return torch.tensor([[top] + [rest] * (classes - 1)])


@pytest.mark.parametrize(("top", "share"), [(0.5, 0.198), (0.9, 0.790), (1.0, 1.0), (0.1, 0.0)])
def test_the_guideline_is_the_population_variance_of_the_softmax(top: float, share: float) -> None:
    v_max = 9 / 100
    assert guideline_variance(_softmax_of(top)).item() / v_max == pytest.approx(share, abs=1e-3)


def test_a_one_hot_softmax_reaches_the_largest_variance_of_100_classes() -> None:
    assert guideline_variance(_softmax_of(1.0, 100)).item() == pytest.approx(99 / 100**2)


@given(st.floats(0.1, 1.0), st.floats(0.1, 20.0), st.sampled_from([2, 10, 100]))
def test_the_expected_drop_rises_and_is_concave_from_zero_to_d_max(
    d_max: float, kappa: float, classes: int
) -> None:
    v = torch.linspace(0, (classes - 1) / classes**2, 33, dtype=torch.float64)
    drop = expected_drop(v, classes, d_max=d_max, kappa=kappa)
    steps = drop.diff()
    assert drop[0].item() == pytest.approx(0, abs=1e-9)
    assert drop[-1].item() == pytest.approx(d_max)
    assert bool((steps > 0).all())
    assert bool((steps.diff() <= 1e-12).all())


def test_half_the_variance_already_asks_for_nearly_all_of_d_max() -> None:
    drop = expected_drop(torch.tensor([0.045]), 10, d_max=1.0, kappa=5.0)
    assert drop.item() == pytest.approx(0.924, abs=1e-3)


def test_the_map_without_normalisation_never_reaches_d_max() -> None:
    drop = expected_drop(torch.tensor([0.09]), 10, d_max=1.0, kappa=5.0, normalise_v="none")
    assert drop.item() < 0.4


def test_rounding_is_exact_forward_and_the_identity_backward() -> None:
    s = torch.tensor([0.1, 0.49, 0.5, 0.97], requires_grad=True)
    m = straight_through_round(s)
    m.sum().backward()
    assert m.tolist() == [0, 0, 1, 1]
    assert s.grad.tolist() == [1, 1, 1, 1]


def test_the_last_block_always_runs_and_all_others_have_a_gate() -> None:
    net = _net(gate_bias=-5.0).eval()
    executed = net(batch_of().x_nchw).executed[:, 1:7]
    assert net.policy.gated == tuple(range(5))
    assert executed[:, :5].sum() == 0
    assert bool((executed[:, 5] == 1).all())


def test_all_blocks_run_at_the_start_of_training() -> None:
    assert _net().eval()(batch_of().x_nchw).executed.min() == 1


def test_noise_changes_decisions_in_training_and_never_in_evaluation() -> None:
    net = _net(gate_bias=0.1)
    x = batch_of(64).x_nchw
    net.train()
    noisy = []
    for _ in range(2):
        net.policy.noise_ng = 4 * torch.randn(64, 5)
        noisy.append(net(x).executed)
    net.eval()
    quiet = [net(x).executed for _ in range(2)]
    assert not torch.equal(noisy[0], noisy[1])
    assert torch.equal(quiet[0], quiet[1])


def test_noise_of_each_image_and_gate_is_added_before_the_sigmoid() -> None:
    net = _net()
    policy = net.policy
    policy.net.eval()
    torch.manual_seed(0)
    policy.training, policy.noise_ng = True, 2.0 * torch.randn(4000, 5)
    stem_1chw = torch.randn(1, *BACKBONE.stem_shape)
    with torch.no_grad():
        z_1g = policy.net(stem_1chw)
        same = stem_1chw.expand(4000, -1, -1, -1)
        gates_ng = policy.begin(same, same).terms()["gates_ng"]
    # After the sigmoid it would be Phi((s - 0.5) / sd), which is nearer to one half.
    open_g = torch.distributions.Normal(0.0, 1.0).cdf(z_1g[0] / 2.0)
    torch.testing.assert_close(gates_ng.mean(dim=0), open_g, atol=0.03, rtol=0)
    assert len({tuple(row) for row in gates_ng.tolist()}) > 20


def test_a_gate_passes_the_gradient_of_its_sigmoid_on() -> None:
    net = _net()
    policy = net.policy
    policy.eval()
    stem_nchw = torch.randn(8, *BACKBONE.stem_shape)
    s_ng = torch.sigmoid(policy.net(stem_nchw)).detach()
    policy.begin(stem_nchw, stem_nchw).terms()["gates_ng"].sum().backward()
    bias_g = policy.net[-1].bias
    torch.testing.assert_close(bias_g.grad, (s_ng * (1 - s_ng)).sum(dim=0))


def test_the_noise_grows_over_a_stage_from_none_to_its_maximum() -> None:
    assert _noise_sds(SgadConfig(noise_max=2.0), 0.0, 0.5, 1.0) == [0.0, 1.0, 2.0]


def test_for_a_last_share_of_a_stage_there_is_no_noise_and_gates_are_those_of_inference() -> None:
    config = SgadConfig(noise_max=2.0, deterministic_share=0.5)
    assert _noise_sds(config, 0.0, 0.25, 0.499, 0.5, 1.0) == [
        0.0,
        1.0,
        pytest.approx(1.996),
        0.0,
        0.0,
    ]
    parts = _joint(config).loss(_net(gate_bias=0.0), batch_of(64), 0.7).parts
    assert parts["drop"] == parts["drop_noise_free"]


def _noise_sds(config: SgadConfig, *progress: float) -> list[float]:
    """Return the standard deviations of the noise that gates see."""
    torch.manual_seed(0)
    phase, batch, seen = _joint(config), batch_of(4096), []
    for share in progress:
        noise_ng = phase._noise(batch, 5, share)
        stated = phase.noise_sd(share)
        drawn = 0.0 if noise_ng is None else noise_ng.std().item()
        assert drawn == pytest.approx(stated, rel=0.05)
        seen.append(stated)
    return seen


def test_the_noise_of_an_image_stays_the_same_only_where_asked_to() -> None:
    batch = batch_of(64)
    twice = Batch(batch.x_nchw.flip(0), batch.labels_n.flip(0), batch.index_n.flip(0))
    for draw, same in (("per image", True), ("each step", False)):
        phase = _joint(SgadConfig(noise_draw=draw))
        first, second = (phase._noise(b, 5, 0.5) for b in (batch, twice))
        assert first is not None and second is not None
        assert torch.equal(first, second.flip(0)) is same


def test_the_regulariser_may_price_the_gates_of_inference() -> None:
    """Gates open but for noise: noisy gates have drop to show, noise-free ones have none."""
    gaps = {}
    for kind in ("noisy", "noise-free"):
        torch.manual_seed(0)
        config = SgadConfig(regularised_gates=kind, noise_max=4.0)
        parts = _joint(config).loss(_net(gate_bias=0.5), batch_of(64), 1.0).parts
        gaps[kind] = parts["drop_gap"]
        assert parts["drop"] > 0.3
        assert parts["drop_noise_free"] == 0
    # An SGNet that has learnt nothing asks for no drop: the gap is the drop that is priced.
    assert gaps["noisy"] > 0.3
    assert gaps["noise-free"] < 0.1


def test_the_sum_over_the_batch_weighs_the_regulariser_by_the_batch_size() -> None:
    torch.manual_seed(0)
    net, batch = _net(gate_bias=-1.0), batch_of(64)
    totals = {
        norm: _joint(SgadConfig(alpha=0, gamma=0, regulariser_norm=norm))
        .loss(net, batch, 0.0)
        .total.item()
        for norm in ("mean", "sum")
    }
    assert totals["sum"] == pytest.approx(64 * totals["mean"], rel=1e-4)


def test_the_settings_that_aim_at_table_1_ask_for_what_it_dropped() -> None:
    mf, lf = (method_config(Sgad, {"complexity": f"paper-{name}"}) for name in ("mf", "lf"))
    assert 0.15 < mf.d_max < 0.2
    assert (lf.mf_knob, lf.d_max) == (mf.d_max, 0.62)
    assert method_config(Sgad, {"complexity": "paper-mf", "d_max": 0.3}).d_max == 0.3
    assert (Sgad().published_epochs(mf), Sgad().published_epochs(lf)) == (220, 280)


def _joint(config: SgadConfig) -> JointTraining:
    return JointTraining("mf", config=config, epochs=1, batch_size=16, optimizer=OptimizerSpec())


def test_the_loss_is_the_weighted_sum_of_its_three_parts() -> None:
    config = SgadConfig(alpha=0.7, beta=1.3, gamma=0.2)
    terms = _joint(config).loss(_net(), batch_of(), 0.0)
    parts = terms.parts
    expected = 0.7 * parts["loss"] + 1.3 * parts["drop_gap"] + 0.2 * parts["loss_sgnet"]
    assert terms.total.item() == pytest.approx(expected.item())


def _sgnet_gradient(config: SgadConfig) -> float:
    net = _net()
    _joint(config).loss(net, batch_of(), 0.0).total.backward()
    weight = net.training_only["sgnet"].get_parameter("head.linear.weight")
    return 0.0 if weight.grad is None else weight.grad.abs().sum().item()


def test_the_regulariser_does_not_teach_sgnet_unless_asked_to() -> None:
    only_regulariser = {"alpha": 0.0, "beta": 1.0, "gamma": 0.0}
    assert _sgnet_gradient(SgadConfig(**only_regulariser)) == 0
    flowing = SgadConfig(**only_regulariser, target_gradient="flows")
    assert _sgnet_gradient(flowing) > 0


def test_bmnet_costs_what_its_layers_cost() -> None:
    from bench.measure.cost import unit_macs

    net = Sgad().build(Backbone("resnet32", 10, (3, 32, 32)), SgadConfig())
    cheap = Sgad().build(Backbone("resnet32", 10, (3, 32, 32)), SgadConfig(bmnet="pooled"))
    assert unit_macs(net)["bmnet"] == 16 * 16 * 16 * 16 * 9 + 8 * 8 * 16 * 32 * 9 + 32 * 14
    assert unit_macs(cheap)["bmnet"] / 68_862_592 == pytest.approx(0.0027, abs=2e-4)


def test_lf_is_fine_tuned_from_mf_with_a_larger_knob_and_a_smaller_rate() -> None:
    budget = Budget(recipe="fair", epochs=10, batch_size=16, optimizer=OptimizerSpec(lr=0.1))
    first, second = Sgad().phases(SgadConfig(complexity="lf", d_max=0.8), budget)
    assert (first.config.d_max, second.config.d_max) == (0.2, 0.8)
    assert first.epochs + second.epochs == 10
    assert second.optimizer.lr < first.optimizer.lr


def test_the_fine_tuning_of_lf_keeps_the_noise_at_its_maximum() -> None:
    budget = Budget(recipe="quick", epochs=10, batch_size=16, optimizer=OptimizerSpec())
    stages = Sgad().phases(SgadConfig(complexity="lf", noise_max=0.7), budget)
    for stage, expected in zip(stages, (0.0, 0.7), strict=True):
        assert stage.noise_sd(0.0) == pytest.approx(expected)


def test_the_other_reading_of_the_knob_fixes_d_max_and_is_named_after_beta() -> None:
    config = method_config(Sgad, {"reading": "beta", "beta": 2.0})
    assert config.d_max == 0.9
    assert Sgad().variant(config) == "beta-MF beta=2"
    assert Sgad().variant(SgadConfig(d_max=0.4)) == "D-MF d_max=0.4"


@pytest.mark.parametrize("method", [Sgad, SgadBeta, SgadConstant])
def test_every_reconstructed_setting_is_declared(method: type[Sgad]) -> None:
    stated = {"alpha", "beta", "gamma", "complexity"}
    if method is not SgadConstant:
        stated.add("guideline")
    assert set(method.tags.reconstructed) == set(method.Config.model_fields) - stated


def test_the_drop_gap_is_taken_image_by_image() -> None:
    class HalfHard(JointTraining):
        def _target(self, probabilities_nk: torch.Tensor) -> torch.Tensor:
            return torch.tensor([0.2, 0.8]).repeat(len(probabilities_nk) // 2)

    phase = HalfHard("mf", config=SgadConfig(), epochs=1, batch_size=16, optimizer=OptimizerSpec())
    terms = phase.loss(_net(), batch_of(), 0.0)
    # nothing is dropped: |0.2 - 0| and |0.8 - 0|, so a mean of 0.5
    assert terms.parts["drop_gap"].item() == pytest.approx(0.5)
    dropping = _net()
    last = dropping.policy.net[-1]
    last.weight.data.zero_()
    last.bias.data.copy_(torch.tensor([-1.0, -1.0, 1.0, 1.0, 1.0]))
    terms = phase.loss(dropping, batch_of(), 0.0)
    # 2 of 5 gates closed: |0.2 - 0.4| and |0.8 - 0.4|, not |0.5 - 0.4|
    assert terms.parts["drop"].item() == pytest.approx(0.4)
    assert terms.parts["drop_gap"].item() == pytest.approx(0.3)


def test_an_sgnet_that_has_learnt_nothing_asks_for_no_drop() -> None:
    def asked(**settings: object) -> float:
        config = SgadConfig(d_max=0.6, **settings)
        return _joint(config).loss(_net(**settings), batch_of(64), 0.0).parts["drop_asked"].item()

    assert asked() < 0.01
    assert asked(sgnet_start="as the ResNet") > 0.1


def _asked(config: SgadConfig, top: list[float]) -> torch.Tensor:
    return _joint(config)._target(torch.cat([_softmax_of(share) for share in top]))


def test_the_constant_guideline_asks_all_for_the_mean_of_the_batch() -> None:
    top = [0.1, 0.3, 0.6, 0.95]
    each, same = _asked(SgadConfig(), top), _asked(SgadConfig(guideline="constant"), top)
    assert len(each.unique()) == 4
    torch.testing.assert_close(same, each.mean().expand(4))


def test_the_two_readings_and_the_ablation_have_names_of_their_own() -> None:
    assert (Sgad.name, SgadBeta.name, SgadConstant.name) == ("sgad", "sgad-beta", "sgad-constant")
    assert (SgadBeta.Config().reading, SgadBeta.Config().d_max) == ("beta", 0.9)
    assert method_config(SgadBeta, {"reading": "beta"}) == SgadBeta.Config()
    assert SgadConstant.Config().guideline == "constant"
    assert "guideline" in SgadConstant.tags.reconstructed
    assert "guideline" not in Sgad.tags.reconstructed
    same = {"reading", "d_max", "guideline"}
    for method in (SgadBeta, SgadConstant):
        config = method.Config()
        assert config.model_dump(exclude=same) == SgadConfig().model_dump(exclude=same)
    for method, key, value in (
        (SgadBeta, "reading", "d_max"),
        (SgadConstant, "guideline", "per image"),
    ):
        with pytest.raises(ConfigError, match=f"{key}: "):
            method_config(method, {key: value})
    assert SgadBeta().variant(SgadBeta.Config(beta=2.0)) == "beta-MF beta=2"
    assert SgadConstant().variant(SgadConstant.Config()) == "D-MF d_max=0.6"
    assert Sgad().variant(SgadConfig(guideline="constant")) == "D-MF d_max=0.6, D constant"


def test_a_larger_d_max_gives_a_cheaper_network() -> None:
    found = []
    for d_max in (0.2, 0.5, 0.8):
        # Nearer to dropping at the start than by default, so that 3 epochs are enough.
        config = SgadConfig(d_max=d_max, gate_bias=0.2, noise_max=0.0)
        net = trained_on_digits(Sgad(), config, epochs=3)
        found.append(nflops(net))
    assert found[0] - 0.05 > found[1] > found[2] + 0.05
