"""`headrecon drive`: one head moved as another."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrecon.driving.options import DriveOptions

ABOUT = "render one head or avatar with another's motion"

EXAMPLES = """examples:
  headrecon drive out/me --with out/clip --out me.mp4
  headrecon drive out/avatar --with clip.mp4 --out driven.mp4 --beside
  headrecon drive out/avatar --with out/clip --out round.mp4 --camera orbit
  headrecon drive out/me --with out/clip/track.npz --out me.mp4 --camera track --audio clip.mp4 --glb me.glb

A video is tracked first; its track is kept beside the clip (--track-out) and used again by the next drive.
"""


def add_parser(commands: Any) -> list[argparse.ArgumentParser]:
    parser = commands.add_parser(
        "drive", help=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{ABOUT}: expression, jaw, gaze, turns and movement of the track, on the head's own shape",
    )  # fmt: skip
    parser.add_argument(
        "head", metavar="HEAD", help="an output folder of `avatar`, `reconstruct` or `track`"
    )  # fmt: skip
    parser.add_argument(
        "--with", dest="source", required=True, metavar="TRACK|VIDEO",
        help="a track.npz, the output folder of `track`, or a video, which is tracked first",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="CLIP.mp4", help="the clip to write")
    parser.add_argument("--glb", metavar="FILE.glb", help="also write a mesh head with the motion as an animation")
    parser.add_argument(
        "--camera", choices=("front", "track", "orbit"), default="front",
        help="front: stands still before the head (default); track: the camera that filmed the track; "
        "orbit: swings round the head",
    )  # fmt: skip
    parser.add_argument(
        "--relative", action="store_true",
        help="take over how the face differs from its own calm face, for a source whose mouth or eyes are never quite "
        "shut or open",
    )  # fmt: skip
    parser.add_argument(
        "--beside", nargs="?", const="", metavar="VIDEO",
        help="show the source to the left; with a track as source, name its video",
    )  # fmt: skip
    parser.add_argument("--size", metavar="N|WxH", help="pixels (default: 512, or the track's own with --camera track)")
    parser.add_argument("--background", metavar="RRGGBB", default="ededf0", help="colour behind (default: ededf0)")
    parser.add_argument(
        "--light", metavar="NAME|FILE", help="of mesh heads, as --relight of `reconstruct` (default: even and soft)"
    )
    parser.add_argument("--audio", metavar="FILE", help="a file whose sound goes with the clip, such as its source")
    parser.add_argument("--preset", metavar="NAME", help="of tracking a video: draft, default or high")
    parser.add_argument("--track-out", metavar="DIR", help="where a video's track is kept (default: CLIP.track)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.set_defaults(run=run)
    return [parser]


def run(args: argparse.Namespace) -> int:
    from headrecon.cli.console import Progress, warn

    out, glb = Path(args.out), None if args.glb is None else Path(args.glb)
    with Progress(f"headrecon: driving {args.head} with {args.source}") as progress:
        progress("loading the libraries", 0.0)
        from headrecon.driving.clip import check_animated, check_target, drive
        from headrecon.driving.figures import load_figure
        from headrecon.driving.sources import motion_source

        check_target(out, ".mp4", args.overwrite)
        if glb is not None:
            check_target(glb, ".glb", args.overwrite)
        options = _options(args)
        figure = load_figure(args.head)  # before a video is tracked, which takes minutes
        if glb is not None:
            check_animated(figure, glb)
        keep = out.with_suffix(".track") if args.track_out is None else args.track_out
        share = 0.0 if _is_track(args.source) else 0.7
        source = motion_source(args.source, keep, args.preset, _part(progress, 0.0, share))
        if source.note:
            progress(source.note, share)
        if options.beside is None and args.beside is not None:
            options = replace(options, beside=_video_beside(source.video))
        driven = drive(figure, source.track, options)
        for note in driven.notes:
            warn(note)
        progress("placing the head", share + 0.06 * (1 - share))
        driven.save(out, args.overwrite, _part(progress, share, 1.0))
        if glb is not None:
            driven.save_glb(glb, args.overwrite)
        seconds = progress.seconds
    length = float(driven.track.timestamps_s[-1] - driven.track.timestamps_s[0])
    print(f"{len(driven)} frames, {length:.1f} s of motion, in {seconds:.1f} s: {out}" + (f", {glb}" if glb else ""))
    return 0


def _is_track(source: str) -> bool:
    return Path(source).is_dir() or source.lower().endswith(".npz")


def _part(progress: Any, start: float, end: float) -> Any:
    """A stage's own share of the work as a share of all of it."""
    return lambda stage, fraction: progress(stage, start + (end - start) * fraction)


def _video_beside(video: Path | None) -> Path:
    from headrecon.errors import InputError

    if video is None:
        raise InputError("--beside: a track does not hold its pictures; name the video that was tracked")
    return video


def _options(args: argparse.Namespace) -> DriveOptions:
    from headrecon.driving.options import DriveOptions

    light = None
    if args.light is not None:
        from headrecon.stages import light_from

        light = light_from(args.light)
    if args.beside == "" and _is_track(args.source):
        _video_beside(None)
    return DriveOptions(
        args.camera,
        None if args.size is None else size_from(args.size),
        colour_from(args.background),
        light,
        audio=args.audio,
        beside=args.beside or None,
        relative=args.relative,
    ).check()


def size_from(text: str) -> tuple[int, int]:
    """What --size says: 720 or 1280x720. Raises InputError."""
    from headrecon.errors import InputError

    parts = text.lower().split("x")
    if len(parts) > 2 or not all(p.isdecimal() for p in parts):
        raise InputError(f"--size {text}: expected a number of pixels such as 720, or two such as 1280x720")
    width = int(parts[0])
    return width, int(parts[-1])


def colour_from(text: str) -> tuple[float, float, float]:
    """What --background says, in sRGB 0..1. Raises InputError."""
    from headrecon.errors import InputError

    digits = text.removeprefix("#")
    if len(digits) != 6 or any(c not in "0123456789abcdefABCDEF" for c in digits):
        raise InputError(f"--background {text}: expected six hexadecimal digits such as ffffff")
    red, green, blue = (int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue
