"""After training, batch-norm statistics are those of images augmented as in training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from commands import run

from bench.data.augment import Batch, eval_batches
from bench.data.load import load_dataset
from bench.engine import single
from bench.folders import Folders
from bench.method import DynamicNet


def test_statistics_are_of_training_images_cropped_as_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def keep(net: DynamicNet, batches: Iterable[Batch]) -> int:
        seen.append(torch.cat([batch.x_nchw for batch in batches]))
        return len(seen[-1])

    monkeypatch.setattr(single, "reestimate", keep)
    folders = Folders(tmp_path, tmp_path)
    for seeds in ("0", "1"):
        asked = {"dataset": "digits", "seeds": seeds}
        (record,) = run(folders, "stochastic_depth", **asked).records
        assert record.training is not None and record.training.statistics_images == len(seen[-1])
    assert torch.equal(seen[0], seen[1]), "the same for every run"
    data, (mean, std) = load_dataset("digits", data_dir=tmp_path), record.spec.normalisation
    (plain,) = eval_batches(data.train, batch_size=len(data.train), mean=mean, std=std)
    distance_nm = torch.cdist(seen[0].flatten(1), plain.x_nchw.flatten(1))
    moved_n = distance_nm.amin(dim=1) > 1e-3
    # Crops leave one image in (2 pad + 1)^2 where it was.
    assert data.info.pad > 0 and 0.5 < moved_n.float().mean() <= 1
