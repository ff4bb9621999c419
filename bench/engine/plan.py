"""From what a user asks to the list of runs: settings checked, budgets resolved, order fixed.

Owns the meaning of `--set`, of recipes for a method, and of "starts from a dense network". Trains
nothing and reads no disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bench.config import DatasetSpec, InitialWeights, RunSpec
from bench.data.images import Constants, DatasetInfo
from bench.data.normalising import IMAGENET, constants_named
from bench.engine.controls import (
    ALL,
    SHALLOWER,
    chosen_controls,
    derived_spec,
    known_controls,
    shallower,
    sources_for,
)
from bench.errors import ConfigError
from bench.method import METHODS, DerivedMethod, Method
from bench.networks.trunk import OWN, Backbone, Shortcut
from bench.networks.weights import Weights, fitted_to
from bench.options import RunOptions
from bench.plain_text import one_line
from bench.plugins import backbone_spec, code_of, method_config, validated
from bench.recipes import Budget, OptimizerSpec, Precision, Recipe, recipe_named
from bench.spaces import setting_in

DENSE = "resnet"
TRAIN_GROUP = "train"


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks for, names not yet resolved.

    `controls` stand beside any dynamic method; those that are made from a run are made from every
    dynamic method of the request, or from `sources`, finished runs. `settings` maps a method's
    name, or "train", to what `--set` gave for it.
    """

    methods: Sequence[str]
    backbone: str
    recipe: str
    shortcut: Shortcut = "A"
    epochs: int | None = None
    seeds: Sequence[int] = (0,)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    precision: Precision = "fp32"
    compiled: bool = False
    held_out: int = 0
    normalise: str = ""
    controls: Sequence[str] = ()
    sources: Sequence[RunSpec] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """One run to do; `needs` is the run it starts from or is made from, if that is to be done."""

    spec: RunSpec
    needs: RunSpec | None = None


def make_plan(
    request: Request, info: DatasetInfo, *, train_size: int, weights: Weights | None
) -> list[Planned]:
    """Return the runs of a request: dense networks first, controls made from runs last.

    Raises:
        UnknownNameError: no such method, backbone or recipe.
        ConfigError: a setting does not exist or has a wrong value; a start or source is missing.
        WeightsError: the weights do not fit the backbone.
        PluginError: a backbone of a plugin computes something else than its own network.
    """
    recipe = recipe_named(request.recipe)
    backbone = request_backbone(request, info)
    if backbone_spec(backbone.name, backbone.shortcut).code:
        from bench.testing.backbones import require_original

        require_original(backbone)
    if weights is not None:
        fitted_to(weights, backbone)
    if recipe.start == "pretrained" and weights is None:
        raise ConfigError(
            f"The recipe '{recipe.name}' starts from trained weights.",
            hint="Give --pretrained FILE, or use another recipe (bench list recipes).",
        )
    builder = _Builder(request, recipe, info, train_size, weights)
    names = builder.names()
    unknown = set(request.settings) - {*names, TRAIN_GROUP, DENSE}
    if unknown:
        raise ConfigError(
            f"--set speaks of '{one_line(min(unknown), longest=80)}', which is not in this run.",
            hint=f"In this run: {', '.join([*names, TRAIN_GROUP])}.",
        )
    made = [name for name in names if issubclass(METHODS.get(name), DerivedMethod)]
    planned = [
        builder.plan(name, seed) for seed in request.seeds for name in names if name not in made
    ]
    planned += builder.shallower()
    planned.sort(key=lambda item: item.spec.method != DENSE)
    return planned + [item for name in made for item in builder.derived(name, planned)]


def request_of(options: RunOptions, *, sources: Sequence[RunSpec] = ()) -> Request:
    """Return the request that `options` stand for; "all" means every method that is no control.

    `sources` are the specs of finished runs to make controls from.
    """
    methods = options.methods
    if ALL in methods:
        controls = known_controls(METHODS)
        methods = tuple(name for name in METHODS.names() if name not in controls)
    return Request(
        methods=methods,
        controls=chosen_controls(options.controls, METHODS),
        sources=tuple(sources),
        backbone=options.backbone_name.removeprefix(f"{OWN}/"),
        recipe=options.recipe,
        shortcut=options.shortcut,
        epochs=options.epochs,
        seeds=tuple(dict.fromkeys(options.seeds)),
        settings=options.settings,
        precision="fp32" if options.precision == "auto" else options.precision,
        compiled=options.compiled,
        held_out=options.held_out,
        normalise=options.normalise,
    )


def request_backbone(request: Request, info: DatasetInfo) -> Backbone:
    """Return the backbone of a request, without weights.

    Raises:
        UnknownNameError: there is none of that name.
        ConfigError: it does not take images of this shape.
    """
    shape = (info.channels, info.height, info.width)
    backbone = Backbone(request.backbone, info.num_classes, shape, request.shortcut)
    backbone.layout  # noqa: B018  tried before anything is trained
    return backbone


def normalisation_of(request: Request, info: DatasetInfo, weights: Weights | None) -> Constants:
    """Return the constants of a request: those given, else the weights', else the data set's.

    The trainers that write files without constants use ImageNet's for colour, also on CIFAR.

    Raises:
        ConfigError: `--normalise` is no name or constants, or not for so many channels.
    """
    if request.normalise:
        return constants_named(request.normalise, info)
    if weights is None:
        return info.mean, info.std
    if weights.normalisation is not None:
        return weights.normalisation
    return IMAGENET if info.channels == 3 else (info.mean, info.std)


