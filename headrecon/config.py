"""Every setting of `headrecon reconstruct`, with its help, type and range; and how presets, files and flags combine.

Other commands have a class of settings of their own (`tracking.settings`); the functions here take it as `kind`.

A setting is a dataclass field. Later sources win: defaults here, then the preset (`configs/<name>.yaml`, which holds
only differences), then a user's YAML file, then single settings such as `texture.size=2048`. Whatever is unknown, of
the wrong type or out of range raises InputError and names the nearest valid key.

Importing this costs no more than the standard library: the command line builds its `--help` from it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrecon.errors import InputError


def setting(default: Any, about: str, **limits: Any) -> Any:
    """A documented field. limits: `low` and `high` (both allowed values themselves) or `choices`."""
    return field(default=default, metadata={"help": about, **limits})


@dataclass(frozen=True)
class PerceptionConfig:
    """Which face to look at, and with which networks."""

    face: int | None = setting(
        None, "which face to take when there are several: 0 is the largest, 1 the next, and so on", low=0
    )
    task: str | None = setting(
        None, "a MediaPipe face_landmarker.task file; adds its 52 expression scores (default: the built-in networks)"
    )


@dataclass(frozen=True)
class KnowledgeConfig:
    """What the user knows. Each makes the millimetres more certain; none is needed."""

    ipd_mm: float | None = setting(
        None, "the person's interpupillary distance (both eyes looking far away), in millimetres", low=35.0, high=90.0
    )
    focal_px: float | None = setting(
        None,
        "the camera's focal length in pixels of this image (default: from EXIF, else estimated)",
        low=10.0,
        high=1e6,
    )
    distance_m: float | None = setting(None, "distance from the camera to the eyes, in metres", low=0.05, high=100.0)


@dataclass(frozen=True)
class FitConfig:
    """How the head is fitted to what was seen."""

    iterations: int = setting(30, "at most this many steps of the solver in each of its rounds", low=1, high=1000)
    refine: bool = setting(True, "correct the landmark network's known errors, and use what they say of the shape")
    exif_focal: bool = setting(True, "use the focal length in the photo's EXIF data when there is one")
    dense: bool = setting(True, "let the photo's pixels (shading, outline) refine what the landmarks gave")


@dataclass(frozen=True)
class HairConfig:
    """The hair's volume."""

    lift: bool = setting(True, "lift the scalp to the outline of the person's hair; false leaves the head bald")


@dataclass(frozen=True)
class PhotosConfig:
    """Several photos of one person."""

    strict: bool = setting(
        False, "a photo that cannot be read, has no face or shows someone else is an error, instead of being left out"
    )
    same_person: bool = setting(
        True, "check by face recognition that the photos show one person; false takes the largest face of each"
    )
    cameras: str | None = setting(
        None,
        "known cameras of the photos: transforms.json (nerfstudio), a COLMAP model, or cameras.json (docs/formats.md)",
    )
    camera_unit: str | None = setting(
        None,
        "unit of the cameras' positions (default: what their file says, else m); any: unknown, as COLMAP's is",
        choices=("m", "cm", "mm", "any"),
    )
    refine_cameras: bool = setting(False, "let known cameras be corrected a little (about 0.5 degrees, 5 mm, 0.5 %)")
    stereo: bool = setting(
        True, "refine the head until overlapping photos (2 of known cameras, 3 of others) agree on where the skin is"
    )
    moving: bool = setting(
        False, "the head moved between the photos of known cameras: each has its own pose and expression"
    )


@dataclass(frozen=True)
class TextureConfig:
    """The skin's colour map."""

    size: int = setting(2048, "width and height of the texture in pixels", low=64, high=8192)
    detail: str = setting(
        "full", "full: completed on all sides; sketch: the photo where it shows the head, plain colours elsewhere",
        choices=("full", "sketch"),
    )  # fmt: skip


@dataclass(frozen=True)
class OutputConfig:
    """What is written, beside the head itself."""

    posed: bool = setting(False, "write the meshes with the photo's expression and pose (default: neutral)")
    morph_normals: bool = setting(
        True, "store normals with the 52 expressions in head.glb: better shading, larger file"
    )
    relight: str | None = setting(
        None, "show the head in another light, too: a name (studio, left, sunset, ...), a panorama, or a light's JSON"
    )
    turntable_frames: int = setting(
        72, "frames of turntable.mp4, one full turn; 0 leaves the video out", low=0, high=1000
    )
    turntable_size: int = setting(512, "width and height of turntable.mp4 in pixels", low=64, high=2048)


