"""The network of `headrecon.perception.shape_network` in torch, for training, and its export to numpy's layers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

NUM_FEATURES = 1792
_POSITIONS = 6  # a side of the map that the dense layers take


def convolution(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )  # fmt: skip


class TrainedNetwork(nn.Module):
    """Answers `outputs` numbers from the mesh network's features and the points; `straight` is linear in the points."""

    def __init__(self, points: int, outputs: int, width: int = 64, middle: int = 48, hidden: int = 320) -> None:
        super().__init__()
        self.deep_norm, self.middle_norm = nn.BatchNorm2d(128, affine=False), nn.BatchNorm2d(64, affine=False)
        self.summary_norm = nn.BatchNorm1d(NUM_FEATURES, affine=False)
        self.deep, self.middle = convolution(128, width, 1), convolution(64, middle, 3, 2)
        self.join, self.shrink = convolution(width + middle, width, 3), convolution(width, width, 3, 2)
        self.block1, self.block2 = convolution(width, width, 3), convolution(width, width, 3)
        self.from_body = nn.Linear(width * _POSITIONS**2, hidden)
        self.from_summary, self.from_points = nn.Linear(NUM_FEATURES, hidden), nn.Linear(points, hidden)
        self.hidden, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, outputs)
        self.straight = nn.Linear(points, outputs)
        self.drop, self.drop_maps = nn.Dropout(0.2), nn.Dropout2d(0.1)
        with torch.no_grad():
            self.out.weight.mul_(0.1)

    def forward(self, middle: Tensor, deep: Tensor, summary: Tensor, points: Tensor, use_middle: bool = True) -> Tensor:
        fine = self.middle(self.drop_maps(self.middle_norm(middle)))
        body = torch.cat([self.deep(self.drop_maps(self.deep_norm(deep))), fine if use_middle else 0 * fine], 1)
        body = self.shrink(self.join(body))
        body = torch.relu(body + self.block2[1](self.block2[0](self.block1(body)))).flatten(1)
        hidden = self.from_body(self.drop(body)) + self.from_summary(self.drop(self.summary_norm(summary)))
        hidden = torch.relu(self.hidden(self.drop(torch.relu(hidden + self.from_points(points)))))
        return self.out(hidden) + self.straight(points)

    def tables(self, outputs: int) -> dict[str, np.ndarray]:
        """Layers for `ShapeNetwork`, float16, of the first `outputs` answers: norms folded in, channels last."""
        out: dict[str, np.ndarray] = {}
        for name in ("deep", "middle"):
            norm = getattr(self, f"{name}_norm")
            out[f"{name}.mean"] = norm.running_mean.numpy()
            out[f"{name}.scale"] = 1 / np.sqrt(norm.running_var.numpy() + norm.eps)
        for name in ("deep", "middle", "join", "shrink", "block1", "block2"):
            kernel, norm = getattr(self, name)[0].weight.detach().numpy(), getattr(self, name)[1]
            gain = norm.weight.detach().numpy() / np.sqrt(norm.running_var.numpy() + norm.eps)
            out[f"{name}.w"] = (kernel * gain[:, None, None, None]).transpose(2, 3, 1, 0)
            out[f"{name}.b"] = norm.bias.detach().numpy() - norm.running_mean.numpy() * gain
        for name in ("from_body", "from_summary", "from_points", "hidden", "out", "straight"):
            layer = getattr(self, name)
            out[f"{name}.w"], out[f"{name}.b"] = layer.weight.detach().numpy().T, layer.bias.detach().numpy()
        body = out["from_body.w"]
        maps = body.reshape(-1, _POSITIONS, _POSITIONS, body.shape[1])  # torch flattens channels first
        out["from_body.w"] = maps.transpose(1, 2, 0, 3).reshape(body.shape)
        moments = self.summary_norm.state_dict()
        scale = 1 / np.sqrt(moments["running_var"].numpy() + self.summary_norm.eps)
        summary = out["from_summary.w"] * scale[:, None]
        out["from_summary.b"] = out["from_summary.b"] - moments["running_mean"].numpy() @ summary
        out["from_summary.w"] = summary
        for name in ("out", "straight"):
            out[f"{name}.w"], out[f"{name}.b"] = out[f"{name}.w"][:, :outputs], out[f"{name}.b"][:outputs]
        return {name: values.astype(np.float16) for name, values in out.items()}
