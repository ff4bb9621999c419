"""SGAD: Soft-Guided Adaptively-Dropped networks, as reconstructed.

Reference: Wang, Huang, Li et al., "SGAD: Soft-Guided Adaptively-Dropped Neural Network",
arXiv 1807.01430 (2018). No code was published and the formulas of the available text are stripped:
what is not stated there is a field of `SgadConfig`, listed in `Sgad.tags.reconstructed`.

How it decides. A small net (BMNet) reads the output of the first convolution and emits one logit z
per block, up front. Training: m = round(sigmoid(z + noise)), identity gradient through the
rounding, noise growing over time. Inference: m = 1[z >= 0]. The last block always runs. Noise can
close gates that inference leaves open, and what is dropped in training need not be dropped later:
so the regulariser sees the gates without noise (`regularised_gates`, not stated in the text).

What guides it. A second small classifier (SGNet, training only) sees the raw image. The population
variance v of its softmax measures how easy the image is, 0 <= v <= (K-1)/K^2. A concave map turns
v into the share of blocks to drop: D(0) = 0, D(v_max) = d_max, so most images are asked for much.

    L = alpha CE(ResNet) + beta mean|D_i - d_i| + gamma CE(SGNet),   d_i = share of blocks dropped

An SGNet that has learnt nothing has v near 0, so nothing is asked to be dropped at the start.

More or fewer blocks: MF is trained in one go; LF is fine-tuned from MF with a larger knob. Which
symbol the knob is cannot be decided from the text: `sgad` reads it as d_max, `sgad-beta` as beta.
`sgad-constant` is the ablation of the guideline: every image is asked for the mean D of its batch,
so that the pressure stays and what the guideline knows of the single image is gone.

Published on CIFAR-10 (accuracy %, nFLOPs): ResNet-32 dense 93.02; MF 93.11, 0.86; LF 92.18, 0.47.
ResNet-110 dense 94.57; MF 94.20, 0.86; LF 93.70, 0.23.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

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
    Uniform,
    Unit,
)
from bench.networks.cifar_resnet import ResNet
from bench.networks.gated import GatedResNet
from bench.networks.policy import Policy, UpFront, straight_through
from bench.phases import trunk_and_rest

_NOISE_ROWS = 1 << 16
_STATED = {"alpha", "beta", "gamma", "complexity", "guideline"}
_D_MAX_OF_BETA_READING = 0.9
# Table 1, ResNet-32 on CIFAR-10: 0.86 and 0.47 of the MACs, so 0.15 and 0.57 of the blocks dropped.
# Most images are asked for a little less than d_max.
_AIMS = {"paper-mf": {"d_max": 0.17}, "paper-lf": {"mf_knob": 0.17, "d_max": 0.62}}
_PUBLISHED_EPOCHS, _PUBLISHED_LF_EPOCHS = 220, 60
_PUBLISHED = OptimizerSpec(
    lr=0.1,
    schedule="step",
    milestones=(128 / 220, 160 / 220, 192 / 220),
    warmup_steps=400,
    warmup_from=0.1,
)


class SgadConfig(MethodConfig):
    """Settings of SGAD; all that the text does not state is in `Sgad.tags.reconstructed`."""

    alpha: Annotated[float, LogUniform(0.3, 3)] = Field(
        1.0, ge=0, description="weight of the ResNet's cross-entropy"
    )
    beta: Annotated[float, LogUniform(0.3, 3)] = Field(
        1.0, ge=0, description="weight of |D - d|, BMNet's regulariser"
    )
    gamma: Annotated[float, LogUniform(0.1, 1)] = Field(
        0.3, ge=0, description="weight of SGNet's cross-entropy"
    )
    reading: Literal["d_max", "beta"] = Field("d_max", description="which symbol is the knob")
    guideline: Literal["per image", "constant"] = Field(
        "per image", description="D of each image, or for all the mean D of the batch"
    )
    d_max: Annotated[float, Uniform(0.3, 1)] = Field(
        0.6, gt=0, le=1, description="largest share of blocks asked to drop"
    )
    kappa: float = Field(5.0, gt=0, description="curvature of the map from v to D")
    normalise_v: Literal["v_max", "none"] = Field("v_max", description="unit of v in the map")
    complexity: Literal["mf", "lf", "paper-mf", "paper-lf"] = Field(
        "mf", description="one go, or fine-tuned from MF; paper-: aims at Table 1, ResNet-32"
    )
    mf_knob: float = Field(0.2, ge=0, le=1, description="the knob in the MF stage of LF")
    mf_share: float = Field(0.7, gt=0, lt=1, description="share of the epochs of the MF stage")
    noise_max: float = Field(1.0, ge=0, description="largest sd of the noise in training")
    noise_draw: Literal["each step", "per image"] = Field(
        "each step", description="drawn anew, or the same for an image all along"
    )
    deterministic_share: float = Field(
        0.0, ge=0, lt=1, description="last share of the training, without noise"
    )
    regularised_gates: Literal["noisy", "noise-free"] = Field(
        "noise-free", description="whose drop d the regulariser compares with D"
    )
    regulariser_norm: Literal["mean", "sum"] = Field(
        "mean", description="Eq. 10 over the images of a batch"
    )
    gate_bias: float = Field(1.5, description="initial bias of z: all blocks run at the start")
    target_gradient: Literal["detached", "flows"] = "detached"
    bmnet: Literal["convolutions", "pooled"] = Field("convolutions", description="layers of BMNet")
    sgnet_depth: Literal[8, 14, 20] = Field(8, description="depth of SGNet")
    sgnet_start: Literal["undecided", "as the ResNet"] = Field(
        "undecided",
        description="first weights of SGNet's last layer: v near 0, or as large as usual",
    )
    side_lr_scale: Annotated[float, LogUniform(1, 10)] = Field(
        1.0, gt=0, description="learning rate of BMNet and SGNet, times the ResNet's"
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_that_depend_on_others(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if given.get("complexity") in list(_AIMS):  # what a user gives need not be hashable
            return {**_AIMS[given["complexity"]], **given}
        if given.get("reading") == "beta" and "d_max" not in given:
            return {**given, "d_max": _D_MAX_OF_BETA_READING}
        return given


def guideline_variance(probabilities_nk: Tensor) -> Tensor:
    """Return v (N,), the population variance of each softmax vector (N, K)."""
    return probabilities_nk.var(dim=1, correction=0)


def expected_drop(
    v_n: Tensor, num_classes: int, *, d_max: float, kappa: float, normalise_v: str = "v_max"
) -> Tensor:
    """Return D (N,) in [0, d_max]: increasing and concave in v (Eq. 11, reconstructed).

    With `normalise_v="none"` the map is d_max (1 - exp(-kappa v)), which never reaches d_max.
    """
    if normalise_v == "none":
        return d_max * (1 - torch.exp(-kappa * v_n))
    v_max = (num_classes - 1) / num_classes**2
    return d_max * (1 - torch.exp(-kappa * v_n / v_max)) / (1 - math.exp(-kappa))


class BMNet(Policy):
    """Reads the stem's output (N, 16, H, W) and decides all blocks but the last."""

    def __init__(self, backbone: Backbone, config: SgadConfig) -> None:
        super().__init__([False] * (backbone.num_blocks - 1) + [True])
        backbone.require_maps("BMNet, which reads the stem's output,")
        self.stem_shape = backbone.stem_shape
        self.noise_ng: Tensor | None = None  # of the batch to come; its phase of training sets it
        features, width = _bmnet_features(backbone.stem_shape[0], config.bmnet)
        last = nn.Linear(width, len(self.gated))
        nn.init.normal_(last.weight, std=0.01)
        nn.init.constant_(last.bias, config.gate_bias)
        self.net = nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
        self.net.to(memory_format=torch.channels_last)

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        z_ng = self.net(stem_nchw).float()
        noisy_ng = z_ng
        if self.training and self.noise_ng is not None:
            noisy_ng = z_ng + self.noise_ng
        gates_ng = straight_through_round(torch.sigmoid(noisy_ng))
        return UpFront(
            self.spread(gates_ng),
            always_on=self.always_on,
            terms={"gates_ng": gates_ng, "logits_ng": z_ng},
        )

    def units(self) -> Sequence[Unit]:
        return [Unit("bmnet", self.net, self.stem_shape, True, "policy")]


