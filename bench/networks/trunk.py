"""The contract of a backbone: stem, residual blocks, head; and where backbones are found.

    y = then(after(shortcut(x) + residual(x)))     for every block

`residual` is what a method may skip. A layer that has no residual beside it always runs: before the
first block it belongs to the stem, behind the last to the head, elsewhere it is the `then` of the
block before it. States are maps (N, C, H, W) or tokens (N, T, C). Owns no architecture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from bench.errors import BenchError, ConfigError, NotApplicable, PluginError
from bench.networks.unit import RemovedResidual
from bench.registry import Registry

Shortcut = Literal["A", "B"]
Shape = tuple[int, ...]
OWN = "cifar"
"""The family whose members are also known by their bare names."""


class Block(nn.Module):
    """One residual block.

    `settled`: `after` changes nothing of what the shortcut gives, as a ReLU behind states that are
    never negative; by default where there is no `after`. A skipped block then is its shortcut.
    """

    def __init__(
        self,
        residual: nn.Module,
        shortcut: nn.Module | None = None,
        *,
        after: nn.Module | None = None,
        then: nn.Module | None = None,
        settled: bool | None = None,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.shortcut = shortcut or nn.Identity()
        self.after = after or nn.Identity()
        self.then = then or nn.Identity()
        self.settled = after is None if settled is None else settled

    @property
    def is_removed(self) -> bool:
        """Whether its residual was removed: it is skipped whatever is decided."""
        return isinstance(self.residual, RemovedResidual)

    def remove(self) -> None:
        """Remove the residual, for every image, permanently."""
        self.register_module("residual", RemovedResidual())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.then(self.after(self.shortcut(x) + self.residual(x)))
        return out


class Trunk(nn.Module):
    """The plain network: (N, C, H, W) -> (N, K).

    `library_names` maps the names of its weights to those of the library that it comes from.
    """

    def __init__(self, stem: nn.Module, blocks: Iterable[Block], head: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)
        self.head = head
        self.library_names: dict[str, str] = {}

    @property
    def is_complete(self) -> bool:
        """Whether no block has been removed."""
        return not any(isinstance(module, RemovedResidual) for module in self.modules())

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.head(h)
        return logits


def split_network(net: nn.Module, apart: Callable[[Any], Trunk]) -> Trunk:
    """Return the trunk that `apart` makes of a network: its own modules and weights in other
    places, under names that differ from the library's."""
    theirs = {id(tensor): name for name, tensor in net.state_dict(keep_vars=True).items()}
    trunk = apart(net)
    own = trunk.state_dict(keep_vars=True)
    trunk.library_names = {name: theirs[id(tensor)] for name, tensor in own.items()}
    return trunk


def blocks_of(trunk: Trunk) -> list[Block]:
    """Return the residual blocks of a trunk, in order."""
    return [block for block in trunk.blocks if isinstance(block, Block)]


def pool(h: Tensor) -> Tensor:
    """Return the mean over positions, (N, C): of maps (N, C, H, W) or of tokens (N, T, C)."""
    return h.mean(dim=(2, 3)) if h.ndim == 4 else h.flatten(1, -2).mean(dim=1)


class Pool(nn.Module):
    """`pool` as a module."""

    def forward(self, h: Tensor) -> Tensor:
        return pool(h)


class Stage(NamedTuple):
    """A run of blocks, by index, behind each of which the state has one shape."""

    blocks: range
    shape: Shape


class Layout(NamedTuple):
    """The shapes, without the batch, behind the stem and each block, and before each `then`."""

    states: tuple[Shape, ...]
    sums: tuple[Shape, ...]


