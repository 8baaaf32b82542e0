"""Configuration: YAML, names, types, overrides."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from rleif.settings import SettingsError, build, check_names, explicit, load_yaml, override, parse_yaml


@dataclass(frozen=True, kw_only=True)
class Colors:
    shade: Literal["light", "dark"] = "light"
    names: list[str] = field(default_factory=list)
    count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Rates:
    path: str
    rate: float = 1e-3
    on: bool = False

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate must be above 0, got {self.rate}")


def test_a_key_given_twice_is_refused_with_its_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("sft:\n  seed: 1\n  lr: 2\n  seed: 3\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"c\.yaml, line 4: the key 'seed' is given twice"):
        load_yaml(path)


def test_a_malformed_file_is_told_with_its_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("sft:\n  seed: [1\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"line 3: not valid YAML"):
        load_yaml(path)


def test_a_yaml_tag_that_would_build_an_object_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: !!python/object/apply:os.getcwd []\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="not valid YAML"):
        load_yaml(path)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-5", 1e-5), ("1.0e-5", 1e-5), ("-2E+3", -2000.0), ("3", 3), ("null", None), ("1e", "1e")]
)
def test_numbers_are_read_as_people_write_them(text, value):
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


def test_an_unknown_name_is_answered_with_the_nearest_and_the_known_ones():
    with pytest.raises(SettingsError, match=r"unknown section 'sfd'; did you mean 'sft'\? Known: irm, sft"):
        check_names(["sfd"], ["sft", "irm"], "section")


def test_an_unknown_key_is_answered_with_the_nearest():
    with pytest.raises(SettingsError, match=r"key in section 'irm': 'rat'; did you mean 'rate'\?"):
        build([Colors, Rates], {"path": "x", "rat": 1}, "irm")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rate": "fast"}, "irm.rate is 'fast' (text); expected a number"),
        ({"count": 1.5}, "irm.count is 1.5 (a number); expected a whole number or null"),
        ({"count": True}, "irm.count is True (true or false); expected a whole number or null"),
        ({"on": 1}, "irm.on is 1 (a whole number); expected true or false"),
        ({"shade": "red"}, "irm.shade is 'red' (text); expected one of light, dark"),
        ({"names": ["a", 1]}, "irm.names is ['a', 1] (a list); expected a list of text"),
        ({"rate": -1.0}, "irm: rate must be above 0, got -1.0"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_section_key_and_what_is_allowed(values, words):
    with pytest.raises(SettingsError) as error:
        build([Colors, Rates], {"path": "x"} | values, "irm")
    assert str(error.value) == words


def test_a_missing_required_key_is_named():
    with pytest.raises(SettingsError, match="section 'irm' needs path"):
        build([Colors, Rates], {}, "irm")


def test_values_go_to_the_dataclass_that_has_the_field():
    colors, rates = build([Colors, Rates], {"path": "x", "count": 3, "rate": 1}, "irm")
    assert (colors.count, rates.path, rates.rate) == (3, "x", 1)


def test_overrides_are_laid_over_without_touching_the_original():
    original = {"sft": {"seed": 1}, "irm": None}
    found = override(original, ["--sft.seed=2", "--irm.rate", "1e-3", "--irm.names", "[a, b]"])
    assert found == {"sft": {"seed": 2}, "irm": {"rate": 1e-3, "names": ["a", "b"]}}
    assert original == {"sft": {"seed": 1}, "irm": None}


@pytest.mark.parametrize("flags", [["sft.seed", "1"], ["--seed", "1"], ["--sft.seed"], ["--sft.seed", "--x.y", "1"]])
def test_an_override_of_another_form_is_refused(flags):
    with pytest.raises(SettingsError, match=r"cannot read|has no value"):
        override({}, flags)


def test_a_value_equal_to_its_default_means_the_same_as_none_given():
    assert explicit([Colors, Rates], {"path": "x", "rate": 1e-3, "names": [], "count": 2}) == {"path": "x", "count": 2}
