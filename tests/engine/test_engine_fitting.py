"""Given weights are compared with training images: constants named, zero channels found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.config import InitialWeights
from bench.data.augment import normalise
from bench.data.images import Dataset
from bench.data.load import load_dataset
from bench.engine.fitting import fitted
from bench.engine.plan import make_plan
from bench.networks.trunk import Backbone
from bench.networks.weights import Normalisation, Weights, fitted_to, read_weights
from bench.options import RunOptions

OPTIONS = RunOptions(methods=("resnet",), backbone="resnet8", recipe="smoke")
BRIGHT: Normalisation = ((0.0,), (1.0,))


class PaddedAtEnd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        kept = x[:, :, ::2, ::2]
        return torch.cat([kept, torch.zeros_like(kept)], dim=1)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", data_dir=Path("nowhere"))


def trained(
    digits: Dataset, folder: Path, constants: Normalisation, *, steps: int, at_end: bool = False
) -> Weights:
    """Train a ResNet-8 as another trainer would, save it as one does, and read that file."""
    torch.manual_seed(0)
    net = Backbone("resnet8", 10, (1, 8, 8)).build()
    if at_end:
        for block in net.blocks[1:]:
            block.shortcut = PaddedAtEnd()
    mean, std = constants
    x = normalise(digits.train.images_nhwc, mean=mean, std=std)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(steps):
        chosen = torch.randint(len(x), (128,))
        loss = F.cross_entropy(net(x[chosen]), digits.train.labels_n[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    names = {"stem.conv": "conv1", "stem.bn": "bn1", "head.": "", "residual.": ""}
    names |= {f"blocks.{block}": f"layer{block + 1}.0" for block in range(3)}
    state = {}
    for key, value in net.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        state[key] = value
    torch.save({"net": state}, folder / "net.pth")
    backbone = Backbone("resnet8", 10, (1, 8, 8))
    return fitted_to(read_weights(folder / "net.pth"), backbone)


def notes_on(
    weights: Weights, digits: Dataset, options: RunOptions = OPTIONS
) -> tuple[Weights, str]:
    notes: list[str] = []
    device = torch.device("cpu")
    read = fitted(weights, options, digits, device=device, note=notes.append)
    return read, "\n".join(notes)


def test_other_constants_are_remarked_on_by_the_option_that_chooses_them(
    digits: Dataset, tmp_path: Path
) -> None:
    weights = trained(digits, tmp_path, BRIGHT, steps=60)
    read, said = notes_on(weights, digits)
    assert "--normalise 0/1 " in said
    plan = make_plan(OPTIONS, digits.info, train_size=100, weights=read)
    assert plan[0].spec.normalisation == (digits.info.mean, digits.info.std), "only a remark"
    chosen = OPTIONS.model_copy(update={"normalise": "0/1"})
    assert notes_on(weights, digits, chosen) == (weights, "")
    plan = make_plan(chosen, digits.info, train_size=100, weights=weights)
    assert plan[0].spec.normalisation == BRIGHT


def test_zero_channels_at_the_end_are_found_and_recorded(digits: Dataset, tmp_path: Path) -> None:
    own = (digits.info.mean, digits.info.std)
    weights = trained(digits, tmp_path, own, steps=60, at_end=True)
    read, said = notes_on(weights, digits)
    assert "zero channels of shortcut A behind the others" in said
    assert "--normalise" not in said
    assert read.zero_channels == "end"
    initial = make_plan(OPTIONS, digits.info, train_size=100, weights=read)[0].spec.initial
    assert initial is not None and initial.zero_channels == "end"


def test_nothing_is_said_of_weights_that_are_read_as_trained_or_not_trained(
    digits: Dataset, tmp_path: Path
) -> None:
    own = (digits.info.mean, digits.info.std)
    for steps in (60, 0):
        weights = trained(digits, tmp_path, own, steps=steps)
        assert notes_on(weights, digits) == (weights, "")


def test_zero_channels_on_both_sides_leave_the_key_of_a_run_as_it_was() -> None:
    before = {"kind": "file", "name": "net.pth", "identity": "0a"}
    assert InitialWeights.model_validate(before).model_dump() == before
    other = InitialWeights.model_validate({**before, "zero_channels": "end"})
    assert InitialWeights.model_validate(other.model_dump(mode="json")) == other
    assert other.model_dump() != before
