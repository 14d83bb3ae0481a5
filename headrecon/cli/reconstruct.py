"""`headrecon reconstruct`: a photo, or several of one person, to a metric, rigged head."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrecon.cli.settings import add_settings, settings_of, settings_text
from headrecon.config import ReconstructConfig

if TYPE_CHECKING:
    from headrecon.batch import BatchItem

ABOUT = "turn a photo of a person, or several of the same one, into a metric, rigged, textured 3D head"

#: Flags that stand for a setting. Every other setting is reached with --set; --help lists them at its end.
FLAGS: dict[str, str] = {
    "--model": "model",
    "--face": "perception.face",
    "--ipd-mm": "knowledge.ipd_mm",
    "--focal-px": "knowledge.focal_px",
    "--distance-m": "knowledge.distance_m",
    "--age": "age",
    "--posed": "output.posed",
    "--texture-size": "texture.size",
    "--relight": "output.relight",
    "--strict": "photos.strict",
    "--cameras": "photos.cameras",
    "--camera-unit": "photos.camera_unit",
    "--refine-cameras": "photos.refine_cameras",
    "--moving": "photos.moving",
    "--seed": "seed",
    "--task": "perception.task",
    "--device": "device",
}

EXAMPLES = """examples:
  headrecon reconstruct me.jpg --out out/me
  headrecon reconstruct me.jpg --out out/me --preset draft
  headrecon reconstruct me.jpg --out out/me --ipd-mm 63 --relight sunset
  headrecon reconstruct front.jpg left.jpg right.jpg --out out/me
  headrecon reconstruct people/ --batch --out out/people
"""


def add_parser(commands: Any) -> list[argparse.ArgumentParser]:
    parser = commands.add_parser(
        "reconstruct", help=ABOUT, description=ABOUT, epilog=f"{settings_text(ReconstructConfig, FLAGS)}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="a photo; several photos, or a folder of them, of one person; with --batch, of a person each",
    )
    add_settings(parser, ReconstructConfig, FLAGS, "fit.iterations=100")
    parser.add_argument("--batch", action="store_true", help="each photo is a person of its own; go on past failures")
    parser.set_defaults(run=run)
    return [parser]


def run(args: argparse.Namespace) -> int:
    from headrecon.batch import find_photos

    config = settings_of(args, ReconstructConfig, FLAGS)
    if args.batch:
        return _run_batch(find_photos(args.inputs), config, args)
    return _run_one_head(find_photos(args.inputs), config, args)


def _run_one_head(photos: list[Path], config: ReconstructConfig, args: argparse.Namespace) -> int:
    from headrecon.cli.console import Progress, warn

    what = str(photos[0]) if len(photos) == 1 else f"one head from {len(photos)} photos"
    with Progress(f"headrecon: reconstructing {what}") as progress:
        from headrecon.io.runs import check_output_folder

        check_output_folder(args.out, args.overwrite)
        progress("loading the libraries", 0.0)
        from headrecon.pipeline import reconstruct

        result = reconstruct(photos[0] if len(photos) == 1 else photos, config, progress=progress)
        result.save(args.out, overwrite=args.overwrite, progress=progress)
        seconds = progress.seconds
    out = Path(args.out)
    head = json.loads((out / "head.json").read_text(encoding="utf-8"))
    for message in head.get("warnings", []):
        warn(message)
    if args.json:
        print(json.dumps({"out": str(out), "seconds": round(seconds, 2), "head": head}, indent=2, ensure_ascii=False))
    else:
        from headrecon.cli.summary import describe_head

        print(describe_head(head))
        print(f"\nDone in {seconds:.1f} s. Report: {out / 'report.html'}")
    return 0


def _run_batch(photos: list[Path], config: ReconstructConfig, args: argparse.Namespace) -> int:
    from headrecon.batch import reconstruct_batch
    from headrecon.cli.console import Progress

    with Progress(f"headrecon: reconstructing {len(photos)} photo{'s' if len(photos) != 1 else ''}") as progress:
        items = reconstruct_batch(photos, args.out, config, overwrite=args.overwrite, progress=progress)
    failed = sum(item.status == "failed" for item in items)
    if args.json:
        print((Path(args.out) / "summary.json").read_text(encoding="utf-8"), end="")
    else:
        _print_summary(items, Path(args.out), failed)
    return 1 if failed else 0


def _print_summary(items: list[BatchItem], out: Path, failed: int) -> None:
    from headrecon.cli.console import table

    rows = [(item.status, f"{item.seconds:.1f} s", item.folder, item.error or "") for item in items]
    print(table(rows, ("status", "time", "folder", "why")))
    kept = sum(item.status == "kept" for item in items)
    again = " (--overwrite makes them again)" if kept else ""
    done = len(items) - failed - kept
    print(f"\n{done} done, {kept} kept from before{again}, {failed} failed. Summary: {out / 'summary.json'}")
