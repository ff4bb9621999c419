"""Random skipping: which blocks an image runs is drawn at random. Two controls.

`random_skip` is the control of SkipNet (Wang, Yu, Dou, Darrell, Gonzalez, ECCV 2018, arXiv
1711.09485), there called SDV: each gated block is kept with the same probability, image by image,
in training and at test time. The loss is the cross-entropy. A method that decides must beat it at
equal cost; SkipNet says that it does by a large margin, in a figure without numbers.

`random_skip_test` takes a finished dense network and draws at test time alone, after the
lesions of Veit, Wilber, Belongie, "Residual Networks Behave Like Ensembles of Relatively Shallow
Networks", NIPS 2016, arXiv 1605.06431. It trains nothing, and shows what training with skipping is
worth.

How it decides. In training blocks are drawn anew each time. At test time they come from a hash
of the image itself, so that they are the same in every evaluation, whatever the batch: the 32 bits
of every value, as an integer, are multiplied by a number of their place and added up modulo 2^64;
the sum is scrambled once per block, and its upper 24 bits are a number in [0, 1). Integers are
exact, so the order of summation cannot matter. An image runs with a larger `keep` all that it runs
with a smaller one. Deciding costs no MACs; the time of the hash is part of the latency.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from bench.method import (
    Backbone,
    Budget,
    DerivedMethod,
    DynamicNet,
    Method,
    MethodConfig,
    OptimizerSpec,
    Phase,
    Point,
    Reference,
    Source,
    Tags,
    Uniform,
    Unit,
)
from bench.networks.execution import GateOutput
from bench.networks.gated import GatedResNet, whole_trunk
from bench.networks.policy import Policy, UpFront
from bench.phases import CrossEntropy

Spared = Literal["first", "last", "none"]
_SPARED_DESCRIPTION = "which block is not drawn and always runs; SkipNet's rule is the first"
_SEED_DESCRIPTION = "of the draws at test time"

# Of SkipNet's supervised training: 64,000 steps of 128 images.
_PUBLISHED_EPOCHS, _PUBLISHED_BATCH = 164, 128
_PUBLISHED = OptimizerSpec(lr=0.1, weight_decay=1e-4, schedule="step", milestones=(0.5, 0.75))

_GOLDEN = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_WORD = 1 << 64


def _signed(value: int) -> int:
    """Return the int64 with the bits of `value` modulo 2^64."""
    value %= _WORD
    return value - _WORD if value >= _WORD // 2 else value


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shift int64 to the right, filling up with zeros."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def scrambled(z: Tensor) -> Tensor:
    """Return int64, one to one: any bit of `z` changes about half of the bits (SplitMix64)."""
    z = (z ^ _shifted(z, 30)) * _signed(_FACTORS[0])
    z = (z ^ _shifted(z, 27)) * _signed(_FACTORS[1])
    return z ^ _shifted(z, 31)


def drawn_numbers(x_nchw: Tensor, multipliers_p: Tensor, keys_g: Tensor) -> Tensor:
    """Return numbers (N, G) in [0, 1), float32: by the bits of image n and the key of block g."""
    # A view of another type cannot be recorded in a graph; a copy can.
    bits_np = torch.view_copy(x_nchw.float(), dtype=torch.int32).flatten(1).long()
    hash_n = (bits_np * multipliers_p).sum(dim=1)
    return _shifted(scrambled(hash_n[:, None] + keys_g), 40).float() / (1 << 24)


class RandomGates(Policy):
    """Each gated block runs with probability `keep`, whatever the image shows."""

    multipliers_p: Tensor
    keys_g: Tensor

    def __init__(self, backbone: Backbone, *, keep: float, spared: Spared, seed: int) -> None:
        always_on = [False] * backbone.num_blocks
        if spared != "none":
            always_on[0 if spared == "first" else -1] = True
        super().__init__(always_on)
        self.keep = keep
        channels, height, width = backbone.image_shape
        place_p = torch.arange(1, channels * height * width + 1)
        # Odd, so that no change of a pixel is multiplied away.
        multipliers_p = scrambled(place_p * _signed(_GOLDEN)) | 1
        keys_g = scrambled(torch.tensor(self.gated) + _signed((seed + 1) * _GOLDEN))
        # Made from the settings: nothing that a state dict would have to carry.
        self.register_buffer("multipliers_p", multipliers_p, persistent=False)
        self.register_buffer("keys_g", keys_g, persistent=False)

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        if self.training:
            drawn_ng = torch.rand(len(x_nchw), len(self.gated), device=x_nchw.device)
        else:
            drawn_ng = drawn_numbers(x_nchw, self.multipliers_p, self.keys_g)
        gates_ng = (drawn_ng < self.keep).float()
        return UpFront(self.spread(gates_ng), always_on=self.always_on)

    def units(self) -> Sequence[Unit]:
        return ()


class RandomSkipConfig(MethodConfig):
    """Settings of random skipping in training and at test time."""

    keep: Annotated[float, Uniform(0.3, 0.9)] = Field(
        0.6, gt=0, le=1, description="probability that a gated block runs"
    )
    spared: Spared = Field("first", description=_SPARED_DESCRIPTION)
    seed: NonNegativeInt = Field(0, description=_SEED_DESCRIPTION)


class RandomSkip(Method[RandomSkipConfig]):
    """Blocks skipped at random for each image, in training and at test time."""

    name = "random_skip"
    version = 2
    reference = Reference(
        title="SkipNet: Learning Dynamic Routing in Convolutional Networks",
        authors="Wang, Yu, Dou, Darrell, Gonzalez",
        year=2018,
        url="https://arxiv.org/abs/1711.09485",
    )
    tags = Tags(decision="up front", role="control", samples=True, reconstructed=("keep", "seed"))

    def variant(self, config: RandomSkipConfig) -> str:
        return f"keep={config.keep:g}"

    def published_epochs(self, config: RandomSkipConfig) -> int:
        return _PUBLISHED_EPOCHS

    def build(self, backbone: Backbone, config: RandomSkipConfig) -> DynamicNet:
        policy = RandomGates(backbone, keep=config.keep, spared=config.spared, seed=config.seed)
        return GatedResNet(backbone, policy, merge=GateOutput())

    def phases(self, config: RandomSkipConfig, budget: Budget) -> Sequence[Phase]:
        schedule = budget.schedule(published=_PUBLISHED, published_batch=_PUBLISHED_BATCH)
        return [CrossEntropy("supervised", **schedule)]


class RandomSkipTestConfig(MethodConfig):
    """Settings of random skipping at test time alone; one operating point for each of `keeps`."""

    keeps: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.9, 0.75, 0.5), min_length=1, description="probabilities that a gated block runs"
    )
    spared: Spared = Field("first", description=_SPARED_DESCRIPTION)
    seed: NonNegativeInt = Field(0, description=_SEED_DESCRIPTION)


class RandomSkipTest(DerivedMethod[RandomSkipTestConfig]):
    """A dense network whose blocks are skipped at random at test time; nothing is trained."""

    name = "random_skip_test"
    source_role = "dense"
    trains = False
    reference = Reference(
        title="Residual Networks Behave Like Ensembles of Relatively Shallow Networks",
        authors="Veit, Wilber, Belongie",
        year=2016,
        url="https://arxiv.org/abs/1605.06431",
    )
    tags = Tags(decision="up front", role="control", reconstructed=("keeps", "spared", "seed"))

    def phases(self, config: RandomSkipTestConfig, budget: Budget) -> Sequence[Phase]:
        return []

    def derive(
        self, source: Source, backbone: Backbone, config: RandomSkipTestConfig
    ) -> DynamicNet:
        """Return the source's trunk with random gates in front of its blocks.

        Raises:
            NotApplicable: there is no ResNet inside the source, or it runs other units.
        """
        trunk = whole_trunk(source.points[0].net, backbone, of=source.method)
        net = _with_draws(backbone, config, keep=config.keeps[0])
        net.trunk.load_state_dict(trunk.state_dict())
        return net

    def operating_points(self, net: DynamicNet, config: RandomSkipTestConfig) -> Sequence[Point]:
        """Return one point per probability; all share the trunk of `net`."""
        assert isinstance(config, RandomSkipTestConfig) and isinstance(net, GatedResNet)
        points = []
        for keep in config.keeps:
            twin = _with_draws(net.backbone, config, keep=keep)
            twin.trunk = net.trunk
            twin.policy.to(next(net.parameters()).device)
            points.append(Point(f"keep={keep:g}", twin.train(net.training)))
        return points


def _with_draws(backbone: Backbone, config: RandomSkipTestConfig, *, keep: float) -> GatedResNet:
    policy = RandomGates(backbone, keep=keep, spared=config.spared, seed=config.seed)
    return GatedResNet(backbone, policy, merge=GateOutput())
