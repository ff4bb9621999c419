"""Weights on disk: what is read, how it is renamed, and all that is refused."""

from __future__ import annotations

import argparse
import datetime
import gzip
import hashlib
import io
import os
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from bench.errors import WeightsError
from bench.networks.cifar_resnet import ResNet
from bench.networks.trunk import Backbone, Shortcut
from bench.networks.weights import (
    Normalisation,
    Weights,
    fitted_to,
    read_weights,
    trunk_bytes,
    with_zeros_at_end,
)

CIFAR = (3, 32, 32)
SMALL = (3, 8, 8)
HALVES: Normalisation = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
REAL = {20: "resnet20-12fca82f.th", 32: "resnet32-d509ac18.th"}


def small_backbone(shortcut: Shortcut = "A", *, name: str = "resnet14") -> Backbone:
    return Backbone(name, 10, SMALL, shortcut)


def trained(shortcut: Shortcut = "A", *, name: str = "resnet14") -> ResNet:
    net = small_backbone(shortcut, name=name).build()
    with torch.no_grad():
        net.train()(torch.randn(8, *SMALL))
    return net.eval()


def their_name(key: str, *, per_stage: int, head: str) -> str:
    """Give one of our names the name it has in the widespread files."""
    for ours, theirs in (("stem.conv", "conv1"), ("stem.bn", "bn1"), ("head.linear", head)):
        if key.startswith(ours):
            return key.replace(ours, theirs)
    _, block, *rest = key.split(".")
    stage, place = divmod(int(block), per_stage)
    text = ".".join(rest).removeprefix("residual.")
    text = text.replace("shortcut.conv", "shortcut.0").replace("shortcut.bn", "shortcut.1")
    return f"layer{stage + 1}.{place}.{text}"


def in_their_layout(
    net: ResNet, *, prefix: str = "module.", head: str = "linear"
) -> dict[str, Any]:
    per_stage = len(net.blocks) // 3
    return {
        prefix + their_name(key, per_stage=per_stage, head=head): value
        for key, value in net.state_dict().items()
    }


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[object], Path]:
    def save(content: object) -> Path:
        path = tmp_path / "weights.th"
        torch.save(content, path)
        return path

    return save


def rebuilt(weights: Weights, backbone: Backbone) -> ResNet:
    return replace(backbone, weights=fitted_to(weights, backbone).state).build()


def test_a_bare_state_dict_in_half_precision_is_read_as_fp32(
    saved: Callable[[object], Path],
) -> None:
    layout = {
        key: value.half() if value.is_floating_point() else value
        for key, value in in_their_layout(trained()).items()
    }
    weights = read_weights(saved(layout))
    assert {value.dtype for value in weights.state.values()} == {torch.float32, torch.int64}
    rebuilt(weights, small_backbone())


def test_weights_without_batch_counters_fit_and_load(saved: Callable[[object], Path]) -> None:
    net = trained()
    layout = in_their_layout(net)
    old = {key: value for key, value in layout.items() if "num_batches" not in key}
    assert len(old) < len(layout)
    x = torch.randn(2, *SMALL)
    assert torch.equal(rebuilt(read_weights(saved(old)), small_backbone()).eval()(x), net(x))


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_what_is_written_is_read_back_with_its_normalisation(
    shortcut: Shortcut, tmp_path: Path
) -> None:
    net, path = trained(shortcut), tmp_path / "trunk.safetensors"
    path.write_bytes(trunk_bytes(net.state_dict(), backbone="resnet14", normalisation=HALVES))
    weights = read_weights(path)
    assert weights.normalisation == HALVES
    assert weights.name == "trunk.safetensors"
    assert weights.state.keys() == net.state_dict().keys()
    assert all(torch.equal(weights.state[key], value) for key, value in net.state_dict().items())
    x = torch.randn(2, *SMALL)
    assert torch.equal(rebuilt(weights, small_backbone(shortcut)).eval()(x), net(x))


def test_weights_of_another_depth_are_refused(saved: Callable[[object], Path]) -> None:
    weights = read_weights(saved(in_their_layout(trained(name="resnet20"))))
    with pytest.raises(WeightsError, match=r"(?s)does not fit resnet14.*--backbone resnet20"):
        fitted_to(weights, small_backbone())


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        (Backbone("resnet14", 100, SMALL), r"100 classes.*'linear\.bias' is \(10,\)"),
        (Backbone("resnet14", 10, SMALL, "B"), r"shortcut B.*missing, expected"),
        (Backbone("resnet14", 10, (1, 8, 8)), r"'conv1\.weight' is \(16, 3, 3, 3\)"),
    ],
)
def test_weights_of_another_shape_are_refused_by_name_and_shape(
    backbone: Backbone, said: str, saved: Callable[[object], Path]
) -> None:
    weights = read_weights(saved(in_their_layout(trained())))
    with pytest.raises(WeightsError, match=said):
        fitted_to(weights, backbone)


