"""A head model cut down to a few surface points, in float64, with analytic Jacobians: what the fitting core evaluates.

A landmark is a barycentric mix of three skinned vertices, p = sum_i b_i sum_j w_ij (A_j v_i + t_j). Swapping the sums,
p = sum_j A_j X_j + omega_j t_j with X_j = sum_i b_i w_ij v_i and omega_j = sum_i b_i w_ij, so that X_j stays linear in
identity and expression and each landmark keeps one 3-vector per joint that moves it. Nothing is approximated.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from headrecon.geometry import so3
from headrecon.structures import JOINT_NAMES, POSE_FIELDS, HeadAssets, HeadParams, LandmarkEmbedding


@dataclass(frozen=True)
class ParamLayout:
    """Where each field of `HeadParams` sits in the flat vector that the solver moves."""

    num_betas: int
    num_expressions: int

    @cached_property
    def slices(self) -> dict[str, slice]:
        sizes = {"betas": self.num_betas, "expression": self.num_expressions}
        sizes |= dict.fromkeys((*POSE_FIELDS, "transl"), 3)
        out, start = {}, 0
        for name, size in sizes.items():
            out[name] = slice(start, start + size)
            start += size
        return out

    @property
    def size(self) -> int:
        return self.num_betas + self.num_expressions + 3 * (len(POSE_FIELDS) + 1)

    def zeros(self) -> Float[np.ndarray, " P"]:
        return np.zeros(self.size)

    def pack(self, params: HeadParams) -> Float[np.ndarray, " P"]:
        """The first head of a batch as a flat float64 vector."""
        return np.concatenate([getattr(params, n)[0].detach().cpu().double().numpy() for n in self.slices])

    def unpack(self, x: Float[np.ndarray, " P"]) -> HeadParams:
        """The flat vector as `HeadParams` with a batch of one (float32 tensors)."""
        import torch

        parts = {n: torch.as_tensor(x[s], dtype=torch.float32)[None] for n, s in self.slices.items()}
        return HeadParams(**parts)


class PointModel:
    """Positions of L points and their derivatives with respect to every head parameter.

    betas and expressions may be cut to the first `num_betas` directions and to `expression_ids`.
    """

    def __init__(self, assets: HeadAssets, points: LandmarkEmbedding | Int[np.ndarray, " L"]) -> None:
        if not isinstance(points, LandmarkEmbedding):
            ids = np.repeat(np.asarray(points)[:, None], 3, axis=1)
            points = LandmarkEmbedding(ids, np.tile([1.0, 0.0, 0.0], (len(ids), 1)))
        self.layout = ParamLayout(assets.num_betas, assets.num_expressions)
        self.num_points = len(points)
        self._parents = [int(p) for p in assets.parents]
        used = np.flatnonzero(assets.J_regressor.any(0))  # few vertices carry the joints, and five models are made
        regressor = assets.J_regressor[:, used].astype(np.float64)
        self._joints = regressor @ assets.v_template[used].astype(np.float64)
        self._joint_dirs = np.einsum("jv,vck->jck", regressor, assets.shapedirs[used], optimize=True)
        self._descendants = _descendants(self._parents)
        self._build_pairs(assets, points)

    def _build_pairs(self, assets: HeadAssets, points: LandmarkEmbedding) -> None:
        """List the (landmark, joint) pairs with weight, sorted by landmark, and their linear terms X_j."""
        ids, bary = points.vertex_ids, points.barycentrics.astype(np.float64)
        weights = assets.lbs_weights[ids].astype(np.float64) * bary[..., None]  # [L,3,J]
        self._pair_point, self._pair_joint = np.nonzero(np.abs(weights).max(1) > 0)
        w = weights[self._pair_point, :, self._pair_joint]  # [N,3], one per corner
        corners = ids[self._pair_point]
        self._omega = w.sum(1)
        self._x0 = np.einsum("nc,nck->nk", w, assets.v_template[corners].astype(np.float64))
        linear = [assets.shapedirs, assets.exprdirs]
        self._dirs = np.concatenate([np.einsum("nc,ncdk->ndk", w, d[corners], optimize=True) for d in linear], axis=2)
        self._pose_dirs = None
        if assets.posedirs is not None:
            rows = assets.posedirs.reshape(assets.posedirs.shape[0], -1, 3)[:, corners]  # [P,N,3,3]
            self._pose_dirs = np.einsum("nc,pncd->ndp", w, rows, optimize=True)
        self._starts = np.searchsorted(self._pair_point, np.arange(self.num_points))

    def subset(self, ids: Int[np.ndarray, " M"]) -> PointModel:
        """A model of some of the points (shares nothing that changes; much cheaper than building anew)."""
        ids = np.asarray(ids, dtype=int)
        ends = np.append(self._starts, len(self._pair_point))
        ranges = [np.arange(int(ends[i]), int(ends[i + 1])) for i in ids]
        pairs = np.concatenate(ranges) if ranges else np.zeros(0, int)
        out = copy.copy(self)
        out.num_points = len(ids)
        out._pair_point = np.repeat(np.arange(len(ids)), [len(r) for r in ranges])
        out._pair_joint = self._pair_joint[pairs]
        out._omega, out._x0, out._dirs = self._omega[pairs], self._x0[pairs], self._dirs[pairs]
        out._pose_dirs = None if self._pose_dirs is None else self._pose_dirs[pairs]
        out.__dict__.pop("_further_pairs", None)
        out._starts = np.searchsorted(out._pair_point, np.arange(len(ids)))
        return out

    def shifted(self, offsets: Float[np.ndarray, "L 3"]) -> PointModel:
        """A model of points that lie `offsets` (metres, at rest) beside these and move with them."""
        out = copy.copy(self)
        out._x0 = self._x0 + self._omega[:, None] * offsets[self._pair_point]
        return out

    def _sum_pairs(self, values: Float[np.ndarray, "N *D"]) -> Float[np.ndarray, "L *D"]:
        """Add up the pairs of each landmark. Every landmark has a pair, as skinning weights sum to one."""
        if self.num_points == 0:
            return np.zeros((0, *values.shape[1:]))
        if len(values) == self.num_points:
            return values
        total = values[self._starts]
        for points, pairs in self._further_pairs:  # quicker than np.add.reduceat, which strides through memory
            total[points] += values[pairs]
        return total

    @cached_property
    def _further_pairs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The second, third, ... pair of the landmarks that have so many."""
        rank = np.arange(len(self._pair_point)) - self._starts[self._pair_point]
        return [(self._pair_point[rank == r], np.flatnonzero(rank == r)) for r in range(1, int(rank.max()) + 1)]

    def pose(self, x: Float[np.ndarray, " P"]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Local rotations [J,3,3], rest joints [J,3], world rotations, world joint positions (before transl)."""
        s = self.layout.slices
        local = np.stack([so3.exp(x[s[name]]) for name in POSE_FIELDS])
        rest = self._joints + self._joint_dirs @ x[s["betas"]]
        rot, pos = np.empty_like(local), np.empty_like(rest)
        for j, p in enumerate(self._parents):
            if p < 0:
                rot[j], pos[j] = local[j], rest[j]
            else:
                rot[j], pos[j] = rot[p] @ local[j], pos[p] + rot[p] @ (rest[j] - rest[p])
        return local, rest, rot, pos

    def _rest_pairs(self, x: np.ndarray, local: np.ndarray) -> np.ndarray:
        coefficients = x[: self.layout.num_betas + self.layout.num_expressions]
        out = self._x0 + self._dirs @ coefficients
        if self._pose_dirs is not None:
            out = out + self._pose_dirs @ (local[1:] - np.eye(3)).reshape(-1)
        return out

    def evaluate(self, x: Float[np.ndarray, " P"]) -> Float[np.ndarray, "L 3"]:
        """Positions in metres at the flat parameters x (see `ParamLayout`)."""
        local, rest, rot, pos = self.pose(x)
        shift = pos - np.einsum("jab,jb->ja", rot, rest)
        moved = np.einsum("nab,nb->na", rot[self._pair_joint], self._rest_pairs(x, local))
        moved += self._omega[:, None] * shift[self._pair_joint]
        return self._sum_pairs(moved) + x[self.layout.slices["transl"]]

    def joints(self, x: Float[np.ndarray, " P"]) -> Float[np.ndarray, "J 3"]:
        """World positions of the joints, in metres."""
        return self.pose(x)[3] + x[self.layout.slices["transl"]]

    def jacobian(self, x: Float[np.ndarray, " P"]) -> tuple[Float[np.ndarray, "L 3"], Float[np.ndarray, "L 3 P"]]:
        """Positions and their derivatives with respect to x."""
        local, rest, rot, pos = self.pose(x)
        shift = pos - np.einsum("jab,jb->ja", rot, rest)
        pair_rot = rot[self._pair_joint]
        moved = np.einsum("nab,nb->na", pair_rot, self._rest_pairs(x, local))
        moved += self._omega[:, None] * shift[self._pair_joint]
        s = self.layout.slices
        jac = np.zeros((self.num_points, 3, self.layout.size))
        linear = self.layout.num_betas + self.layout.num_expressions
        jac[:, :, :linear] = self._sum_pairs(pair_rot @ self._dirs)
        jac[:, :, s["betas"]] += self._joint_motion(rot)
        for k, name in enumerate(POSE_FIELDS):
            jac[:, :, s[name]] = self._pose_columns(k, x[s[name]], moved, rot, pos)
        if self._pose_dirs is not None:
            self._add_pose_corrections(jac, x, local, pair_rot)
        jac[:, :, s["transl"]] = np.eye(3)
        return self._sum_pairs(moved) + x[s["transl"]], jac

    def pulled_back(
        self, x: Float[np.ndarray, " P"], weights: Float[np.ndarray, "L D 3"]
    ) -> Float[np.ndarray, "L D P"]:
        """`weights` times the derivatives of the points by x: what `jacobian` gives, without it.

        For residuals of few numbers per point (a brightness) several times quicker. O(points x D x parameters).
        """
        local, rest, rot, pos = self.pose(x)
        pair_rot = rot[self._pair_joint]
        moved = np.einsum("nab,nb->na", pair_rot, self._rest_pairs(x, local))
        moved += self._omega[:, None] * (pos - np.einsum("jab,jb->ja", rot, rest))[self._pair_joint]
        s = self.layout.slices
        out = np.zeros((*weights.shape[:2], self.layout.size))
        linear = self.layout.num_betas + self.layout.num_expressions
        turned = weights[self._pair_point] @ pair_rot
        # Three broadcast products: thousands of tiny matrix products take several times as long.
        along = turned[:, :, 0, None] * self._dirs[:, None, 0]
        for axis in (1, 2):
            along += turned[:, :, axis, None] * self._dirs[:, None, axis]
        out[:, :, :linear] = self._sum_pairs(along)
        if self.layout.num_betas:
            out[:, :, s["betas"]] += weights @ self._joint_motion(rot)
        for k, name in enumerate(POSE_FIELDS):
            if self._descendants[k][self._pair_joint].any():
                arm, frame = self._arms(k, x[s[name]], moved, rot, pos)
                out[:, :, s[name]] = -(weights @ so3.skew(arm)) @ frame
        if self._pose_dirs is not None:
            corrections = np.zeros((self.num_points, 3, self.layout.size))
            self._add_pose_corrections(corrections, x, local, pair_rot)
            out += weights @ corrections
        out[:, :, s["transl"]] = weights
        return out

    def _joint_motion(self, rot: np.ndarray) -> np.ndarray:
        """How the identity moves points through the joints: sum_j omega_j d(g_j - A_j J_j)/dbetas."""
        d_pos = np.empty_like(self._joint_dirs)
        for j, p in enumerate(self._parents):
            step = self._joint_dirs[j] if p < 0 else self._joint_dirs[j] - self._joint_dirs[p]
            d_pos[j] = step if p < 0 else d_pos[p] + rot[p] @ step
        d_shift = d_pos - rot @ self._joint_dirs
        table = np.zeros((self.num_points, len(JOINT_NAMES)))
        table[self._pair_point, self._pair_joint] = self._omega
        return np.einsum("lj,jck->lck", table, d_shift, optimize=True)

    def _pose_columns(
        self, k: int, omega: np.ndarray, moved: np.ndarray, rot: np.ndarray, pos: np.ndarray
    ) -> np.ndarray:
        """d p / d omega_k: the parts hanging on joint k turn about its world position."""
        arm, frame = self._arms(k, omega, moved, rot, pos)
        turning = so3.skew(arm)
        return (turning.reshape(-1, 3) @ -frame).reshape(turning.shape)  # one product, not one a point

    def _arms(
        self, k: int, omega: np.ndarray, moved: np.ndarray, rot: np.ndarray, pos: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """From joint k to the points, as far as they hang on it, and the axes about which omega_k turns them."""
        inside = self._descendants[k][self._pair_joint]
        arm = np.where(inside[:, None], moved - self._omega[:, None] * pos[k], 0.0)
        parent = self._parents[k]
        frame = so3.left_jacobian(omega) if parent < 0 else rot[parent] @ so3.left_jacobian(omega)
        return self._sum_pairs(arm), frame

    def _add_pose_corrections(self, jac: np.ndarray, x: np.ndarray, local: np.ndarray, pair_rot: np.ndarray) -> None:
        """FLAME's pose-corrective blendshapes: linear in the entries of R_j, whose derivative is [Jl d]x R_j."""
        assert self._pose_dirs is not None
        world = self._sum_pairs(pair_rot @ self._pose_dirs)  # [L,3,9(J-1)]
        for k, name in enumerate(POSE_FIELDS[1:], start=1):
            s = self.layout.slices[name]
            frame = so3.left_jacobian(x[s])
            d_rot = np.stack([so3.skew(frame[:, axis]) @ local[k] for axis in range(3)], axis=-1).reshape(9, 3)
            jac[:, :, s] += world[:, :, 9 * (k - 1) : 9 * k] @ d_rot


def _descendants(parents: list[int]) -> list[np.ndarray]:
    """For each joint, a mask of the joints that turn with it (itself included)."""
    count = len(parents)
    out = [np.zeros(count, dtype=bool) for _ in range(count)]
    for j in range(count):
        k = j
        while k >= 0:
            out[k][j] = True
            k = parents[k]
    return out
