"""BlockDrop: a policy network, trained by reinforcement, picks the blocks for each image.

Reference: Wu, Nagarajan, Kumar et al., "BlockDrop: Dynamic Inference Paths in Residual Networks",
CVPR 2018, arXiv 1711.08393, and the authors' code.

How it decides. A ResNet-8 reads the image and emits a probability s per block, all blocks up front,
first and last included. Inference (MAP): u = 1[s >= 0.5]. Its MACs are 17.8 % of a ResNet-32 and
4.8 % of a ResNet-110, and are counted.

How it learns. Starting from a trained dense network. Reward of a mask u with k of K blocks:
R = 1 - (k/K)^2 if the prediction is right, -penalty if wrong. Masks are sampled from probabilities
kept away from 0 and 1, s' = a s + (1-a)(1-s). Self-critical: the advantage is R(u) - R(u_MAP).

1. Curriculum: only the policy learns, the ResNet is frozen; at first only the last block is
   sampled, then the last two, until all are. This phase is not meant to keep accuracy. A bonus for
   entropy counts all blocks, and only -s' log s': it pulls s' to 1/e, so that a block which is
   still forced to run may be one that the policy drops when its turn comes.
2. Joint: policy and ResNet learn together, the ResNet from the cross-entropy under the sampled
   masks. Its batch statistics see the MAP and the sampled pass, as in the authors' code.

The published schedule is 5000 + 2000 epochs after pretraining; any shorter one is a scaled-down
BlockDrop. Published on CIFAR-10, ResNet-110: 93.6 %, 16.9 of 54 blocks, nFLOPs 0.358 with policy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bench.method import (
    Backbone,
    Batch,
    Budget,
    DynamicNet,
    LogUniform,
    LossTerms,
    Method,
    MethodConfig,
    OptimizerSpec,
    ParameterGroup,
    Phase,
    Reference,
    Tags,
    Unit,
)
from bench.networks.cifar_resnet import ResNet
from bench.networks.execution import GateOutput
from bench.networks.gated import GatedResNet
from bench.networks.policy import Policy, UpFront
from bench.phases import trunk_and_rest

_POLICY_DEPTH = 8
_PUBLISHED_CURRICULUM, _PUBLISHED_JOINT = 5000, 2000


class BlockDropConfig(MethodConfig):
    """Settings of BlockDrop; the defaults are those of the authors' code where it has them."""

    penalty: Annotated[float, LogUniform(1, 20)] = Field(
        5.0, ge=0, description="reward lost by a wrong answer, joint phase"
    )
    curriculum_penalty: float = Field(1.0, ge=0, description="the same in the curriculum phase")
    bound: float = Field(0.8, gt=0.5, le=1, description="a in s' = a s + (1-a)(1-s)")
    entropy_weight: Annotated[float, LogUniform(0.01, 1)] = Field(
        0.1, ge=0, description="entropy bonus, curriculum phase"
    )
    entropy: Literal["as released", "full"] = Field(
        "as released", description="-s' log s' alone, or both halves of the entropy"
    )
    entropy_over: Literal["all blocks", "sampled blocks"] = Field(
        "all blocks", description="whose entropy the bonus counts; forced blocks too as released"
    )
    curriculum_share: float = Field(0.25, gt=0, lt=1, description="of the epochs, when scaled down")
    ramp: float = Field(0.5, gt=0, le=1, description="share of the curriculum until all sampled")
    policy_lr: Annotated[float, LogUniform(1e-4, 1e-2)] = Field(
        1e-3, gt=0, description="Adam, curriculum; published value"
    )
    joint_lr: float = Field(1e-4, gt=0, description="Adam, joint phase; published value")
    joint_policy_lr_scale: Annotated[float, LogUniform(0.3, 10)] = Field(
        1.0, gt=0, description="times joint_lr for the policy"
    )


