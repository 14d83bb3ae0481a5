"""`headrecon eval track`: a track against the truth of a synthetic video."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrecon.evaluation.track_errors import TrackScore

ABOUT = "score a track against the truth of a synthetic video: expression, pose, surface, jitter, lips, blinks"


def add_parser(kinds: Any) -> argparse.ArgumentParser:
    parser = kinds.add_parser("track", help=ABOUT, description=f"{ABOUT}. docs/accuracy.md says what the figures mean.")
    parser.add_argument("track", metavar="TRACK", help="a track.npz, or the output folder of `headrecon track`")
    parser.add_argument("truth", metavar="TRUTH", help="the truth.npz of the video (scripts/render_synthetic_video.py)")
    parser.add_argument("--model", metavar="NAME", help="head model of the track (default: the one it names)")
    parser.add_argument("--json", metavar="FILE", help="write the scores for machines; - prints them")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from headrecon.errors import InputError

    if args.json and args.json != "-" and not Path(args.json).absolute().parent.is_dir():
        raise InputError(f"cannot write {args.json}: the folder {Path(args.json).parent} does not exist")
    from headrecon.datasets.track_truth import read_truth
    from headrecon.evaluation.track_errors import evaluate_track
    from headrecon.io.tracks import read_track
    from headrecon.models.store import load_head

    path = Path(args.track)
    track = read_track(path / "track.npz" if path.is_dir() else path)
    truth = read_truth(args.truth)
    score = evaluate_track(track, truth, load_head(args.model or track.model))
    if args.json == "-":
        print(json.dumps(score.as_dict(), indent=2))
        return 0
    if args.json:
        from headrecon.io.runs import write_json

        write_json(args.json, score.as_dict())
    _print(score)
    return 0


def _print(score: TrackScore) -> None:
    from headrecon.cli.console import table

    def share(value: float) -> str:
        return "-" if value != value else f"{100 * value:.0f} %"

    turned = ", ".join(f"{k}: {'-' if v is None else f'{v:.2f}'}" for k, v in score.pose_by_yaw.items())
    rows = [
        ("expression, mean absolute error", f"{score.expression_mean:.3f}"),
        ("expression, correlation over time", f"{score.expression_correlation:.2f}"),
        ("pose, degrees", f"{score.pose_degrees:.2f}"),
        ("  by degrees off the camera", turned),
        ("place, mm (size set right)", f"{score.place_mm:.1f} ({score.place_scale_free_mm:.1f})"),
        ("size factor", f"{score.scale:.4f}"),
        ("face, mm (size set right; moved onto it)",
         f"{score.face_mm:.2f} ({score.face_scale_free_mm:.2f}; {score.face_aligned_mm:.2f})"),
        ("68 points, px (% between the eyes' corners)",
         f"{score.reprojection_px:.2f} ({score.reprojection_percent:.2f})"),
        ("jitter, px (mm)", f"{score.jitter_px:.3f} ({score.jitter_mm:.3f})"),
        ("closed lips: recall, precision",
         f"{share(score.lips.recall)}, {share(score.lips.precision)} of {score.lips.true}"),
        ("gap of lips that are closed, mm", f"{score.gap_at_closures_mm:.2f}"),
        ("blinks: recall, precision",
         f"{share(score.blinks.recall)}, {share(score.blinks.precision)} of {score.blinks.true}"),
    ]  # fmt: skip
    print(table(rows, ("figure", "value")))
    worst = sorted(score.expression.items(), key=lambda item: -item[1])[:8]
    print("\nweights off the most: " + ", ".join(f"{name} {value:.2f}" for name, value in worst))
    print(f"{score.frames} frames; {score.missed} of the truth's are not in the track")
