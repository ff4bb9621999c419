"""State dicts of libraries: matched by the trunk, and what does not fit is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.errors import WeightsError
from bench.networks.trunk import Backbone
from bench.networks.weights import fitted_to, read_weights

Save = Callable[[dict[str, Tensor], Path], None]
SMALL = (3, 32, 32)


def library_net(backbone: Backbone) -> nn.Module:
    net = backbone.family.model(backbone)
    assert net is not None
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.is_floating_point():
            tensor.data += 0.1 * torch.rand_like(tensor)
    return net.eval()


@torch.no_grad()
@pytest.mark.parametrize("wrapper", ["", "module."])
@pytest.mark.parametrize("save", [torch.save, save_file], ids=["pth", "safetensors"])
@pytest.mark.parametrize(
    "name", ["torchvision/resnet10", "torchvision/mobilenet_v2@0.35", "timm/vit_tiny_patch4_32@2"]
)
def test_a_library_s_state_dict_gives_the_library_s_logits(
    name: str, save: Save, wrapper: str, tmp_path: Path
) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    backbone, path = Backbone(name, 7, SMALL), tmp_path / "weights.pth"
    theirs = library_net(backbone)
    save({f"{wrapper}{key}": value for key, value in theirs.state_dict().items()}, path)
    weights = fitted_to(read_weights(path), backbone)
    trunk = replace(backbone, weights=weights.state).build().eval()
    x, allowed = torch.randn(3, *SMALL), 1e-5
    torch.testing.assert_close(trunk(x), theirs(x), atol=allowed, rtol=allowed)
    assert fitted_to(weights, backbone) == weights, "what fits is left as it is"


@pytest.mark.parametrize(
    ("given", "classes", "said"),
    [
        ("torchvision/resnet10", 9, r"resnet18 \(7 classes\).*more\)(.|\n)*another network"),
        ("torchvision/resnet18", 9, r"'fc\.bias' is \(9,\), expected \(7,\)(.|\n)*classes"),
        ("torchvision/mobilenet_v2@0.35", 7, r"is missing, expected(.|\n)*another network"),
    ],
)
def test_weights_of_another_network_are_refused_and_a_layer_named(
    given: str, classes: int, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(library_net(Backbone(given, classes, SMALL)).state_dict(), path)
    backbone = Backbone("torchvision/resnet18", 7, SMALL)
    with pytest.raises(WeightsError) as caught:
        fitted_to(read_weights(path), backbone)
    assert len(str(caught.value).splitlines()) <= 3
    with pytest.raises(WeightsError, match=said):
        fitted_to(read_weights(path), backbone)
