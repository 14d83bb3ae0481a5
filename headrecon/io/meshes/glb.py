"""Writes a head as rigged binary glTF 2.0: skin, morph targets, embedded texture. See docs/formats.md.

The mesh in the file is always the neutral identity at rest. A photo's expression and pose are written as state on
top of it (morph weights and joint rotations), so a posed file is still a rig: at zero the head is neutral.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.errors import InputError, ShapeError
from headrecon.io.meshes.glb_motion import HeadMotion, animation
from headrecon.io.meshes.gltf_buffer import ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER, GltfBuffer
from headrecon.io.meshes.topology import SplitMesh, split_at_seams, vertex_normals
from headrecon.structures import JOINT_NAMES, HeadAssets, HeadParams, Licence, triangulate

if TYPE_CHECKING:
    from pygltflib import GLTF2, Material, Primitive

#: Rows of a morph target that move less than this (metres; normals: unit length) are left out of the file.
_POSITION_TOLERANCE = 1e-6
_NORMAL_TOLERANCE = 2e-3


@dataclass(frozen=True)
class MaterialGroup:
    """Parts of the head that share a material."""

    name: str
    parts: tuple[str, ...]
    roughness: float
    double_sided: bool = False


#: Eyes are wet, teeth are glazed, skin is in between. The open neck must not be see-through from below.
MATERIAL_GROUPS: tuple[MaterialGroup, ...] = (
    MaterialGroup("eyes", ("leye", "reye"), 0.12),
    MaterialGroup("teeth", ("upper_teeth", "lower_teeth", "teeth"), 0.25),
    MaterialGroup("mouth", ("mouth", "tongue", "gums"), 0.35),
    MaterialGroup("skin", ("skin",), 0.5, double_sided=True),
)


@dataclass(frozen=True)
class RiggedHead:
    """What goes into a GLB.

    vertices: the neutral identity in metres; texture in the model's UVs (v up, row 0 is v = 1). params, when given,
    sets the morph weights and the joints (batch 1, betas ignored). licences: of everything that made this head.
    morph_normals: store how each expression turns the normals (better shading in viewers that do not recompute them).
    normal_map: tangent-space relief of the skin in the same UVs, as glTF has it (+x along u, +y along v upwards).
    offsets: the part of `vertices` that is hair and not head (metres): joints do not move with it.
    motion: how the head moves over time, written as an animation.
    """

    assets: HeadAssets
    vertices: Float[np.ndarray, "V 3"]
    texture: UInt8[np.ndarray, "H W 3"]
    params: HeadParams | None = None
    licences: tuple[Licence, ...] = ()
    texture_format: str = "jpeg"
    morph_normals: bool = True
    normal_map: UInt8[np.ndarray, "N N 3"] | None = None
    offsets: Float[np.ndarray, "V 3"] | None = None
    motion: HeadMotion | None = None

    def checked(self) -> RiggedHead:
        """Return self with numpy parameters; raise ShapeError when an array does not fit the model."""
        if self.vertices.shape != self.assets.v_template.shape:
            raise ShapeError(
                f"GLB: vertices must have shape {self.assets.v_template.shape}, found {self.vertices.shape}"
            )
        if self.texture.dtype != np.uint8 or self.texture.ndim != 3 or self.texture.shape[2] != 3:
            raise ShapeError(f"GLB: texture must be uint8 [H,W,3], found {self.texture.dtype} {self.texture.shape}")
        if self.params is not None and self.params.batch != 1:
            raise ShapeError(f"GLB: params must hold one head, found a batch of {self.params.batch}")
        if self.texture_format not in ("jpeg", "png"):
            raise InputError(f"GLB: texture_format must be 'jpeg' or 'png', found {self.texture_format!r}")
        if self.motion is not None:
            self.motion.checked(self.assets)
        return self if self.params is None else replace(self, params=self.params.numpy())


def write_glb(path: str | Path, head: RiggedHead) -> None:
    """Write one file. Raises ShapeError for arrays that do not fit, InputError when the file cannot be written."""
    gltf = build_gltf(head)
    try:
        Path(path).write_bytes(b"".join(gltf.save_to_bytes()))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose a folder you may write to") from error


def build_gltf(head: RiggedHead) -> GLTF2:
    """The document with its binary blob, ready to save. Raises ShapeError for arrays that do not fit."""
    from pygltflib import GLTF2, Buffer, Mesh, Node, Scene

    head = head.checked()
    buffer = GltfBuffer()
    gltf = GLTF2(asset=_asset(head))
    base = head.vertices.astype(np.float64) + _pose_correctives(head)
    material_names = _add_materials(gltf, buffer, head)
    primitives = _primitives(buffer, head, base, material_names)
    weights = _morph_weights(head)
    gltf.meshes = [
        Mesh(
            name="head",
            primitives=primitives,
            weights=weights,
            extras={"targetNames": list(head.assets.expression_names)},
        )
    ]
    # A skinned mesh ignores its node's transform, so it stands beside the joints and not below them.
    gltf.nodes = [Node(name="head", mesh=0, skin=0), *_joint_nodes(head)]
    gltf.skins = [_skin(buffer, _joints(head))]
    if head.motion is not None:
        moving = animation(buffer, head.motion, _joints(head), mesh_node=0)
        gltf.animations = [] if moving is None else [moving]
    gltf.scenes = [Scene(name="scene", nodes=[0, 1])]
    gltf.scene = 0
    gltf.accessors, gltf.bufferViews = buffer.accessors, buffer.views
    gltf.buffers = [Buffer(byteLength=len(buffer.blob))]
    gltf.set_binary_blob(bytes(buffer.blob))
    return gltf


def _asset(head: RiggedHead) -> Any:
    from pygltflib import Asset

    import headrecon

    licences = head.licences or head.assets.licences
    names = "; ".join(dict.fromkeys(f"{licence.name}: {licence.spdx}" for licence in licences))
    version = getattr(headrecon, "__version__", "0")
    return Asset(
        version="2.0",
        generator=f"headrecon {version}",
        copyright=names,
        extras={
            "headModel": head.assets.name,
            "headModelVersion": head.assets.version,
            "commercialUse": all(licence.commercial for licence in licences),
            "licences": [{"name": x.name, "spdx": x.spdx, "source": x.source} for x in licences],
        },
    )


def _joints(head: RiggedHead) -> np.ndarray:
    bald = head.vertices.astype(np.float64)
    if head.offsets is not None:
        bald = bald - head.offsets
    return head.assets.J_regressor.astype(np.float64) @ bald


def _pose_correctives(head: RiggedHead) -> np.ndarray:
    """Offsets that the model adds for this pose (SMPL, eq. 9): glTF cannot drive them, so a posed file bakes them."""
    a = head.assets
    if a.posedirs is None or head.params is None:
        return np.zeros((a.num_vertices, 3))
    pose = head.params.full_pose[0].astype(np.float64)
    rotations = np.stack([_matrix(quaternion_xyzw(p)) for p in pose[1:]])
    return ((rotations - np.eye(3)).reshape(-1) @ a.posedirs).reshape(-1, 3)


def _morph_weights(head: RiggedHead) -> list[float]:
    weights = np.zeros(head.assets.num_expressions)
    if head.params is not None:
        given = head.params.expression[0]
        weights[: len(given)] = given
    return [float(w) for w in weights.astype(np.float32)]


def quaternion_xyzw(axis_angle: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4"]:
    """glTF's quaternion of an axis-angle rotation in radians; exact at zero."""
    angle = float(np.linalg.norm(axis_angle))
    # np.sinc(x) is sin(pi x)/(pi x): the division by the angle is safe at zero.
    xyz = np.asarray(axis_angle, dtype=np.float64) * 0.5 * np.sinc(angle / (2 * np.pi))
    return np.append(xyz, np.cos(angle / 2))