@dataclass(frozen=True)
class ReconstructConfig:
    """All settings of one reconstruction. Frozen: make a changed copy with `dataclasses.replace` or `resolve`."""

    preset: str = setting("default", "the preset that this started from: draft, default or high")
    model: str = setting("anny", "head model: anny, flame, ict, or the path of a converted .npz")
    age: str = setting("adult", "whose heads the identity prior describes", choices=("adult", "child"))
    seed: int = setting(
        0, "seed of everything random; nothing is yet, so the same photo gives the same head", low=0, high=2**32 - 1
    )
    device: str = setting("cpu", "where to compute; this version computes on the CPU only", choices=("cpu",))
    perception: PerceptionConfig = field(default_factory=PerceptionConfig)
    knowledge: KnowledgeConfig = field(default_factory=KnowledgeConfig)
    photos: PhotosConfig = field(default_factory=PhotosConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    hair: HairConfig = field(default_factory=HairConfig)
    texture: TextureConfig = field(default_factory=TextureConfig)
    output: OutputConfig = field(default_factory=OutputConfig)


#: A class of settings: `ReconstructConfig` or another command's.
Config = typing.TypeVar("Config")


@dataclass(frozen=True)
class Setting:
    """One setting as the command line and the docs see it."""

    key: str
    type: type
    optional: bool
    default: Any
    help: str
    low: int | float | None = None
    high: int | float | None = None
    choices: tuple[str, ...] | None = None


def settings(kind: type = ReconstructConfig) -> dict[str, Setting]:
    """Every setting by its dotted key (`texture.size`), in the order of the dataclasses."""
    return {s.key: s for s in _walk(kind, "")}


def preset_names(kind: type = ReconstructConfig) -> tuple[str, ...]:
    """The presets that come with headrecon, quickest first.

    Their files are named `<name>.yaml` for `reconstruct`, `<command>_<name>.yaml` for the class of another command.
    """
    order = {"draft": 0, "default": 1, "high": 2}
    prefix = _preset_prefix(kind)
    files = (entry.name.removesuffix(".yaml") for entry in _preset_folder().iterdir() if entry.name.endswith(".yaml"))
    names = (name.removeprefix(prefix) for name in files if name.startswith(prefix))
    return tuple(sorted((n for n in names if "_" not in n), key=lambda name: (order.get(name, len(order)), name)))


def _preset_prefix(kind: type) -> str:
    return getattr(kind, "PRESET_PREFIX", "")


def resolve(
    preset: str | None = None, values: Any = None, overrides: Mapping[str, Any] | None = None
) -> ReconstructConfig:
    """The configuration from a preset, nested mappings (whatever a YAML file held) and single settings by dotted key.

    The preset is the argument, else `values["preset"]`, else "default". Raises InputError.
    """
    return resolve_kind(ReconstructConfig, preset, values, overrides)


def resolve_kind(
    kind: type[Config], preset: str | None = None, values: Any = None, overrides: Mapping[str, Any] | None = None
) -> Config:
    """`resolve` for the settings of any command."""
    flat = flatten(values, "the configuration", kind)
    chosen = preset if preset is not None else flat.get("preset", "default")
    merged = {**_read_preset(chosen, kind), **flat, **dict(overrides or {}), "preset": chosen}
    return _build(kind, "", {key: check_value(key, value, None, kind) for key, value in merged.items()})


def parse_assignment(text: str, kind: type = ReconstructConfig) -> tuple[str, Any]:
    """Split `key=value` as given to `--set` and read the value. Raises InputError."""
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set expects key=value, such as texture.size=2048; found {text!r}")
    return key.strip(), read_value(key.strip(), value.strip(), f"--set {key.strip()}", kind)


def read_value(key: str, text: str, name: str | None = None, kind: type = ReconstructConfig) -> Any:
    """The value of a setting from what was typed for it; `name` is how messages call it. Raises InputError."""
    spec = known_setting(key, name or "", kind)
    return check_value(key, text if spec.type is str else parse_yaml(text, name or key), name, kind)


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text; `source` names it in the message. Raises InputError."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{source}{where}: not valid YAML ({getattr(error, 'problem', None) or error})") from error


def as_dict(config: Any) -> dict[str, Any]:
    """The configuration as nested plain values, as `config.yaml` and `head.json` hold it."""
    return dataclasses.asdict(config)


def as_yaml(config: Any) -> str:
    """The text of `config.yaml`: every setting, so that the run can be repeated with `--config config.yaml`."""
    import yaml

    return yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True)