def straight_through_round(s: Tensor) -> Tensor:
    """Return 1[s >= 0.5] with the gradient of s, if it has one."""
    return straight_through(s >= 0.5, s)


def _bmnet_features(c_in: int, kind: str) -> tuple[list[nn.Module], int]:
    widths = (c_in, 16, 32) if kind == "convolutions" else (c_in, 16, 16)
    layers: list[nn.Module] = [] if kind == "convolutions" else [nn.AvgPool2d(2)]
    for a, b in pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b)]
        layers.append(nn.ReLU(inplace=True))
    return layers, widths[-1]


class JointTraining(Phase):
    """All three nets together, Eq. 12; the knob is `beta` or `d_max` of this stage."""

    config: SgadConfig
    noise_from = 0.0

    def groups(self, net: DynamicNet) -> Sequence[ParameterGroup]:
        return trunk_and_rest(net, self.config.side_lr_scale)

    def noise_sd(self, progress: float) -> float:
        """Return the sd of the noise: rising to `noise_max`, then none for the last share."""
        noisy = 1 - self.config.deterministic_share
        if progress >= noisy < 1:
            return 0.0
        return self.config.noise_max * (self.noise_from + (1 - self.noise_from) * progress / noisy)

    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        assert isinstance(net, GatedResNet) and isinstance(net.policy, BMNet)
        config, policy = self.config, net.policy
        policy.noise_ng = self._noise(batch, len(policy.gated), progress)
        output = net(batch.x_nchw)
        guide_nk = net.training_only["sgnet"](batch.x_nchw).float()
        target_n = self._target(guide_nk.softmax(dim=1))
        calm_ng = straight_through_round(torch.sigmoid(output.terms["logits_ng"]))
        noisy_ng = output.terms["gates_ng"]
        drop_n = 1 - (noisy_ng if config.regularised_gates == "noisy" else calm_ng).mean(dim=1)
        gap_n = (target_n - drop_n).abs()
        parts = {
            "loss": F.cross_entropy(output.logits, batch.labels_n),
            "drop_gap": gap_n.mean(),
            "loss_sgnet": F.cross_entropy(guide_nk, batch.labels_n),
        }
        pull = gap_n.sum() if config.regulariser_norm == "sum" else parts["drop_gap"]
        total = config.alpha * parts["loss"] + config.beta * pull
        total = total + config.gamma * parts["loss_sgnet"]
        shown: Mapping[str, Tensor] = {
            **parts,
            "drop": 1 - noisy_ng.detach().mean(),
            "drop_noise_free": 1 - calm_ng.detach().mean(),
            "drop_asked": target_n.detach().mean(),
            "asked_for_more": (target_n > drop_n).float().mean(),
        }
        return LossTerms(total, shown, output.logits)

    def _noise(self, batch: Batch, gates: int, progress: float) -> Tensor | None:
        """Return the noise (N, G) of this step, or None where there is none."""
        sd, index_n = self.noise_sd(progress), batch.index_n
        if sd == 0:
            return None
        if self.config.noise_draw == "each step":
            return sd * torch.randn(len(index_n), gates, device=index_n.device)
        return sd * _noise_table(gates)[index_n.cpu() % _NOISE_ROWS].to(index_n.device)

    def _target(self, probabilities_nk: Tensor) -> Tensor:
        if self.config.target_gradient == "detached":
            probabilities_nk = probabilities_nk.detach()
        asked_n = expected_drop(
            guideline_variance(probabilities_nk),
            probabilities_nk.shape[1],
            d_max=self.config.d_max,
            kappa=self.config.kappa,
            normalise_v=self.config.normalise_v,
        )
        if self.config.guideline == "constant":
            return asked_n.mean().expand_as(asked_n)
        return asked_n


