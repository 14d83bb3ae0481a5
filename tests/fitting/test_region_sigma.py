"""Stated deviations per region, against heads drawn from the same covariance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from headrecon.fitting.region_sigma import SeenSkin, region_sigmas
from headrecon.geometry.mesh import vertex_normals
from headrecon.structures import triangulate
from tests.synthetic_assets import make_tiny_assets

ASSETS = make_tiny_assets()
REGIONS = {
    "face": (ASSETS.v_template[:, 2] > 0.02).astype(np.float32),
    "nose": (ASSETS.v_template[:, 2] > 0.06).astype(np.float32),
    "nothing": np.zeros(ASSETS.num_vertices, np.float32),
}


def test_deviations_are_those_of_drawn_heads() -> None:
    assets = replace(ASSETS, regions=REGIONS)
    rng = np.random.default_rng(0)
    root = rng.normal(size=(assets.num_betas, assets.num_betas)) * 0.3
    found = region_sigmas(assets, assets.v_template, root @ root.T)
    assert set(found) == {"face", "nose"}
    drawn = assets.shapedirs.astype(np.float64) @ (root @ rng.normal(size=(assets.num_betas, 4000)))
    drawn -= drawn[REGIONS["face"] > 0.5].mean(0)
    normals = vertex_normals(assets.v_template.astype(np.float64), triangulate(assets.faces)[0].astype(np.int64))
    across = 1e3 * np.einsum("vc,vcn->vn", normals, drawn)
    for name in ("face", "nose"):
        rms = np.sqrt((across[REGIONS[name] > 0.5] ** 2).mean())
        np.testing.assert_allclose(found[name].sigma_mm, rms, rtol=0.04)  # 4000 draws: 1 % and a little more


def test_without_a_photo_it_is_the_prior() -> None:
    assets = replace(ASSETS, regions=REGIONS)
    for sigma in region_sigmas(assets, assets.v_template, np.eye(assets.num_betas)).values():
        np.testing.assert_allclose(sigma.sigma_mm, sigma.prior_mm, rtol=1e-9)


def test_what_several_photos_show_has_its_own_deviation() -> None:
    assets = replace(ASSETS, regions=REGIONS)
    seen = REGIONS["nose"] > 0.5
    skin = SeenSkin(seen, np.full(assets.num_vertices, 2e-4))
    bare, found = (region_sigmas(assets, assets.v_template, np.eye(assets.num_betas), s) for s in (None, skin))
    assert bare["nose"].seen is None
    assert found["nose"].seen == 1.0
    np.testing.assert_allclose(found["nose"].sigma_mm, 0.2, rtol=1e-9)
    share = seen[REGIONS["face"] > 0.5].mean()
    assert found["face"].seen == share
    assert 0.2 < found["face"].sigma_mm < bare["face"].sigma_mm
    assert found["face"].prior_mm == bare["face"].prior_mm
