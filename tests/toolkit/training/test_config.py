"""Configuration: every bad key or value is one sentence that names it."""

from __future__ import annotations

import tomllib

import pytest
import torch

from aurep import AurepError
from aurep.budget import parse_budget
from aurep.search import check_options, policy_class
from aurep.surgery import hybrid_sites, relu_sites
from aurep.training.config import parse_config, read_recipe, recipe_names
from aurep.training.setup import build_network, prepare_student
from tests.toolkit.training.tiny import RECIPE, tiny_config

BAD = {
    "unknown section": ("[serach]\nepochs = 1", r"unknown key 'serach'; known are model, data, train"),
    "unknown key": ("[search]\nepoch = 1", r"unknown key 'search.epoch'; known are epochs"),
    "a name of before": ("[data]\ncrop = 4", r"unknown key 'data.crop'; known are name, dir, val_fraction, pad"),
    "width 0": ("[model]\nwidth = 0", r"model.width = 0 .* greater than or equal to 1"),
    "width true": ("[model]\nwidth = true", r"model.width = True"),
    "width beyond memory": ("[model]\nwidth = 100000000", r"model.width = 100000000"),
    "budget true": ("[search]\nbudget = true", r"search.budget = True"),
    "budget of a list": ("[search]\nbudget = [1]", r"search.budget = \[1\] is not valid"),
    "negative epochs": ("[finetune]\nepochs = -1", r"finetune.epochs = -1"),
    "degree 3": ("[search]\ndegree = 3", r"search.degree = 3"),
    "infinite rate": ("[baseline]\nlr = inf", r"baseline.lr = inf"),
    "val_fraction 1": ("[data]\nval_fraction = 1.0", r"data.val_fraction = 1.0"),
    "input_size 2": ("[model]\ninput_size = 2", r"model.input_size = 2 "),
    "input_size of three": ("[model]\ninput_size = [8, 8, 8]", r"model.input_size = \[8, 8, 8\]"),
    "interpolation": ("[data]\ninterpolation = 'cubic'", r"data.interpolation = 'cubic'"),
    "memory_share 0": ("[data]\nmemory_share = 0.0", r"data.memory_share = 0.0"),
    "accumulate 0": ("[train]\naccumulate = 0", r"train.accumulate = 0"),
    "checkpointed and compiled": (
        "[train]\ncheckpoint_activations = true\ncompile = 'default'",
        r"train = .*exclude each other",
    ),
    "unknown device": ("[train]\ndevice = 'tpu'", r"train.device = 'tpu'"),
    "not TOML": ("[search\n", r"is not TOML"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD.keys())
def test_bad_configuration_names_the_key(text: str, message: str) -> None:
    with pytest.raises(AurepError, match=message) as caught:
        parse_config(text, "my.toml")
    assert str(caught.value).startswith("my.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["epochs=1", "search.epochs", "=1", "search..epochs=1", "search.epochs.x=1"])
def test_malformed_override_is_refused(override: str) -> None:
    with pytest.raises(AurepError, match="--set"):
        parse_config(RECIPE, "tiny", [override])


@pytest.mark.parametrize(
    ("written", "value"), [("12.9k", "12.9k"), ("'5%'", "5%"), ("100", 100), ("0", 0)], ids=["k", "%", "int", "zero"]
)
def test_override_takes_toml_values_and_bare_words(written: str, value: object) -> None:
    assert tiny_config(search__budget=written).search.budget == value


def test_effective_configuration_reads_back_equal() -> None:
    config = tiny_config(data__dir="'/some where'")
    assert parse_config(config.to_toml()) == config


def test_digest_ignores_where_the_data_lies_and_how_it_is_read_and_nothing_else() -> None:
    plain = tiny_config().digest()
    incidental = {"dir": "elsewhere", "workers": 3, "memory_share": 0.5, "stream": "yes", "cache": "there"}
    for key, value in incidental.items():
        assert tiny_config(**{f"data__{key}": value}).digest() == plain, key
    for key, value in {"train__seed": 1, "data__crop_pct": 0.9, "data__mixup": 0.2}.items():
        assert tiny_config(**{key: value}).digest() != plain, key


def test_digest_knows_that_random_crops_of_a_cache_are_others_than_of_the_files() -> None:
    cropped = tiny_config(data__resized_crop="[0.1, 1.0]")
    assert tiny_config(data__resized_crop="[0.1, 1.0]", data__cache="there").digest() != cropped.digest()
    assert tiny_config(data__resized_crop="[0.1, 1.0]", data__workers=3).digest() == cropped.digest()


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipe_is_valid_and_has_a_header(name: str) -> None:
    text = read_recipe(name)
    assert text.startswith("# ")
    assert tomllib.loads(text)
    parse_config(text, name)


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("published-")])
def test_published_recipe_is_without_what_the_papers_do_not_have_and_fits_its_network(name: str) -> None:
    config = parse_config(read_recipe(name), name)
    for phase in (config.search, config.finetune):
        assert (phase.normalise, phase.range_weight, phase.clip_norm, phase.ema) == (False, 0, 0, 0)
    student = prepare_student(config, build_network(config, (3, 32, 32), 10), torch.zeros(1, 3, 32, 32))
    options = check_options(config.search.method, config.search.options)
    total = sum(site.elements for site in relu_sites(student))
    budget, steps = parse_budget(config.search.budget, total), config.search.epochs * 352  # as of 45,000 images
    policy = policy_class(config.search.method)(hybrid_sites(student), budget, options, 0, steps=steps)
    assert all(group["lr"] == 1e-3 for group in policy.parameter_groups())
    assert total == (557_056 if config.model.stem_relu else 491_520)


def test_unknown_recipe_lists_the_shipped() -> None:
    with pytest.raises(AurepError, match="demo"):
        read_recipe("imagenet")
