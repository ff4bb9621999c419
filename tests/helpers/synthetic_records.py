"""Synthetic run records and sweeps, valid by the schema, for tests of records and reports."""

from __future__ import annotations

from typing import Any

from bench.config import BackboneSpec, DatasetSpec, InitialWeights, RunSpec
from bench.recipes import RECIPES, Precision
from bench.records.record import (
    Environment,
    EpochRow,
    Interval,
    LatencyCell,
    PhaseCost,
    PointRecord,
    RunRecord,
    TrainingRecord,
)
from bench.records.sweep import SweepRecord, TrialRow

DENSE_MACS = {"resnet8": 12_239_488, "resnet20": 40_551_040, "resnet32": 68_862_592}
BLOCKS = {"resnet8": 3, "resnet20": 9, "resnet32": 15}
_MACHINE = Environment(values={"torch": "2.14.1", "git_commit": "0" * 40, "cpu": "synthetic"})


def make_cell(
    *,
    latency_ms: float | None,
    speedup: float | None = None,
    batch_size: int = 1,
    measured_at: str = "2026-11-01T10:00:00+00:00",
    device: str = "cpu",
    runtime: str = "eager",
    verdict: str | None = None,
    **more: Any,
) -> LatencyCell:
    if verdict is None and speedup is not None:
        verdict = "faster" if speedup > 1.02 else "slower" if speedup < 0.98 else "baseline"
    return LatencyCell(
        scenario="stream" if batch_size == 1 else "batch",
        batch_size=batch_size,
        profile="default",
        device=device,
        threads=1,
        runtime=runtime,
        n=0 if latency_ms is None else 640,
        latency_ms=latency_ms,
        speedup=speedup,
        speedup_interval=None
        if speedup is None
        else Interval(low=speedup * 0.98, high=speedup * 1.02),
        verdict=verdict,  # type: ignore[arg-type]
        converged=latency_ms is not None,
        environment=_MACHINE,
        measured_at=measured_at,
    ).model_copy(update=more)


def make_point(
    name: str = "",
    *,
    accuracy: float = 0.92,
    nflops: float = 0.55,
    backbone: str = "resnet32",
    test_images: int = 10_000,
    latency: tuple[LatencyCell, ...] = (),
    **more: Any,
) -> PointRecord:
    dense, blocks = DENSE_MACS[backbone], BLOCKS[backbone]
    gated = tuple(f"block{b}" for b in range(blocks - 1)) if nflops < 1 else ()
    rates = {f"block{b}": 1.0 for b in range(blocks)}
    spread = {
        name_: min(1.0, max(0.0, nflops + 0.05 * (i % 7 - 3))) for i, name_ in enumerate(gated)
    }
    return PointRecord(
        name=name,
        accuracy=accuracy,
        correct=round(accuracy * test_images),
        macs=nflops * dense,
        macs_std=0.08 * dense if gated else 0.0,
        nflops=nflops,
        nflops_backbone=nflops - 0.012 if gated else nflops,
        params=465_000,
        params_inference=464_154,
        block_rates=rates | spread,
        gated_blocks=gated,
        dead_blocks=(),
        distinct_masks=137 if gated else 1,
        mean_drop=1 - nflops,
        arrays_file=f"point-{name or 'default'}.npz",
        latency=latency,
    ).model_copy(update=more)


