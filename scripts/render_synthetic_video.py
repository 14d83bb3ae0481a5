"""Synthetic videos with truth: a clip and a truth.npz for each seed.

    python scripts/render_synthetic_video.py --out DIR [--model anny|PATH/ict_facekit.npz] [--seeds 1 2 3] [--turn 90]

Writes DIR/<model>-<seed>/clip.mp4 and truth.npz. The same seed and options give the same frames.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from headrecon.datasets.head_motion import MotionOptions
from headrecon.datasets.synthetic_video import SyntheticVideo, VideoOptions
from headrecon.datasets.track_truth import write_truth
from headrecon.io.video import write_mp4
from headrecon.models.store import load_head


def main() -> None:
    """Render one clip a seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="anny", help="a head model's name or file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--turn", type=float, default=0.0, help="degrees that the head turns to, and back")
    parser.add_argument("--spin", type=float, default=0.0, help="degrees that the body turns round; 360 is once")
    parser.add_argument("--torso", action="store_true", help="with shoulders in a shirt")
    parser.add_argument("--lens", type=float, help="the camera's 35 mm equivalent (default: drawn)")
    parser.add_argument("--still", action="store_true", help="nothing moves: shows a tracker's own noise")
    parser.add_argument("--tripod", action="store_true", help="the camera does not move")
    args = parser.parse_args()
    assets = load_head(args.model)
    camera = 0.0 if args.tripod else 1.0
    motion = MotionOptions.still() if args.still else MotionOptions(turn=args.turn, spin=args.spin, camera=camera)
    options = VideoOptions(args.seconds, args.fps, args.size, motion, torso=args.torso, lens_mm=args.lens)
    for seed in args.seeds:
        video = SyntheticVideo(assets, seed, options)
        folder = args.out / f"{assets.name}-{seed}{'-still' if args.still else ''}"
        folder.mkdir(parents=True, exist_ok=True)
        write_mp4(folder / "clip.mp4", video.frames(), args.fps)
        write_truth(folder / "truth.npz", video.truth())
        print(folder, flush=True)


if __name__ == "__main__":
    main()
