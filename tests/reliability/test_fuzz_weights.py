"""A weights file may be anything: it is read as plain finite tensors, or refused in words."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.errors import WeightsError
from bench.networks import weight_files, weights
from bench.networks.trunk import Backbone
from bench.networks.weights import fitted_to, read_weights, trunk_bytes

pytestmark = pytest.mark.reliability

BACKBONE = Backbone("resnet8", 10, (3, 8, 8), "A")
STATE = BACKBONE.build().state_dict()
TRUNK = trunk_bytes(STATE, backbone="resnet8", normalisation=((0.5,) * 3, (0.2,) * 3))
QUICK = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def theirs(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state under the names of the widespread files."""
    named = {}
    for key, value in state.items():
        key = key.replace("stem.conv", "conv1").replace("stem.bn", "bn1")
        key = key.replace("head.linear", "linear")
        for block in range(3):
            key = key.replace(f"blocks.{block}.residual.", f"layer{block + 1}.0.")
        named[key] = value
    return named


THEIRS = theirs(STATE)


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


PTH = saved({"state_dict": THEIRS})
LEGACY = saved({"state_dict": THEIRS}, _use_new_zipfile_serialization=False)


def refused_or_plain(path: Path) -> None:
    try:
        weights = read_weights(path)
        fitted_to(weights, BACKBONE)
    except WeightsError as error:
        assert len(str(error)) < 1500 + 3 * len(str(path))
        return
    for key, value in weights.state.items():
        assert type(value) in (Tensor, nn.Parameter), key
        assert torch.isfinite(value.float()).all()


def test_the_files_that_are_changed_below_are_good(tmp_path: Path) -> None:
    for name, data in (("a.safetensors", TRUNK), ("a.pth", PTH), ("b.pth", LEGACY)):
        (tmp_path / name).write_bytes(data)
        fitted_to(read_weights(tmp_path / name), BACKBONE)


@QUICK
@given(content=st.binary(max_size=300), suffix=st.sampled_from([".pth", ".safetensors", ".th", ""]))
@example(content=b"", suffix=".pth")
@example(content=b"\x80\x02c" + b"os\nsystem\n(S'true'\ntR.", suffix=".pth")
@example(content=struct.pack("<Q", 2**63) + b"{}", suffix=".safetensors")
@example(content=struct.pack("<Q", 2**40) + b"{}", suffix=".safetensors")
@example(content=struct.pack("<Q", 2) + b"{}", suffix=".safetensors")
def test_any_bytes_are_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"any{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError):
        read_weights(path)


@QUICK
@given(
    which=st.integers(0, 2),
    cut=st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), max_size=3),
)
def test_a_damaged_file_is_refused_or_plain(
    which: int, cut: float, changes: list[tuple[float, bytes]], tmp_path: Path
) -> None:
    suffix, good = ((".safetensors", TRUNK), (".pth", PTH), (".th", LEGACY))[which]
    data = bytearray(good[: round(cut * len(good))] if cut < 0.5 else good)
    for place, new in changes:
        # Most of a file is numbers: half of the changes go to its beginning or end.
        start = (
            int(place * len(data)) if place < 0.5 else int((place - 0.5) * 2 * min(2000, len(data)))
        )
        start = max(0, min(start, len(data) - len(new)))
        data[start : start + len(new)] = new
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(bytes(data))
    refused_or_plain(path)


