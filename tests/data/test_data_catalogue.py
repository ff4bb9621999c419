"""The catalogue: what it names, and that listing it costs nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.data.catalogue import DATASETS
from bench.data.load import load_dataset


def test_the_catalogue_names_the_built_in_data_sets() -> None:
    assert set(DATASETS) == {"cifar10", "cifar100", "digits", "graded_digits"}
    assert all(card.name == name for name, card in DATASETS.items())


def test_listing_the_data_sets_imports_neither_torch_nor_numpy() -> None:
    heavy = "{'torch', 'numpy', 'sklearn', 'PIL', 'rich'}"
    code = f"import sys, bench.data.catalogue; print({heavy} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


@pytest.mark.parametrize("name", [name for name, card in DATASETS.items() if card.embedded])
def test_an_embedded_data_set_is_what_its_card_says(name: str, tmp_path: Path) -> None:
    data_dir = tmp_path / "none"
    dataset = load_dataset(name, data_dir=data_dir, network="forbidden")
    card = DATASETS[name]
    assert (dataset.info.name, dataset.info.title) == (card.name, card.title)
    assert dataset.info.num_classes == card.num_classes
    assert not data_dir.exists()