def make_record(
    method: str = "sgad",
    *,
    variant: str = "",
    config: dict[str, Any] | None = None,
    dataset: str = "cifar10",
    backbone: str = "resnet32",
    recipe: str = "quick",
    precision: Precision = "fp32",
    seed: int = 0,
    points: tuple[PointRecord, ...] | None = None,
    epochs: int = 30,
    dense_epochs: float | None = None,
    pretraining_dense_epochs: float | None = 0.0,
    test_images: int = 10_000,
    synthetic: bool = False,
    reconstructed: tuple[str, ...] = (),
    status: str = "finished",
    reason: str = "",
    initial: InitialWeights | None = None,
    **more: Any,
) -> RunRecord:
    spec = RunSpec(
        method=method,
        config=config if config is not None else {"variant": variant},
        dataset=DatasetSpec(name=dataset, fingerprint="0123456789abcdef"),
        backbone=BackboneSpec(name=backbone),
        budget=RECIPES[recipe].budget(train_size=50_000, published_epochs=220, epochs=epochs),
        seed=seed,
        precision=precision,
        normalisation=((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
        initial=initial,
    )
    finished = status == "finished"
    if points is None:
        points = (make_point(backbone=backbone, test_images=test_images),)
    return RunRecord(
        run=spec.run,
        spec=spec,
        status=status,  # type: ignore[arg-type]
        reason=reason,
        variant=variant,
        dataset_title="CIFAR-10",
        synthetic=synthetic,
        test_images=test_images,
        dense_macs=DENSE_MACS[backbone],
        unit_macs={"stem": 442_368, "head": 640},
        reconstructed=reconstructed,
        training=TrainingRecord(
            train_images=50_000,
            phases=(
                PhaseCost(
                    name="main",
                    epochs=epochs,
                    step_macs_per_image=1.8e8,
                    wall_s=60.0,
                    optimizer=spec.budget.optimizer,
                    batch_size=spec.budget.batch_size,
                ),
            ),
            epochs=epochs,
            published_epochs=220 if spec.budget.published else None,
            dense_epochs=float(epochs) if dense_epochs is None else dense_epochs,
            pretraining_epochs=0,
            pretraining_dense_epochs=pretraining_dense_epochs,
        )
        if finished
        else None,
        history=tuple(
            EpochRow(
                phase="main",
                epoch=epoch,
                lr=0.1,
                images_per_s=900.0,
                wall_s=55.0,
                values={"loss": 2.0 / (epoch + 1), "accuracy_train": 0.3 + 0.02 * epoch},
            )
            for epoch in range(min(epochs, 30))
        ),
        points=points if finished else (),
        environment=_MACHINE,
        created="2026-11-01T09:00:00+00:00",
        wall_s=1834.5,
    ).model_copy(update=more)


def start_of(record: RunRecord) -> InitialWeights:
    """Return the weights of a run as what another one starts from."""
    return InitialWeights(kind="run", name=record.run, identity=record.spec.key)


def make_comparison() -> list[RunRecord]:
    """Dense networks, SGAD twice, BlockDrop over three seeds, and one failed run."""

    def timed(ms: float, speedup: float, at_256: float) -> tuple[LatencyCell, ...]:
        return (
            make_cell(latency_ms=ms, speedup=speedup),
            make_cell(latency_ms=0.6 * ms, speedup=at_256, batch_size=256),
        )

    def run(method: str, accuracy: float, nflops: float, **extra: Any) -> RunRecord:
        latency = extra.pop("latency", ())
        backbone = extra.get("backbone", "resnet32")
        point = make_point(accuracy=accuracy, nflops=nflops, backbone=backbone, latency=latency)
        return make_record(method, points=(point,), **extra)

    return [
        run("resnet", 0.9262, 1.0, latency=timed(5.9, 1.0, 1.0)),
        run("resnet", 0.9131, 1.0, backbone="resnet20", latency=timed(3.5, 1.69, 1.71)),
        run("sgad", 0.9214, 0.55, variant="d_max 0.7", latency=timed(3.9, 1.51, 1.38)),
        run("sgad", 0.9257, 0.83, variant="d_max 0.9", latency=timed(5.5, 1.07, 0.93)),
        *(
            run(
                "blockdrop",
                0.9096 + 0.0021 * seed,
                0.50 - 0.008 * seed,
                seed=seed,
                dense_epochs=57.0,
                reconstructed=("curriculum",),
            )
            for seed in range(3)
        ),
        make_record("act", status="failed", reason="the loss is not a number at epoch 3"),
    ]


def make_sweep(*trials: TrialRow) -> SweepRecord:
    """Return a sweep that has ended, of these trials, the first of which was chosen."""
    return SweepRecord(
        name="first",
        options={},
        criterion="hypervolume",
        corner=(1.1, 0.1),
        held_out=40,
        created="2026-11-01T09:00:00+00:00",
        ended=True,
        trials=trials,
        chosen={trials[0].method: (trials[0].run,)},
    )
