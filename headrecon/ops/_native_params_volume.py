"""Parameter structs of grids on planes and of samples along rays (trigrid.h, ray_samples.h), field by field."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int32

from headrecon.ops._native_params import layout


class Trigrid(Structure):
    """HrTrigrid."""

    _fields_ = [
        *layout("grid rotations", "batch", "charts depth height width channels"),
        ("axes", c_int32 * 9),
        ("scale", c_float),
    ]


class Decoder(Structure):
    """HrDecoder."""

    _fields_ = layout("w1 b1 w2 b2", "", "hidden features activation")


class DecoderGrad(Structure):
    """HrDecoderGrad."""

    _fields_ = layout("w1 b1 w2 b2", "", "")


class RaySamplesParams(Structure):
    """HrRaySamples."""

    _fields_ = layout(
        "starts ends offsets near_far shifts surface", "num_rays num_samples", "per_ray rule density", "shift stop"
    )


class TrigridSampleParams(Structure):
    """HrTrigridSampleParams."""

    _fields_ = [
        ("field", Trigrid),
        *layout("points values grad_values grad_grid grad_points", "num_points", "num_threads isa"),
    ]


class TrigridDecodeParams(Structure):
    """HrTrigridDecodeParams."""

    _fields_ = [
        ("field", Trigrid),
        ("decoder", Decoder),
        *layout("points densities features grad_densities grad_features", "", ""),
        ("grad_decoder", DecoderGrad),
        *layout("grad_grid grad_points", "num_points", "num_threads isa"),
    ]


class CompositeParams(Structure):
    """HrCompositeParams."""

    _fields_ = [
        ("samples", RaySamplesParams),
        *layout(
            "values features sums distances opacities weights grad_sums grad_distances grad_opacities "
            "grad_weights grad_values grad_features grad_starts grad_ends",
            "",
            "channels num_threads isa",
        ),
    ]


class TrigridRenderParams(Structure):
    """HrTrigridRenderParams."""

    _fields_ = [
        ("field", Trigrid),
        ("decoder", Decoder),
        ("samples", RaySamplesParams),
        *layout(
            "origins directions sums distances opacities weights grad_sums grad_distances grad_opacities",
            "",
            "",
        ),
        ("grad_decoder", DecoderGrad),
        *layout("grad_grid grad_origins grad_directions", "rays_per_image", "num_threads isa"),
    ]


class ImportanceParams(Structure):
    """HrImportanceParams."""

    _fields_ = layout("edges weights uniforms distances", "num_rays", "intervals draws num_threads")


class MarchParams(Structure):
    """HrMarchParams."""

    _fields_ = [
        *layout("occupied origins directions near_far shifts offsets counts starts ends ray_indices", "num_rays", ""),
        ("size", c_int32 * 3),
        ("num_threads", c_int32),
        ("lower", c_float * 3),
        ("upper", c_float * 3),
        ("step", c_float),
    ]


#: The ops of this family, by the names of their C functions.
VOLUME_OPS: dict[str, type[Structure]] = {
    "trigrid_sample": TrigridSampleParams,
    "trigrid_sample_backward": TrigridSampleParams,
    "trigrid_decode": TrigridDecodeParams,
    "trigrid_decode_backward": TrigridDecodeParams,
    "trigrid_render": TrigridRenderParams,
    "trigrid_render_backward": TrigridRenderParams,
    "composite": CompositeParams,
    "composite_backward": CompositeParams,
    "importance": ImportanceParams,
    "march": MarchParams,
}
