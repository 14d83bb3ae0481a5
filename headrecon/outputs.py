"""What lies in the output folder of `headrecon reconstruct` (docs/formats.md): a `Reconstruction` turned into files."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.config import as_dict, as_yaml
from headrecon.fitting.region_sigma import SeenSkin, region_sigmas
from headrecon.geometry import so3
from headrecon.geometry.cameras import invert_rigid, project_points
from headrecon.io.cameras import write_transforms
from headrecon.io.documents import HeadRecord, Measurement, PhotoRecord, head_document, landmarks_document, sha256_of
from headrecon.io.images import save_png
from headrecon.io.meshes.glb import RiggedHead, write_glb
from headrecon.io.meshes.obj import write_obj
from headrecon.io.meshes.ply import vertex_colors, write_ply
from headrecon.io.meshes.topology import vertex_normals
from headrecon.io.runs import output_folder, versions, write_json, write_text
from headrecon.io.video import write_mp4
from headrecon.models.posed_mesh import embed
from headrecon.rendering.light_rigs import light_to_document
from headrecon.report.contact_sheet import contact_sheet
from headrecon.report.html import ReportContent, report_html
from headrecon.report.relit import relit_sheet
from headrecon.report.scene import HeadScene
from headrecon.report.turntable import turntable_frames
from headrecon.structures import Cameras, Mesh, triangulate

if TYPE_CHECKING:
    from headrecon.pipeline import Reconstruction

TURNTABLE_FPS = 24
FILES = {
    "head.glb": "rigged head: 52 expressions, neck, jaw and eye joints, texture (Blender, Unreal, any glTF viewer)",
    "head.obj": "the mesh as quads, with head.mtl and head.png (Maya, ZBrush)",
    "head.ply": "the mesh with colours per vertex (MeshLab, scripts)",
    "landmarks3d.json": "the 478 MediaPipe and 68 iBUG points on the head, metres",
    "head.json": "parameters, camera, measures with uncertainty, licences, timings",
    "transforms.json": "the photos' cameras in nerfstudio's convention",
    "config.yaml": "every setting, to repeat the run",
    "preview.png": "the pictures of this page",
    "relit.png": "the head in another light",
    "turntable.mp4": "the head turning once",
}

#: Written after the report that lists them.
_LAST = ("head.json",)


@dataclass(frozen=True)
class Shown:
    """What the report page shows: contact sheet, the head in another light, the turntable's bytes."""

    preview: UInt8[np.ndarray, "H W 3"]
    relit: UInt8[np.ndarray, "h w 3"] | None = None
    video: bytes | None = None


def write_outputs(
    result: Reconstruction, out_dir: Path, overwrite: bool, progress: Callable[[str, float], None] | None
) -> Path:
    """Write every file into a folder that appears whole or not at all. Raises InputError."""
    report = progress or (lambda stage, fraction: None)
    # Compressing textures and drawing pictures share no data: the meshes are written beside the drawing.
    with output_folder(out_dir, overwrite) as folder, ThreadPoolExecutor(1, "meshes") as beside:
        meshes = beside.submit(_timed_meshes, result, folder)
        report("rendering the preview", 0.6)
        with result.timings.stage("preview"):
            scene = scene_of(result)
            names = [p.sitting.image.path.name for p in result.photos]
            further = {names[i]: scene_of(result, i) for i in range(1, len(names))}
            preview = contact_sheet(scene, further=further)
            save_png(folder / "preview.png", preview)
        relit = None
        if result.relight is not None:
            report("rendering in another light", 0.7)
            with result.timings.stage("relight"):
                relit = relit_sheet(scene, result.relight, result.colours.normal_map)
                save_png(folder / "relit.png", relit)
        video = None
        if result.config.output.turntable_frames:
            report("rendering the turntable", 0.75)
            with result.timings.stage("turntable"):
                video = _write_turntable(result, scene, folder)
        report("writing the meshes", 0.9)
        meshes.result()
        report("writing the report", 0.95)
        _write_documents(result, folder, Shown(preview, relit, video))
    return out_dir


def _timed_meshes(result: Reconstruction, folder: Path) -> None:
    with result.timings.stage("meshes"):
        write_meshes(result, folder)


def write_meshes(result: Reconstruction, folder: Path) -> None:
    """head.glb, head.obj with its material, head.ply: the neutral identity, or the photo's pose with `output.posed`.

    A posed GLB keeps its rig: the neutral mesh with morph weights, joint rotations and the translation of the photo's
    head set.
    """
    posed = result.config.output.posed
    vertices = result.posed if posed else result.neutral
    comment = _comment(result)
    head = RiggedHead(
        result.assets,
        result.neutral,
        result.texture,
        params=result.photos[0].fit.arrays if posed else None,
        licences=result.licences,
        morph_normals=result.config.output.morph_normals,
        normal_map=result.colours.normal_map,
        offsets=result.offsets,
    )
    write_glb(folder / "head.glb", head)
    write_obj(folder / "head.obj", result.assets, vertices, result.texture, comment, result.colours.normal_map)
    colours = vertex_colors(result.assets, result.texture)
    normals = vertex_normals(vertices, triangulate(result.assets.faces)[0])
    write_ply(folder / "head.ply", Mesh(vertices, result.assets.faces), colours, normals, comment)


def _comment(result: Reconstruction) -> str:
    names = "; ".join(f"{x.name} ({x.spdx})" for x in result.licences)
    photos = ", ".join(p.sitting.image.path.name for p in result.photos)
    return f"made by headrecon from {photos}; licences: {names}"


