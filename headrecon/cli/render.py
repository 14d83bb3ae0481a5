"""`headrecon render`: a still picture of a head or an avatar."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

ABOUT = "draw a head or an avatar with a given face, from a given side"

EXAMPLES = """examples:
  headrecon render out/avatar --out front.png
  headrecon render out/avatar --expression jawOpen=0.6,mouthSmileLeft=0.4 --yaw 30 --out smile.png
  headrecon render out/me --neck=25,10 --gaze=-20,5 --size 1280x960 --background ffffff --out look.png
"""


def add_parser(commands: Any) -> list[argparse.ArgumentParser]:
    parser = commands.add_parser(
        "render", help=ABOUT, description=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("head", metavar="HEAD", help="an output folder of `avatar`, `reconstruct` or `track`")
    parser.add_argument("--out", required=True, metavar="FILE.png", help="the picture to write")
    parser.add_argument("--expression", default="", metavar="NAME=W,...", help="weights 0..1, such as jawOpen=0.6")
    parser.add_argument("--yaw", type=float, default=0.0, metavar="DEG", help="camera: 0 front, 90 at the head's left")
    parser.add_argument("--pitch", type=float, default=0.0, metavar="DEG", help="camera: above 0 looks down")
    for part in ("head", "neck", "gaze"):
        parser.add_argument(
            f"--{part}", dest=f"turn_{part}", metavar="YAW,PITCH,ROLL",
            help=f"turn the {part}, degrees; what is left out is 0 (--{part}=-20,5)",
        )  # fmt: skip
    parser.add_argument("--size", default="1024", metavar="N|WxH", help="pixels (default: 1024)")
    parser.add_argument("--background", metavar="RRGGBB", default="ededf0", help="colour behind (default: ededf0)")
    parser.add_argument(
        "--light", metavar="NAME|FILE", help="of mesh heads, as --relight of `reconstruct` (default: even and soft)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    parser.set_defaults(run=run)
    return [parser]


def run(args: argparse.Namespace) -> int:
    from headrecon.cli.drive import colour_from, size_from
    from headrecon.driving.clip import check_target
    from headrecon.driving.figures import Look
    from headrecon.driving.stills import Still, draw_still
    from headrecon.io.images import save_png

    out = Path(args.out)
    check_target(out, ".png", args.overwrite)
    turns = {part: _turn(part, text) for part in ("head", "neck", "gaze") if (text := getattr(args, f"turn_{part}"))}
    light = None
    if args.light is not None:
        from headrecon.stages import light_from

        light = light_from(args.light)
    look = Look(colour_from(args.background), light, supersample=3)
    image = draw_still(args.head, Still(args.expression, args.yaw, args.pitch, turns, size_from(args.size), look))
    save_png(out, image)
    print(f"{image.shape[1]} x {image.shape[0]} pixels: {out}")
    return 0


def _turn(part: str, text: str) -> tuple[float, float, float]:
    from headrecon.errors import InputError

    try:
        degrees = [float(value) for value in text.split(",")]
    except ValueError:
        degrees = []
    if not 1 <= len(degrees) <= 3 or not all(-180 <= d <= 180 for d in degrees):
        raise InputError(f"--{part} {text}: expected one to three numbers of degrees, such as 25,-10,0")
    yaw, pitch, roll = (*degrees, 0.0, 0.0)[:3]
    return yaw, pitch, roll