def test_projections_where_none_are_expected_are_refused(saved: Callable[[object], Path]) -> None:
    weights = read_weights(saved(in_their_layout(trained("B"))))
    with pytest.raises(WeightsError, match="expected nothing"):
        fitted_to(weights, small_backbone("A"))


class Intruder:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("writer", ["torch", "torch legacy", "pickle"])
def test_a_file_that_holds_code_is_refused_and_the_code_not_run(
    writer: str, tmp_path: Path
) -> None:
    path, touched = tmp_path / "evil.th", tmp_path / "touched"
    content = {"state_dict": in_their_layout(trained()), "note": Intruder(touched)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps({"note": Intruder(touched)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(WeightsError, match=r"evil\.th cannot be read as weights") as caught:
        read_weights(path)
    assert not touched.exists()
    assert "never run" in str(caught.value)
    torch.load(path, weights_only=False) if writer != "pickle" else pickle.loads(path.read_bytes())
    assert touched.exists(), "the file would have run its code: the refusal is what stopped it"


def _renamed(layout: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {key.replace(old, new): value for key, value in layout.items()}


@pytest.mark.parametrize("container", ["", "state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize(
    ("shortcut", "projection", "head"),
    [("A", "", "linear"), ("B", "shortcut", "fc"), ("B", "downsample", "linear")],
)
def test_all_layouts_of_the_same_weights_give_the_same_logits(
    container: str,
    prefix: str,
    shortcut: Shortcut,
    projection: str,
    head: str,
    saved: Callable[[object], Path],
) -> None:
    net = trained(shortcut)
    layout = _renamed(in_their_layout(net, prefix=prefix, head=head), "shortcut", projection)
    beside = {"epoch": 199, "acc": torch.tensor(92.9), "optimizer": {"state": {0: torch.ones(1)}}}
    path = saved({container: layout, **beside} if container else layout)
    weights = read_weights(path)
    assert weights.normalisation is None, "such a file does not say"
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    x = torch.randn(2, *SMALL)
    assert torch.equal(rebuilt(weights, small_backbone(shortcut)).eval()(x), net(x))


def test_safetensors_of_other_trainers_are_read_whatever_the_file_is_called(
    tmp_path: Path,
) -> None:
    net, x = trained(), torch.randn(2, *SMALL)
    for name in ("model.safetensors", "model.bin"):
        layout = {key: value.contiguous() for key, value in in_their_layout(net).items()}
        save_file(layout, tmp_path / name, {"format": "pt"})
        weights = read_weights(tmp_path / name)
        assert weights.normalisation is None
        assert torch.equal(rebuilt(weights, small_backbone()).eval()(x), net(x))


@pytest.mark.parametrize("zipped", [True, False])
def test_settings_and_numpy_numbers_beside_the_weights_stay_unread(
    zipped: bool, tmp_path: Path
) -> None:
    net, x, path = trained(), torch.randn(2, *SMALL), tmp_path / "beside.pth"
    beside = {
        "args": argparse.Namespace(lr=0.1, out=Path("runs")),
        "best": np.float64(92.9),
        "curve": np.arange(3.0),
        "now": datetime.datetime(2026, 1, 1),
        "kinds": {int, str},
    }
    content = {**beside, "net": in_their_layout(net)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(rebuilt(read_weights(path), small_backbone()).eval()(x), net(x))


def test_a_whole_pickled_network_is_refused_with_the_way_out(
    saved: Callable[[object], Path],
) -> None:
    for content in (trained(), {"model": trained()}):
        with pytest.raises(WeightsError, match="a whole pickled network") as caught:
            read_weights(saved(content))
        assert "state_dict()" in str(caught.value)


def test_weights_that_are_there_twice_are_refused(saved: Callable[[object], Path]) -> None:
    layout = in_their_layout(trained())
    with pytest.raises(WeightsError, match="under 'state_dict' and under 'model'"):
        read_weights(saved({"model": layout, "state_dict": layout}))


def _torchscript() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".th", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html><body>Quota exceeded</body></html>", r"is a web page \(HTML"),
        (gzip.compress(b"weights", mtime=0), "cannot be read as weights"),
        (_torchscript(), "cannot be read as weights"),
    ],
)
def test_what_is_no_weights_file_is_refused(
    content: bytes, said: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        read_weights(path)


class PaddedAtEnd(torch.nn.Module):
    """Shortcut A as many trainers write it: every second pixel, then as many zero channels."""

    def forward(self, x: Tensor) -> Tensor:
        kept = x[:, :, ::2, ::2]
        return torch.cat([kept, torch.zeros_like(kept)], dim=1)


def test_weights_trained_with_zero_channels_at_the_end_compute_the_same(
    saved: Callable[[object], Path],
) -> None:
    net = trained(name="resnet20").double()
    for block in net.blocks:
        if not isinstance(block.shortcut, torch.nn.Identity):
            block.shortcut = PaddedAtEnd()
    x = torch.randn(4, *SMALL, dtype=torch.float64)
    weights = read_weights(saved(in_their_layout(net)))
    backbone = small_backbone(name="resnet20")
    misread = rebuilt(weights, backbone).eval().double()
    read = rebuilt(with_zeros_at_end(fitted_to(weights, backbone)), backbone).eval().double()
    assert not torch.allclose(misread(x), net(x), atol=1e-3)
    torch.testing.assert_close(read(x), net(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("theirs", "ours"), [("A", "B"), ("B", "A")])
def test_the_other_kind_of_shortcut_is_named_with_its_option(
    theirs: Shortcut, ours: Shortcut, saved: Callable[[object], Path]
) -> None:
    weights = read_weights(saved(in_their_layout(trained(theirs))))
    with pytest.raises(WeightsError) as caught:
        fitted_to(weights, small_backbone(ours))
    assert f"--shortcut {theirs}" in str(caught.value)


@pytest.mark.parametrize("suffix", [".th", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(suffix: str, share: float, tmp_path: Path) -> None:
    net, path = trained(), tmp_path / f"weights{suffix}"
    if suffix == ".th":
        torch.save(in_their_layout(net), path)
    else:
        path.write_bytes(trunk_bytes(net.state_dict(), backbone="resnet14", normalisation=HALVES))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match="weights"):
        read_weights(path)


@given(content=st.binary(max_size=200))
@settings(
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_bytes_are_refused_in_words(content: bytes, tmp_path: Path) -> None:
    for suffix in (".th", ".safetensors"):
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(content)
        with pytest.raises(WeightsError):
            read_weights(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights file .*nowhere\.th"):
        read_weights(tmp_path / "nowhere.th")


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(3)],
        torch.zeros(3),
        {"state_dict": [1, 2]},
        {"state_dict": torch.zeros(3)},
        {"state_dict": {"conv1": 3}},
        {},
    ],
)
def test_a_file_without_a_state_dict_is_refused(
    content: object, saved: Callable[[object], Path]
) -> None:
    with pytest.raises(WeightsError, match="holds no state dict"):
        read_weights(saved(content))


def test_the_weights_of_another_architecture_are_refused(saved: Callable[[object], Path]) -> None:
    layout = {**in_their_layout(trained()), "module.layer4.0.conv1.weight": torch.zeros(1)}
    with pytest.raises(
        WeightsError, match=r"'layer4\.0\.conv1\.weight' is \(1,\), expected nothing"
    ):
        fitted_to(read_weights(saved(layout)), small_backbone())


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"format": "skipbench.trunk.v1"}, "how its images are normalised"),
        ({"format": "skipbench.trunk.v1", "normalisation": "7"}, "how its images are normalised"),
    ],
)
def test_safetensors_that_do_not_say_what_is_needed_are_refused(
    metadata: dict[str, str], said: str, tmp_path: Path
) -> None:
    path, state = tmp_path / "other.safetensors", dict[str, Tensor](trained().state_dict())
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata)
    with pytest.raises(WeightsError, match=said):
        read_weights(path)


@pytest.mark.parametrize("depth", REAL)
def test_the_published_files_load_and_fit(depth: int) -> None:
    folder = os.environ.get("BENCH_TEST_WEIGHTS")
    if not folder:
        pytest.skip("BENCH_TEST_WEIGHTS names no folder with the published weights")
    path = Path(folder) / REAL[depth]
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    weights = read_weights(path)
    assert weights.sha256.startswith(path.stem.partition("-")[2])
    assert weights.normalisation is None
    backbone = Backbone(f"resnet{depth}", 10, CIFAR)
    net = rebuilt(weights, backbone).eval()
    with torch.no_grad():
        logits = net(torch.zeros(1, *CIFAR))
    assert torch.isfinite(logits).all()
    other = Backbone("resnet32" if depth == 20 else "resnet20", 10, CIFAR)
    with pytest.raises(WeightsError, match=f"does not fit {other.name}"):
        fitted_to(weights, other)
