"""The panel in the browser: what is shown, the track, pose and expression."""

from __future__ import annotations

import time
from typing import Any

from headrecon.driving.stills import TURNS
from headrecon.viewing.desk import Desk
from headrecon.viewing.regions import grouped, matches
from headrecon.viewing.subject import SPLATS

#: Degrees to each side: yaw, pitch, roll of each of `TURNS`.
_REACH = {"head": (90, 60, 45), "neck": (60, 45, 40), "gaze": (35, 25)}
_AXES = ("yaw", "pitch", "roll")
_SPEEDS = ("0.1", "0.25", "0.5", "1", "2")
#: Seconds between two looks of the panel at a track that is played.
_FOLLOW_S = 0.25


class Panel:
    """Sliders and buttons of a viser server. All browsers share them: what one moves, all see."""

    def __init__(self, server: Any, desk: Desk) -> None:
        self._gui, self._desk = server.gui, desk
        self._weights: dict[str, Any] = {}
        self._turns: dict[str, tuple[Any, ...]] = {}
        self._groups: list[tuple[Any, tuple[str, ...]]] = []
        self._play: Any = None
        self._place: Any = None
        self._followed_s, self._shown = 0.0, 0
        self.buttons = self._add_show()
        if desk.playback is not None:
            self._add_track()
        self._add_pose()
        self._add_expression()

    def follow(self, now_s: float) -> None:
        """Let the sliders show what the track has done: its place while it plays, everything when it stops."""
        if now_s - self._followed_s < _FOLLOW_S:
            return
        self._followed_s = now_s
        desk, playback = self._desk, self._desk.playback
        if playback is not None:
            self._play.label = "Pause" if playback.playing else "Play"
            if desk.frame is not None:
                self._place.value = desk.frame
        moved = desk.moved
        if moved != self._shown and not (playback is not None and playback.playing):
            self._shown = moved
            self._show_pose()

    def _show_pose(self) -> None:
        for name, weight in self._desk.puppet.weights().items():
            self._weights[name].value = min(max(weight, 0.0), 1.0)
        for title, degrees in self._desk.puppet.turns().items():
            for slider, angle, reach in zip(self._turns[title], degrees, _REACH[title], strict=False):
                slider.value = min(max(angle, -float(reach)), float(reach))

    def _add_show(self) -> dict[str, Any]:
        gui, desk = self._gui, self._desk
        gui.add_markdown(f"**{desk.subject.title}**")
        layers = desk.subject.layers
        show = gui.add_dropdown("Show", layers, initial_value=layers[0], disabled=len(layers) == 1)
        own = None
        if desk.subject.in_browser:
            own = gui.add_checkbox(
                "Browser draws", False, hint="Turns more smoothly on a computer with a GPU; shows splats less exactly."
            )
        background = gui.add_rgb("Background", tuple(round(255 * c) for c in desk.show.background))

        @show.on_update
        def _(event: Any) -> None:
            _refresh()

        def _refresh() -> None:
            splats = show.value == SPLATS
            desk.set_show(
                layer=show.value,
                in_browser=own is not None and splats and own.value,
                background=tuple(c / 255 for c in background.value),
            )
            if own is not None:
                own.disabled = not splats

        background.on_update(lambda event: _refresh())
        if own is not None:
            own.on_update(lambda event: _refresh())
        return {"camera": gui.add_button("Reset camera"), "save": gui.add_button("Save picture")}

    def _add_track(self) -> None:
        gui, desk = self._gui, self._desk
        assert desk.playback is not None
        last = len(desk.playback.times_s) - 1
        with gui.add_folder("Track"):
            self._play = gui.add_button("Play")
            self._place = gui.add_slider("Frame", 0, max(last, 1), 1, 0)
            speed = gui.add_dropdown("Speed", _SPEEDS, initial_value="1")

        @self._play.on_click
        def _(event: Any) -> None:
            playback = desk.playback
            desk.play(playback is not None and not playback.playing, time.monotonic())

        @self._place.on_update
        def _(event: Any) -> None:
            if _by_hand(event):
                desk.seek(min(int(self._place.value), last), time.monotonic())

        speed.on_update(lambda event: desk.set_speed(float(speed.value), time.monotonic()))

    def _add_pose(self) -> None:
        with self._gui.add_folder("Pose"):
            for title in TURNS:
                sliders = tuple(
                    self._gui.add_slider(f"{title.capitalize()} {axis}", -float(reach), float(reach), 0.5, 0.0)
                    for axis, reach in zip(_AXES, _REACH[title], strict=False)  # the gaze has no roll
                )
                self._turns[title] = sliders
                for slider in sliders:
                    slider.on_update(self._turner(title, sliders))

    def _turner(self, title: str, sliders: tuple[Any, ...]) -> Any:
        def turn(event: Any) -> None:
            if _by_hand(event):
                yaw, pitch, *roll = (float(s.value) for s in sliders)
                self._desk.set_turn(title, (yaw, pitch, roll[0] if roll else 0.0), time.monotonic())

        return turn

    def _add_expression(self) -> None:
        gui, desk = self._gui, self._desk
        with gui.add_folder("Expression"):
            find = gui.add_text("Find", "")
            calm = gui.add_button("Reset face and pose")
            for title, names in grouped(desk.puppet.names).items():
                folder = gui.add_folder(title)
                self._groups.append((folder, names))
                with folder:
                    for name in names:
                        self._weights[name] = slider = gui.add_slider(_breakable(name), 0.0, 1.0, 0.01, 0.0)
                        slider.on_update(self._weigher(name, slider))
        calm.on_click(lambda event: desk.rest(time.monotonic()))

        @find.on_update
        def _(event: Any) -> None:
            for folder, names in self._groups:
                found = [name for name in names if matches(name, find.value)]
                folder.visible = bool(found)
                for name in names:
                    self._weights[name].visible = name in found

    def _weigher(self, name: str, slider: Any) -> Any:
        def weigh(event: Any) -> None:
            if _by_hand(event):
                self._desk.set_weight(name, float(slider.value), time.monotonic())

        return weigh


def _breakable(name: str) -> str:
    """A name that may be broken before its capitals (zero-width spaces), where the panel is too narrow for it."""
    return "".join(f"\u200b{c}" if c.isupper() else c for c in name)


def _by_hand(event: Any) -> bool:
    """Whether a browser moved it; what this program sets by itself calls back as well."""
    return event.client is not None
