"""`headrecon eval avatar`: an avatar against the video of a track."""

from __future__ import annotations

import argparse
from typing import Any

ABOUT = "score an avatar against a video: PSNR, SSIM and, where its network is, LPIPS"


def add_parser(kinds: Any) -> argparse.ArgumentParser:
    parser = kinds.add_parser(
        "avatar", help=ABOUT, description=f"{ABOUT}. docs/accuracy.md says what the figures mean."
    )  # fmt: skip
    parser.add_argument("avatar", metavar="AVATAR", help="the output folder of `headrecon avatar`")
    parser.add_argument("track", metavar="TRACK", help="the output folder of `headrecon track` for the same person")
    parser.add_argument("--video", metavar="FILE", help="the video that was tracked, if it lies elsewhere")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write: metrics.json and test/*.png")
    parser.add_argument("--size", type=int, default=512, metavar="N", help="of the pictures, pixels (default: 512)")
    parser.add_argument(
        "--test-fraction", type=float, default=1.0, metavar="X",
        help="judge by this share of the usable frames, from the end; a mesh fused from the others is judged beside "
        "(default: 1.0, all frames and no mesh)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result in --out")
    parser.add_argument("--json", metavar="FILE", help="write the means for machines; - prints them")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from headrecon.errors import InputError

    if args.json and args.json != "-" and not Path(args.json).absolute().parent.is_dir():
        raise InputError(f"cannot write {args.json}: the folder {Path(args.json).parent} does not exist")
    from headrecon.cli.console import Progress

    with Progress(f"headrecon: judging {args.avatar}") as progress:
        progress("loading the libraries", 0.0)
        from headrecon.avatars.footage_build import FootageOptions
        from headrecon.avatars.scoring import score_avatar

        page = score_avatar(
            args.avatar, args.track, args.out, args.video, FootageOptions(size=args.size), args.test_fraction,
            args.overwrite, progress,
        )  # fmt: skip
    if args.json == "-":
        print(json.dumps(page["mean"], indent=2))
        return 0
    if args.json:
        from headrecon.io.runs import write_json

        write_json(args.json, page["mean"], digits=6)
    _print(page)
    return 0


def _print(page: dict[str, Any]) -> None:
    from headrecon.cli.console import table

    kinds = ("frame", "head", "head_frame")
    rows = [
        (
            "avatar" if name == "pred" else str(name),
            str(figure).upper(),
            *(f"{found[k]:.3f}" if k in found else "-" for k in kinds),
        )
        for name, figures in page["mean"].items()
        for figure, found in figures.items()
    ]
    print(table(rows, ("of", "figure", "frame", "head", "head on white")))
    print(f"\n{len(page['frames'])} frames of {page['size'][0]} x {page['size'][1]} pixels, on white")
    if "missing" in page["lpips"]:
        print(f"no LPIPS: {page['lpips']['missing']}")