class PolicyNet(Policy):
    """ResNet-8 on the image (N, C, H, W), one probability per block."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__([False] * backbone.num_blocks)
        self.image_shape = backbone.image_shape
        self.net = ResNet(
            _POLICY_DEPTH,
            shortcut=backbone.shortcut,
            num_classes=backbone.num_blocks,
            channels=backbone.image_shape[0],
        ).to(memory_format=torch.channels_last)

    def probabilities(self, x_nchw: Tensor) -> Tensor:
        """Return s (N, B)."""
        return torch.sigmoid(self.net(x_nchw).float())

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        s_nb = self.probabilities(x_nchw)
        gates_nb = (s_nb >= 0.5).float()
        return UpFront(gates_nb, always_on=self.always_on, terms={"probabilities_nb": s_nb})

    def units(self) -> Sequence[Unit]:
        return [Unit("policy", self.net, self.image_shape, True, "policy")]


def reward(gates_nb: Tensor, correct_n: Tensor, *, penalty: float) -> Tensor:
    """Return R (N,): 1 - (share of blocks run)^2 for a right answer, -penalty for a wrong one."""
    saved_n = 1 - gates_nb.mean(dim=1) ** 2
    return torch.where(correct_n, saved_n, torch.full_like(saved_n, -penalty))


def bounded(s_nb: Tensor, *, bound: float) -> Tensor:
    """Return s' (N, B) in [1 - bound, bound], from which masks are sampled."""
    return bound * s_nb + (1 - bound) * (1 - s_nb)


def policy_loss(bounded_nb: Tensor, sampled_nb: Tensor, *, advantage_n: Tensor) -> Tensor:
    """Return the mean of -A sum_k log pi(u_k); columns not sampled must be cut off before."""
    log_nb = sampled_nb * bounded_nb.log() + (1 - sampled_nb) * (1 - bounded_nb).log()
    return -(advantage_n.detach() * log_nb.sum(dim=1)).mean()


def entropy_bonus(bounded_nb: Tensor, kind: str) -> Tensor:
    """Return the mean over images of the entropy, or of its half that the released code has."""
    per_gate = -bounded_nb * bounded_nb.log()
    if kind == "full":
        per_gate = per_gate - (1 - bounded_nb) * (1 - bounded_nb).log()
    return per_gate.sum(dim=1).mean()


class Curriculum(Phase):
    """The policy alone learns; the last t blocks are sampled, t growing to all of them.

    By the published schedule t grows by one per epoch; a shorter one spreads the growth over
    `ramp` of the phase.
    """

    config: BlockDropConfig

    def __init__(
        self, config: BlockDropConfig, *, epochs: int, batch_size: int, published: bool
    ) -> None:
        adam = OptimizerSpec(kind="adam", lr=config.policy_lr, weight_decay=0, schedule="constant")
        super().__init__("curriculum", config, epochs=epochs, batch_size=batch_size, optimizer=adam)
        self.published = published

    def groups(self, net: DynamicNet) -> Sequence[ParameterGroup]:
        return [ParameterGroup(tuple(_policy_of(net).parameters()))]

    def set_modes(self, net: DynamicNet) -> None:
        net.eval()
        _policy_of(net).train()

    def sampled_blocks(self, num_blocks: int, progress: float) -> int:
        """Return t, how many of the last blocks are sampled."""
        growth = (
            progress * self.epochs if self.published else progress / self.config.ramp * num_blocks
        )
        return min(num_blocks, 1 + math.floor(growth))

    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        assert isinstance(net, GatedResNet)
        config = self.config
        s_nb = _policy_of(net).probabilities(batch.x_nchw)
        forced = s_nb.shape[1] - self.sampled_blocks(s_nb.shape[1], progress)
        bounded_nb = bounded(s_nb, bound=config.bound)
        sampled_nb, map_nb = torch.bernoulli(bounded_nb.detach()), (s_nb >= 0.5).float()
        sampled_nb[:, :forced], map_nb[:, :forced] = 1, 1
        with torch.no_grad():
            # The frozen network may really skip: same answers, less time.
            reward_n, base_n = (
                reward(
                    gates,
                    _correct(net.execute_with(batch.x_nchw, gates).logits, batch),
                    penalty=config.curriculum_penalty,
                )
                for gates in (sampled_nb, map_nb)
            )
        free = slice(forced, None)
        learn = policy_loss(bounded_nb[:, free], sampled_nb[:, free], advantage_n=reward_n - base_n)
        rewarded = bounded_nb if config.entropy_over == "all blocks" else bounded_nb[:, free]
        entropy = entropy_bonus(rewarded, config.entropy)
        parts = {"loss_policy": learn, "reward": base_n.mean(), "drop": 1 - map_nb.mean()}
        return LossTerms(learn - config.entropy_weight * entropy, parts)


