"""Which controls stand beside a request, and what each of them is made from.

Controls judge a dynamic method: smaller static networks, random skipping, its own masks shuffled or
made the same for everyone. Owns the choice; plans no other run and trains nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.config import InitialWeights, RunSpec
from bench.errors import ConfigError, PluginError, UnknownNameError
from bench.method import DerivedMethod, Method, MethodConfig
from bench.networks.trunk import Backbone
from bench.plugins import MethodCode
from bench.registry import Registry

ALL, NONE = "all", "none"
SHALLOWER = "shallower"
"""The control that is no method: the dense network again, on smaller backbones."""


_SHARES = (0.6, 0.4)
"""One static network below each of these shares of the size: where gated ones usually land."""


def known_controls(methods: Registry[Method]) -> list[str]:
    """Return the names of all controls, the shallower networks first; broken plugins left out."""
    found = [SHALLOWER]
    for name in methods.names():
        try:
            if methods.get(name).tags.role == "control":
                found.append(name)
        except PluginError:
            continue
    return found


def chosen_controls(given: Sequence[str], methods: Registry[Method]) -> tuple[str, ...]:
    """Return the controls that "all", "none" or a list of names stands for.

    Raises:
        UnknownNameError: there is no such control.
        ConfigError: a method is no control, or "none" is one name of several.
    """
    known = known_controls(methods)
    if NONE in given:
        if set(given) != {NONE}:
            raise ConfigError(
                f"--controls {','.join(given)}: '{NONE}' stands alone.",
                hint=f"Give {NONE}, or {ALL}, or names with commas.",
            )
        return ()
    if ALL in given:
        return tuple(known)
    for name in given:
        if name != SHALLOWER and name not in methods.names():
            raise UnknownNameError("control", name, [*known, ALL, NONE])
        if name != SHALLOWER and methods.get(name).tags.role != "control":
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


def sources_for(
    method: type[DerivedMethod], specs: Iterable[RunSpec], methods: Registry[Method]
) -> list[RunSpec]:
    """Return the runs among `specs` that the control `method` can be made from."""
    return [spec for spec in specs if methods.get(spec.method).tags.role == method.source_role]


def derived_spec(
    method: type[DerivedMethod],
    source: RunSpec,
    *,
    code: MethodCode,
    config: MethodConfig,
    epochs: int | None,
) -> RunSpec:
    """Return the spec of the control `method` of the run `source`: its data, seed and budget.

    `code` says which code of the control it is. `epochs`, if given, stands in place of how long the
    source was trained.
    """
    length = method().own_epochs(source.budget.epochs if epochs is None else epochs, config)
    return source.model_copy(
        update={
            **code._asdict(),
            "config": config.model_dump(mode="json"),
            "budget": source.budget.model_copy(update={"epochs": length}),
            "initial": InitialWeights(kind="run", name=source.run, identity=source.key),
        }
    )
