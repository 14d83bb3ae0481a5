"""Presets, files and flags combine into one checked configuration; whatever is wrong is named with the nearest key."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import headrecon
from headrecon import config
from headrecon.errors import InputError
from headrecon.tracking.settings import TrackConfig


def test_later_sources_win() -> None:
    assert config.resolve("high").texture.size == 3072
    assert config.resolve("high", {"texture": {"size": 256}}).texture.size == 256
    assert config.resolve("high", {"texture": {"size": 256}}, {"texture.size": 128}).texture.size == 128


@pytest.mark.parametrize("kind", [config.ReconstructConfig, TrackConfig])
def test_presets_hold_only_differences_from_the_defaults(kind: type) -> None:
    plain = config.flatten(config.as_dict(kind()), "", kind)
    for name in config.preset_names(kind):
        for key, value in config._read_preset(name, kind).items():
            assert plain[key] != value, f"{name}.yaml repeats the default of {key}"


@pytest.mark.parametrize("kind", [config.ReconstructConfig, TrackConfig])
def test_presets_are_listed_quickest_first(kind: type) -> None:
    assert config.preset_names(kind) == ("draft", "default", "high")


def test_each_command_has_settings_of_its_own() -> None:
    made = config.resolve_kind(TrackConfig, "draft", None, {"follow.segment": 1})
    assert (made.follow.segment, made.follow.looks, made.preset) == (1, 1, "draft")
    assert config.resolve_kind(TrackConfig, values=config.parse_yaml(config.as_yaml(made), "config.yaml")) == made
    with pytest.raises(InputError, match=r"unknown setting 'follow.segment'"):
        config.resolve("draft", overrides={"follow.segment": 1})
    with pytest.raises(InputError, match="unknown setting"):
        config.resolve_kind(TrackConfig, overrides={"hair.lift": False})


def test_a_saved_configuration_gives_the_same_one_again() -> None:
    made = config.resolve("draft", overrides={"knowledge.ipd_mm": 63.5, "output.posed": True, "seed": 7})
    assert config.resolve(values=config.parse_yaml(config.as_yaml(made), "config.yaml")) == made


def test_an_empty_file_changes_nothing() -> None:
    assert config.resolve(values=config.parse_yaml("# nothing\n", "c.yaml")) == config.ReconstructConfig()


def test_every_setting_has_help_and_a_default_that_passes_its_own_check() -> None:
    for key, spec in config.settings().items():
        assert len(spec.help) > 10, key
        assert config.check_value(key, spec.default) == spec.default


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("texture.size=512", 512),
        ("texture.size = 5e2", 500),
        ("output.posed=true", True),
        ("knowledge.ipd_mm=63", 63.0),
        ("knowledge.focal_px=1e3", 1000.0),
        ("knowledge.ipd_mm=", None),
        ("model=2020", "2020"),
    ],
)
def test_assignments_take_the_type_of_their_setting(assignment: str, value: object) -> None:
    found = config.parse_assignment(assignment)[1]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("texture.sise=3", "did you mean 'texture.size'"),
        ("size=3", "did you mean 'texture.size'"),
        ("iterrations=3", "did you mean 'fit.iterations'"),
        ("qqqq=3", "the settings are: preset, model"),
        ("texture.size", "expects key=value"),
        ("texture.size=big", "must be a whole number, found 'big'"),
        ("texture.size=1.5", "must be a whole number, found 1.5"),
        ("texture.size=true", "must be a whole number, found True"),
        ("texture.size=2", "between 64 and 8192, found 2"),
        ("texture.size=[", "not valid YAML"),
        ("knowledge.ipd_mm=.nan", "between 35 and 90, found nan"),
        ("knowledge.ipd_mm=6.3", "between 35 and 90, found 6.3"),
        ("output.posed=3", "must be true or false, found 3"),
        ("age=chlid", "must be adult or child, found 'chlid'; did you mean 'child'?"),
        ("seed=-1", "between 0 and 4.29497e+09, found -1"),
    ],
)
def test_wrong_assignments_are_explained(assignment: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        config.parse_assignment(assignment)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"textures": {"size": 3}}, "did you mean 'texture.size'"),
        ({"texture": 3}, "texture is a section and holds settings, found 3"),
        ({"texture": {"colour": 3}}, "unknown setting 'texture.colour'"),
        ([1, 2], "expected settings as `key: value`, found list"),
        ({"preset": "hihg"}, "did you mean 'high'"),
        ({"preset": ["a"]}, "unknown preset ['a']"),
    ],
)
def test_wrong_files_are_explained(values: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        config.resolve(values=values)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_every_setting_is_read_by_the_pipeline() -> None:
    """Except those that describe the run as a whole, or wait for the stages that need them."""
    package = Path(headrecon.__file__).parent
    code = "".join((package / f"{name}.py").read_text() for name in ("pipeline", "several", "stages", "outputs"))
    waiting = {"preset", "seed", "device"}
    for key in config.settings():
        used = re.search(rf"\.{key.rpartition('.')[2]}\b", code) is not None
        assert used is (key not in waiting), key


def test_the_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.resolve().texture.size = 3  # type: ignore[misc]