@cache
def _noise_table(gates: int) -> Tensor:
    """Return (rows, G) standard normal numbers, always the same; a row for an image."""
    return torch.randn(_NOISE_ROWS, gates, generator=torch.Generator().manual_seed(0))


class Sgad(Method[SgadConfig]):
    """Soft-Guided Adaptively-Dropped network, as reconstructed."""

    name = "sgad"
    version = 2
    reference = Reference(
        title="SGAD: Soft-Guided Adaptively-Dropped Neural Network",
        authors="Wang, Huang, Li et al.",
        year=2018,
        url="https://arxiv.org/abs/1807.01430",
    )
    tags = Tags(
        decision="up front",
        samples=True,
        reconstructed=tuple(sorted(set(SgadConfig.model_fields) - _STATED)),
    )

    def variant(self, config: SgadConfig) -> str:
        name = "D" if config.reading == "d_max" else "beta"
        knob = f"d_max={config.d_max:g}" if name == "D" else f"beta={config.beta:g}"
        usual = type(config).model_fields["guideline"].default
        note = "" if config.guideline == usual else f", D {config.guideline}"
        return f"{name}-{config.complexity.upper()} {knob}{note}"

    def published_epochs(self, config: SgadConfig) -> int:
        return _PUBLISHED_EPOCHS + (_PUBLISHED_LF_EPOCHS if config.complexity.endswith("lf") else 0)

    def build(self, backbone: Backbone, config: SgadConfig) -> DynamicNet:
        net = GatedResNet(backbone, BMNet(backbone, config))
        net.training_only["sgnet"] = _sgnet(backbone, config)
        return net

    def phases(self, config: SgadConfig, budget: Budget) -> Sequence[Phase]:
        if config.complexity.endswith("mf"):
            return [JointTraining("mf", config, **budget.schedule(published=_PUBLISHED))]
        share = _PUBLISHED_EPOCHS / (_PUBLISHED_EPOCHS + _PUBLISHED_LF_EPOCHS)
        first = budget.share(share if budget.published else config.mf_share)
        knob = "d_max" if config.reading == "d_max" else "beta"
        start = config.model_copy(update={knob: config.mf_knob})
        mf = JointTraining("mf", start, **budget.schedule(first, published=_PUBLISHED))
        lf = JointTraining("lf", config, **budget.schedule(budget.epochs - first))
        lf.optimizer = mf.optimizer.model_copy(
            update={"lr": mf.optimizer.lr / 10, "schedule": "cosine", "warmup_steps": 0}
        )
        lf.noise_from = 1.0
        return [mf, lf]