def flatten(values: Any, source: str, kind: type = ReconstructConfig) -> dict[str, Any]:
    """Nested mappings to dotted keys, checked against the known settings. Raises InputError."""
    if values is None:  # an empty YAML file
        return {}
    if not isinstance(values, Mapping):
        raise InputError(f"{source}: expected settings as `key: value`, found {type(values).__name__}")
    sections = {key.partition(".")[0] for key in settings(kind) if "." in key}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in sections and isinstance(value, Mapping):
            flat.update({f"{key}.{name}": inner for name, inner in value.items()})
        elif key in sections:
            raise InputError(f"{source}: {key} is a section and holds settings, found {value!r}")
        else:
            flat[str(key)] = value
    for key in flat:
        known_setting(key, source, kind)
    return flat


def known_setting(key: str, source: str = "", kind: type = ReconstructConfig) -> Setting:
    """The setting of that dotted key. Raises InputError that names the nearest valid key."""
    known = settings(kind)
    if key in known:
        return known[key]
    by_tail = [k for k in known if k.rpartition(".")[2] == key]
    near = by_tail or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    near = near or [k for k in known if difflib.get_close_matches(key, [k.rpartition(".")[2]], cutoff=0.6)][:1]
    hint = f"did you mean {near[0]!r}?" if near else f"the settings are: {', '.join(known)}"
    raise InputError(f"{source + ': ' if source else ''}unknown setting {key!r}; {hint}")


def check_value(key: str, value: Any, name: str | None = None, kind: type = ReconstructConfig) -> Any:
    """The value of a setting in its own type; `name` is how messages call it (default: the key).

    Raises InputError that says what was expected and found.
    """
    spec, name = known_setting(key, "", kind), name or key
    if value is None and spec.optional:
        return None
    converted = _convert(spec, value, name)
    low, high = spec.low, spec.high
    if spec.type in (int, float):
        too_low, too_high = low is not None and converted < low, high is not None and converted > high
        if too_low or too_high or not math.isfinite(converted):
            raise InputError(f"{name} must be {_range_text(low, high)}, found {value!r}")
    if spec.choices and converted not in spec.choices:
        raise InputError(f"{name} must be {' or '.join(spec.choices)}, found {value!r}{_nearest(value, spec.choices)}")
    return converted


def _convert(spec: Setting, value: Any, name: str) -> Any:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if isinstance(value, str) and spec.type in (int, float):  # YAML 1.1 reads 1e3 as text
        with contextlib.suppress(ValueError):
            value = float(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if spec.type is int and is_number and float(value).is_integer():
        return int(value)
    if spec.type is float and is_number:
        return float(value)
    if spec.type in (bool, str) and isinstance(value, spec.type):
        return value
    raise InputError(f"{name} must be {names[spec.type]}, found {value!r}")


def _range_text(low: int | float | None, high: int | float | None) -> str:
    if low is not None and high is not None:
        return f"between {low:g} and {high:g}"
    return f"at least {low:g}" if low is not None else f"at most {high:g}" if high is not None else "a finite number"


def _nearest(found: Any, valid: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(found), list(valid), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _walk(cls: type, prefix: str) -> Iterable[Setting]:
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        hint = hints[f.name]
        if dataclasses.is_dataclass(hint):
            yield from _walk(typing.cast(type, hint), f"{prefix}{f.name}.")
            continue
        options = [t for t in typing.get_args(hint) if t is not types.NoneType] or [hint]
        limits = {k: f.metadata.get(k) for k in ("low", "high", "choices")}
        optional = len(typing.get_args(hint)) > len(options)
        yield Setting(f"{prefix}{f.name}", options[0], optional, f.default, f.metadata["help"], **limits)


def _build(cls: type, prefix: str, values: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[f.name]):
            arguments[f.name] = _build(typing.cast(type, hints[f.name]), f"{prefix}{f.name}.", values)
        elif prefix + f.name in values:
            arguments[f.name] = values[prefix + f.name]
    return cls(**arguments)


def _preset_folder() -> Any:
    import importlib.resources

    return importlib.resources.files("headrecon") / "configs"


def _read_preset(name: Any, kind: type) -> dict[str, Any]:
    names = preset_names(kind)
    if name not in names:
        raise InputError(f"unknown preset {name!r}; the presets are {', '.join(names)}{_nearest(name, names)}")
    text = (_preset_folder() / f"{_preset_prefix(kind)}{name}.yaml").read_text(encoding="utf-8")
    return flatten(parse_yaml(text, f"preset {name}"), f"preset {name}", kind)