def parse_settings(items: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Parse `METHOD.KEY=VALUE` items; values are read as YAML.

    Raises:
        ConfigError: an item has another form, or its value cannot be read.
    """
    from bench.plain_yaml import UnreadableYamlError, read_yaml

    parsed: dict[str, dict[str, Any]] = {}
    for item in items:
        group, key, text = setting_in(item, "--set", form="VALUE", like="sgad.d_max=0.8")
        try:
            parsed.setdefault(group, {})[key] = read_yaml(text)
        except UnreadableYamlError as error:
            said = one_line(item, longest=80)
            raise ConfigError(f"--set {said}: the value cannot be read: {error}.") from None
    return parsed


@dataclass(frozen=True, slots=True)
class _Builder:
    request: Request
    recipe: Recipe
    info: DatasetInfo
    train_size: int
    weights: Weights | None

    def names(self) -> list[str]:
        """Return the methods of the request and, beside a dynamic one, the controls."""
        names = list(dict.fromkeys(self.request.methods))
        beside = (DENSE, *self.request.controls) if self._beside() else ()
        return names + [name for name in beside if name not in {*names, SHALLOWER}]

    def _beside(self) -> bool:
        """Whether this is a comparison that controls belong to."""
        roles = {METHODS.get(name).tags.role for name in self.request.methods}
        return "dynamic" in roles and bool(self.request.controls)

    def shallower(self) -> list[Planned]:
        """Return the smaller static networks, unless training starts from a user's weights."""
        wanted = self._beside() and SHALLOWER in self.request.controls
        if not wanted or self.weights is not None:
            return []
        planned = []
        for seed in self.request.seeds:
            dense = self._spec(DENSE, seed, share=1.0, initial=None)
            for name in shallower(request_backbone(self.request, self.info)):
                smaller = {"backbone": backbone_spec(name, self.request.shortcut)}
                planned.append(Planned(dense.model_copy(update=smaller)))
        return planned

    def derived(self, name: str, planned: Sequence[Planned]) -> list[Planned]:
        """Return the control `name` of each run that it can be made from."""
        method = METHODS.get(name)
        assert issubclass(method, DerivedMethod)
        backbone = self.request.backbone
        here = [item.spec for item in planned if item.spec.backbone.name == backbone]
        given = sources_for(method, self.request.sources, METHODS)
        sources = given or sources_for(method, here, METHODS)
        if not sources and name in self.request.methods:
            raise ConfigError(
                f"'{name}' is made from a finished run of a {method.source_role} network.",
                hint="Give --source RUN (bench list runs), or run a method beside it.",
            )
        config = method_config(method, self.request.settings.get(name, {}))
        made_of = partial(
            derived_spec, method, code=code_of(name), config=config, epochs=self.request.epochs
        )
        return [Planned(made_of(source), None if given else source) for source in sources]

    def plan(self, name: str, seed: int) -> Planned:
        method = METHODS.get(name)
        weights = self.weights
        if weights is not None:
            given, zeros = weights.sha256, weights.zero_channels
            file = InitialWeights(
                kind="file", name=weights.name, identity=given, zero_channels=zeros
            )
            return Planned(self._spec(name, seed, share=1.0, initial=file))
        config = method_config(method, self.request.settings.get(name, {}))
        if not method().starts_from_dense(config):
            return Planned(self._spec(name, seed, share=1.0, initial=None))
        # Which shares of a budget the dense start and the method get.
        dense, extra = self.recipe.dense_share, method.tags.extra_share
        own = 1.0 if dense == 1 else extra or 1 - dense
        needs = self._spec(DENSE, seed, share=1.0 if extra else dense, initial=None)
        # What is chosen on held-out images later must not have been trained on before.
        needs = needs.model_copy(update={"held_out": self._held_out(method)})
        start = InitialWeights(kind="run", name=needs.run, identity=needs.key)
        return Planned(self._spec(name, seed, share=own, initial=start), needs)

    def _spec(
        self, name: str, seed: int, *, share: float, initial: InitialWeights | None
    ) -> RunSpec:
        request, info = self.request, self.info
        method = METHODS.get(name)
        config = method_config(method, request.settings.get(name, {}))
        budget = self.recipe.budget(
            train_size=self.train_size,
            published_epochs=method().published_epochs(config),
            epochs=request.epochs,
        )
        return RunSpec(
            **code_of(name)._asdict(),
            config=config.model_dump(mode="json"),
            dataset=DatasetSpec(name=info.name, fingerprint=info.fingerprint),
            backbone=backbone_spec(request.backbone, request.shortcut),
            budget=self._adjusted(budget, share),
            seed=seed,
            normalisation=normalisation_of(request, info, self.weights),
            precision=request.precision,
            compiled=request.compiled,
            held_out=self._held_out(method),
            initial=initial,
        )

    def _held_out(self, method: type[Method]) -> int:
        """Return how many training images to hold out: a tenth where thresholds are chosen."""
        given = self.request.held_out
        return given or (self.train_size // 10 if method.tags.calibrates else 0)

    def _adjusted(self, budget: Budget, share: float) -> Budget:
        given = dict(self.request.settings.get(TRAIN_GROUP, {}))
        if given and budget.published:
            raise ConfigError(
                f"The recipe '{budget.recipe}' trains as each method's paper does: "
                f"{TRAIN_GROUP}.{min(given)} cannot be set.",
                hint=f"For a schedule of your own: --recipe fair --epochs N --set {TRAIN_GROUP}...",
            )
        if share < 1:
            budget = budget.model_copy(update={"epochs": round(budget.epochs * share)})
        if "batch_size" in given:
            changed = {**budget.model_dump(), "batch_size": given.pop("batch_size")}
            budget = validated(Budget, changed, owner=TRAIN_GROUP)
        merged = {**budget.optimizer.model_dump(), **given}
        optimizer = validated(OptimizerSpec, merged, owner=TRAIN_GROUP)
        return budget.model_copy(update={"optimizer": optimizer})
