"""A viewer: a web server on the loopback interface, its panel and its pictures. `headrecon.view`."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrecon.driving.cameras import standing_camera
from headrecon.errors import InputError, NativeMissing
from headrecon.geometry.cameras import camera_centers
from headrecon.viewing.canvas import Canvas, eye_of, png_of
from headrecon.viewing.desk import Desk
from headrecon.viewing.panel import Panel
from headrecon.viewing.subject import Subject, load_subject

#: Nothing but this computer can reach it: an avatar is a person's likeness.
LOOPBACK = "127.0.0.1"
_FIRST_PORT = 8080
_FOV_DEGREES = 24.0


@dataclass(frozen=True)
class ViewOptions:
    """track: a `track.npz` or a folder with one, to play. mesh: folder of a textured mesh of the same person, to show
    beside an avatar's splats. port: None is the first free one from 8080 on."""

    track: str | os.PathLike[str] | None = None
    mesh: str | os.PathLike[str] | None = None
    port: int | None = None


class Viewer:
    """A running viewer. `url` is where a browser finds it; `stop` ends it."""

    def __init__(self, desk: Desk, port: int | None = None) -> None:
        self._server = _server(port)
        self.url = f"http://{LOOPBACK}:{self._server.get_port()}"
        self.desk = desk
        self._stopped = False
        try:
            self._furnish()
        except BaseException:
            self.stop()
            raise

    def _furnish(self) -> None:
        server, desk = self._server, self.desk
        server.scene.set_up_direction("+y")
        server.scene.world_axes.visible = False
        server.gui.configure_theme(show_logo=False, show_share_button=False)
        server.gui.set_panel_label("headrecon")
        server.gui.main_panel.dock_right()  # beside the picture, not over it
        self._home = _home(desk.subject)
        server.initial_camera.position, server.initial_camera.look_at = self._home
        server.initial_camera.fov = np.radians(_FOV_DEGREES)
        self.panel = Panel(server, desk)
        self.canvas = Canvas(server, desk)
        self.panel.buttons["camera"].on_click(lambda event: self._reset(event.client))
        self.panel.buttons["save"].on_click(lambda event: self._save(event.client))
        server.on_client_connect(self._greet)
        self._following = threading.Thread(target=self._follow, name="panel", daemon=True)
        self.canvas.start()
        self._following.start()

    def _greet(self, client: Any) -> None:
        client.camera.on_update(lambda camera: self.desk.changed.set())
        self.desk.changed.set()

    def _reset(self, client: Any) -> None:
        if client is not None:
            with client.atomic():
                client.camera.position, client.camera.look_at = self._home
                client.camera.up_direction = (0.0, 1.0, 0.0)

    def _save(self, client: Any) -> None:
        if client is not None and (eye := eye_of(client.camera)) is not None:
            client.send_file_download(f"{self.desk.subject.title}.png", png_of(self.canvas.picture(eye)))

    def _follow(self) -> None:
        while not self.canvas.ended.wait(0.1):
            self.panel.follow(time.monotonic())

    def wait(self) -> None:
        """Until it is stopped from elsewhere. Raises what went wrong while drawing, and KeyboardInterrupt."""
        while not self.canvas.ended.wait(0.5):  # not for ever: a wait without end cannot be interrupted everywhere
            pass
        if self.canvas.failure is not None:
            raise self.canvas.failure

    def stop(self) -> None:
        """End all threads and close the port; a second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        if hasattr(self, "canvas"):
            self.canvas.stop()
        with _quiet():
            self._server.stop()


def open_viewer(folder: str | os.PathLike[str] | Subject, options: ViewOptions | None = None) -> Viewer:
    """Show an avatar, or a head of `reconstruct` or `track`, in browsers on this computer. Returns at once.

    Raises InputError or AssetError for what cannot be shown, NativeMissing without viser.
    """
    options = options or ViewOptions()
    require_viser()
    subject = folder if isinstance(folder, Subject) else load_subject(folder, options.mesh)
    motion, times = (None, None) if options.track is None else subject.motion(options.track)
    return Viewer(Desk(subject, motion, times), options.port)


def require_viser() -> None:
    """Raise NativeMissing when the package that serves the viewer is not installed."""
    try:
        import viser  # noqa: F401 # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise NativeMissing(
            f"the viewer needs the package viser, which is not installed ({error}); `pip install 'headrecon[view]'` "
            "brings it"
        ) from error


def _server(port: int | None) -> Any:
    import viser  # pyright: ignore[reportMissingImports]

    class Server(viser.ViserServer):
        """Without viser's way out to the internet."""

        def request_share_url(self, verbose: bool = True) -> None:
            return None

    wanted = _free_port() if port is None else _checked(port)
    with _quiet():
        server = Server(host=LOOPBACK, port=wanted, verbose=False)
    found = server.get_port()
    if port is not None and found != wanted:
        with _quiet():
            server.stop()
        raise _taken(wanted)
    return server


def _checked(port: int) -> int:
    if not 1 <= port <= 65535:
        raise InputError(f"--port {port}: expected a number from 1 to 65535")
    if not _is_free(port):
        raise _taken(port)
    return port


def _taken(port: int) -> InputError:
    return InputError(f"--port {port}: something else on this computer uses it; choose another, or leave --port out")


def _free_port() -> int:
    for port in range(_FIRST_PORT, _FIRST_PORT + 100):
        if _is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Without viser's own messages on stdout, which belongs to the command."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _home(subject: Subject) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Where a camera stands at first, and what it looks at."""
    row = subject.figure.rest()
    reach = subject.figure.reach(row)
    middle = 0.5 * (reach.min(0) + reach.max(0))
    camera = standing_camera(subject.figure, row[None], (512, 512))
    eye = camera_centers(camera)[0]
    x, y, z = (float(c) for c in middle)
    return (x, y, z + float(np.linalg.norm(eye - middle))), (x, y, z)
