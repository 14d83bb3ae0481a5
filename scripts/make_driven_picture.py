"""Makes docs/images/driven.jpg: a reconstructed head moved by the motion of a synthetic person, beside that person.

    python scripts/make_driven_picture.py HEAD [--clip driven.mp4]

HEAD: the output folder of NASA's portrait (`make demo`). Above the synthetic person whose motion it is, below the head.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from headrecon.datasets.head_motion import MotionOptions
from headrecon.datasets.synthetic_video import SyntheticVideo, VideoOptions
from headrecon.driving.clip import DrivenHead, drive
from headrecon.driving.options import DriveOptions
from headrecon.models.store import load_head
from headrecon.structures import Track

OUT = Path(__file__).resolve().parents[1] / "docs/images/driven.jpg"
SEED = 21
#: Size of the pictures, the part of the person's that is shown, and the size of a picture in the strip.
SIZE, SHOWN, CELL = 512, 400, 256


def moments(track: Track) -> list[int]:
    """Frames that show what is transferred: open, round, pressed and smiling mouths, a blink, gaze, turns."""
    names = track.expression_names

    def weight(name: str) -> np.ndarray:
        return track.params.expression[:, names.index(name)]

    yaw = track.params.global_orient[:, 1] + track.params.neck_pose[:, 1]
    front = np.abs(yaw) < np.radians(12)
    picks = (
        weight("jawOpen") * front,
        weight("mouthFunnel") * front,
        weight("mouthPressLeft") * (1 - weight("eyeBlinkLeft")) * front,
        weight("mouthSmileLeft") * front,
        weight("eyeBlinkLeft") * front,
        np.abs(track.params.leye_pose[:, 1]) * front * (1 - weight("eyeBlinkLeft")),
        -np.abs(yaw - np.radians(38)) - weight("eyeBlinkLeft"),
        yaw,
    )
    return [int(np.argmax(values)) for values in picks]


def _cell(picture: np.ndarray, shown: int) -> np.ndarray:
    edge = (SIZE - shown) // 2
    middle = Image.fromarray(picture[edge : edge + shown, edge : edge + shown])
    return np.asarray(middle.resize((CELL, CELL), Image.Resampling.LANCZOS))


def main() -> None:
    """Draw the strip and, with --clip, the whole clip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("head", type=Path)
    parser.add_argument("--clip", type=Path)
    args = parser.parse_args()
    options = VideoOptions(
        seconds=7.0, size=SIZE, motion=MotionOptions(turn=75.0, camera=0.0, light=False), noise=0.002
    )
    video = SyntheticVideo(load_head(), SEED, options)
    driven: DrivenHead = drive(args.head, video.track, DriveOptions(size=(SIZE, SIZE), supersample=2))
    cells = [np.concatenate([_cell(video.frame(i), SHOWN), _cell(driven.frame(i), SIZE)]) for i in moments(video.track)]
    strip = Image.fromarray(np.concatenate(cells, axis=1))
    strip.save(OUT, quality=86)
    print(f"{OUT} {strip.width} x {strip.height}, {OUT.stat().st_size / 1e3:.0f} kB")
    if args.clip is not None:
        driven.save(args.clip, overwrite=True)


if __name__ == "__main__":
    main()
