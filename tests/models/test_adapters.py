"""The right adapter is found from a file's content, whatever its name; anything else is one clear sentence."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrecon.errors import AssetError
from headrecon.models.adapters import FLAME, HEADRECON, ICT, adapter_for
from headrecon.models.assets_file import save_assets
from tests.models.flame_files import flame_arrays, write_flame
from tests.models.ict_files import write_ict, write_packed


def test_each_kind_is_recognised_and_converts(tmp_path: Path) -> None:
    flame = write_flame(tmp_path / "flame")
    ict = write_ict(tmp_path / "ict" / "FaceXModel")
    packed = write_packed(tmp_path / "packed.npz")
    own = save_assets(FLAME(flame), tmp_path / "own.npz")
    arrays: dict[str, Any] = {k: v for k, v in flame_arrays().items() if isinstance(v, np.ndarray)}
    arrays["J_regressor"] = flame_arrays()["J_regressor"].toarray()
    np.savez(tmp_path / "flame.npz", **arrays)
    expected = [
        (flame, FLAME, "flame"),
        (tmp_path / "flame.npz", FLAME, "flame"),
        (ict, ICT, "ict"),
        (ict.parent, ICT, "ict"),
        (packed, ICT, "ict"),
        (own, HEADRECON, "flame"),
    ]
    for path, adapter, name in expected:
        assert adapter_for(path) is adapter, path
        assert adapter_for(str(path))(path).validate().name == name, path


def test_names_do_not_matter(tmp_path: Path) -> None:
    flame = write_flame(tmp_path)
    for source, target, adapter in (
        (flame, tmp_path / "model.bin", FLAME),
        (write_packed(tmp_path / "packed.npz"), tmp_path / "packed.pkl", ICT),
    ):
        shutil.copy(source, target)
        assert adapter_for(target) is adapter
    assert adapter_for(tmp_path / "packed.pkl")(tmp_path / "packed.pkl").name == "ict"
    text = write_flame(tmp_path / "text", protocol=0)
    assert adapter_for(text.rename(tmp_path / "oldest")) is FLAME


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "empty"),
        (b"v 0 0 0\n", "not a head model that headrecon reads; expected a FLAME file"),
        (b"PK\x03\x04 and no more", "not a readable .npz"),
        (b"\x89PNG\r\n\x1a\n", "not a head model"),
        (b"glTF\x02\x00\x00\x00", "not a head model"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "thing"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AssetError, match=message):
        adapter_for(path)(path)


def test_other_archives_pickles_and_folders_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", weights=np.zeros(3), bias=np.zeros(3))
    with pytest.raises(AssetError, match=r"other arrays \(bias, weights\)"):
        adapter_for(tmp_path / "other.npz")
    with pytest.raises(AssetError, match="no head model in this directory"):
        adapter_for(tmp_path)
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"weights": np.zeros(3)}))
    with pytest.raises(AssetError, match="not a FLAME model: v_template, f"):
        adapter_for(tmp_path / "other.pkl")(tmp_path / "other.pkl")
    (tmp_path / "evil.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(AssetError, match=r"asks to run os\.system; refused"):
        adapter_for(tmp_path / "evil.pkl")(tmp_path / "evil.pkl")


def test_a_torch_checkpoint_is_refused(tmp_path: Path) -> None:
    import torch

    torch.save({"v_template": torch.zeros(3)}, tmp_path / "model.pt")
    with pytest.raises(AssetError, match="found other files in the archive"):
        adapter_for(tmp_path / "model.pt")


def test_licence_option(tmp_path: Path) -> None:
    flame = write_flame(tmp_path)
    assert adapter_for(flame)(flame, licence="cc-by-4.0").licences[0].commercial
    own = save_assets(FLAME(flame), tmp_path / "own.npz")
    with pytest.raises(AssetError, match="states its own licences"):
        adapter_for(own)(own, licence="cc-by-4.0")


def test_importing_the_registry_is_cheap() -> None:
    code = "import sys, headrecon.models.adapters; print([m for m in ('numpy', 'torch', 'scipy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