def _matrix(q: np.ndarray) -> np.ndarray:
    x, y, z, w = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _joint_nodes(head: RiggedHead) -> list[Any]:
    """One node per joint, in the order of JOINT_NAMES, as nodes 1..5 of the document."""
    from pygltflib import Node

    joints, parents = _joints(head), head.assets.parents
    nodes = []
    for j, name in enumerate(JOINT_NAMES):
        local = joints[j] - (joints[parents[j]] if j else 0)
        rotation = None
        if head.params is not None:
            pose = head.params.full_pose[0, j]
            rotation = quaternion_xyzw(pose).tolist() if np.any(pose) else None
            local = local + (head.params.transl[0] if j == 0 else 0)
        children = [1 + int(c) for c in np.flatnonzero(parents == j)]
        # Ten digits: below float32, and free of noise such as -1.2e-18.
        translation = (np.round(local, 10) + 0.0).tolist()
        nodes.append(Node(name=name, translation=translation, rotation=rotation, children=children))
    return nodes


def _skin(buffer: GltfBuffer, joints: np.ndarray) -> Any:
    from pygltflib import Skin

    inverse_bind = np.tile(np.eye(4, dtype=np.float32), (len(joints), 1, 1))
    inverse_bind[:, 3, :3] = -joints  # glTF stores matrices by column: the translation is the last row here
    return Skin(
        name="rig",
        joints=list(range(1, 1 + len(joints))),
        skeleton=1,
        inverseBindMatrices=buffer.array(inverse_bind),
    )


