from __future__ import annotations

import copy
import hashlib
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from headrecon.errors import InputError, ShapeError
from headrecon.io.documents import HeadRecord, Measurement, head_document, landmarks_document, sha256_of
from headrecon.io.runs import versions, write_json
from headrecon.structures import Cameras, HeadParams, Licence
from tests.synthetic_assets import make_tiny_assets

jsonschema = pytest.importorskip("jsonschema", reason="validating head.json against its schema needs jsonschema")


def make_record(**changes) -> HeadRecord:
    assets = make_tiny_assets()
    fields = {
        "assets": assets,
        "params": HeadParams.zeros(assets.num_betas, assets.num_expressions),
        "cameras": Cameras(torch.eye(4), torch.tensor([[900.0, 0, 320], [0, 900, 240], [0, 0, 1]]), 640, 480),
        "image": Path("/somewhere/private/photo <1>.jpg"),
        "image_sha256": "0" * 64,
        "focal_source": "exif",
        "metric": {
            "ipd_mm": Measurement(63.2, 1.5),
            "monocular_pd_left_mm": Measurement(31.8, 0.9),
            "distance_m": Measurement(0.8, 0.05, (0.7, 0.9)),
        },
        "licences": assets.licences,
        "warnings": ["several faces"],
        "timings_s": {"total": 1.25},
        "versions": versions(),
        "config": {"preset": "default", "texture": {"size": 1024}},
    }
    return HeadRecord(**{**fields, **changes})


@pytest.fixture(scope="module")
def schema() -> dict:
    content = json.loads((files("headrecon") / "data" / "head.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(content)
    return content


def test_light_and_hair_are_there_when_they_were_found(schema):
    plain = head_document(make_record())
    assert "light" not in plain
    assert "hair" not in plain
    assert plain["regions"] == {}
    light = {"space": "view", "ambient_sh": [[1, 1, 1]] * 9, "directions": [[0, 0, 1]], "intensities": [[1, 1, 1]]}
    regions = {"nose": {"sigma_mm": 0.8, "prior_mm": 2.5}}
    found = head_document(
        make_record(light=light, regions=regions, hair={"amount": 1.0, "long": 0.2, "highest_mm": 31.0})
    )
    jsonschema.validate(found, schema)
    assert found["light"] == light
    assert found["hair"]["highest_mm"] == 31.0
    assert found["regions"] == regions
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found, "light": {**light, "ambient_sh": [[1, 1, 1]]}}, schema)


def test_written_file_follows_the_schema(schema, tmp_path):
    write_json(tmp_path / "head.json", head_document(make_record()))
    document = json.loads((tmp_path / "head.json").read_text())
    jsonschema.validate(document, schema)
    assert document["metric"]["ipd_mm"]["interval90"] == pytest.approx(
        [63.2 - 1.6449 * 1.5, 63.2 + 1.6449 * 1.5], abs=1e-3
    )
    assert document["metric"]["distance_m"]["interval90"] == [0.7, 0.9]
    assert document["parameters"]["expression"]["jawOpen"] == 0
    assert document["commercial_use"] is True


@pytest.mark.parametrize("sha256", ["", None])
def test_a_picture_from_memory_has_no_hash(schema, sha256):
    document = head_document(make_record(image_sha256=sha256))
    jsonschema.validate(document, schema)
    assert document["image"]["sha256"] is None


def test_no_path_of_the_users_machine_leaks():
    text = json.dumps(head_document(make_record()))
    assert "private" not in text
    assert "photo <1>.jpg" in text


@pytest.mark.parametrize("path", [("model",), ("camera", "K"), ("parameters", "betas"), ("metric", "ipd_mm", "sigma")])
def test_schema_notices_what_is_missing(schema, path):
    document = copy.deepcopy(head_document(make_record()))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


def test_schema_refuses_a_metric_without_unit(schema):
    document = head_document(make_record(metric={"ipd": Measurement(60.0, 1.0)}))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


def test_one_closed_licence_closes_the_result():
    closed = Licence("closed model", "LicenseRef-research", False, "https://example.org", "research only")
    licences = (*make_tiny_assets().licences, closed, closed)
    document = head_document(make_record(licences=licences))
    assert document["commercial_use"] is False
    assert [x["name"] for x in document["licences"]] == ["tiny test head", "closed model"]


def test_batches_are_refused():
    with pytest.raises(ShapeError, match="one head"):
        head_document(make_record(params=HeadParams.zeros(12, 52, batch=2)))
    two = Cameras(torch.eye(4).expand(2, 4, 4), torch.eye(3).expand(2, 3, 3), 4, 4)
    with pytest.raises(ShapeError, match="one camera"):
        head_document(make_record(cameras=two))


def test_landmarks_document(tmp_path):
    points = np.arange(6.0).reshape(2, 3)
    write_json(tmp_path / "landmarks3d.json", landmarks_document({"ibug68": points}))
    content = json.loads((tmp_path / "landmarks3d.json").read_text())
    assert content == {"ibug68": points.tolist()}


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(InputError, match="cannot read"):
        sha256_of(tmp_path / "y")
