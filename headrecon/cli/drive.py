"""`headrecon drive`: one head moved as another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrecon.driving import DriveOptions

ABOUT = "render one head with another's motion"

EXAMPLES = """examples:
  headrecon drive out/me --with out/clip --out me.mp4
  headrecon drive out/me --with out/clip/track.npz --out me.mp4 --camera track --audio clip.mp4 --glb me.glb
"""


def add_parser(commands: Any) -> list[argparse.ArgumentParser]:
    parser = commands.add_parser(
        "drive", help=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{ABOUT}: expression, jaw, gaze, turns and movement of the track, on the head's own shape",
    )  # fmt: skip
    parser.add_argument("head", metavar="HEAD", help="an output folder of `reconstruct` or `track`")
    parser.add_argument(
        "--with", dest="track", required=True, metavar="TRACK", help="a track.npz, or the output folder of `track`"
    )
    parser.add_argument("--out", required=True, metavar="CLIP.mp4", help="the clip to write")
    parser.add_argument("--glb", metavar="FILE.glb", help="also write the head with the motion as an animation")
    parser.add_argument(
        "--camera", choices=("front", "track"), default="front",
        help="front: stands still before the head (default); track: the camera that filmed the track",
    )  # fmt: skip
    parser.add_argument("--size", metavar="N|WxH", help="pixels (default: 512, or the track's own with --camera track)")
    parser.add_argument("--background", metavar="RRGGBB", default="ededf0", help="colour behind (default: ededf0)")
    parser.add_argument("--light", metavar="NAME|FILE", help="as --relight of `reconstruct` (default: even and soft)")
    parser.add_argument("--audio", metavar="FILE", help="a file whose sound goes with the clip, such as its source")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.set_defaults(run=run)
    return [parser]


def run(args: argparse.Namespace) -> int:
    from headrecon.cli.console import Progress, warn

    out, glb = Path(args.out), None if args.glb is None else Path(args.glb)
    with Progress(f"headrecon: driving {args.head} with {args.track}") as progress:
        progress("loading the libraries", 0.0)
        from headrecon.driving import check_target, drive

        check_target(out, ".mp4", args.overwrite)
        if glb is not None:
            check_target(glb, ".glb", args.overwrite)
        options = _options(args)
        progress("reading head and track", 0.03)
        driven = drive(args.head, args.track, options)
        for note in driven.notes:
            warn(note)
        progress("placing the head", 0.06)
        driven.save(out, args.overwrite, progress)
        if glb is not None:
            driven.save_glb(glb, args.overwrite)
        seconds = progress.seconds
    length = float(driven.track.timestamps_s[-1] - driven.track.timestamps_s[0])
    print(f"{len(driven)} frames, {length:.1f} s of motion, in {seconds:.1f} s: {out}" + (f", {glb}" if glb else ""))
    return 0


def _options(args: argparse.Namespace) -> DriveOptions:
    from headrecon.driving import DriveOptions

    light = None
    if args.light is not None:
        from headrecon.stages import light_from

        light = light_from(args.light)
    size = None if args.size is None else _size(args.size)
    return DriveOptions(args.camera, size, _colour(args.background), light, audio=args.audio)


def _size(text: str) -> tuple[int, int]:
    from headrecon.errors import InputError

    parts = text.lower().split("x")
    if len(parts) > 2 or not all(p.isdecimal() for p in parts):
        raise InputError(f"--size {text}: expected a number of pixels such as 720, or two such as 1280x720")
    width = int(parts[0])
    return width, int(parts[-1])


def _colour(text: str) -> tuple[float, float, float]:
    from headrecon.errors import InputError

    digits = text.removeprefix("#")
    if len(digits) != 6 or any(c not in "0123456789abcdefABCDEF" for c in digits):
        raise InputError(f"--background {text}: expected six hexadecimal digits such as ffffff")
    red, green, blue = (int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue
