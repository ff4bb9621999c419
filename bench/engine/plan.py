"""From what a user asks to the list of runs: settings checked, budgets resolved, order fixed.

Owns which controls stand beside a method, what recipes mean for it, and "starts from a dense
network". Trains nothing and reads no disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from bench.config import DatasetSpec, InitialWeights, RunSpec
from bench.data.images import Constants, DatasetInfo
from bench.data.normalising import IMAGENET, constants_named
from bench.errors import ConfigError, PluginError, UnknownNameError
from bench.method import METHODS, DerivedMethod, Method
from bench.networks.trunk import OWN, Backbone
from bench.networks.weights import Weights, fitted_to
from bench.options import RunOptions, validated
from bench.plain_text import one_line
from bench.plugins import backbone_spec, code_of, method_config
from bench.recipes import Budget, OptimizerSpec, Recipe, recipe_named

Options = TypeVar("Options", bound=RunOptions)
DENSE = "resnet"
TRAIN_GROUP = "train"
ALL, NONE = "all", "none"
SHALLOWER = "shallower"
"""The control that is no method: the dense network again, on smaller backbones."""
_SHARES = (0.6, 0.4)
"""One static network below each of these shares of the size: where gated ones usually land."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One run to do; `needs` is the run it starts from or is made from, if that is to be done."""

    spec: RunSpec
    needs: RunSpec | None = None


def make_plan(
    options: RunOptions,
    info: DatasetInfo,
    *,
    train_size: int,
    weights: Weights | None,
    sources: Sequence[RunSpec] = (),
) -> list[Planned]:
    """Return the runs of a command: dense networks first, controls made from runs last.

    Those are made from every dynamic method beside them, or from `sources`, finished runs.

    Raises:
        UnknownNameError: no such method, control, backbone or recipe.
        ConfigError: a setting does not exist or has a wrong value; a start or source is missing.
        WeightsError: the weights do not fit the backbone.
        PluginError: a backbone of a plugin computes something else than its own network.
    """
    options = resolved(options)
    recipe = recipe_named(options.recipe)
    backbone = backbone_in(options, info)
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
    builder = _Builder(options, recipe, info, train_size, weights, sources)
    names = builder.names()
    unknown = set(options.settings) - {*names, TRAIN_GROUP, DENSE}
    if unknown:
        raise ConfigError(
            f"--set names '{one_line(min(unknown), longest=80)}', which is not in this run.",
            hint=f"In this run: {', '.join([*names, TRAIN_GROUP])}.",
        )
    made = [name for name in names if issubclass(METHODS.get(name), DerivedMethod)]
    planned = [
        builder.plan(name, seed) for seed in options.seeds for name in names if name not in made
    ]
    planned += builder.shallower()
    planned.sort(key=lambda item: item.spec.method != DENSE)
    return planned + [item for name in made for item in builder.derived(name, planned)]


def resolved(options: Options) -> Options:
    """Return the options with names in the place of words that stand for several.

    "all" methods are those that are no control.
    """
    methods = options.methods
    if ALL in methods:
        controls = known_controls()
        methods = tuple(name for name in METHODS.names() if name not in controls)
    return options.model_copy(
        update={
            "methods": methods,
            "controls": chosen_controls(options.controls),
            "backbone": options.backbone_name.removeprefix(f"{OWN}/"),
            "seeds": tuple(dict.fromkeys(options.seeds)),
            "precision": "fp32" if options.precision == "auto" else options.precision,
        }
    )


def backbone_in(options: RunOptions, info: DatasetInfo) -> Backbone:
    """Return the backbone that options name, without weights.

    Raises:
        UnknownNameError: there is none of that name.
        ConfigError: it does not take images of this shape.
    """
    name = options.backbone_name.removeprefix(f"{OWN}/")
    shape = (info.channels, info.height, info.width)
    backbone = Backbone(name, info.num_classes, shape, options.shortcut)
    backbone.layout  # noqa: B018  tried before anything is trained
    return backbone


def normalisation_of(options: RunOptions, info: DatasetInfo, weights: Weights | None) -> Constants:
    """Return the constants of the images: those given, else the weights', else the data set's.

    The trainers that write files without constants use ImageNet's for colour, also on CIFAR.

    Raises:
        ConfigError: `--normalise` is no name or constants, or not for so many channels.
    """
    if options.normalise:
        return constants_named(options.normalise, info)
    if weights is None:
        return info.mean, info.std
    if weights.normalisation is not None:
        return weights.normalisation
    return IMAGENET if info.channels == 3 else (info.mean, info.std)


def known_controls() -> list[str]:
    """Return the names of all controls, the shallower networks first; broken plugins left out."""
    found = [SHALLOWER]
    for name in METHODS.names():
        with suppress(PluginError):
            if METHODS.get(name).tags.role == "control":
                found.append(name)
    return found