class Family(ABC):
    """Backbones of one kind: a plugin of the entry-point group `bench.backbones`.

    A backbone is called `name/member`, or `name` where a family has one member.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""

    @abstractmethod
    def build(self, backbone: Backbone) -> Trunk:
        """Return the untrained trunk for `backbone.num_classes` and `backbone.image_shape`."""

    def model(self, backbone: Backbone) -> nn.Module | None:
        """Return the network that the trunk is made of, as its library has it, if there is one.

        It and `build` draw the same weights from the same random numbers, so that they can be
        compared.
        """
        return None

    def members(self) -> tuple[str, ...]:
        """Return what is listed, "" for a backbone that is called as its family is."""
        return ("",)

    def side(self, member: str) -> int:
        """Return the side, in pixels, of the images that a member is meant for."""
        return 224

    def check(self, backbone: Backbone) -> None:
        """Do nothing if there is such a member, and it takes images of that shape.

        Raises:
            UserError: there is none, or it does not.
        """
        if backbone.shortcut != "A":
            raise ConfigError(f"--shortcut is a choice of CIFAR ResNets, not of {backbone.name}.")

    def ladder(self, member: str) -> Mapping[str, float]:
        """Return smaller members, and about how large each is beside `member`, from 0 to 1."""
        return {}


BACKBONES: Registry[Family] = Registry(Family, kind="backbone", group="bench.backbones")


def split_name(name: str) -> tuple[str, str]:
    """Return family and member of the name of a backbone."""
    family, slash, member = name.partition("/")
    if slash or family in BACKBONES.names():
        return family, member
    return OWN, name


@dataclass(frozen=True, slots=True)
class Backbone:
    """What a method builds on: which trunk, for which images; and, if any, its starting weights.

    Raises:
        UnknownNameError: there is no backbone of that name.
        ConfigError: it does not take such images.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    shortcut: Shortcut = "A"
    weights: Mapping[str, Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name.removeprefix(f"{OWN}/"))
        self.family.check(self)

    @property
    def family(self) -> Family:
        return BACKBONES.get(split_name(self.name)[0])()

    @property
    def member(self) -> str:
        return split_name(self.name)[1]

    @property
    def layout(self) -> Layout:
        """All shapes of states.

        Raises:
            ConfigError: the trunk does not take images of this shape.
        """
        plain = self if self.weights is None else replace(self, weights=None)
        return _layout(type(self.family), plain)

    @property
    def num_blocks(self) -> int:
        return len(self.layout.sums)

    @property
    def stem_shape(self) -> Shape:
        """Shape of what the first block reads: (C, H, W), or (T, C)."""
        return self.layout.states[0]

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        """Shape of what each block reads: (C, h, w), or (T, C)."""
        return self.layout.states[:-1]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels C of what each block reads, pooled (N, C)."""
        return tuple(width_of(shape) for shape in self.input_shapes)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The runs of blocks behind which states have one shape."""
        behind = self.layout.states[1:]
        starts = [b for b, shape in enumerate(behind) if b == 0 or shape != behind[b - 1]]
        ends = [*starts[1:], len(behind)]
        return tuple(Stage(range(b, end), behind[b]) for b, end in zip(starts, ends, strict=True))

    @property
    def thirds(self) -> tuple[int, int]:
        """The first blocks behind one and two thirds of all: where stages begin, if there are as
        many; for exits.

        Raises:
            NotApplicable: there are not enough blocks.
        """
        count = self.num_blocks
        starts = [stage.blocks.start for stage in self.stages[1:]]
        places = starts if len(starts) > 1 else list(range(1, count))
        if len(places) < 2:
            raise NotApplicable(f"{self.name} has {count} blocks: too few for two exits.")
        first = min(places[:-1], key=lambda b: abs(3 * b - count))
        second = min((b for b in places if b > first), key=lambda b: abs(3 * b - 2 * count))
        return first, second

    def smaller(self, share: float) -> str | None:
        """Return the backbone of the same ladder nearest to `share` of this one, if there is any;
        of two that are as near, the larger."""
        ladder = self.ladder()
        return min(
            ladder,
            key=lambda name: (round(abs(ladder[name] - share), 9), -ladder[name]),
            default=None,
        )

    def ladder(self) -> dict[str, float]:
        """Return the smaller backbones that its family declares, the largest first, by share."""
        family, member = split_name(self.name)
        prefix = "" if family == OWN else f"{family}/"
        found = self.family.ladder(member)
        return {f"{prefix}{name}": found[name] for name in sorted(found, key=lambda m: -found[m])}

    def require_maps(self, who: str) -> None:
        """Do nothing where states are maps (N, C, H, W).

        Raises:
            NotApplicable: they are not.
        """
        if any(len(shape) != 3 for shape in self.layout.states):
            raise NotApplicable(
                f"{who} needs maps with positions; the states of {self.name} are tokens."
            )

    def require_tokens(self, who: str) -> None:
        """Do nothing where states are tokens (N, T, C).

        Raises:
            NotApplicable: they are not.
        """
        if any(len(shape) != 2 for shape in self.layout.states):
            raise NotApplicable(
                f"{who} needs the tokens of a transformer, as of timm/vit_tiny_patch4_32; the"
                f" states of {self.name} are maps."
            )

    def without_memory(self) -> Trunk:
        """Return the plain trunk in eval mode on the device meta: shapes without numbers."""
        with torch.device("meta"):
            # What brings weights along is not made there, but can go there.
            return replace(self, weights=None).build().to("meta").eval()

    def build(self) -> Trunk:
        """Return the plain trunk, with the starting weights if there are any."""
        trunk = self.family.build(self)
        if self.weights is not None:
            trunk.load_state_dict(dict(self.weights))
        return trunk.to(memory_format=torch.channels_last)


def width_of(shape: Shape) -> int:
    """Return the channels C of a state (C, h, w) or (T, C)."""
    return shape[0] if len(shape) == 3 else shape[-1]


@lru_cache(maxsize=256)
def _layout(_: type[Family], backbone: Backbone) -> Layout:
    # The family is part of what is remembered: another file may bring one of the same name.
    images = "x".join(map(str, backbone.image_shape))
    try:
        with torch.device("meta"), torch.no_grad():
            trunk = backbone.without_memory()
            h = trunk.stem(torch.zeros(1, *backbone.image_shape))
            states, sums = [tuple(h.shape[1:])], []
            for block in blocks_of(trunk):
                h = block.after(block.shortcut(h) + block.residual(h))
                sums.append(tuple(h.shape[1:]))
                h = block.then(h)
                states.append(tuple(h.shape[1:]))
            logits = trunk.head(h)
    except BenchError:
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"The backbone {backbone.name} does not take images of {images}: {said}",
            hint=f"Try it alone: bench backbone check {backbone.name}",
        ) from error
    if tuple(logits.shape) != (1, backbone.num_classes):
        raise PluginError(
            f"The backbone {backbone.name} gives logits of shape {tuple(logits.shape)} for an "
            f"image, not (1, {backbone.num_classes})."
        )
    return Layout(tuple(states), tuple(sums))