def _add_materials(gltf: GLTF2, buffer: GltfBuffer, head: RiggedHead) -> dict[str, int]:
    """Embed the texture and make one material per group in use; the material's index by group name."""
    from pygltflib import Image, Sampler, Texture

    view = buffer.view(encode_texture(head.texture, head.texture_format))
    gltf.images = [Image(name="head_basecolor", mimeType=f"image/{head.texture_format}", bufferView=view)]
    gltf.samplers = [Sampler(magFilter=9729, minFilter=9987, wrapS=33071, wrapT=33071)]
    gltf.textures = [Texture(sampler=0, source=0)]
    if head.normal_map is not None:
        # PNG: the blocks of a JPEG would show as relief.
        view = buffer.view(encode_texture(head.normal_map, "png"))
        gltf.images.append(Image(name="head_normal", mimeType="image/png", bufferView=view))
        gltf.textures.append(Texture(sampler=0, source=1))
    groups = [g for g, faces in face_groups(head.assets) if len(faces)]
    gltf.materials = [_material(group, head.normal_map is not None and group.name == "skin") for group in groups]
    return {group.name: i for i, group in enumerate(groups)}


def _material(group: MaterialGroup, relief: bool) -> Material:
    from pygltflib import Material, NormalMaterialTexture, PbrMetallicRoughness, TextureInfo

    return Material(
        name=group.name,
        doubleSided=group.double_sided,
        alphaCutoff=None,
        normalTexture=NormalMaterialTexture(index=1) if relief else None,
        pbrMetallicRoughness=PbrMetallicRoughness(
            baseColorTexture=TextureInfo(index=0), metallicFactor=0.0, roughnessFactor=group.roughness
        ),
    )


def encode_texture(texture: UInt8[np.ndarray, "H W 3"], image_format: str) -> bytes:
    """PNG or JPEG bytes. JPEG keeps full chroma: skin next to lips bleeds otherwise."""
    from PIL import Image

    stream = io.BytesIO()
    # Level 2 packs a texture to within a tenth of PNG's usual size in a third of the time.
    options = {"quality": 93, "subsampling": 0} if image_format == "jpeg" else {"compress_level": 2}
    Image.fromarray(texture).save(stream, format=image_format.upper(), **options)
    return stream.getvalue()


