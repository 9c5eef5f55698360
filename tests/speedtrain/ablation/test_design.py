"""Which variants a design makes, and what it compares."""

from pathlib import Path

import pytest

from speedtrain.ablation.design import Design, make_design, with_side
from speedtrain.ablation.trial import make_trials
from speedtrain.cli import main
from speedtrain.config import resolve
from speedtrain.errors import UserError

THREE = {"budget": 10, "tricks": ["flip", "celu", "cutout"], "seeds": 2}


@pytest.mark.parametrize(
    ("kind", "variants", "comparisons"), [("drop-one", 4, 3), ("add-one", 4, 3), ("pairs", 7, 6), ("all-subsets", 8, 3)]
)
def test_every_design_has_its_variants_and_its_questions(kind: str, variants: int, comparisons: int) -> None:
    design = make_design(kind, **THREE)
    assert len(design.variants) == variants
    assert len({tuple(config.tricks) for config in design.variants.values()}) == variants
    assert len(design.comparisons) == comparisons
    for question in design.comparisons:
        assert sum(question.weights.values()) == pytest.approx(0)
        assert set(question.weights) <= set(design.variants)


def test_drop_one_takes_out_one_trick_and_keeps_the_others_in_order() -> None:
    design = make_design("drop-one", **THREE)
    everything = list(design.variants["reference"].tricks)
    assert list(design.variants["without celu"].tricks) == [name for name in everything if name != "celu"]
    assert {"label": "celu", "weights": {"reference": 1.0, "without celu": -1.0}} in [
        {"label": question.label, "weights": dict(question.weights)} for question in design.comparisons
    ]


def test_add_one_starts_without_the_varied_tricks_and_adds_those_the_recipe_lacks() -> None:
    design = make_design("add-one", **{**THREE, "tricks": ["sam", "flip"]})
    reference = design.variants["reference"].tricks
    assert "sam" not in reference
    assert "flip" not in reference
    assert "celu" in reference
    assert set(design.variants["sam"].tricks) == {*reference, "sam"}


def test_settings_of_a_trick_that_the_recipe_lacks() -> None:
    settings = {"sam.rho": 0.3, "lr": 0.1}
    design = make_design("add-one", **{**THREE, "tricks": ["sam", "flip"], "settings": settings})
    assert design.variants["sam"].tricks["sam"]["rho"] == 0.3
    assert {config.lr for config in design.variants.values()} == {0.1}
    with pytest.raises(UserError, match=r"--set sam\.rho"):
        make_design("add-one", **{**THREE, "tricks": ["flip"], "settings": settings})
    with pytest.raises(UserError, match=r"^sam.*rho"):
        make_design("add-one", **{**THREE, "tricks": ["sam"], "settings": {"sam.rho": -1}})


def test_main_effects_of_all_subsets_weigh_every_variant() -> None:
    design = make_design("all-subsets", **THREE)
    flip = design.comparisons[0]
    for name, weight in flip.weights.items():
        assert weight == pytest.approx(0.25 if "flip" in design.variants[name].tricks else -0.25)


def test_a_setting_is_crossed_with_the_design_but_not_where_its_trick_is_off() -> None:
    design = make_design("drop-one", ["celu"], {"celu.alpha": [0.3, 0.1], "width": [8, 16]}, budget=10, seeds=1)
    with_celu = [config for config in design.variants.values() if "celu" in config.tricks]
    without = [config for config in design.variants.values() if "celu" not in config.tricks]
    assert {(c.tricks["celu"]["alpha"], c.width) for c in with_celu} == {(a, w) for a in (0.3, 0.1) for w in (8, 16)}
    assert len(with_celu) == 4
    assert sorted(config.width for config in without if isinstance(config.width, int)) == [8, 16]
    assert len(without) == 2
    labels = [question.label for question in design.comparisons]
    assert len(labels) == len(set(labels))
    assert "width=16 instead of width=8" in labels


def test_a_design_of_very_many_trials_needs_to_be_meant() -> None:
    tricks = list(make_design("drop-one", budget=10, seeds=1).variants["reference"].tricks)
    with pytest.raises(UserError, match=r"1,024 trials.*--yes"):
        make_design("all-subsets", tricks[:5], budget=10, seeds=32)
    assert len(make_design("all-subsets", tricks[:5], budget=10, seeds=32, many=True).variants) == 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--design", "drop-won"], "did you mean 'drop-one'"),
        (["--tricks", "flop"], "did you mean 'flip'"),
        (["--tricks", "none"], "nothing to compare"),
        (["--vary", "width"], "KEY=a,b,c"),
        (["--vary", "widht=8,16"], "no such key"),
        (["--vary", "width=eight,16"], "width must be"),
        (["--vary", "width=8,16,8"], "8 is given twice"),
        (["--tricks", "flip,flip"], "flip is given twice"),
        (["--vary", "sam.rho=0.1,0.2"], "'sam' is not on"),
        (["--vary", "seed=1,2"], "--seeds"),
        (["--seeds", "0"], "--seeds"),
        (["--workers", "1000"], "cores"),
        (["--subset", "100000"], "--subset"),
        (["--metric", "balanced"], "--metric balanced: must be accuracy or balanced_accuracy"),
        (["--design", "all-subsets"], "--yes"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "--budget", "10", "--data", "digits", "--dry-run", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_dry_run_trains_nothing(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"
    command = ["ablate", "--budget", "10", "--data", "digits", "--tricks", "flip,celu", "--seeds", "4", "--dry-run"]
    assert main([*command, "--out", str(out)]) == 0
    assert "12 trials" in capsys.readouterr().out
    assert not out.exists()


def test_trials_take_the_images_that_were_written_whatever_chose_them(tmp_path: Path) -> None:
    options = {"columns": {"image": "path"}, "with_validation": True, "per_class": 20, "data_root": "there"}
    configs = {side: resolve(budget=9, data="a.csv", side=side, **options) for side in ("auto", 48)}
    design = with_side(Design({str(side): config for side, config in configs.items()}, ()), 64)
    for trial, side in zip(make_trials(design, [0], tmp_path), (64, 48), strict=True):
        config = trial.config
        assert (config.data, config.test) == (str(tmp_path / "data/train.npz"), str(tmp_path / "data/test.npz"))
        assert (config.columns, config.with_validation, config.per_class, config.data_root) == ({}, False, "all", None)
        assert config.side == side
