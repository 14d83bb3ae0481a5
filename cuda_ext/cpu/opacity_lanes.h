// hr_opacity and hr_opacity_grad of ray_samples.h for sixteen samples at once.
#pragma once

#include "float_lanes.h"
#include "ray_samples.h"

namespace hr {
namespace {

struct Opacities {
  F16 alpha, keep;
  F16 by_value, by_length;  // derivatives of alpha
};

HR_LANES_FN Opacities given_opacities(F16 value) {
  const F16 none = zeros(), one = all(1.0f);
  const F16 bounded = if_above(value, none, less(value, one), none);  // NaN: 0
  // At the very border, 0 or 1, the gradient is passed on, as torch's clamp does.
  const F16 inside = if_above(value, all(-1e-38f), if_above(all(1.00000012f), value, one, none), none);
  return {bounded, one - bounded, inside, none};
}

HR_LANES_FN Opacities opacities_of(const HrRaySamples& s, F16 value, F16 length) {
  if (s.density == HR_DENSITY_ALPHA) return given_opacities(value);
  const F16 none = zeros(), one = all(1.0f), endless = all(static_cast<float>(INFINITY));
  F16 density = value, grows = one;
  if (s.density == HR_DENSITY_SOFTPLUS) {
    const F16 x = value + all(s.shift), t = decay(x);
    density = if_above(endless, x, softplus_of(x, t), x);  // NaN stays NaN
    grows = sigmoid_of(x, t);
  }
  const F16 thickness = density * length;
  const Exponential e = exponential(none - more(thickness, none));  // NaN: 0
  const F16 solid = all(HR_OPAQUE);
  const F16 a = if_above(solid, thickness, none - e.minus_one, one), k = if_above(solid, thickness, e.value, none);
  const F16 counts = if_above(thickness, all(HR_FAINTEST), one, none);  // NaN and less than nothing absorb nothing
  const F16 keep = if_above(counts, none, k, one);
  // Passed on at the very border too: a density or length of exactly 0. Not where nothing gets through, or nothing can be.
  const F16 dense = if_above(density, all(-1e-30f), one, none), finite = if_above(all(3e38f), density, dense, none);
  const F16 passes = if_above(keep, none, keep * finite, none);
  const F16 runs = if_above(length, all(-1e-30f), passes, none);
  return {if_above(counts, none, a, none), keep, if_above(runs, none, runs * more(length, none) * grows, none),
          if_above(runs, none, runs * more(density, none), none)};
}

}  // namespace
}  // namespace hr
