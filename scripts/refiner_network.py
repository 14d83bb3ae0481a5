"""The heads of `headrecon.perception.shape_network` in torch, for training, and their export to numpy's layers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from refiner_faces import Faces
from torch import Tensor, nn

NUM_FEATURES = 1792
_POSITIONS = 6  # a side of the map that the dense layers of the mesh head take
_KNOWN_POSITIONS = 4  # and those of the recognition head


def convolution(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )  # fmt: skip


class TrainedHead(nn.Module, ABC):
    """Answers `outputs` numbers from feature maps and the points; `straight` is linear in the points."""

    convolutions: tuple[str, ...] = ()
    drop: nn.Dropout
    positions: int

    def add_dense(self, body: int, points: int, outputs: int, hidden: int) -> None:
        self.from_body, self.from_points = nn.Linear(body, hidden), nn.Linear(points, hidden)
        self.hidden, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, outputs)
        self.straight = nn.Linear(points, outputs)
        with torch.no_grad():
            self.out.weight.mul_(0.1)

    def answer(self, hidden: Tensor, points: Tensor) -> Tensor:
        hidden = torch.relu(self.hidden(self.drop(torch.relu(hidden + self.from_points(points)))))
        return self.out(hidden) + self.straight(points)

    @abstractmethod
    def inputs(self, faces: Faces, rows: np.ndarray | slice) -> tuple[Tensor, ...]:
        """The head's feature maps of these rows, as `forward` takes them before the points."""
        ...

    def tables(self, outputs: int) -> dict[str, np.ndarray]:
        """Layers for the head, of the first `outputs` answers: norms folded in, channels last."""
        out: dict[str, np.ndarray] = {}
        for name in ("deep", "middle"):
            norm = getattr(self, f"{name}_norm")
            out[f"{name}.mean"] = norm.running_mean.numpy()
            out[f"{name}.scale"] = 1 / np.sqrt(norm.running_var.numpy() + norm.eps)
        for name in self.convolutions:
            kernel, norm = getattr(self, name)[0].weight.detach().numpy(), getattr(self, name)[1]
            gain = norm.weight.detach().numpy() / np.sqrt(norm.running_var.numpy() + norm.eps)
            out[f"{name}.w"] = (kernel * gain[:, None, None, None]).transpose(2, 3, 1, 0)
            out[f"{name}.b"] = norm.bias.detach().numpy() - norm.running_mean.numpy() * gain
        for name in ("from_body", "from_points", "hidden", "out", "straight"):
            layer = getattr(self, name)
            out[f"{name}.w"], out[f"{name}.b"] = layer.weight.detach().numpy().T, layer.bias.detach().numpy()
        body = out["from_body.w"]
        maps = body.reshape(-1, self.positions, self.positions, body.shape[1])  # torch flattens channels first
        out["from_body.w"] = maps.transpose(1, 2, 0, 3).reshape(body.shape)
        for name in ("out", "straight"):
            out[f"{name}.w"], out[f"{name}.b"] = out[f"{name}.w"][:, :outputs], out[f"{name}.b"][:outputs]
        return {name: values.astype(np.float16) for name, values in out.items()}


class MeshTrained(TrainedHead):
    """`MeshHead`. Its finer map joins in the second part of the training (`use_middle`)."""

    convolutions = ("deep", "middle", "join", "shrink", "block1", "block2")
    positions = _POSITIONS

    def __init__(self, points: int, outputs: int, width: int = 64, middle: int = 48, hidden: int = 320) -> None:
        super().__init__()
        self.use_middle = False
        self.deep_norm, self.middle_norm = nn.BatchNorm2d(128, affine=False), nn.BatchNorm2d(64, affine=False)
        self.summary_norm = nn.BatchNorm1d(NUM_FEATURES, affine=False)
        self.deep, self.middle = convolution(128, width, 1), convolution(64, middle, 3, 2)
        self.join, self.shrink = convolution(width + middle, width, 3), convolution(width, width, 3, 2)
        self.block1, self.block2 = convolution(width, width, 3), convolution(width, width, 3)
        self.from_summary = nn.Linear(NUM_FEATURES, hidden)
        self.drop, self.drop_maps = nn.Dropout(0.2), nn.Dropout2d(0.1)
        self.add_dense(width * _POSITIONS**2, points, outputs, hidden)

    def inputs(self, faces: Faces, rows: np.ndarray | slice) -> tuple[Tensor, ...]:
        middle, deep = (torch.from_numpy(a[rows]).float().permute(0, 3, 1, 2) for a in (faces.middle, faces.deep))
        return middle, deep, torch.from_numpy(faces.summary[rows]).float()

    def forward(self, middle: Tensor, deep: Tensor, summary: Tensor, points: Tensor) -> Tensor:
        fine = self.middle(self.drop_maps(self.middle_norm(middle)))
        fine = fine if self.use_middle else 0 * fine
        body = torch.cat([self.deep(self.drop_maps(self.deep_norm(deep))), fine], 1)
        body = self.shrink(self.join(body))
        body = torch.relu(body + self.block2[1](self.block2[0](self.block1(body)))).flatten(1)
        hidden = self.from_body(self.drop(body)) + self.from_summary(self.drop(self.summary_norm(summary)))
        return self.answer(hidden, points)

    def tables(self, outputs: int) -> dict[str, np.ndarray]:
        out = super().tables(outputs)
        moments = self.summary_norm.state_dict()
        scale = 1 / np.sqrt(moments["running_var"].numpy() + self.summary_norm.eps)
        summary = self.from_summary.weight.detach().numpy().T * scale[:, None]
        offset = self.from_summary.bias.detach().numpy() - moments["running_mean"].numpy() @ summary
        return out | {"from_summary.w": summary.astype(np.float16), "from_summary.b": offset.astype(np.float16)}


class RecognitionTrained(TrainedHead):
    """`RecognitionHead`."""

    convolutions = ("deep", "middle", "join")
    positions = _KNOWN_POSITIONS

    def __init__(self, points: int, outputs: int, width: int = 128, middle: int = 64, hidden: int = 384) -> None:
        super().__init__()
        self.deep_norm, self.middle_norm = nn.BatchNorm2d(256, affine=False), nn.BatchNorm2d(128, affine=False)
        self.deep, self.middle = convolution(256, width, 1), convolution(128, middle, 3, 2)
        self.join = convolution(width + middle, width, 3)
        self.drop, self.drop_maps = nn.Dropout(0.2), nn.Dropout2d(0.1)
        self.add_dense(width * _KNOWN_POSITIONS**2, points, outputs, hidden)

    def inputs(self, faces: Faces, rows: np.ndarray | slice) -> tuple[Tensor, ...]:
        maps = (faces.known_middle, faces.known_deep)
        middle, deep = (torch.from_numpy(a[rows]).float().permute(0, 3, 1, 2) for a in maps)
        return middle, deep

    def forward(self, middle: Tensor, deep: Tensor, points: Tensor) -> Tensor:
        fine = self.middle(self.drop_maps(self.middle_norm(middle)))
        body = self.join(torch.cat([self.deep(self.drop_maps(self.deep_norm(deep))), fine], 1))
        return self.answer(self.from_body(self.drop(body.flatten(1))), points)
