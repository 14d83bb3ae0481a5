"""`headrecon view`: a head or an avatar in a browser."""

from __future__ import annotations

import argparse
import sys
from typing import Any

ABOUT = "show a head or an avatar in a browser on this computer, with sliders for its face"

EXAMPLES = """examples:
  headrecon view out/avatar
  headrecon view out/avatar --track out/clip --mesh out/clip
  headrecon view out/me --port 9000

It listens on the loopback interface only. Ctrl-C ends it. Needs viser: pip install 'headrecon[view]'
"""


def add_parser(commands: Any) -> list[argparse.ArgumentParser]:
    parser = commands.add_parser(
        "view", help=ABOUT, description=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR", help="an output folder of `avatar`, `reconstruct` or `track`")
    parser.add_argument("--track", metavar="TRACK", help="a track.npz or the output folder of `track`, to play")
    parser.add_argument(
        "--mesh", metavar="DIR", help="a textured head of the same person, to switch to from an avatar's splats"
    )
    parser.add_argument("--port", metavar="N", type=int, help="port to listen on (default: a free one from 8080 on)")
    parser.set_defaults(run=run)
    return [parser]


def run(args: argparse.Namespace) -> int:
    import warnings

    from headrecon.cli.console import Progress

    # viser's way to say that a browser left while a picture was on its way to it.
    warnings.filterwarnings("ignore", message="Queued a .* on a closed connection")
    with Progress(f"headrecon: opening {args.folder}"):
        from headrecon.viewing.server import ViewOptions, open_viewer, require_viser

        require_viser()
        viewer = open_viewer(args.folder, ViewOptions(args.track, args.mesh, args.port))
    try:
        print(f"Open this in a browser on this computer:  {viewer.url}\nCtrl-C ends the viewer.", flush=True)
        viewer.wait()
    except KeyboardInterrupt:
        print("\nheadrecon: the viewer is closed", file=sys.stderr)
    finally:
        viewer.stop()
    return 0