def scene_of(result: Reconstruction, index: int = 0) -> HeadScene:
    """What the pictures of a report show: the head and one of its photos."""
    photo = result.photos[index]
    points = embed(photo.posed, result.assets.landmarks["mediapipe478"]).astype(np.float32)
    fitted, _ = project_points(points, photo.camera)
    return HeadScene(
        result.assets,
        photo.sitting.image.image_srgb,
        photo.camera,
        result.neutral,
        photo.posed,
        result.texture,
        photo.sitting.observation.landmarks[:, :2],
        fitted,
        photo.light,
        result.surface.observed if result.surface is not None and result.surface.accepted else None,
    )


def _write_turntable(result: Reconstruction, scene: HeadScene, folder: Path) -> bytes:
    output = result.config.output
    frames = turntable_frames(scene, output.turntable_frames, output.turntable_size, result.relight)
    path = folder / "turntable.mp4"
    write_mp4(path, frames, TURNTABLE_FPS)
    return path.read_bytes()


def _write_documents(result: Reconstruction, folder: Path, shown: Shown) -> None:
    start = time.perf_counter()
    path = result.image.path
    covariance = result.fit.posterior.marginal("betas")
    found = result.surface
    skin = SeenSkin(found.observed, found.sigma_m) if found is not None and found.accepted else None
    sigmas = region_sigmas(result.assets, result.neutral, covariance, skin)
    regions = {k: {n: x for n, x in asdict(v).items() if x is not None} for k, v in sigmas.items()}
    metric = {name: Measurement(f.value, f.sigma, (f.low90, f.high90)) for name, f in result.metric.items()}
    cameras = photo_cameras(result)
    write_transforms(folder / "transforms.json", cameras, [p.sitting.image.path.name for p in result.photos])
    write_json(folder / "landmarks3d.json", landmarks_document(result.landmarks), digits=6)
    write_text(folder / "config.yaml", as_yaml(result.config))
    content = ReportContent(
        title=path.name if len(result.photos) == 1 else f"{path.name} and {len(result.photos) - 1} more",
        preview=shown.preview,
        figures=metric,
        licences=result.licences,
        warnings=result.warnings,
        timings_s=result.timings.as_dict(),
        versions=versions(),
        files={name: what for name, what in FILES.items() if (folder / name).exists() or name in _LAST},
        video_mp4=shown.video,
        relit=shown.relit,
        regions=regions,
    )
    write_text(folder / "report.html", report_html(content))
    result.timings.add("documents", start)
    record = HeadRecord(
        assets=result.assets,
        params=result.photos[0].fit.arrays,
        cameras=result.fit.pinholes[0],
        image=path,
        image_sha256=_sha256(path),
        focal_source=result.focal_source,
        metric=metric,
        licences=result.licences,
        warnings=result.warnings,
        timings_s=result.timings.as_dict(),
        versions=versions(),
        config=as_dict(result.config),
        light=None if result.colours.light is None else light_to_document(result.colours.light),
        hair=_hair_document(result),
        surface=_surface_document(result),
        regions=regions,
        photos=_photo_records(result),
    )
    write_json(folder / "head.json", head_document(record))


def _sha256(path: Path) -> str:
    return sha256_of(path) if path.is_file() else ""


def _photo_records(result: Reconstruction) -> list[PhotoRecord]:
    """All photos in the order in which they were given; nothing to list where there was one."""
    out = {x.index: PhotoRecord(x.path, _sha256(x.path), x.reason) for x in result.left_out}
    for photo in result.photos:
        path, found = photo.sitting.image.path, photo.fit.residuals[0]
        residual = {"median_px": found.median_px, "rms_percent": found.rms_percent}
        out[photo.sitting.index] = PhotoRecord(
            path, _sha256(path), None, photo.fit.arrays, photo.camera, photo.sitting.focal_source, residual
        )
    return [out[i] for i in sorted(out)] if len(out) > 1 else []


def photo_cameras(result: Reconstruction) -> list[Cameras]:
    """The cameras of all photos in one world (numpy): their own where they were known, else the first photo's.

    There the head stands still as in the first photo, and the cameras stand about it.
    """
    cameras = [p.camera for p in result.photos]
    if result.cameras_known:
        return cameras
    first = _rigid_motion(result, 0)
    return [
        replace(c, viewmats=c.viewmats.astype(np.float64) @ _rigid_motion(result, i) @ invert_rigid(first))
        for i, c in enumerate(cameras)
    ]


def _rigid_motion(result: Reconstruction, index: int) -> Float[np.ndarray, "4 4"]:
    """How a photo's head stands in the world of its camera, as a motion of the neutral head."""
    fit, assets = result.photos[index].fit, result.assets
    x, where = fit.flat[0], fit.layout.slices
    rest = assets.v_template + assets.shapedirs @ x[where["betas"]]
    root = assets.J_regressor[0].astype(np.float64) @ rest
    out = np.eye(4)
    out[:3, :3] = so3.exp(x[where["global_orient"]])
    out[:3, 3] = root + x[where["transl"]] - out[:3, :3] @ root
    return out


def _surface_document(result: Reconstruction) -> dict[str, float | bool] | None:
    found = result.surface
    if found is None:
        return None
    moved = np.linalg.norm(found.offsets[found.observed], axis=1)
    return {
        "accepted": found.accepted,
        "observed_vertices": int(found.observed.sum()),
        "offset_rms_mm": 1e3 * float(np.sqrt(np.mean(moved**2))) if len(moved) else 0.0,
        **({"agreement": found.agreement_after} if np.isfinite(found.agreement_after) else {}),
    }


def _hair_document(result: Reconstruction) -> dict[str, float] | None:
    if result.hair is None:
        return None
    highest = float(np.linalg.norm(result.hair.offsets, axis=1).max())
    return {"amount": result.hair.amount, "long": result.hair.long, "highest_mm": 1e3 * highest}
