"""What lies in the output folder of `headrecon track` (docs/formats.md): a `TrackResult` turned into files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headrecon.config import as_dict, as_yaml
from headrecon.io.meshes.glb import RiggedHead, write_glb
from headrecon.io.meshes.glb_motion import HeadMotion
from headrecon.io.runs import output_folder, versions, write_json, write_text
from headrecon.io.tracks import write_arkit_csv, write_livelink_csv, write_track
from headrecon.io.video_reader import VideoReader
from headrecon.io.video_writer import write_timed_mp4
from headrecon.io.work_folder import disk_errors
from headrecon.models.moving_head import MovingHead
from headrecon.report.track_page import Curve, TrackPage, track_page_html
from headrecon.tracking.clip_texture import clip_texture
from headrecon.tracking.eta import frame_progress
from headrecon.tracking.jitter import point_jitter
from headrecon.tracking.overlay import close_up, overlay_frames
from headrecon.tracking.run import TrackResult
from headrecon.tracking.seen import ahead
from headrecon.tracking.training_frames import write_training_frames

SCHEMA = "headrecon.track/1"
FILES = {
    "track.npz": "the track: identity, expression, pose, place and camera of every frame, and how sure each is",
    "head.glb": "rigged, textured head with the motion as an animation (Blender, Unreal, any glTF viewer)",
    "livelink.csv": "the motion as Live Link Face records it (Unreal)",
    "arkit.csv": "ARKit's 52 weights per frame",
    "overlay.mp4": "the head over the video, with its sound",
    "transforms.json": "cameras of the frames and masks below, in nerfstudio's convention: the head moves",
    "transforms_head.json": "the same seen from the head, which rests: for trainers that know of nothing that moves",
    "frames": "every frame as PNG",
    "masks": "the person's mask of every frame",
    "config.yaml": "every setting, to repeat the run",
    "track.json": "this page for machines",
}
#: Pictures in the report's filmstrip, and their shorter side.
_STRIP, _STRIP_SIDE = 12, 300
_LAST = ("track.json",)


def write_outputs(
    result: TrackResult, out_dir: Path, overwrite: bool, progress: Callable[[str, float], None] | None
) -> Path:
    """Write every file into a folder that appears whole or not at all. Raises InputError."""
    report = progress or (lambda stage, fraction: None)
    config, track, timings = result.config, result.track, result.timings
    reader = VideoReader(result.video.path)
    with disk_errors(out_dir.parent), output_folder(out_dir, overwrite) as folder:
        report("writing the track", 0.64)
        write_track(folder / "track.npz", track)
        write_livelink_csv(folder / "livelink.csv", track)
        write_arkit_csv(folder / "arkit.csv", track)
        report("painting the texture", 0.66)
        with timings.stage("texture"):
            texture, normal_map, offsets = clip_texture(result, reader)
        head = MovingHead.of(result.engine.assets, track, offsets)
        report("writing the rigged head", 0.7)
        with timings.stage("meshes"):
            motion = HeadMotion(
                track.timestamps_s, track.params.expression, track.params.full_pose, track.params.transl
            )
            write_glb(
                folder / "head.glb",
                RiggedHead(
                    result.engine.assets,
                    head.neutral,
                    texture,
                    licences=result.licences,
                    morph_normals=config.output.morph_normals,
                    normal_map=normal_map,
                    offsets=offsets,
                    motion=motion,
                ),
            )
        bald = replace(head, offsets=None)
        if config.output.overlay:
            with timings.stage("overlay"):
                _write_overlay(folder / "overlay.mp4", result, reader, bald, report)
        if config.output.frames:
            report("writing frames and masks", 0.92)
            with timings.stage("training frames"):
                write_training_frames(folder, result, reader)
        report("writing the report", 0.97)
        write_text(folder / "config.yaml", as_yaml(config))
        jitter = point_jitter(bald, result.engine.fitter.models.marks)
        with timings.stage("report"):
            page = _page(result, reader, bald, folder, jitter)
            write_text(folder / "report.html", track_page_html(page))
        write_json(folder / "track.json", track_document(result, jitter))
    return out_dir


def _write_overlay(
    path: Path, result: TrackResult, reader: VideoReader, head: MovingHead, report: Callable[[str, float], None]
) -> None:
    report("drawing the overlay", 0.72)
    tell = frame_progress("drawing the overlay", (0.72, 0.92), len(result.track), report)
    audio = result.video.path if result.video.audio else None
    # The next picture is drawn while this one is encoded.
    with closing(ahead(overlay_frames(reader, head, result.config.output.overlay_side, tell))) as pictures:
        write_timed_mp4(path, pictures, result.video.rate, audio, float(result.track.timestamps_s[0]))


def _page(
    result: TrackResult, reader: VideoReader, head: MovingHead, folder: Path, jitter: Float[np.ndarray, " T"]
) -> TrackPage:
    track = result.track
    worst = worst_frames(result)
    pictures = reader.pictures_at([int(track.frames[i]) for i in worst])
    strip = [
        (
            f"frame {track.frames[i]}, {track.timestamps_s[i]:.2f} s, confidence {track.confidence[i]:.2f}",
            close_up(pictures[int(track.frames[i])], head, i, _STRIP_SIDE),
        )
        for i in worst
    ]
    curves = (
        Curve("confidence", track.confidence, top=1.0),
        Curve("distance of the points from the head's", 100 * result.errors, "% of the eye distance"),
        Curve("jitter: what a point's motion between three frames leaves", jitter, "pixels"),
    )
    files = {name: what for name, what in FILES.items() if (folder / name).exists() or name in _LAST}
    return TrackPage(
        title=result.video.path.name,
        times_s=track.timestamps_s,
        curves=curves,
        pictures=strip,
        facts={k: str(v) for k, v in _facts(result).items()},
        licences=result.licences,
        warnings=result.warnings,
        timings_s=result.timings.as_dict(),
        files=files,
    )


def worst_frames(result: TrackResult) -> list[int]:
    """Places of the least sure frames, at most one from each part of the clip, in the order of doubt."""
    doubt = (1 - result.track.confidence) + np.nan_to_num(result.errors, nan=0.5)
    count = min(_STRIP, len(doubt))
    parts = np.array_split(np.arange(len(doubt)), count)
    picked = [int(part[np.argmax(doubt[part])]) for part in parts if len(part)]
    return sorted(picked, key=lambda i: -doubt[i])


def _facts(result: TrackResult) -> dict[str, Any]:
    track, fit = result.track, result.identity.fit
    ipd = fit.figures.get("ipd_mm")
    seconds = float(track.timestamps_s[-1] - track.timestamps_s[0])
    return {
        "frames": f"{len(track)} in {seconds:.2f} s, {result.video.width} x {result.video.height} px",
        "nobody seen in": f"{int((track.confidence == 0).sum())} frames",
        "mean confidence": f"{float(track.confidence.mean()):.3f}",
        "focal length": "{0.value:.0f} ± {0.sigma:.0f} px".format(fit.view_figures[0]["focal_px"]),
        "between the pupils": "" if ipd is None else str(ipd),
        "keyframes": ", ".join(str(i) for i, _ in result.keyframes),
    }


def track_document(result: TrackResult, jitter: Float[np.ndarray, " T"]) -> dict[str, Any]:
    """`track.json`: what was tracked and how well, for machines."""
    track, fit, video = result.track, result.identity.fit, result.video
    errors = result.errors[np.isfinite(result.errors)]
    worst = worst_frames(result)
    return {
        "schema": SCHEMA,
        "video": {
            "file": video.path.name,
            "width": video.width,
            "height": video.height,
            "rate": video.rate,
            "audio": video.audio,
        },
        "model": {"name": result.engine.assets.name, "version": result.engine.assets.version},
        "frames": {
            "count": len(track),
            "first": int(track.frames[0]),
            "last": int(track.frames[-1]),
            "seconds": float(track.timestamps_s[-1] - track.timestamps_s[0]),
            "unseen": int((track.confidence == 0).sum()),
        },
        "skin": _skin(result.raw.skin),
        "confidence": {"mean": float(track.confidence.mean()), "lowest": float(track.confidence.min())},
        "error_percent": _spread(100 * errors),
        "jitter_px": _spread(jitter[np.isfinite(jitter)]),
        "worst_frames": [int(track.frames[i]) for i in worst],
        "camera": {"K": track.cameras.Ks[0], "width": track.cameras.width, "height": track.cameras.height},
        "betas": track.betas,
        "metric": {
            name: {"value": f.value, "sigma": f.sigma, "interval90": [f.low90, f.high90]}
            for name, f in {**fit.figures, **fit.view_figures[0]}.items()
        },
        "keyframes": [index for index, _ in result.keyframes],
        "segments": [
            {"index": s.index, "start_s": s.start_s, "end_s": s.end_s, "frames": s.frames, "seen": s.held,
             "same_person": s.mine, "tracked": s == result.segment}
            for s in result.segments
        ],
        "warnings": list(result.warnings),
        "licences": [{"name": x.name, "spdx": x.spdx, "source": x.source} for x in dict.fromkeys(result.licences)],
        "commercial_use": all(x.commercial for x in result.licences),
        "timings_s": result.timings.as_dict(),
        "versions": versions(),
        "config": as_dict(result.config),
    }  # fmt: skip


def _skin(shares: Float[np.ndarray, " T"]) -> dict[str, float | int | None]:
    """How many frames were compared with the person's skin, where it was of no use, and how much of it was as known."""
    looked = shares[np.isfinite(shares)]
    used = looked[looked > 0]
    return {
        "frames": len(looked),
        "landmarks_alone": int((looked == 0).sum()),
        "share_median": float(np.median(used)) if len(used) else None,
        "share_lowest": float(used.min()) if len(used) else None,
    }


def _spread(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    median, high = (float(np.percentile(values, q)) for q in (50, 95))
    return {"median": median, "percentile95": high, "largest": float(values.max())}
