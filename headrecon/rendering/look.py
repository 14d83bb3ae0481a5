"""How a mesh is to look in a picture: its colours, the light, the quality. Torch tensors or numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float

from headrecon.arrays import Array
from headrecon.errors import ShapeError
from headrecon.ops.samples import DEFAULT_NEAR_Z
from headrecon.rendering.lighting import Lighting, Surface, studio
from headrecon.structures import Mesh

CLAY_SRGB = (0.76, 0.72, 0.69)


@dataclass(frozen=True)
class Appearance:
    """What colours a mesh: a texture over its UVs, else colours per vertex, else one colour. All sRGB in 0..1."""

    texture_srgb: Float[Array, "H W 3"] | None = None
    vertex_srgb: Float[Array, "V 3"] | None = None
    base_srgb: tuple[float, float, float] = CLAY_SRGB
    surface: Surface = field(default_factory=Surface)


@dataclass(frozen=True)
class RenderOptions:
    """How to render. Quality and light, not content."""

    #: Lights; None shows the plain colours without any shading.
    lighting: Lighting | None = field(default_factory=studio)
    #: Samples per pixel and direction for anti-aliased colour and alpha: 1 (none), 2 or 3.
    supersample: int = 2
    #: sRGB colour behind the mesh; None leaves it transparent (colours are then not multiplied by alpha).
    background_srgb: tuple[float, float, float] | None = (1.0, 1.0, 1.0)
    #: Shade with smooth vertex normals, or flat by face.
    smooth: bool = True
    #: Leave out faces that turn their back; otherwise both sides show, lit as if facing the camera.
    cull_backfaces: bool = False
    near_z: float = DEFAULT_NEAR_Z


def check_look(mesh: Mesh, appearance: Appearance, options: RenderOptions) -> None:
    """Raise ShapeError unless mesh, colours and options fit together."""
    if options.supersample not in (1, 2, 3):
        raise ShapeError(f"render_mesh: supersample must be 1, 2 or 3, found {options.supersample}")
    if appearance.texture_srgb is not None and (mesh.uvs is None or mesh.uv_faces is None):
        raise ShapeError("render_mesh: a texture needs a mesh with uvs and uv_faces; this one has none")
    texture = appearance.texture_srgb
    if texture is not None and (texture.ndim != 3 or texture.shape[2] != 3 or "float" not in str(texture.dtype)):
        raise ShapeError(
            f"render_mesh: texture_srgb must be float [H,W,3] in 0..1, found {texture.dtype} {tuple(texture.shape)}"
        )
    colours = appearance.vertex_srgb
    if colours is not None and tuple(colours.shape) != (len(mesh.vertices), 3):
        raise ShapeError(f"render_mesh: vertex_srgb must be [{len(mesh.vertices)},3], found {tuple(colours.shape)}")
