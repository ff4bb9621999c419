"""Gradients beside rates, and maps of positions, in the report: numbers, words, pictures, holes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_records import make_point, make_record

from bench.analysis.statistics import Extremes
from bench.errors import RecordError
from bench.records.arrays import save_arrays
from bench.records.record import PointRecord, RunRecord
from bench.records.store import RunStore
from bench.report.behaviour.images import TestImages, span_of
from bench.report.behaviour.numbers import dense_gradients, position_maps, why_no_gradients
from bench.report.data.study import Study
from bench.report.page.document import Document, document_page, write_report

IMAGES = 60


def point_with(rates: list[float], gradients: list[float], **fields: Any) -> PointRecord:
    blocks = [f"block{b}" for b in range(len(rates))]
    given = {
        "block_rates": dict(zip(blocks, rates, strict=True)),
        "gated_blocks": tuple(blocks[1:]),
        "correct": 54,
        "block_gradients": dict(zip(blocks, gradients, strict=False)),
    }
    return make_point(accuracy=0.9, nflops=0.7, **given | fields)


def test_the_dense_run_most_like_it_that_has_gradients_is_taken() -> None:
    record = make_record("sgad", seed=1)

    def dense(gradients: list[float], **given: Any) -> RunRecord:
        return make_record("resnet", points=(point_with([1.0], gradients),), **given)

    with pytest.raises(RecordError, match="no dense resnet32 was run"):
        dense_gradients(record, [])
    older = dense([], seed=1)
    with pytest.raises(RecordError, match=f"bench evaluate {older.run}"):
        dense_gradients(record, [older])
    other_seed, other_recipe = dense([1.0], seed=0), dense([2.0], seed=1, recipe="finetune")
    chosen = dense_gradients(record, [older, other_recipe, other_seed])
    assert chosen == other_seed.points[0].block_gradients


def test_a_hole_says_what_would_fill_it() -> None:
    old = point_with([1.0, 0.5], [])
    assert "bench evaluate some-run" in why_no_gradients(old, run="some-run")
    told = old.model_copy(update={"block_gradients_reason": "it gives none"})
    assert why_no_gradients(told, run="some-run") == "it gives none"


@pytest.fixture
def results(tmp_path: Path) -> tuple[RunStore, RunRecord]:
    """A network that decides per position, its costs growing with the image's number."""
    store = RunStore(tmp_path / "results")
    rates, gradients = [1.0, 0.2, 0.4, 0.6, 0.8], [0.5, 0.1, 0.2, 0.3, 0.4]
    point = point_with(rates, gradients, positions_file="positions0.npz")
    record = make_record("sact", points=(point,), test_images=IMAGES)
    store.save(record)
    share_n = np.linspace(0.4, 0.9, IMAGES)
    arrays = {
        "correct_bits": np.packbits(np.ones(IMAGES, dtype=bool)),
        "macs_n": share_n * record.dense_macs,
        "loss_n": np.linspace(0, 3, IMAGES),
        "executed_nu": np.repeat(share_n[:, None], 5, axis=1).astype(np.float32),
    }
    save_arrays(store.folder_of(record), point.arrays_file, arrays)
    keep_maps(store, record, [*range(10), *range(IMAGES - 1, IMAGES - 11, -1)])
    return store, record


def keep_maps(store: RunStore, record: RunRecord, image_m: list[int]) -> None:
    """Keep maps (8, 8) that hold 1 everywhere and, in one corner, 2 or, if expensive, 4.5."""
    blocks_mhw = np.ones((len(image_m), 8, 8), dtype=np.float16)
    blocks_mhw[:10, 0, 0], blocks_mhw[10:, 0, 0] = 2, 4.5
    arrays = {"image_m": np.array(image_m), "blocks_mhw": blocks_mhw}
    save_arrays(store.folder_of(record), "positions0.npz", arrays)


def test_maps_stand_below_their_images_with_words_for_both(
    results: tuple[RunStore, RunRecord], images: TestImages
) -> None:
    store, record = results
    document = Document([record], store, images=images)
    (one,) = document.behaviours.values()
    assert one.maps is not None and span_of(one.maps) == (1.0, 5.0)
    assert one.maps[0][:, 0, 0].tolist() == [2.0] * 10
    page = document_page(document)
    assert "Blocks that run at each pixel: 1 dark, 5 bright, of 5." in page
    assert "10 test images of lowest cost (cat, dog, cat" in page
    assert page.count('class="strip"') == 2
    assert "no dense resnet32 was run on these images" in page
    alone = document_page(Document([record], store, images="they are not available."))
    assert "Blocks that run at each pixel:" in alone


def test_the_figure_of_maps_lies_beside_the_others(
    results: tuple[RunStore, RunRecord], images: TestImages, tmp_path: Path
) -> None:
    store, record = results
    one, same = (Document([record], store, images=images) for _ in range(2))
    names = {path.name for path in write_report(one, tmp_path / "out")}
    assert {"positions-01-sact-lowest.png", "positions-01-sact-highest.png"} <= names
    assert document_page(one) == document_page(same)


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"image_m": np.arange(20), "blocks_mhw": np.ones((19, 8, 8))}, "does not fit"),
        ({"image_m": np.arange(20), "blocks_mhw": np.ones((20, 8, 600))}, "does not fit"),
        ({"image_m": np.arange(20), "blocks_mhw": np.full((20, 8, 8), np.nan)}, "not all finite"),
        ({"image_m": np.arange(30, 50), "blocks_mhw": np.ones((20, 8, 8))}, "other images"),
        ({"blocks_mhw": np.ones((20, 8, 8))}, "image_m"),
    ],
)
def test_odd_files_of_maps_are_refused_in_words(
    arrays: dict[str, Any], why: str, results: tuple[RunStore, RunRecord]
) -> None:
    store, record = results
    save_arrays(store.folder_of(record), "positions0.npz", arrays)
    images = Extremes(tuple(range(10)), tuple(range(IMAGES - 10, IMAGES)))
    with pytest.raises(RecordError, match=why):
        position_maps(record, record.points[0], Study([record], store), images)
    (behaviour,) = Document([record], store).behaviours.values()
    assert any("Maps of where" in text for text in behaviour.missing)


def test_flat_maps_have_a_scale() -> None:
    assert span_of((np.full((1, 2, 2), 3.0), np.full((1, 2, 2), 3.0))) == (3.0, 4.0)
