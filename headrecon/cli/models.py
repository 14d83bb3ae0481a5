"""`headrecon models`: the head models that are there; adding, removing and giving landmarks to one."""

from __future__ import annotations

import argparse
from typing import Any

ABOUT = "list, add and remove head models, and put landmarks on them"


def add_parser(commands: Any) -> list[argparse.ArgumentParser]:
    parser = commands.add_parser("models", help=ABOUT, description=ABOUT)
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    listing = actions.add_parser("list", help="the models that can be used, where they are and under which licence")
    listing.add_argument("--json", action="store_true", help="for machines")
    listing.set_defaults(run=_list)

    add = actions.add_parser(
        "add", help="check a model and convert it into the cache",
        description="Check a head model and convert it into the cache: a FLAME 2020 or 2023 .pkl, a directory of "
        "ICT-FaceKit, or an .npz in headrecon's own form (docs/formats.md).",
    )  # fmt: skip
    add.add_argument("path", metavar="PATH", help="the model's file or directory")
    add.add_argument("--name", help="the name to call it by with --model (default: from its kind)")
    add.add_argument(
        "--licence", help="declare your copy's terms where the file does not tell: cc-by-4.0 for FLAME 2023 Open"
    )
    add.add_argument("--overwrite", action="store_true", help="replace a model of the same name")
    add.set_defaults(run=_add)

    embed = actions.add_parser(
        "embed", help="find the facial landmarks on a model by rendering it and looking at the pictures",
        description="Render the model from many views, detect the face in each, and average the points on its surface.",
    )  # fmt: skip
    embed.add_argument("name", metavar="NAME", help="a model that `headrecon models list` shows")
    embed.set_defaults(run=_embed)

    remove = actions.add_parser("remove", help="delete a model from the cache")
    remove.add_argument("name", metavar="NAME", help="a model that `headrecon models list` shows")
    remove.set_defaults(run=_remove)
    return [listing, add, embed, remove]


def _list(args: argparse.Namespace) -> int:
    import json

    from headrecon.cli.console import table
    from headrecon.models.store import list_models

    entries = list_models()
    if args.json:
        print(json.dumps([entry.as_dict() for entry in entries], indent=2, ensure_ascii=False))
        return 0
    rows = [(e.name, e.state, e.licence, "yes" if e.commercial else "NO", str(e.path or "")) for e in entries]
    print(table(rows, ("model", "state", "licence", "commercial", "file")))
    print("\nUse one with `headrecon reconstruct --model NAME`; bring your own with `headrecon models add PATH`.")
    return 0


def _add(args: argparse.Namespace) -> int:
    from headrecon.cli.console import Progress

    with Progress(f"headrecon: reading {args.path}") as progress:
        from headrecon.models.store import add_model

        entry = add_model(args.path, name=args.name, licence=args.licence, overwrite=args.overwrite, progress=progress)
    print(f"added {entry.name}: {entry.path}")
    if not entry.commercial:
        print(f"heads made with it may not be used commercially ({entry.licence})")
    if not entry.has_landmarks:
        print(f"it has no face landmarks yet, which reconstruct needs: run `headrecon models embed {entry.name}`")
    return 0


def _embed(args: argparse.Namespace) -> int:
    from headrecon.cli.console import Progress

    with Progress(f"headrecon: putting landmarks on {args.name}") as progress:
        from headrecon.embedding import embed_model

        entry = embed_model(args.name, progress=progress)
    print(f"{entry.name} now carries the landmarks of the face, the irises and the 68 iBUG points: {entry.path}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    from headrecon.models.store import remove_model

    remove_model(args.name)
    print(f"removed {args.name}")
    return 0
