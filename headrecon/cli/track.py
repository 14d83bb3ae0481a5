"""`headrecon track`: a person followed through a video."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrecon.cli.settings import add_settings, settings_of, settings_text
from headrecon.tracking.settings import TrackConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

ABOUT = "follow a person through a video: identity once, expression, pose and gaze in every frame"

FLAGS: dict[str, str] = {
    "--model": "model",
    "--face": "follow.face",
    "--segment": "follow.segment",
    "--ipd-mm": "knowledge.ipd_mm",
    "--focal-px": "knowledge.focal_px",
    "--distance-m": "knowledge.distance_m",
    "--age": "age",
    "--frames": "output.frames",
    "--texture-size": "texture.size",
    "--device": "device",
}

EXAMPLES = """examples:
  headrecon track clip.mp4 --out out/clip
  headrecon track clip.mp4 --out out/clip --preset draft
  headrecon track clip.mp4 --out out/clip --frames
  headrecon track interview.mp4 --out out/guest --segment 2

A run that was stopped goes on where it was when it is started again with the same arguments.
"""


def add_parser(commands: Any) -> list[argparse.ArgumentParser]:
    parser = commands.add_parser(
        "track", help=ABOUT, description=ABOUT, epilog=f"{settings_text(TrackConfig, FLAGS)}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("input", metavar="VIDEO", help="a video file: MP4, MOV, MKV, WebM, AVI and the like")
    add_settings(parser, TrackConfig, FLAGS, "motion.smooth=0.5")
    parser.set_defaults(run=run)
    return [parser]


def run(args: argparse.Namespace) -> int:
    from headrecon.batch import check_exists
    from headrecon.cli.console import Progress, warn

    config = settings_of(args, TrackConfig, FLAGS)
    video = Path(args.input)
    check_exists(video)
    with Progress(f"headrecon: tracking {video}") as progress:
        progress("loading the libraries", 0.0)
        from headrecon.tracking.run import track

        track(video, args.out, config, overwrite=args.overwrite, progress=progress)
        seconds = progress.seconds
    out = Path(args.out)
    summary = json.loads((out / "track.json").read_text(encoding="utf-8"))
    for message in summary["warnings"]:
        warn(message)
    if args.json:
        print(json.dumps({"out": str(out), "seconds": round(seconds, 2), "track": summary}, indent=2))
    else:
        print(describe_track(summary))
        rate = summary["frames"]["count"] / max(seconds, 1e-9)
        print(f"\nDone in {seconds:.1f} s, {rate:.1f} frames per second. Report: {out / 'report.html'}")
    return 0


def describe_track(summary: Mapping[str, Any]) -> str:
    """The content of `track.json` (docs/formats.md) as a short text."""
    frames, confidence, error = summary["frames"], summary["confidence"], summary["error_percent"]
    focal = summary["metric"]["focal_px"]
    lines = [
        f"model       {summary['model']['name']}",
        f"frames      {frames['count']} in {frames['seconds']:.1f} s; nobody seen in {frames['unseen']}",
        f"camera      focal length {focal['value']:.0f} ± {focal['sigma']:.0f} px",
        f"confidence  {confidence['mean']:.2f} on average, {confidence['lowest']:.2f} at worst",
    ]
    if error is not None:
        lines.append(f"error       {error['median']:.1f} % of the eye distance (median frame)")
    licence = "nothing that went into it forbids commercial use" if summary["commercial_use"] else "not commercial"
    return "\n".join([*lines, f"licence     {licence}"])
