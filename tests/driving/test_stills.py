"""Still pictures: faces by name, sides, turns, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headrecon.cli import main
from headrecon.driving import figures
from headrecon.driving.figures import AvatarFigure, Look
from headrecon.driving.stills import Still, draw_still
from headrecon.errors import InputError
from headrecon.models.named_weights import read_weights
from headrecon.structures import ARKIT_NAMES
from tests.disc_avatar import disc_avatar
from tests.synthetic_assets import make_tiny_assets

BLUE = Look((0.0, 0.0, 1.0))


@pytest.fixture(scope="module")
def figure() -> AvatarFigure:
    return AvatarFigure(disc_avatar(make_tiny_assets(), np.array([0.5, -1.0]), 4000))


def test_weights_are_read_by_name() -> None:
    weights = read_weights(" jawOpen=0.6, mouthSmileLeft = 1 ,", ARKIT_NAMES)
    assert weights[ARKIT_NAMES.index("jawOpen")] == 0.6
    assert weights[ARKIT_NAMES.index("mouthSmileLeft")] == 1
    assert np.count_nonzero(weights) == 2
    assert not read_weights("", ARKIT_NAMES).any()


@pytest.mark.parametrize(
    ("text", "message"),
    [("jawopn=1", "did you mean jawOpen"), ("jawOpen", "NAME=WEIGHT"), ("jawOpen=wide", "NAME=WEIGHT"),
     ("jawOpen=1.5", "0 to 1"), ("jawOpen=nan", "0 to 1"), ("=1", "no expression is named ''")],
)  # fmt: skip
def test_weights_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_weights(text, ARKIT_NAMES)


def test_a_still_shows_the_side_and_face_that_were_asked_for(figure: AvatarFigure) -> None:
    def draw(**options) -> np.ndarray:
        return draw_still(figure, Still(size=(96, 96), look=BLUE, **options)).astype(int)

    calm = draw()
    assert calm.shape == (96, 96, 3)
    open_mouth = draw(expression="jawOpen=1")
    changed = np.flatnonzero(abs(open_mouth - calm).max(-1).sum(1) > 60)
    assert len(changed) > 3
    assert changed.mean() > 48  # the lower half
    # From its left the nose (+z) points to the left of the picture, from its right to the right.
    left, right = (draw(yaw=yaw)[..., 0] > 40 for yaw in (90.0, -90.0))
    np.testing.assert_allclose(left.mean(), right.mean(), rtol=0.1)
    assert abs(left.astype(int) - right[:, ::-1]).mean() < 0.1
    assert abs(left.astype(int) - right).mean() > 0.02
    # A head turned to its left is what a camera at its right sees of a head that looks ahead.
    turned, seen, other = (
        _aside(draw(**o)) for o in ({"turns": {"head": (40.0, 0.0, 0.0)}}, {"yaw": -40.0}, {"yaw": 40.0})
    )
    assert turned > 5
    assert seen > 5
    assert other < -5
    assert abs(draw(turns={"gaze": (25.0, 0.0, 0.0)}) - calm).max() > 40


def _aside(picture: np.ndarray) -> float:
    """How far to the right of the head's middle its dark parts (irises, brows) are, in pixels."""
    head = picture[..., 0] > 40
    dark = head & (picture.sum(-1) < 330)
    return float(np.nonzero(dark)[1].mean() - np.nonzero(head)[1].mean())


def test_what_cannot_be_drawn(figure: AvatarFigure) -> None:
    with pytest.raises(InputError, match="pitch"):
        draw_still(figure, Still(pitch=95.0))
    with pytest.raises(InputError, match="size"):
        draw_still(figure, Still(size=(0, 64)))


def test_the_command(
    figure: AvatarFigure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "load_figure", lambda path: figure)
    out = tmp_path / "x.png"
    command = ["render", "a", "--out", str(out), "--size", "65x48", "--background", "0000ff"]
    assert main([*command, "--expression", "jawOpen=0.5", "--yaw", "-30", "--neck=-10,5"]) == 0
    assert "65 x 48" in capsys.readouterr().out
    picture = np.asarray(Image.open(out))
    assert picture.shape == (48, 65, 3)
    assert tuple(picture[0, 0]) == (0, 0, 255)
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    for extra, message in ((["--expression", "smile=1"], "no expression"), (["--neck", "a"], "--neck"),
                           (["--gaze", "1,2,3,4"], "--gaze"), (["--size", "big"], "--size")):  # fmt: skip
        assert main([*command, "--overwrite", *extra]) == 2
        assert message in capsys.readouterr().err
