"""The shipped table of published measures is complete, sourced and consistent with itself."""

from __future__ import annotations

import json
from importlib import resources

import numpy as np
import pytest

TABLE = json.loads(resources.files("headrecon").joinpath("data/anthropometry.json").read_text(encoding="utf-8"))


def figure(measure: str, study: str, sex: str) -> dict:
    (found,) = (v for v in TABLE["measures"][measure]["values"] if v["study"] == study and v["sex"] == sex)
    return found


def test_every_figure_names_a_study_and_how_far_it_was_checked() -> None:
    for name, measure in TABLE["measures"].items():
        assert measure["definition"], name
        assert {v["sex"] for v in measure["values"]} == {"male", "female"}, name
        for value in measure["values"]:
            assert value["study"] in TABLE["studies"]
            assert value["confidence"] in ("verified", "memory")
            assert 0 < value["sd"] < 0.2 * value["mean"], (name, value)
            assert value["n"] > 100
    assert all(study["citation"] and study["confidence"] for study in TABLE["studies"].values())


def test_studies_agree_where_they_overlap() -> None:
    """Figures given from memory would stand out here. Civilians and soldiers differ by under one deviation."""
    compared = 0
    for name, measure in TABLE["measures"].items():
        if len({v["study"] for v in measure["values"]}) > 1:
            for sex in ("male", "female"):
                a, b = figure(name, "ansur2", sex), figure(name, "niosh2003", sex)
                assert abs(a["mean"] - b["mean"]) < 0.6 * a["sd"], (name, sex)
                assert 0.8 < a["sd"] / b["sd"] < 1.25, (name, sex)
                compared += 1
    assert compared == 14


def test_the_mixture_follows_from_its_halves() -> None:
    for name, pooled in TABLE["adults"]["measures"].items():
        man, woman = (figure(name, pooled["study"], sex) for sex in ("male", "female"))
        assert pooled["mean"] == pytest.approx((man["mean"] + woman["mean"]) / 2, abs=0.011)
        variance = (man["sd"] ** 2 + woman["sd"] ** 2) / 2 + ((man["mean"] - woman["mean"]) / 2) ** 2
        assert pooled["sd"] == pytest.approx(np.sqrt(variance), abs=0.011)


@pytest.mark.parametrize("table", [*TABLE["correlations"].values(), TABLE["adults"]["correlations"]])
def test_correlations_are_a_correlation_matrix(table: dict) -> None:
    matrix = np.array(table["matrix"])
    assert matrix.shape == (len(table["measures"]),) * 2
    assert np.allclose(matrix, matrix.T)
    assert np.allclose(np.diag(matrix), 1)
    assert np.linalg.eigvalsh(matrix).min() > 0
    names = table["measures"]
    assert matrix[names.index("head_length"), names.index("head_circumference")] > 0.7  # both measure head size
