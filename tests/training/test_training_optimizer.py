"""Learning rates are a pure function of the step."""

import pytest
import torch

from bench.method import ParameterGroup
from bench.recipes import OptimizerSpec
from bench.training.optimizer import build_optimizer, learning_rate, set_learning_rate


def _rates(spec: OptimizerSpec, total: int) -> list[float]:
    return [learning_rate(spec, step=step, total_steps=total) for step in range(total)]


def test_a_step_schedule_decays_at_its_milestones() -> None:
    spec = OptimizerSpec(lr=0.1, schedule="step", milestones=(0.5, 0.75))
    rates = _rates(spec, 8)
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


def test_a_cosine_schedule_falls_from_the_full_rate_towards_zero() -> None:
    rates = _rates(OptimizerSpec(lr=0.2, schedule="cosine"), 100)
    assert rates[0] == 0.2
    assert rates[50] == pytest.approx(0.1)
    assert rates[-1] < 1e-3
    assert rates == sorted(rates, reverse=True)


def test_the_warm_up_rises_to_the_full_rate_and_then_the_schedule_takes_over() -> None:
    spec = OptimizerSpec(
        lr=1.0, schedule="step", milestones=(0.5,), warmup_steps=4, warmup_from=0.1
    )
    rates = _rates(spec, 12)
    assert rates == pytest.approx([0.1, 0.325, 0.55, 0.775, 1.0, 1.0] + [0.1] * 6)


@pytest.mark.parametrize(
    ("kind", "cls"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_groups_keep_their_own_scale(kind: str, cls: type) -> None:
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    spec = OptimizerSpec(kind=kind, lr=0.1)
    optimizer = build_optimizer([ParameterGroup([a]), ParameterGroup([b], 10.0)], spec)
    assert isinstance(optimizer, cls)
    set_learning_rate(optimizer, 0.05)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.5]


def test_the_momentum_of_adam_is_its_first_beta() -> None:
    groups = [ParameterGroup([torch.nn.Parameter(torch.ones(2))])]
    for spec, beta in (
        (OptimizerSpec(kind="adam"), 0.9),
        (OptimizerSpec(kind="adam", momentum=0.99), 0.99),
    ):
        assert build_optimizer(groups, spec).defaults["betas"] == (beta, 0.999)