def chosen_controls(given: Sequence[str]) -> tuple[str, ...]:
    """Return the controls that "all", "none" or a list of names stands for.

    Raises:
        UnknownNameError: there is no such control.
        ConfigError: a method is no control, or "none" is one name of several.
    """
    known = known_controls()
    if NONE in given:
        if set(given) != {NONE}:
            raise ConfigError(
                f"--controls {','.join(given)}: '{NONE}' has no other names beside it.",
                hint=f"Give {NONE}, or {ALL}, or names with commas.",
            )
        return ()
    if ALL in given:
        return tuple(known)
    for name in given:
        if name != SHALLOWER and name not in METHODS.names():
            raise UnknownNameError("control", name, [*known, ALL, NONE])
        if name != SHALLOWER and METHODS.get(name).tags.role != "control":
            raise ConfigError(
                f"'{name}' is no control.",
                hint=f"Controls: {', '.join(known)}, or {ALL} or {NONE}.",
            )
    return tuple(given)


def shallower(backbone: Backbone) -> list[str]:
    """Return smaller backbones of the same ladder to compare with: the largest of at most 0.6 and
    0.4 of the size."""
    ladder = backbone.ladder()
    below = [[name for name, size in ladder.items() if size <= share] for share in _SHARES]
    return list(dict.fromkeys(names[0] for names in below if names))


@dataclass(frozen=True, slots=True)
class _Builder:
    options: RunOptions
    recipe: Recipe
    info: DatasetInfo
    train_size: int
    weights: Weights | None
    sources: Sequence[RunSpec]

    def names(self) -> list[str]:
        """Return the methods asked for and, beside a dynamic one, the controls."""
        names = list(dict.fromkeys(self.options.methods))
        beside = (DENSE, *self.options.controls) if self._beside() else ()
        return names + [name for name in beside if name not in {*names, SHALLOWER}]

    def _beside(self) -> bool:
        """Whether this is a comparison that controls belong to."""
        roles = {METHODS.get(name).tags.role for name in self.options.methods}
        return "dynamic" in roles and bool(self.options.controls)

    def shallower(self) -> list[Planned]:
        """Return the smaller static networks, unless training starts from a user's weights."""
        wanted = self._beside() and SHALLOWER in self.options.controls
        if not wanted or self.weights is not None:
            return []
        planned = []
        for seed in self.options.seeds:
            dense = self._spec(DENSE, seed, share=1.0, initial=None)
            for name in shallower(backbone_in(self.options, self.info)):
                smaller = {"backbone": backbone_spec(name, self.options.shortcut)}
                planned.append(Planned(dense.model_copy(update=smaller)))
        return planned

    def derived(self, name: str, planned: Sequence[Planned]) -> list[Planned]:
        """Return the control `name` of each run that it can be made from."""
        method = METHODS.get(name)
        assert issubclass(method, DerivedMethod)
        backbone = self.options.backbone
        here = [item.spec for item in planned if item.spec.backbone.name == backbone]
        given, made = (
            [spec for spec in specs if METHODS.get(spec.method).tags.role == method.source_role]
            for specs in (self.sources, here)
        )
        if not given and not made and name in self.options.methods:
            raise ConfigError(
                f"'{name}' is made from a finished run of a {method.source_role} network.",
                hint="Give --source RUN (bench list runs), or run a method beside it.",
            )
        return [
            Planned(self._derived(method, source), None if given else source)
            for source in given or made
        ]

    def _derived(self, method: type[DerivedMethod], source: RunSpec) -> RunSpec:
        """Return the spec of a control of the run `source`: its data, seed and budget."""
        config = method_config(method, self.options.settings.get(method.name, {}))
        epochs = source.budget.epochs if self.options.epochs is None else self.options.epochs
        length = method().own_epochs(epochs, config)
        return source.model_copy(
            update={
                **code_of(method.name)._asdict(),
                "config": config.model_dump(mode="json"),
                "budget": source.budget.model_copy(update={"epochs": length}),
                "initial": InitialWeights(kind="run", name=source.run, identity=source.key),
            }
        )

    def plan(self, name: str, seed: int) -> Planned:
        method = METHODS.get(name)
        weights = self.weights
        if weights is not None:
            given, zeros = weights.sha256, weights.zero_channels
            file = InitialWeights(
                kind="file", name=weights.name, identity=given, zero_channels=zeros
            )
            return Planned(self._spec(name, seed, share=1.0, initial=file))
        config = method_config(method, self.options.settings.get(name, {}))
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
        options, info = self.options, self.info
        method = METHODS.get(name)
        config = method_config(method, options.settings.get(name, {}))
        budget = self.recipe.budget(
            train_size=self.train_size,
            published_epochs=method().published_epochs(config),
            epochs=options.epochs,
        )
        return RunSpec(
            **code_of(name)._asdict(),
            config=config.model_dump(mode="json"),
            dataset=DatasetSpec(name=info.name, fingerprint=info.fingerprint),
            backbone=backbone_spec(options.backbone, options.shortcut),
            budget=self._adjusted(budget, share),
            seed=seed,
            normalisation=normalisation_of(options, info, self.weights),
            precision=options.precision,
            compiled=options.compiled,
            held_out=self._held_out(method),
            initial=initial,
        )

    def _held_out(self, method: type[Method]) -> int:
        """Return how many training images to hold out: a tenth where thresholds are chosen."""
        given = self.options.held_out
        return given or (self.train_size // 10 if method.tags.calibrates else 0)

    def _adjusted(self, budget: Budget, share: float) -> Budget:
        given = dict(self.options.settings.get(TRAIN_GROUP, {}))
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
