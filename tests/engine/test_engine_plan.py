"""From requests to runs: budgets, starts, settings, and messages for what cannot be served."""

from dataclasses import replace
from pathlib import Path

import pytest
from commands import run_options

from bench.data.load import load_dataset
from bench.engine.plan import make_plan, resolved
from bench.errors import ConfigError, UnknownNameError
from bench.networks.trunk import Backbone
from bench.networks.weights import Weights
from bench.options import RunOptions, parse_settings

INFO = load_dataset("digits", data_dir=Path("unused")).info
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _options(*methods: str, **more: object) -> RunOptions:
    return run_options({"methods": methods, "backbone": "resnet8", "controls": "none", **more})


def _weights() -> Weights:
    state = Backbone("resnet8", 10, (1, 8, 8)).build().state_dict()
    return Weights(state, IMAGENET, "ab" * 32, "resnet8.th")


def test_dense_networks_come_first_whatever_the_order_asked_for() -> None:
    plan = make_plan(_options("blockdrop", "sgad", "resnet"), INFO, train_size=100, weights=None)
    assert [item.spec.method for item in plan] == ["resnet", "blockdrop", "sgad"]


def test_keys_of_built_in_methods_are_those_of_runs_made_before_code_was_part_of_them() -> None:
    # Written down before specs had `method_version` and `method_code`; such runs must be found.
    info = replace(
        INFO,
        name="cifar10",
        fingerprint="0123456789abcdef",
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    )
    options = _options("resnet", "act", backbone="resnet32", controls="shuffled_masks")
    plan = make_plan(options, info, train_size=50_000, weights=None)
    assert [(item.spec.method, item.spec.key) for item in plan] == [
        ("resnet", "af4313d23427"),
        ("act", "0868977bf630"),
        ("shuffled_masks", "5d631376098a"),
    ]


def test_a_method_that_starts_from_a_dense_net_finds_the_one_of_the_same_command() -> None:
    dense, dropped = make_plan(_options("resnet", "blockdrop"), INFO, train_size=100, weights=None)
    assert dropped.needs == dense.spec
    assert dropped.spec.initial is not None
    assert dropped.spec.initial.identity == dense.spec.key


def test_under_the_fair_recipe_pretraining_counts_towards_the_same_total() -> None:
    sgad, dropped = make_plan(
        _options("sgad", "blockdrop", recipe="fair"), INFO, train_size=5000, weights=None
    )
    assert dropped.needs is not None
    assert sgad.spec.budget.epochs == 160
    assert dropped.needs.budget.epochs + dropped.spec.budget.epochs == 160


def test_with_a_weights_file_every_method_starts_from_it_and_takes_its_normalisation() -> None:
    plan = make_plan(
        _options("resnet", "sgad", "blockdrop", recipe="finetune"),
        INFO,
        train_size=100,
        weights=_weights(),
    )
    assert all(item.needs is None for item in plan)
    assert {item.spec.initial.identity for item in plan if item.spec.initial} == {"ab" * 32}
    assert {item.spec.normalisation for item in plan} == {IMAGENET}


def test_finetuning_without_weights_says_what_to_give() -> None:
    with pytest.raises(ConfigError, match="starts from trained weights") as caught:
        make_plan(_options("resnet", recipe="finetune"), INFO, train_size=100, weights=None)
    assert "--pretrained" in str(caught.value.hint)


def test_the_paper_recipe_is_each_methods_own_schedule() -> None:
    plan = make_plan(
        _options("resnet", "sgad", "blockdrop", recipe="paper"), INFO, train_size=9, weights=None
    )
    assert {item.spec.method: item.spec.budget.epochs for item in plan} == {
        "resnet": 164,
        "sgad": 220,
        "blockdrop": 7000,
    }
    assert all(item.spec.budget.published for item in plan)


def test_a_published_optimizer_cannot_be_set() -> None:
    options = _options("resnet", recipe="paper", settings={"train": {"weight_decay": 5e-4}})
    with pytest.raises(ConfigError, match=r"train\.weight_decay cannot be set") as caught:
        make_plan(options, INFO, train_size=100, weights=None)
    assert "--recipe fair" in str(caught.value.hint)


