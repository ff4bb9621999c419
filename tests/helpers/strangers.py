"""A small plugin file, and packages that are installed for one test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from bench import registry
from bench.method import METHODS, Method
from bench.registry import Registry

GOOD = """
from bench.method import Method, MethodConfig, Reference, Tags
from bench.networks.gated import GatedResNet


class Quiet(Method):
    name = "quiet"
    reference = Reference("Quiet", "Nobody", 2024, "https://example.org")
    tags = Tags(decision="static")

    def published_epochs(self, config):
        return 1

    def build(self, backbone, config):
        return GatedResNet(backbone)

    def phases(self, config, budget):
        return []
"""
Install = Callable[..., None]


def new_registry() -> Registry[Method]:
    return Registry(Method, kind="method", group=METHODS.group)


@pytest.fixture
def methods() -> Iterator[Registry[Method]]:
    """A registry of its own; modules and folders of plugins are forgotten after the test."""
    modules, path = set(sys.modules), list(sys.path)
    yield new_registry()
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.path[:] = path


def entry_point(name: str, value: str, origin: str) -> EntryPoint:
    entry = EntryPoint(name, value, METHODS.group)
    vars(entry)["dist"] = SimpleNamespace(name=origin)
    return entry


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that says which entry points are installed."""

    def install(*entries: EntryPoint) -> None:
        def found(*, group: str) -> list[EntryPoint]:
            return [entry for entry in entries if entry.group == group]

        monkeypatch.setattr(registry, "entry_points", found)

    return install
