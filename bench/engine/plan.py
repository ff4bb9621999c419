"""From what a user asks to the list of runs: settings checked, budgets resolved, order fixed.

Owns the meaning of `--set`, of recipes for a method, and of "starts from a dense network". Trains
nothing and reads no disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    _check_settings(request, names)
    made = [name for name in names if issubclass(METHODS.get(name), DerivedMethod)]
    planned = [
        builder.plan(name, seed) for seed in request.seeds for name in names if name not in made
    ]
    planned += builder.shallower()
    planned.sort(key=lambda item: item.spec.method != DENSE)
    return planned + [item for name in made for item in builder.derived(name, planned)]


def _check_settings(request: Request, names: Sequence[str]) -> None:
    unknown = set(request.settings) - {*names, TRAIN_GROUP, DENSE}
    if unknown:
        raise ConfigError(
            f"--set speaks of '{one_line(min(unknown), longest=80)}', which is not in this run.",
            hint=f"In this run: {', '.join([*names, TRAIN_GROUP])}.",
        )


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
        path, equals, text = item.partition("=")
        group, dot, key = path.strip().partition(".")
        if not (equals and dot and group and key):
            raise ConfigError(
                f"--set {one_line(item, longest=80)}: not of the form METHOD.KEY=VALUE.",
                hint="Like sgad.d_max=0.8.",
            )
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
        if self._beside():
            beside = (DENSE, *self.request.controls)
            names += [name for name in beside if name not in {*names, SHALLOWER}]
        return names

    def _beside(self) -> bool:
        """Whether this is a comparison that controls belong to."""
        methods = self.request.methods
        dynamic = any(METHODS.get(name).tags.role == "dynamic" for name in methods)
        return dynamic and bool(self.request.controls)

    def shallower(self) -> list[Planned]:
        """Return the smaller static networks, unless training starts from a user's weights."""
        wanted = self._beside() and SHALLOWER in self.request.controls
        if not wanted or self.weights is not None:
            return []
        own = request_backbone(self.request, self.info)
        return [
            Planned(
                self._spec(DENSE, seed, share=1.0, initial=None).model_copy(
                    update={"backbone": backbone_spec(name, self.request.shortcut)}
                )
            )
            for seed in self.request.seeds
            for name in shallower(own)
        ]

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
        code, epochs = code_of(name), self.request.epochs
        specs = [
            (derived_spec(method, source, code=code, config=config, epochs=epochs), source)
            for source in sources
        ]
        return [Planned(spec, None if given else source) for spec, source in specs]

    def plan(self, name: str, seed: int) -> Planned:
        method = METHODS.get(name)
        initial, needs, share = self._file(), None, 1.0
        config = method_config(method, self.request.settings.get(name, {}))
        if initial is None and method().starts_from_dense(config):
            dense, share = self._shares(method)
            needs = self._dense(seed, share=dense, held_out=self._held_out(method))
            initial = InitialWeights(kind="run", name=needs.run, identity=needs.key)
        return Planned(self._spec(name, seed, share=share, initial=initial), needs)

    def _shares(self, method: type[Method]) -> tuple[float, float]:
        """Return which shares of a budget the dense start and the method get."""
        dense = self.recipe.dense_share
        if dense == 1:
            return 1.0, 1.0
        extra = method.tags.extra_share
        return (1.0, extra) if extra else (dense, 1 - dense)

    def _dense(self, seed: int, *, share: float, held_out: int) -> RunSpec:
        """Return the dense run to start from: what is chosen on held-out images later must not
        have been trained on before."""
        spec = self._spec(DENSE, seed, share=share, initial=None)
        return spec.model_copy(update={"held_out": held_out})

    def _file(self) -> InitialWeights | None:
        if self.weights is None:
            return None
        weights = self.weights
        return InitialWeights(
            kind="file",
            name=weights.name,
            identity=weights.sha256,
            zero_channels=weights.zero_channels,
        )

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
            size = given.pop("batch_size")
            budget = validated(
                Budget, {**budget.model_dump(), "batch_size": size}, owner=TRAIN_GROUP
            )
        merged = {**budget.optimizer.model_dump(), **given}
        optimizer = validated(OptimizerSpec, merged, owner=TRAIN_GROUP)
        return budget.model_copy(update={"optimizer": optimizer})