def test_a_start_was_not_trained_on_the_images_that_thresholds_are_chosen_on() -> None:
    plan = make_plan(_options("cdl", "resnet", "blockdrop"), INFO, train_size=100, weights=None)
    needs = {item.spec.method: item.needs for item in plan}
    exits = next(item.spec for item in plan if item.spec.method == "cdl")
    assert needs["cdl"] is not None and needs["blockdrop"] is not None
    assert needs["cdl"].held_out == exits.held_out == 10
    assert (needs["cdl"].seed, needs["blockdrop"].held_out) == (exits.seed, 0)


def test_epochs_replace_the_length_of_any_recipe() -> None:
    plan = make_plan(_options("sgad", recipe="paper", epochs=3), INFO, train_size=100, weights=None)
    assert plan[0].spec.budget.epochs == 3
    assert plan[0].spec.budget.published


def test_each_seed_and_setting_is_another_run_and_the_same_request_is_the_same_run() -> None:
    settings = {"sgad": {"d_max": 0.5}}
    plans = [
        make_plan(options, INFO, train_size=100, weights=None)
        for options in (
            _options("sgad", seeds=(0, 1)),
            _options("sgad", settings=settings),
            _options("sgad"),
        )
    ]
    keys = [item.spec.key for plan in plans for item in plan]
    assert len(set(keys)) == 3
    assert keys[-1] == keys[0]


def test_settings_reach_the_method_and_the_training() -> None:
    settings = parse_settings(["sgad.d_max=0.5", "train.lr=0.01", "train.batch_size=8"])
    plan = make_plan(_options("sgad", settings=settings), INFO, train_size=100, weights=None)
    spec = plan[0].spec
    assert spec.config["d_max"] == 0.5
    assert spec.budget.optimizer.lr == 0.01
    assert spec.budget.batch_size == 8


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("sgad.dmax=1", "no setting 'dmax'"),
        ("sgad.d_max=3", "less than or equal to 1"),
        ("sgad.d_max=many", "valid number"),
        ("train.speed=1", "'train' has no setting 'speed'"),
        ("train.lr=-1", "greater than or equal to 0"),
        ("train.batch_size=0", "greater than 0"),
        ("skipnet.alpha=1", "not in this run"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_wrong(item: str, words: str) -> None:
    options = _options("sgad", settings=parse_settings([item]))
    with pytest.raises(ConfigError, match=words):
        make_plan(options, INFO, train_size=100, weights=None)


@pytest.mark.parametrize("item", ["sgad", "sgad.d_max", "d_max=1", "=1", ".x=1", "sgad.=1"])
def test_a_setting_of_another_form_is_refused(item: str) -> None:
    with pytest.raises(ConfigError, match=r"METHOD\.KEY=VALUE"):
        parse_settings([item])


def test_unknown_methods_and_recipes_name_their_neighbours() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'blockdrop'"):
        make_plan(_options("blokdrop"), INFO, train_size=100, weights=None)
    with pytest.raises(UnknownNameError, match="Did you mean 'quick'"):
        make_plan(_options("sgad", recipe="quik"), INFO, train_size=100, weights=None)


def test_a_yaml_file_gives_options_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "methods: [resnet, sgad]\nseeds: [0, 1]\nsettings: {sgad: {d_max: 0.3, kappa: 2}}\n"
    )
    given = {"seeds": "5", "settings": {"sgad": {"d_max": 0.4}}, "recipe": None}
    options = run_options(given, file=file)
    assert options.methods == ("resnet", "sgad")
    assert options.seeds == (5,)
    assert options.settings == {"sgad": {"d_max": 0.4, "kappa": 2}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("metods: [sgad]\n", "metods"),
        ("epochs: -3\n", "epochs"),
        ("- sgad\n", "must map"),
        ("a: [\n", "not YAML"),
    ],
)
def test_a_wrong_yaml_file_is_named_with_what_is_wrong(
    text: str, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        run_options({}, file=file)
    assert "run.yaml" in str(caught.value)


def test_a_seed_given_twice_is_run_once() -> None:
    assert resolved(run_options({"seeds": "0,0,1"}, file=None)).seeds == (0, 1)
