"""The break-even share: for every kind of block, between 0 and 1, by what is faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.measure import break_even
from bench.measure.break_even import measure_break_even, use_break_even
from bench.measure.contention import Sharing
from bench.measure.remembered import recall, remember, shares_file
from bench.networks.halting import HaltingResNet
from bench.networks.halting_policy import ImageHalting
from bench.networks.positions import LocalScore, PositionHalting, PositionScore
from bench.networks.resnet import Backbone

BACKBONE = Backbone("resnet14", 10, (3, 16, 16))


def whole(width: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1))


def score(width: int) -> PositionScore:
    return PositionScore(LocalScore(nn.Identity(), nn.Conv2d(width, 1, 3, padding=1)), whole(width))


def net() -> HaltingResNet:
    return HaltingResNet(BACKBONE, PositionHalting(BACKBONE, score, eps=0.01, bias=-1.0))


def test_every_kind_of_block_gets_a_share_and_the_network_stays_as_it_was() -> None:
    subject = net().train()
    before = {name: value.clone() for name, value in subject.state_dict().items()}
    found = measure_break_even(subject, 2, "cpu")
    assert set(found) == {"16x16x16, batch", "32x8x8, batch", "64x4x4, batch"}
    assert all(0 <= share <= 1 for share in found.values())
    assert subject.training
    assert all(torch.equal(before[name], now) for name, now in subject.state_dict().items())


@pytest.mark.parametrize(("limit", "expected"), [(2.0, 1.0), (0.55, 0.5), (0.0, 0.0)])
def test_the_share_is_the_last_one_at_which_skipping_pays(
    limit: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(break_even, "_skipping_pays", lambda _b, _s, share, _d: share < limit)
    assert set(measure_break_even(net(), 1, "cpu").values()) == {expected}


def test_a_network_whose_images_halt_has_no_break_even_share() -> None:
    other = HaltingResNet(BACKBONE, ImageHalting(BACKBONE, whole, eps=0.01, bias=-1.0))
    with pytest.raises(ValueError, match="positions"):
        measure_break_even(other, 1, "cpu")


QUIET = Sharing(1.0, 0.0, 0.0, 0.1, 2)
CROWDED = Sharing(0.5, 0.9, 0.0, 3.0, 2)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Sharing], list[int]]:
    """Have every measurement find 0.5 and be counted, on a machine shared like this."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def start(sharing: Sharing) -> list[int]:
        batches: list[int] = []

        def measure(subject: HaltingResNet, batch_size: int, device: object) -> dict[str, float]:
            batches.append(batch_size)
            return dict.fromkeys(break_even._kinds(subject, batch_size), 0.5)

        monkeypatch.setattr(break_even, "measure_break_even", measure)
        monkeypatch.setattr(break_even.ContentionMeter, "sharing", sharing)
        return batches

    return start


def shares_of(subject: HaltingResNet) -> Mapping[str, float]:
    assert isinstance(subject.policy, PositionHalting)
    assert subject.policy.break_even is not None
    return subject.policy.break_even


def test_shares_are_measured_once_per_machine(counted: Callable[[Sharing], list[int]]) -> None:
    batches = counted(QUIET)
    first, second = net(), net()
    use_break_even(first, 32, torch.device("cpu"))
    use_break_even(second, 32, torch.device("cpu"))
    assert batches == [32]
    assert shares_of(first) == shares_of(second)
    assert set(shares_of(second)) == {"16x16x16, batch", "32x8x8, batch", "64x4x4, batch"}


def test_another_batch_size_or_other_threads_are_measured_anew(
    counted: Callable[[Sharing], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = counted(QUIET)
    use_break_even(net(), 32, torch.device("cpu"))
    use_break_even(net(), 64, torch.device("cpu"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 97)
    use_break_even(net(), 64, torch.device("cpu"))
    assert batches == [32, 64, 64]


def test_what_a_crowded_machine_measured_is_used_and_not_kept(
    counted: Callable[[Sharing], list[int]],
) -> None:
    batches, subject = counted(CROWDED), net()
    for _ in range(2):
        use_break_even(subject, 32, torch.device("cpu"))
    assert batches == [32, 32]
    assert set(shares_of(subject).values()) == {0.5}
    assert not shares_file().exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"a": {"b": 2}}', "\xff"])
def test_a_damaged_file_of_shares_is_measured_over(
    content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shares_file().parent.mkdir()
    shares_file().write_bytes(content.encode("latin-1"))
    assert recall("a") == {}
    remember("a", {"b": 0.5})
    assert recall("a") == {"b": 0.5}


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "taken").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    remember("a", {"b": 0.5})
    assert recall("a") == {}


def test_without_a_home_folder_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    remember("a", {"b": 0.5})
    assert recall("a") == {}


def test_a_network_whose_positions_do_not_halt_is_left_alone(
    counted: Callable[[Sharing], list[int]],
) -> None:
    batches = counted(QUIET)
    use_break_even(
        HaltingResNet(BACKBONE, ImageHalting(BACKBONE, whole, eps=0.01, bias=-1.0)),
        32,
        torch.device("cpu"),
    )
    assert batches == []
