"""What the multi-view stage is given, and what it works on: photos, cameras, a posed head in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.errors import InputError, ShapeError
from headrecon.structures import Cameras


@dataclass(frozen=True)
class PosedView:
    """One photo with the camera and the head as a joint fit left them.

    camera: one pinhole (viewmats [4,4], Ks [3,3], numpy) in the world in which the head is posed. params: the head,
    flat as `ParamLayout` orders it; every view has the same betas. mask: the person's opacity in 0..1, where known.
    """

    image_srgb: UInt8[np.ndarray, "H W 3"]
    camera: Cameras
    params: Float[np.ndarray, " P"]
    mask: Float[np.ndarray, "h w"] | None = None

    def __post_init__(self) -> None:
        height, width = self.image_srgb.shape[:2]
        if (self.camera.width, self.camera.height) != (width, height):
            raise ShapeError(
                f"the camera is of a picture of {(self.camera.width, self.camera.height)} pixels, the picture has "
                f"{(width, height)}"
            )
        if np.shape(self.camera.viewmats) != (4, 4) or np.shape(self.camera.Ks) != (3, 3):
            raise ShapeError(
                f"a view has one camera, viewmats [4,4] and Ks [3,3]; found {np.shape(self.camera.viewmats)} and "
                f"{np.shape(self.camera.Ks)}"
            )
        if self.mask is not None and self.mask.shape != (height, width):
            raise ShapeError(f"the mask must be {(height, width)} as the picture is, found {self.mask.shape}")


@dataclass(frozen=True)
class Views:
    """C photos of one person. known_cameras: they are right and stay. one_moment: the head is the same in all of them.

    known_focals: the focal lengths stay where the places of the cameras are not known.

    Raises InputError for views whose heads cannot be one person's, or are not finite.
    """

    views: tuple[PosedView, ...]
    known_cameras: bool = False
    one_moment: bool = False
    num_betas: int = field(default=0)
    known_focals: bool = False

    def __post_init__(self) -> None:
        params = [np.asarray(v.params) for v in self.views]
        for i, (view, x) in enumerate(zip(self.views, params, strict=True)):
            if x.shape != params[0].shape:
                raise ShapeError(f"view {i + 1} has {x.shape} head parameters, the first one {params[0].shape}")
            parts = (x, view.camera.viewmats, view.camera.Ks)
            if not all(np.isfinite(p).all() for p in parts):
                raise InputError(f"view {i + 1} has a head or a camera that is not finite; leave it out")
            if not np.array_equal(x[: self.num_betas], params[0][: self.num_betas]):
                raise InputError(f"view {i + 1} has another identity than the first; fit all photos together before")
        if self.one_moment and any(not np.array_equal(x, params[0]) for x in params):
            raise InputError(
                "photos of one moment must have the same head in each; fit them so or say one_moment=False"
            )

    @staticmethod
    def of(views: Sequence[PosedView], num_betas: int, known_cameras: bool = False, one_moment: bool = False) -> Views:
        return Views(tuple(views), known_cameras, one_moment, num_betas)

    def __len__(self) -> int:
        return len(self.views)
