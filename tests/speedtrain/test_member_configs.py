"""Members: what each has of its own, and what none can have."""

import pytest

from speedtrain.config import Config, resolve
from speedtrain.errors import UserError
from speedtrain.member_configs import in_words, member_configs


def configured(members: object, **more: object) -> Config:
    return resolve(budget=60, threads=4, settings={"members": members, **more})


def test_each_member_is_the_recipe_with_what_it_has_of_its_own() -> None:
    config = configured(
        [{}, {"with": "mirror_equivariance", "without": ["patch_whitening", "flip"], "muon.lr": 0.05, "width": 12}],
        seed=3,
    )
    first, second = member_configs(config)
    assert first.tricks == config.tricks == resolve(budget=60).tricks
    assert list(second.tricks)[:2] == ["mirror_equivariance", "celu"]
    assert "flip" not in second.tricks
    assert second.tricks["test_time_augmentation"] == {"mode": "shift"}  # as with --without flip
    assert second.tricks["muon"] == {**first.tricks["muon"], "lr": 0.05}
    assert (first.width, second.width) == ("auto", 12)
    assert [first.threads, second.threads] == [2, 2]
    assert first.budget == second.budget == 60
    assert not first.members


def test_no_two_runs_share_a_seed() -> None:
    seeds = [
        member.seed for seed in range(4) for member in member_configs(configured([{}, {"width": 8}, {}], seed=seed))
    ]
    assert len(set(seeds)) == 12
    assert member_configs(resolve(budget=60, seed=7)) == ()


def test_a_core_is_the_least_that_a_member_gets() -> None:
    assert [member.threads for member in member_configs(configured([{}] * 5))] == [1] * 5


def test_what_is_off_already_need_not_be_taken_out() -> None:
    config = resolve(
        budget=9, without=["patch_whitening"], settings={"members": [{"without": "patch_whitening", "sam.rho": 1}]}
    )
    (member,) = member_configs(config)
    assert member.tricks == config.tricks


def test_the_configuration_reads_its_own_yaml_again(tmp_path) -> None:
    config = configured([{}, {"with": ["mirror_equivariance"], "muon.lr": 0.05}])
    (tmp_path / "a.yaml").write_text(config.as_yaml())
    assert member_configs(resolve(recipe=tmp_path / "a.yaml")) == member_configs(config)


def test_what_a_member_has_of_its_own_in_words() -> None:
    planned = {"planned": {"width": 8, "batch_size": 128, "precision": "bf16"}}
    assert in_words(planned) == "the recipe"
    own = {"with": ["a", "b"], "without": "c", "muon.lr": 1, "width": 16, **planned}
    assert in_words(own) == "with a, b, without c, muon.lr=1, width=16"


def test_what_was_planned_counts_where_nothing_else_is_said() -> None:
    planned = {"planned": {"width": 8, "batch_size": 64, "precision": "fp32"}}
    first, second = member_configs(configured([planned, {**planned, "width": 16}]))
    assert (first.width, first.batch_size, first.precision) == (8, 64, "fp32")
    assert (second.width, second.batch_size, second.precision) == (16, 64, "fp32")


def test_all_cores_are_shared_out_and_the_largest_seed_stays_one() -> None:
    config = resolve(budget=60, threads=7, seed=2**63 - 1, settings={"members": [{}, {}, {}]})
    members = member_configs(config)
    assert [member.threads for member in members] == [2, 2, 3]
    assert all(0 <= member.seed < 2**63 for member in members)


def test_flips_are_not_taken_out_beside_a_network_that_cannot_tell_mirror_images_apart() -> None:
    for given, remedy in (
        ({"with_tricks": ["mirror_equivariance"]}, "take it out too"),
        ({"settings": {"members": [{"with": "mirror_equivariance"}]}}, "use a recipe whose members lack it"),
    ):
        with pytest.raises(UserError, match=remedy):
            resolve(budget=9, without=["flip"], **given)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([{"budget": 3}], "number 1 has 'budget'"),
        ([{}, {"withh": "sam"}], "number 2 has 'withh'; did you mean 'with'"),
        ([{"with": "samm"}], "number 1: unknown trick 'samm'; did you mean 'sam'"),
        ([{"without": "samm"}], "number 1: --without samm: no such trick"),
        ([{"with": 3}], "number 1: must be the name of a trick or a list of names, got 3"),
        ([{"width": -1}], "number 1: width must be positive"),
        ([{"samm.rho": 1}], "number 1: samm.rho: the trick 'samm' is not on"),
        ([{"with": "sam", "sam.rho": -1}], "number 1: sam: rho must be positive"),
        ([{}] * 17, "17 are too many"),
        (3, r"members must be a list like \[{}, {with: sam}\]"),
        ([3], "members must be a list"),
    ],
)
def test_what_no_member_can_have_is_named(members: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        member_configs(configured(members))


def test_what_several_networks_cannot_do_yet_is_named() -> None:
    with pytest.raises(UserError, match="members and snapshots"):
        member_configs(configured([{}, {}], snapshots=3))
    with pytest.raises(UserError, match="members and pretrained"):
        member_configs(resolve(budget=9, model="timm:resnet18", settings={"members": [{}, {}], "pretrained": True}))
