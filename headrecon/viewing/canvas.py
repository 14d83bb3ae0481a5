"""The pictures in every browser: drawn here from where it looks, or splats that it draws itself.

Measured with a trained avatar of 30,000 splats, on two CPU cores that others used too: posing takes 12 ms, posing and
drawing 512 x 512 takes 27 ms at best, 1000 x 700 takes 74 ms, compressing 1 to 2 ms. A browser without a GPU showed
one or two pictures a second of as many splats, and pictures drawn here are exactly those of clips. So pictures are the
default. A browser with a GPU should turn its own splats more smoothly, for 32 bytes a splat at every change of pose.
"""

from __future__ import annotations

import io
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from headrecon.driving.figures import Look
from headrecon.viewing.desk import Desk
from headrecon.viewing.eyes import Eye
from headrecon.viewing.pace import Pace
from headrecon.viewing.splat_rows import UNITS_PER_METRE, splat_rows

#: When nothing has moved for so long, a picture is drawn again as well as it can be.
_STILL_S = 0.2
_MOST_PER_S = 60.0
_FINE_SIDE, _SAVED_SIDE = 2560, 4096
_NODE = "/splats"


@dataclass(frozen=True)
class _Sent:
    """What a browser shows. what: stamp and eye; fine: drawn as well as it can be; since_s: when."""

    what: object
    fine: bool
    since_s: float


class Canvas:
    """Keeps all browsers of a viser server up to date, in a thread of its own."""

    def __init__(self, server: Any, desk: Desk) -> None:
        self._server, self._desk = server, desk
        self._sent: dict[int, _Sent] = {}
        self._paces: dict[str, Pace] = {}
        self._node: Any = None
        self._node_version = -1
        self._stop = threading.Event()
        self.failure: BaseException | None = None
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="canvas", daemon=True)

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after the picture that it draws."""
        self._stop.set()
        self._desk.changed.set()
        if self._thread.is_alive():
            self._thread.join(10.0)

    def picture(self, eye: Eye) -> UInt8[np.ndarray, "H W 3"]:
        """What one browser sees, twice as fine."""
        width, height = eye.size
        return self._drawn(replace(eye, size=(2 * width, 2 * height)), _SAVED_SIDE, True)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._desk.changed.clear()
                started = time.monotonic()
                due = self._desk.advance(started)
                waits = [1.0, *([] if due is None else [due]), *self._serve(started)]
                self._stop.wait(max(0.0, started + 1 / _MOST_PER_S - time.monotonic()))
                self._desk.changed.wait(max(0.0, min(waits) - (time.monotonic() - started)))
        except BaseException as error:  # noqa: BLE001 - whoever waits for the viewer raises it
            self.failure = error
        finally:
            self.ended.set()

    def _serve(self, now_s: float) -> list[float]:
        """Bring every browser up to date; seconds until some of them want a finer picture."""
        clients = self._server.get_clients()
        self._sent = {k: v for k, v in self._sent.items() if k in clients}  # those that left
        stamp, show = self._desk.stamp, self._desk.show
        if show.in_browser:
            self._send_splats(stamp[0])
        elif self._node is not None and self._node.visible:
            self._node.visible = False
        waits = []
        for client_id, client in clients.items():
            eye = eye_of(client.camera)
            if eye is None:
                continue
            what = (show.background,) if show.in_browser else (stamp, eye)
            sent = self._sent.get(client_id)
            if sent is None or sent.what != what:
                self._send(client, eye, fine=show.in_browser)
                self._sent[client_id] = sent = _Sent(what, show.in_browser, now_s)
            elif not sent.fine and now_s - sent.since_s >= _STILL_S:
                self._send(client, eye, fine=True)
                self._sent[client_id] = sent = replace(sent, fine=True)
            if not sent.fine:
                waits.append(max(sent.since_s + _STILL_S - now_s, 0.0))
        return waits

    def _send(self, client: Any, eye: Eye, fine: bool) -> None:
        """One picture for one browser; a plain one where it draws splats over it."""
        if self._desk.show.in_browser:
            plain = np.tile(_bytes(self._desk.show.background), (8, 8, 1))
            client.scene.set_background_image(plain, format="png")
            return
        pace = self._paces.get(self._desk.show.layer, Pace())
        started = time.monotonic()
        image = self._drawn(eye, _FINE_SIDE if fine else pace.longest, fine)
        if not fine:
            self._paces[self._desk.show.layer] = pace.after(time.monotonic() - started, max(image.shape))
        client.scene.set_background_image(image, format="jpeg", jpeg_quality=92 if fine else 80)

    def _drawn(self, eye: Eye, longest: int, fine: bool) -> UInt8[np.ndarray, "H W 3"]:
        show = self._desk.show
        look = Look(show.background, supersample=2 if fine else 1)
        return self._desk.subject.picture(show.layer, self._desk.puppet.row, eye.camera(longest), look)

    def _send_splats(self, version: int) -> None:
        """The splats of the pose, for all browsers; a slow one gets only the newest."""
        if self._node is None:
            rows = splat_rows(self._desk.subject.gaussians(self._desk.puppet.row))
            count = len(rows)
            self._node = self._server.scene.add_gaussian_splats(
                _NODE, centers=np.zeros((count, 3), np.float32), covariances=np.zeros((count, 3, 3), np.float32),
                rgbs=np.zeros((count, 3), np.uint8), opacities=np.zeros((count, 1), np.uint8),
                scale=1 / UNITS_PER_METRE,
            )  # fmt: skip
            self._node.buffer, self._node_version = rows, version
        elif version != self._node_version:
            self._node.buffer = splat_rows(self._desk.subject.gaussians(self._desk.puppet.row))
            self._node_version = version
        if not self._node.visible:
            self._node.visible = True


def eye_of(camera: Any) -> Eye | None:
    """Where a browser looks from; None before it has said so."""
    width, height = int(camera.image_width), int(camera.image_height)
    if width < 1 or height < 1 or not 0 < camera.fov < np.pi:
        return None
    w, i, j, k = map(float, camera.wxyz)
    x, y, z = map(float, camera.position)
    return Eye((w, i, j, k), (x, y, z), float(camera.fov), (width, height))


def png_of(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """A picture as a PNG file."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def _bytes(colour: tuple[float, float, float]) -> UInt8[np.ndarray, "3"]:
    return (np.asarray(colour) * 255 + 0.5).astype(np.uint8)
