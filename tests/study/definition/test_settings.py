from __future__ import annotations

import pytest

from nas_agg.common.errors import InputError
from nas_agg.study.definition.notations import parse_count, parse_duration
from nas_agg.study.definition.settings import Settings


@pytest.mark.parametrize(
    ("text", "count"),
    [("1000", 1000), ("200k", 200_000), ("1M", 10**6), ("1.5M", 1_500_000), ("2g", 2 * 10**9), (7, 7), ("1_000", 1000)],
)
def test_counts(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("0.5h", 1800), (5, 5)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"budget": 0}, "budget: should be greater than or equal to 1, not 0"),
        ({"workers": -1}, "workers: "),
        ({"seed": -1}, "seed: "),
        ({"timeout": "soon"}, "timeout: invalid duration 'soon'; use for example 90s, 30m, 2h or 1h30m"),
        ({"timeout": 0}, "timeout: must be positive, not 0"),
        ({"max_params": "many"}, "max_params: invalid count 'many'; use for example 200000, 200k, 1.5M or 2G"),
        ({"max_params": "0.4"}, "max_params: invalid count '0.4': not a whole number"),
        ({"max_params": "0.0004k"}, "max_params: invalid count '0.0004k': not a whole number"),
        ({"max_macs": 1.5}, "max_macs: invalid count 1.5: not a whole number"),
        ({"max_macs": -5}, "max_macs: "),
        ({"buget": 5}, "buget: unknown setting; did you mean 'budget'?"),
    ],
)
def test_an_invalid_setting_is_one_line_that_names_it(setting, message):
    with pytest.raises(InputError) as error:
        Settings.parse(space="tiny", **setting)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


IMAGES = (1, 8, 8)


def test_a_default_may_depend_on_the_images(tiny):
    by_size = type(tiny)({**_text(tiny), "search": {"max_macs": "100*in*h**2"}}, "tiny")
    assert Settings.parse(space="tiny").with_space_defaults(by_size, (1, 8, 8)).max_macs == 6400
    assert Settings.parse(space="tiny").with_space_defaults(by_size, (3, 32, 32)).max_macs == 307_200


def test_unspecified_settings_are_the_spaces_own(tiny):
    assert Settings.parse(space="tiny").with_space_defaults(tiny, IMAGES).epochs == 10
    with_own = type(tiny)({**_text(tiny), "search": {"max_macs": 1000, "epochs": 3}}, "tiny")
    assert Settings.parse(space="tiny").with_space_defaults(with_own, IMAGES).max_macs == 1000
    assert Settings.parse(space="tiny").with_space_defaults(with_own, IMAGES).epochs == 3
    assert Settings.parse(space="tiny", max_macs="2k", epochs=4).with_space_defaults(with_own, IMAGES).max_macs == 2000
    assert Settings.parse(space="tiny", max_macs=0).with_space_defaults(with_own, IMAGES).max_macs == 0


def _text(space):
    return {**space.template.to_dict(), "open": {"width": {"from": 2, "to": 13}, **_lists}}


_lists = {"deep": [0, 1], "kernel": [1, 3], "end": ["relu", ["bn", "relu"]]}


def test_only_resumable_settings_may_differ():
    there = Settings.parse(space="tiny", workers=1, timeout="2h").model_dump(mode="json")
    assert Settings.parse(space="tiny", workers=4, trial_timeout=9, retries=0).difference(there) == ""
    assert Settings.parse(space="tiny", seed=6).difference(there) == "seed is 0 there and 6 here"


@pytest.mark.parametrize(
    "setting",
    [
        {"budget": 10**6 + 1},
        {"budget": 10**5000},
        {"seed": 2**63},
        {"workers": 10**9},
        {"max_params": 10**18 + 1},
        {"max_macs": "9" * 1_000_000 + "T"},
        {"timeout": "9" * 1000},
        {"timeout": 10**400},
        {"dataset": ["x" * 1000]},
        {"storage": ""},
    ],
)
def test_values_out_of_bounds_are_refused_in_a_short_line(setting):
    with pytest.raises(InputError) as error:
        Settings.parse(space="tiny", **setting)
    assert str(error.value).startswith(f"{next(iter(setting))}: ")
    assert len(str(error.value)) < 250
