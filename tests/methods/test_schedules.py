"""The published schedules of all methods, and the settings by which their parts learn faster."""

from __future__ import annotations

import pytest
from method_nets import BACKBONE, published

from bench.method import Method, OptimizerSpec
from methods.act import Act
from methods.blockdrop import BlockDrop
from methods.branchynet import BranchyNet
from methods.convnet_aig import ConvNetAig
from methods.dynconv import DynConv
from methods.sact import Sact
from methods.sgad import Sgad
from methods.skipnet import SkipNet

_AIG = OptimizerSpec(
    lr=0.1, weight_decay=5e-4, schedule="step", milestones=(150 / 350, 250 / 350), decay=0.1
)
_ACT = OptimizerSpec(
    lr=0.1, weight_decay=2e-4, schedule="step", milestones=(0.6, 0.75, 0.9), decay=0.1
)
_BRANCHY = OptimizerSpec(kind="adam", lr=1e-3, momentum=0.99, weight_decay=0, schedule="constant")
_STEPS = {"schedule": "step", "decay": 0.1, "warmup_steps": 400, "warmup_from": 0.1}
_SGD = {"kind": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
_CONSTANT = {"weight_decay": 1e-4, "schedule": "constant"}
_ADAM = {"kind": "adam", "weight_decay": 0}


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (ConvNetAig(), {"gated": (350, 256, _AIG)}),
        (DynConv(), {"masked": (350, 256, _AIG)}),
        # 100,000 steps of 128 of 50,000 images.
        (Act(), {"pondered": (256, 128, _ACT)}),
        (Sact(), {"pondered": (256, 128, _ACT)}),
        (BranchyNet(), {"trunk": (100, 64, _BRANCHY), "joint": (100, 64, _BRANCHY)}),
        (
            Sgad(),
            {
                "mf": (
                    *(220, 128),
                    OptimizerSpec(**_SGD, **_STEPS, milestones=(128 / 220, 160 / 220, 192 / 220)),
                )
            },
        ),
        (
            SkipNet(),
            {
                "sp": (164, 128, OptimizerSpec(**_SGD, **_STEPS, milestones=(0.5, 0.75))),
                "hrl": (26, 128, OptimizerSpec(lr=1e-4, momentum=0.9, **_CONSTANT)),
            },
        ),
        (
            BlockDrop(),
            {
                "curriculum": (5000, 2048, OptimizerSpec(**_ADAM, lr=1e-3, schedule="constant")),
                # The learning rate falls to a tenth at epoch 1600 of 2000.
                "joint": (
                    *(2000, 256),
                    OptimizerSpec(**_ADAM, lr=1e-4, schedule="step", milestones=(0.8,), decay=0.1),
                ),
            },
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Method) else "",
)
def test_the_published_schedule_is_that_of_the_paper(
    method: Method, expected: dict[str, tuple[int, int, OptimizerSpec]]
) -> None:
    config = method.Config()
    phases = method.phases(config, published(method, config))
    found = {phase.name: (phase.epochs, phase.batch_size, phase.optimizer) for phase in phases}
    assert found == expected


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (ConvNetAig(), {"gate_lr_scale": 5.0}),
        (Sgad(), {"side_lr_scale": 5.0}),
        (BlockDrop(), {"joint_policy_lr_scale": 5.0}),
        (SkipNet(), {"gate_lr_scale": 5.0, "hrl_lr_scaling": "none"}),
    ],
    ids=lambda value: value.name if isinstance(value, Method) else "",
)
def test_what_decides_may_learn_at_a_rate_of_its_own(
    method: Method, settings: dict[str, object]
) -> None:
    config = method.Config.model_validate(settings)
    net = method.build(BACKBONE, config)
    shorter = published(method, config).model_copy(update={"published": False})
    trunk, side = method.phases(config, shorter)[-1].groups(net)
    assert (trunk.lr_scale, side.lr_scale) == (1.0, 5.0)
    assert set(side.parameters) == {*net.policy.parameters(), *net.training_only.parameters()}
    assert {*trunk.parameters, *side.parameters} == set(net.parameters())
