"""`headrecon eval`: scores results against truth."""

from __future__ import annotations

import argparse
from typing import Any

from headrecon.cli import evaluate_avatar, evaluate_track

ABOUT = "score results against truth"
_MESH = "score a predicted head against a scan of the person, in millimetres, by the NoW protocol"


def add_parser(commands: Any) -> list[argparse.ArgumentParser]:
    parser = commands.add_parser("eval", help=ABOUT, description=ABOUT)
    kinds = parser.add_subparsers(metavar="KIND", required=True)
    mesh = kinds.add_parser(
        "mesh", help=_MESH,
        description=f"{_MESH}: placed by 7 landmarks, then moved so that the distances from the scan's face to it "
        "become least, without and with its size. Landmarks in this order: right eye outer and inner corner, left eye "
        "inner and outer corner, nose bottom, right and left mouth corner (the person's own right and left).",
    )  # fmt: skip
    mesh.add_argument("prediction", metavar="PRED", help="glb, obj, ply or stl, or an output folder of `reconstruct`")
    mesh.add_argument("scan", metavar="SCAN", help="the scan: obj, ply, stl or glb; a point cloud will do")
    mesh.add_argument(
        "--landmarks", required=True, metavar="FILE",
        help="the scan's 7 points: .txt, .npy, .json or MeshLab's .pp; or 7 vertex numbers with commas",
    )  # fmt: skip
    mesh.add_argument("--pred-landmarks", metavar="FILE", help="the same of PRED (an output folder brings its own)")
    mesh.add_argument("--unit", metavar="UNIT", help="of the scan: mm, cm, m or how many mm (default: from the eyes)")
    mesh.add_argument("--pred-unit", metavar="UNIT", help="of PRED, likewise (an output folder is in metres)")
    mesh.add_argument("--radius", type=float, metavar="MM", help="of the scored region (default: the protocol's)")
    mesh.add_argument("--scale-free", action="store_true", help="judge by the score without size (picture, --errors)")
    mesh.add_argument("--picture", metavar="PNG", help="draw where the errors lie")
    mesh.add_argument("--errors", metavar="NPY", help="write the error of each scan vertex in mm; NaN where not scored")
    mesh.add_argument("--json", metavar="FILE", help="write the scores for machines; - prints them")
    mesh.set_defaults(run=_mesh)
    return [mesh, evaluate_track.add_parser(kinds), evaluate_avatar.add_parser(kinds)]


def _mesh(args: argparse.Namespace) -> int:
    import json

    from headrecon.evaluation.mesh_files import evaluate_mesh_files
    from headrecon.evaluation.scan_to_mesh import EvaluationOptions

    targets = _targets(args)  # before the work, not after
    options = EvaluationOptions(scan_unit=args.unit, pred_unit=args.pred_unit, radius_mm=args.radius)
    found = evaluate_mesh_files(args.prediction, args.scan, args.landmarks, args.pred_landmarks, options)
    errors = found.score.scale_free if args.scale_free else found.score.metric
    _write(targets, found, errors)
    if args.json == "-":
        print(json.dumps(found.as_dict(), indent=2))
    else:
        _print(found, args.scale_free)
    return 0


def _targets(args: argparse.Namespace) -> dict[str, Any]:
    """Files to write, by kind. Raises InputError for another ending or a folder that is not there."""
    from pathlib import Path

    from headrecon.errors import InputError

    out = {}
    for kind, suffix in (("picture", ".png"), ("errors", ".npy"), ("json", ".json")):
        name = getattr(args, kind)
        if not name or (kind == "json" and name == "-"):
            continue
        path = out[kind] = Path(name)
        if path.suffix.lower() != suffix:
            raise InputError(f"cannot write {path}: expected a name ending in {suffix}")
        if not path.parent.is_dir():
            raise InputError(f"cannot write {path}: the folder {path.parent} does not exist")
    return out


def _write(targets: dict[str, Any], found: Any, errors: Any) -> None:
    if "picture" in targets:
        from headrecon.evaluation.heat_map import heat_map
        from headrecon.io.images import save_png

        picture = heat_map(found.scan, found.prediction, found.scan_landmarks, found.score, errors)
        save_png(targets["picture"], picture)
    if "errors" in targets:
        from headrecon.io.arrays import write_npy

        write_npy(targets["errors"], found.score.per_vertex(errors))
    if "json" in targets:
        from headrecon.io.runs import write_json

        write_json(targets["json"], found.as_dict())


def _print(found: Any, scale_free_only: bool) -> None:
    from headrecon.cli.console import table

    score = found.score
    kinds = {"metric": score.metric, "scale-free": score.scale_free}
    if scale_free_only:
        kinds.pop("metric")
    rows = [
        (name, *(f"{value:.3f}" for value in (e.median_mm, e.mean_mm, e.std_mm, e.p90_mm)), f"{e.alignment.scale:.4f}")
        for name, e in kinds.items()
    ]
    print(table(rows, ("mm", "median", "mean", "std", "90 % below", "size factor")))
    print(
        f"\n{len(score.vertex_ids)} scan vertices within {score.radius_mm:.1f} mm of the face's centre; "
        f"one unit of the scan is {score.scan_mm_per_unit:g} mm, of the prediction {score.pred_mm_per_unit:g} mm"
    )