def face_groups(assets: HeadAssets) -> list[tuple[MaterialGroup, np.ndarray]]:
    """Every face in exactly one group: (group, face indices). Parts that no group names go to the last group."""
    taken = np.zeros(len(assets.faces), dtype=bool)
    result = []
    for group in MATERIAL_GROUPS[:-1]:
        own = assets.faces_of(*group.parts)
        taken[own] = True
        result.append((group, own))
    return [*result, (MATERIAL_GROUPS[-1], np.flatnonzero(~taken))]


def _primitives(buffer: GltfBuffer, head: RiggedHead, base: np.ndarray, materials: dict[str, int]) -> list[Primitive]:
    """One primitive per material group, each with every morph target (glTF wants the same count everywhere)."""
    from pygltflib import Attributes, Primitive

    a = head.assets
    triangles, owner = triangulate(a.faces)
    uv_triangles, _ = triangulate(a.uv_faces)
    # Normals are made on the whole mesh, so that shading runs on smoothly across UV cuts and materials.
    normals = vertex_normals(base, triangles)
    targets = np.ascontiguousarray(np.moveaxis(a.exprdirs, 2, 0), dtype=np.float64)
    normal_targets = vertex_normals(base + targets, triangles) - normals if head.morph_normals else None
    joints, weights = top_four(a.lbs_weights)
    primitives = []
    for group, faces in face_groups(a):
        if not len(faces):
            continue
        of_group = np.isin(owner, faces)
        mesh = split_at_seams(triangles[of_group], uv_triangles[of_group], a.uvs)
        s = mesh.source
        attributes = Attributes(
            POSITION=buffer.array(base[s].astype(np.float32), ARRAY_BUFFER, bounds=True),
            NORMAL=buffer.array(normals[s].astype(np.float32), ARRAY_BUFFER),
            TEXCOORD_0=buffer.array(_flip_v(mesh.uvs), ARRAY_BUFFER),
            JOINTS_0=buffer.array(joints[s], ARRAY_BUFFER),
            WEIGHTS_0=buffer.array(weights[s], ARRAY_BUFFER),
        )
        morphs = []
        for k in range(len(targets)):
            morph = {"POSITION": buffer.deltas(targets[k, s], _POSITION_TOLERANCE)}
            if normal_targets is not None:
                morph["NORMAL"] = buffer.deltas(normal_targets[k, s], _NORMAL_TOLERANCE)
            morphs.append(morph)
        indices = buffer.array(_indices(mesh), ELEMENT_ARRAY_BUFFER)
        primitives.append(
            Primitive(
                attributes=attributes,
                indices=indices,
                material=materials[group.name],
                mode=4,
                targets=cast(Any, morphs),
            )
        )
    return primitives


def _flip_v(uvs: np.ndarray) -> np.ndarray:
    """glTF's v runs down from the top of the image."""
    return np.stack([uvs[:, 0], 1 - uvs[:, 1]], axis=1).astype(np.float32)


def _indices(mesh: SplitMesh) -> np.ndarray:
    # 65535 itself is the primitive restart value and must not be used.
    return mesh.triangles.reshape(-1).astype(np.uint16 if len(mesh.source) < 65535 else np.uint32)


def top_four(lbs_weights: Float[np.ndarray, "V J"]) -> tuple[UInt8[np.ndarray, "V 4"], Float[np.ndarray, "V 4"]]:
    """The four strongest joints of every vertex and their weights, which sum to 1; unused slots are joint 0."""
    order = np.argsort(-lbs_weights, axis=1, kind="stable")[:, :4]
    weights = np.take_along_axis(lbs_weights, order, axis=1).astype(np.float64)
    weights = np.where(weights > 1e-4, weights, 0)
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    joints = np.where(weights > 0, order, 0).astype(np.uint8)
    missing = 4 - order.shape[1]
    return np.pad(joints, ((0, 0), (0, missing))), np.pad(weights, ((0, 0), (0, missing)))
