"""`headrecon export`: an avatar or a mesh head as Gaussian splats for other tools."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

ABOUT = "write an avatar, or a mesh head, as Gaussian splats for other tools"

EXAMPLES = """examples:
  headrecon export out/avatar --out me.ply                                  calm, for SuperSplat or Blender
  headrecon export out/avatar --format html --expression jawOpen=0.4,mouthSmile=0.6 --out smile.html
  headrecon export out/avatar --format spz --frame 120 --out frame.spz      a frame of the avatar's own track
  headrecon export out/avatar --format html --sequence --every 2 --out clip.html
  headrecon export out/avatar --sequence --track out/clip --out frames      a PLY for each frame
  headrecon export out/me --format glb-splat --rig --out me.glb             a mesh head as splats, with its rig
"""

FORMATS = ("ply", "splat", "spz", "glb-splat", "html")


def add_parser(commands: Any) -> list[argparse.ArgumentParser]:
    parser = commands.add_parser(
        "export", help=ABOUT, description=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("avatar", metavar="AVATAR", help="an output folder of `avatar`, `reconstruct` or `track`")
    parser.add_argument("--out", required=True, metavar="FILE|DIR", help="the file, or the folder of a sequence")
    parser.add_argument(
        "--format", choices=FORMATS,
        help="ply: as 3D Gaussian splatting writes it; splat: antimatter15's; spz: Niantic's; glb-splat: glTF with "
        "KHR_gaussian_splatting; html: a viewer in one file (default: by the ending of --out, else ply)",
    )  # fmt: skip
    parser.add_argument(
        "--expression", default="", metavar="NAME=W,...", help="weights 0..1: jawOpen=0.6,mouthSmile=0.5 (both sides)"
    )
    parser.add_argument("--frame", type=int, metavar="N", help="a frame of the track, as the video counts them")
    parser.add_argument("--sequence", action="store_true", help="all frames of the track")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="of a sequence, every K-th frame")
    parser.add_argument(
        "--track", metavar="TRACK", help="a track.npz, or an output folder of `track` (default: the avatar's own)"
    )
    parser.add_argument(
        "--place", choices=("rest", "track"), default="rest",
        help="rest: at the origin, upright, looking along +z (default); track: in the world of the track's cameras",
    )  # fmt: skip
    parser.add_argument(
        "--axes", choices=("y-down", "opencv", "y-up"), default="y-down",
        help="of ply and splat: y-down, which SuperSplat turns upright (default); opencv, as COLMAP; y-up, as glTF",
    )  # fmt: skip
    parser.add_argument("--rig", action="store_true", help="also the rigged head and how the splats are bound to it")
    parser.add_argument(
        "--splats", type=int, default=100_000, metavar="N", help="of a mesh head: how many (default: 100000)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.set_defaults(run=run)
    return [parser]


def run(args: argparse.Namespace) -> int:
    from headrecon.cli.console import Progress, warn

    with Progress(f"headrecon: exporting {args.avatar}") as progress:
        progress("loading the libraries", 0.0)
        from headrecon.avatar_export import FORMATS as ENDINGS
        from headrecon.avatar_export import ExportOptions, export

        by_ending = {ending: name for name, ending in ENDINGS.items()}
        options = ExportOptions(
            format=args.format or by_ending.get(Path(args.out).suffix.lower(), "ply"),
            expression=args.expression, frame=args.frame, track=args.track, sequence=args.sequence, every=args.every,
            place=args.place, axes=args.axes, rig=args.rig, splats=args.splats,
        )  # fmt: skip
        done = export(args.avatar, args.out, options, args.overwrite, progress)
        seconds = progress.seconds
    for note in done.notes:
        warn(note)
    size = sum(path.stat().st_size for path in done.files)
    frames = f"{done.frames} frames of " if done.frames > 1 else ""
    where = ", ".join(str(path) for path in done.files) if len(done.files) <= 3 else args.out
    print(f"{frames}{done.gaussians:,} Gaussians, {size / 1e6:.1f} MB, in {seconds:.1f} s: {where}")
    return 0
