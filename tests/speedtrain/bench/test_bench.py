"""The bench on this machine, but shorter: the numbers must be what the report calls them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from speedtrain.bench import measure
from speedtrain.bench.report import write_report
from speedtrain.bench.step_parts import IMAGES, OPTIMIZER, PARTS, step_parts
from speedtrain.cli import main
from speedtrain.config import resolve
from speedtrain.data.configured import load_configured
from speedtrain.run.plan import measure_plan
from tricks import TRICKS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Everything measured, at two widths and in few rounds."""
    folder = tmp_path_factory.mktemp("bench")
    config = resolve(
        budget=20,
        data="digits",
        device="cpu",
        threads=1,  # the other core is for the tests beside
        tricks=["flip", "muon"],
        settings={"width": 8, "batch_size": 32},
    )
    (folder / "config.yaml").write_text(config.as_yaml())
    plan = measure_plan(config, load_configured(config).train)
    (folder / "plan.json").write_text(json.dumps(plan))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "WIDTHS", (8, 16))
        patch.setattr(
            measure, "TRICKS", {name: TRICKS[name] for name in ("flip", "sam", "muon", "test_time_augmentation")}
        )
        patch.setattr(measure, "ROUNDS", 5)
        patch.setattr(measure, "PAIRS", 4)
        patch.setattr(measure, "CHUNK", 0.5)
        patch.setattr(measure, "LONG_ENOUGH", 0.05)
        measure.main(folder / "config.yaml", folder / "plan.json", folder / "measured.json")
    return {"plan": plan, **json.loads((folder / "measured.json").read_text())}


def test_rates_are_operations_over_seconds(measured: dict) -> None:
    assert {row["precision"] for row in measured["products"]} == {"fp32", "bf16"}
    rows = {(row["width"], row["stage"]): row for row in measured["convolutions"]}
    assert {stage for _, stage in rows} == {"prep", "stage1", "residual1", "stage2", "stage3", "residual3"}
    row = rows[16, "stage2"]
    assert (row["channels"], row["side"]) == ([32, 64], 16)
    # forwards, and backwards to the input and to the weights: three times 32 images, 16² positions, 9·32 inputs,
    # 64 outputs
    operations = 3 * 2 * 32 * 16**2 * 9 * 32 * 64
    assert row["gflops"] == pytest.approx(operations / row["ms"] / 1e6, rel=0.02)
    peak = next(row["gflops"] for row in measured["products"] if row["precision"] == measured["plan"]["precision"])
    assert row["share_of_peak"] == pytest.approx(row["gflops"] / peak, rel=0.01)


def test_tricks_cost_what_they_must(measured: dict) -> None:
    costs = {row["trick"]: row for row in measured["tricks"]}
    # a second pass; a pause of the machine spoils some rounds, not the best and the worst of them alike
    assert costs["sam"]["low"] < 150
    assert costs["sam"]["high"] > 50
    assert costs["sam"]["low"] <= costs["sam"]["percent"] <= costs["sam"]["high"]
    assert costs["test_time_augmentation"]["low"] < 30  # nothing, apart from chance
    assert not costs["sam"]["in_recipe"]
    assert costs["muon"]["in_recipe"]


def test_a_step_divides_into_its_parts(measured: dict) -> None:
    shares = {row["part"]: row["share"] for row in measured["step"]}
    assert sum(shares.values()) == pytest.approx(1, abs=0.01)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    for part in (*PARTS, OPTIMIZER, IMAGES):
        assert 0 < shares[part] < 1


@pytest.mark.parametrize(
    ("work", "part"),
    [
        (lambda x: x.flatten(1) @ x.flatten(1).T, "convolutions and products"),
        (lambda x: F.max_pool2d(x, 2), "pooling"),
        (lambda x: F.celu(x), "activation"),
        (lambda x: x.half(), "copies and casts"),
    ],
)
def test_the_time_of_an_operation_goes_to_its_part(work: Callable[[torch.Tensor], object], part: str) -> None:
    images = torch.randn(64, 16, 32, 32)

    class Step(torch.nn.Linear):
        def make_batch(self, indices: torch.Tensor) -> torch.Tensor:
            return images

    step = Step(1, 1)
    plain = step.make_batch
    rows = step_parts(lambda: [work(images) for _ in range(5)], step)
    assert rows[0]["part"] == part
    assert rows[0]["share"] > 0.5
    assert step.make_batch == plain


def test_predictions_are_counted_by_hand(measured: dict) -> None:
    rows = {(row["batch_size"], row["way"]): row for row in measured["predictions"]}
    assert set(rows) == {(size, way) for size in (1, 32, 256) for way in ("exact", "quick")}
    # width 8 at 32 pixels: nine convolutions of 3×3 at 32, 32, 16, 16, 16, 8, 4, 4 positions a side, and the head
    layers = [(32, 3, 8), (32, 8, 16), (16, 16, 16), (16, 16, 16), (16, 16, 32), (8, 32, 64), (4, 64, 64), (4, 64, 64)]
    operations = 2 * (sum(9 * side**2 * c_in * c_out for side, c_in, c_out in layers) + 64 * 10)
    for row in rows.values():
        assert row["gflops"] == pytest.approx(row["images_per_second"] * operations / 1e9, rel=0.05, abs=0.06)
        peak = next(each["gflops"] for each in measured["products"] if each["precision"] == row["precision"])
        assert row["share_of_peak"] == pytest.approx(row["gflops"] / peak, rel=0.05, abs=0.001)
    assert {row["precision"] for (_, way), row in rows.items() if way == "exact"} == {"fp32"}


def test_the_harness_costs_little(measured: dict) -> None:
    beyond = measured["overhead"]
    assert beyond["low"] < 30  # short rounds on a busy machine: no claim of two percent
    assert beyond["high"] > -30
    assert beyond["low"] <= beyond["percent"] <= beyond["high"]


def test_the_interval_of_a_median_is_the_sign_tests() -> None:
    # of 20 pairs fewer than 6 lie below the median with 2.1 %: the table of the sign test
    assert measure.median_interval([float(k) for k in range(1, 21)]) == (6.0, 15.0)
    assert measure.median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)  # three cannot say more


def test_the_report_holds_the_numbers(measured: dict, tmp_path: Path) -> None:
    run = {"budget_seconds": 20.0, "wall_seconds": 19.9, "accuracy": 0.9, "status": "finished", "epochs": 9.0}
    run |= {"device": "cpu (mine)", "width": 8, "seconds": {"import": 4.0, "train": 15.0, "save": 0.5}}
    write_report(tmp_path, {"schema": 1, **measured, "budgets": [{**run, "train_share": 0.75}]})
    text, page = (tmp_path / "bench.md").read_text(), (tmp_path / "bench.html").read_text()
    for text_shown in ("cpu (mine)", "75.0 %", "residual3", "| sam |", "4.00", "| 256 |"):
        assert text_shown in text
        assert text_shown.strip("| ") in page
    assert json.loads((tmp_path / "bench.json").read_text())["budgets"][0]["train_share"] == 0.75
    assert (tmp_path / "bench.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budgets", "soon"], "budget must be"),
        (["--budget", "9"], "--budgets"),
        (["--budgets", ","], "--budgets ,: must be seconds"),
        (["--tricks", "sma"], "did you mean 'sam'"),
        (["--data", "missing.npz"], "missing.npz"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--data", "digits", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
