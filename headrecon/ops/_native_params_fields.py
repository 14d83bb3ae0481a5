"""Parameter structs of the ops of fields: hash grids, small networks, neural points. See `_native_params`."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int32

from headrecon.ops._native_params import layout

MAX_LEVELS = 32  # HR_HASHGRID_MAX_LEVELS in hashgrid.h


class HashgridLevels(Structure):
    """HrHashgridLevels in hashgrid.h, field by field."""

    _fields_ = [
        ("scale", c_float * MAX_LEVELS),
        *((name, c_int32 * MAX_LEVELS) for name in ("resolution", "size", "offset", "hashed")),
    ]


_GRID = "dims levels features smoothstep num_threads isa"


class HashgridParams(Structure):
    """HrHashgridParams in hashgrid.h, field by field."""

    _fields_ = [*layout("positions table values", "num_positions num_entries", _GRID), ("grid", HashgridLevels)]


class HashgridGradParams(Structure):
    """HrHashgridGradParams in hashgrid.h, field by field."""

    _fields_ = [
        *layout("positions table grad_values grad_table grad_positions", "num_positions num_entries", _GRID),
        ("grid", HashgridLevels),
    ]


_NETWORK = [
    *layout("", "num_samples", "num_inputs num_outputs width hidden_layers activation output_activation"),
    ("softplus_beta", c_float),
    *layout("", "", "allow_half num_threads isa"),
]


class MlpParams(Structure):
    """HrMlpParams in mlp.h, field by field."""

    _fields_ = [*layout("inputs weights biases outputs", "", ""), *_NETWORK]


class MlpGradParams(Structure):
    """HrMlpGradParams in mlp.h, field by field."""

    _fields_ = [
        *layout("inputs weights biases grad_outputs grad_inputs grad_weights grad_biases", "", ""),
        *_NETWORK,
    ]


class PointIndexParams(Structure):
    """HrPointIndexParams in points.h, field by field."""

    _fields_ = [
        *layout("points workspace", "batch num_points", ""),
        ("radius", c_float),
        ("num_threads", c_int32),
    ]


class QueryPointsParams(Structure):
    """HrQueryPointsParams in points.h, field by field."""

    _fields_ = [
        *layout("workspace queries neighbours distances", "batch num_points num_queries", ""),
        ("radius", c_float),
        *layout("", "", "count num_threads isa"),
    ]


_BLEND = [
    *layout("", "batch feature_batch num_points num_queries", "channels count"),
    ("softening", c_float),
    ("num_threads", c_int32),
]


class BlendPointsParams(Structure):
    """HrBlendPointsParams in points.h, field by field."""

    _fields_ = [*layout("points features queries neighbours blended offsets", "", ""), *_BLEND]


class BlendPointsGradParams(Structure):
    """HrBlendPointsGradParams in points.h, field by field."""

    _fields_ = [
        *layout("points features queries neighbours grad_blended grad_offsets", "", ""),
        *layout("grad_points grad_features grad_queries", "", ""),
        *_BLEND,
    ]


FIELD_OPS: dict[str, type[Structure]] = {
    "hashgrid": HashgridParams,
    "hashgrid_backward": HashgridGradParams,
    "mlp": MlpParams,
    "mlp_backward": MlpGradParams,
    "point_index": PointIndexParams,
    "query_points": QueryPointsParams,
    "blend_points": BlendPointsParams,
    "blend_points_backward": BlendPointsGradParams,
}
