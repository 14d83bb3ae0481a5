"""`headrecon avatar`: an animatable avatar of the person in a video."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from headrecon.avatars.gaussian.settings import GaussianAvatarConfig
from headrecon.cli.settings import add_settings, settings_of, settings_text

ABOUT = "learn an avatar from a video: Gaussian splats on the tracked head, with hair and shoulders"

FLAGS: dict[str, str] = {
    "--size": "footage.size",
    "--gaussians": "train.gaussians",
    "--iterations": "train.iterations",
    "--test-fraction": "footage.test_fraction",
    "--seed": "seed",
    "--device": "device",
}

EXAMPLES = """examples:
  headrecon avatar clip.mp4 --out out/avatar
  headrecon avatar clip.mp4 --out out/avatar --preset draft
  headrecon avatar out/clip --video clip.mp4 --out out/avatar --test-fraction 0.15
  headrecon drive out/avatar --with other.mp4 --out driven.mp4

A run that was stopped goes on where it was when it is started again with the same arguments.
"""


def add_parser(commands: Any) -> list[argparse.ArgumentParser]:
    parser = commands.add_parser(
        "avatar", help=ABOUT, description=ABOUT, epilog=f"{settings_text(GaussianAvatarConfig, FLAGS)}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "input", metavar="VIDEO|TRACK", help="a video, or the folder that `headrecon track` made of one"
    )
    parser.add_argument(
        "--kind", choices=("gaussian",), default="gaussian", help="what it is made of (default: gaussian)"
    )
    parser.add_argument(
        "--video", metavar="FILE", help="with a track: the video it was made from, if it lies elsewhere"
    )
    add_settings(parser, GaussianAvatarConfig, FLAGS, "train.refine_track=false")
    parser.set_defaults(run=run)
    return [parser]


def run(args: argparse.Namespace) -> int:
    from headrecon.batch import check_exists
    from headrecon.cli.console import Progress

    config = settings_of(args, GaussianAvatarConfig, FLAGS)
    source = Path(args.input)
    check_exists(source)
    with Progress(f"headrecon: learning an avatar from {source}") as progress:
        progress("loading the libraries", 0.0)
        from headrecon.avatar_making import avatar

        made = avatar(source, args.out, config, video=args.video, overwrite=args.overwrite, progress=progress)
        seconds = progress.seconds
    run_page = json.loads((made.out / "run.json").read_text(encoding="utf-8"))
    if args.json:
        print(json.dumps({"out": str(made.out), "seconds": round(seconds, 2), "avatar": run_page}, indent=2))
        return 0
    print(describe_run(run_page))
    print(f"\nDone in {seconds:.0f} s. Look at it: headrecon view {made.out}")
    return 0


def describe_run(page: dict[str, Any]) -> str:
    """The content of `run.json` as a short text."""
    frames = page["frames"]
    lines = [
        f"plan        {page['plan']}",
        f"frames      {frames['learned']} learned from, {frames['held_out']} kept back",
        f"difference  {page['losses'][0]:.4f} at first, {page['losses'][-1]:.4f} at last",
    ]
    if page["lens_factor"] != 1:
        lines.append(
            f"lens        {page['lens_factor']:.2f} times the track's focal length, which meets the pictures better"
        )
    for name, means in (page["metrics"] or {}).items():
        figures = ", ".join(
            f"{figure.upper()} {values['frame']:.2f} ({values['head']:.2f} of the head)"
            if figure == "psnr"
            else f"{figure.upper()} {values['frame']:.3f}"
            for figure, values in means.items()
            if "frame" in values
        )
        lines.append(f"{_WHAT.get(name, name):15} {figures}")
    return "\n".join(lines)


_WHAT = {"pred": "held out", "pred_as_tracked": "as tracked", "mesh": "a mesh", "mesh_as_tracked": "mesh as tracked"}