class Bomb:
    """A pickle that makes a file when it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (open, (str(self.target), "w"))


def _nested(bomb: Any) -> Any:
    return {"state_dict": {**THEIRS, "extra": bomb}}


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: [b], _nested, lambda b: {b: 1}])
def test_code_in_a_file_is_never_run(wrap: Any, legacy: bool, tmp_path: Path) -> None:
    target = tmp_path / "made by the file"
    path = tmp_path / "evil.pth"
    path.write_bytes(saved(wrap(Bomb(target)), _use_new_zipfile_serialization=not legacy))
    with pytest.raises(WeightsError, match=r"no state dict|cannot be read|is not a plain tensor"):
        read_weights(path)
    path.write_bytes(pickle.dumps(wrap(Bomb(target)) if legacy else Bomb(target)))
    with pytest.raises(WeightsError):
        read_weights(path)
    path.rename(path.with_suffix(".safetensors"))
    with pytest.raises(WeightsError):
        read_weights(path.with_suffix(".safetensors"))
    assert not target.exists()


def _sparse(value: Tensor) -> Tensor:
    return value.to_sparse()


CHANGES: dict[str, Any] = {
    "an enormous expanded tensor": lambda v: torch.zeros(1).expand(2**40),
    "expanded to its own shape": lambda v: torch.zeros(1).expand(v.shape),
    "a sparse tensor": lambda v: torch.zeros(v.shape).to_sparse(),
    "a tensor without values": lambda v: torch.zeros(v.shape, device="meta"),
    "whole numbers": lambda v: v.to(torch.int32),
    "truth values": lambda v: v > 0,
    "complex numbers": lambda v: v.to(torch.complex64),
    "not numbers": lambda v: v * float("nan"),
    "infinite numbers": lambda v: v / 0,
    "double precision that overflows": lambda v: torch.full(v.shape, 1e300, dtype=torch.float64),
    "another shape": lambda v: v.flatten(),
    "no axes": lambda v: torch.tensor(1.0),
    "no elements": lambda v: torch.zeros(0),
    "quantized": lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8),
    "8-bit floats": lambda v: v.to(torch.float8_e5m2),
    "a list": lambda v: v.tolist(),
    "a text": lambda v: "weights",
    "nothing": lambda v: None,
    "a state dict of its own": lambda v: {"weight": v},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", CHANGES)
def test_a_tensor_that_is_not_a_plain_weight_is_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.pth"
    changed = {**THEIRS, "conv1.weight": CHANGES[what](THEIRS["conv1.weight"])}
    path.write_bytes(saved({"state_dict": changed}))
    with pytest.raises(WeightsError) as caught:
        fitted_to(read_weights(path), BACKBONE)
    assert str(path) in caught.value.message or "odd.pth" in caught.value.message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_numbers_are_read_as_float32(dtype: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(
        saved(
            {
                "state_dict": {
                    k: v.to(dtype) if v.is_floating_point() else v for k, v in THEIRS.items()
                }
            }
        )
    )
    weights = fitted_to(read_weights(path), BACKBONE)
    assert weights.state["stem.conv.weight"].dtype == torch.float32


def test_prefixes_are_taken_off_and_must_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "prefixed.pth"
    path.write_bytes(
        saved(
            {
                f"module.{k}": nn.Parameter(v) if v.is_floating_point() else v
                for k, v in THEIRS.items()
            }
        )
    )
    fitted_to(read_weights(path), BACKBONE)
    twice = {**THEIRS, "module.conv1.weight": torch.zeros(1)}
    path.write_bytes(saved(twice))
    with pytest.raises(WeightsError, match="twice"):
        read_weights(path)


@pytest.mark.parametrize(
    "key",
    [
        *("layer1.99999999999.conv1.weight", "layer1." + "9" * 6000 + ".x", "\x1b[31m"),
        *("layer9.0.x", 7, ("a", 1), "../../x"),
    ],
)
def test_odd_names_of_layers_are_refused(key: Any, tmp_path: Path) -> None:
    path = tmp_path / "named.pth"
    path.write_bytes(saved({**THEIRS, key: torch.zeros(1)}))
    with pytest.raises(WeightsError) as caught:
        fitted_to(read_weights(path), BACKBONE)
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 1000 + len(str(path))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_folders_pipes_and_devices_are_refused_at_once(suffix: str, tmp_path: Path) -> None:
    folder, pipe, zero = (tmp_path / f"{name}{suffix}" for name in ("folder", "pipe", "zero"))
    folder.mkdir()
    os.mkfifo(pipe)
    zero.symlink_to("/dev/zero")
    for path in (folder, pipe, zero, tmp_path / "absent", Path("a\0b"), folder / "x", Path("/")):
        with pytest.raises(WeightsError):
            read_weights(path)


@pytest.mark.parametrize(
    "said",
    [
        *("x", "[]", "[[],[]]", "[[0.5],[0]]", "[[NaN],[1]]", "[[0.5],[1e999]]", "5"),
        *("[" * 100_000, '[["a"],[1]]'),
    ],
)
def test_a_trunk_must_say_how_its_images_are_normalised(said: str, tmp_path: Path) -> None:
    from safetensors.torch import save

    path = tmp_path / "trunk.safetensors"
    path.write_bytes(
        save(
            {k: v.contiguous() for k, v in STATE.items()},
            metadata={"format": "skipbench.trunk.v1", "normalisation": said},
        )
    )
    with pytest.raises(WeightsError, match="normalised"):
        read_weights(path)


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (weights, weight_files):
        monkeypatch.setattr(room, "LARGEST_BYTES", 1 << 20)
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (8 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(WeightsError, match="unpacks to more than 1 MiB"):
        read_weights(path)
    path.write_bytes(b"\0" * ((1 << 20) + 1))
    with pytest.raises(WeightsError, match="larger than 1 MiB"):
        read_weights(path)