def _sgnet(backbone: Backbone, config: SgadConfig) -> ResNet:
    net = ResNet(
        config.sgnet_depth,
        shortcut=backbone.shortcut,
        num_classes=backbone.num_classes,
        channels=backbone.image_shape[0],
    )
    if config.sgnet_start == "undecided":
        nn.init.normal_(net.head.linear.weight, std=0.01)
        nn.init.zeros_(net.head.linear.bias)
    return net.to(memory_format=torch.channels_last)


class SgadBetaConfig(SgadConfig):
    """Settings of the other reading: beta is the knob, and d_max above every published drop."""

    reading: Literal["beta"] = Field("beta", description="which symbol is the knob")
    d_max: float = Field(
        _D_MAX_OF_BETA_READING, gt=0, le=1, description="largest share of blocks asked to drop"
    )


class SgadBeta(Sgad):
    """SGAD with the weight of its regulariser as the knob."""

    name = "sgad-beta"
    Config = SgadBetaConfig


class SgadConstantConfig(SgadConfig):
    """Settings of the ablation: D is the same for all images of a batch."""

    guideline: Literal["constant"] = Field(
        "constant", description="for all the mean D of the batch"
    )


class SgadConstant(Sgad):
    """SGAD whose guideline tells no image from another: what is the guideline worth?"""

    name = "sgad-constant"
    Config = SgadConstantConfig
    tags = replace(Sgad.tags, reconstructed=(*Sgad.tags.reconstructed, "guideline"))