class Joint(Phase):
    """Policy and ResNet together, under sampled masks."""

    config: BlockDropConfig

    def __init__(self, config: BlockDropConfig, *, epochs: int, batch_size: int) -> None:
        adam = OptimizerSpec(
            kind="adam", lr=config.joint_lr, weight_decay=0, schedule="step", milestones=(0.8,)
        )
        super().__init__("joint", config, epochs=epochs, batch_size=batch_size, optimizer=adam)

    def groups(self, net: DynamicNet) -> Sequence[ParameterGroup]:
        return trunk_and_rest(net, self.config.joint_policy_lr_scale)

    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        assert isinstance(net, GatedResNet)
        config = self.config
        s_nb = _policy_of(net).probabilities(batch.x_nchw)
        bounded_nb = bounded(s_nb, bound=config.bound)
        sampled_nb, map_nb = torch.bernoulli(bounded_nb.detach()), (s_nb >= 0.5).float()
        with torch.no_grad():
            map_logits = net.forward_with(batch.x_nchw, map_nb).logits
        logits = net.forward_with(batch.x_nchw, sampled_nb).logits
        reward_n = reward(sampled_nb, _correct(logits, batch), penalty=config.penalty)
        base_n = reward(map_nb, _correct(map_logits, batch), penalty=config.penalty)
        learn = policy_loss(bounded_nb, sampled_nb, advantage_n=reward_n - base_n)
        parts = {
            "loss": F.cross_entropy(logits, batch.labels_n),
            "loss_policy": learn,
            "reward": base_n.mean(),
            "drop": 1 - map_nb.mean(),
        }
        # Their gradients touch disjoint parameters, and Adam ignores the scale of each.
        return LossTerms(parts["loss"] + learn, parts, map_logits)


def _policy_of(net: DynamicNet) -> PolicyNet:
    assert isinstance(net, GatedResNet) and isinstance(net.policy, PolicyNet)
    return net.policy


def _correct(logits: Tensor, batch: Batch) -> Tensor:
    return logits.argmax(dim=1) == batch.labels_n


class BlockDrop(Method[BlockDropConfig]):
    """Blocks chosen per image by a policy network trained with reinforcement."""

    name = "blockdrop"
    version = 2
    reference = Reference(
        title="BlockDrop: Dynamic Inference Paths in Residual Networks",
        authors="Wu, Nagarajan, Kumar, Rennie, Davis, Grauman, Feris",
        year=2018,
        url="https://arxiv.org/abs/1711.08393",
    )
    tags = Tags(
        decision="up front",
        starts_from_dense=True,
        samples=True,
        reconstructed=("curriculum_share", "ramp", "joint_policy_lr_scale"),
    )

    def variant(self, config: BlockDropConfig) -> str:
        return f"penalty={config.penalty:g}"

    def published_epochs(self, config: BlockDropConfig) -> int:
        return _PUBLISHED_CURRICULUM + _PUBLISHED_JOINT

    def build(self, backbone: Backbone, config: BlockDropConfig) -> DynamicNet:
        return GatedResNet(backbone, PolicyNet(backbone), merge=GateOutput())

    def phases(self, config: BlockDropConfig, budget: Budget) -> Sequence[Phase]:
        share = config.curriculum_share
        sizes = (budget.batch_size, budget.batch_size)
        if budget.published:
            share = _PUBLISHED_CURRICULUM / (_PUBLISHED_CURRICULUM + _PUBLISHED_JOINT)
            sizes = (2048, 256)
        first = budget.share(share)
        return [
            Curriculum(config, epochs=first, batch_size=sizes[0], published=budget.published),
            Joint(config, epochs=budget.epochs - first, batch_size=sizes[1]),
        ]
