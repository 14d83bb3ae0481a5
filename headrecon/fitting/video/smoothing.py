"""All frames of a clip together: noise is taken out over time, and fast motion stays.

Per channel, the x that minimises  sum ((x_t - m_t) / s_t)^2 + sum rho(a_t / q)  with a_t the second difference (in
units of the usual step of time) and rho Student's t: an acceleration that noise explains is smoothed away, one that it
cannot explain (a blink, lips that part) costs hardly more the larger it is. m and s are the frames' own answers and
deviations; q is what is left of the typical second difference when the noise is taken out, so a still channel is
smoothed strongly and a restless one hardly. Solved by reweighting (Lange, Little, Taylor, JASA 1989); each step is a
pentadiagonal system, factored along time for all channels at once. O(T) time and memory.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

#: Degrees of freedom of Student's t: 2 to 4 let jumps through.
_FREEDOM = 2.5
_ROUNDS = 6
#: Second difference of white noise of deviation 1 has this deviation.
_NOISE_GAIN = np.sqrt(6.0)
#: q is at least this share of the noise: never more than a window of about ten frames is averaged.
_LEAST_SHARE = 0.03
#: Median of |x| of a standard normal.
_MEDIAN = 0.6745
#: Noise is read off runs of so many frames, at the run that is calmer than three quarters of them.
_CALM_WINDOW, _CALM_PERCENTILE = 9, 25
#: Longest run of frames that is solved with all channels at once; beyond, memory matters more.
_CHANNELS_AT_ONCE = 16


def smooth(
    times_s: Float[np.ndarray, " T"],
    measured: Float[np.ndarray, "T C"],
    sigma: Float[np.ndarray, "T C"],
    amount: float = 1.0,
) -> Float[np.ndarray, "T C"]:
    """Smoothed channels. sigma: deviation of each value from frame to frame (inf: not measured, filled in); `amount`
    scales it, 0 returns what is measured. At least one value of a channel must be measured. O(T C)."""
    if amount == 0 or len(times_s) < 3:
        return filled(times_s, measured, sigma)
    out = np.empty_like(measured, dtype=np.float64)
    for start in range(0, measured.shape[1], _CHANNELS_AT_ONCE):
        part = slice(start, start + _CHANNELS_AT_ONCE)
        out[:, part] = _smooth(times_s, measured[:, part], sigma[:, part] * amount)
    return out


def filled(
    times_s: Float[np.ndarray, " T"], measured: Float[np.ndarray, "T C"], sigma: Float[np.ndarray, "T C"]
) -> Float[np.ndarray, "T C"]:
    """What is measured, with straight lines across what is not; before the first and after the last it stays."""
    out = np.array(measured, dtype=np.float64)
    for c in range(out.shape[1]):
        known = np.isfinite(sigma[:, c])
        if not known.all() and known.any():
            out[~known, c] = np.interp(times_s[~known], times_s[known], out[known, c])
    return out


def noise_level(measured: Float[np.ndarray, "T C"], sigma: Float[np.ndarray, "T C"]) -> Float[np.ndarray, " C"]:
    """Deviation of the frame-to-frame noise per channel, from the calm parts of the clip. Zero where none is known."""
    count = measured.shape[1]
    second = measured[2:] - 2 * measured[1:-1] + measured[:-2]
    whole = np.isfinite(sigma[2:] + sigma[1:-1] + sigma[:-2]).all(1)
    second = second[whole]
    if not len(second):
        return np.zeros(count)
    parts = np.array_split(second, max(1, len(second) // _CALM_WINDOW))
    levels = np.stack([np.sqrt(np.mean(part**2, axis=0)) for part in parts])
    return np.percentile(levels, _CALM_PERCENTILE, axis=0) / _NOISE_GAIN


def frame_noise(
    measured: Float[np.ndarray, "T C"], sigma: Float[np.ndarray, "T C"], largest: Float[np.ndarray, " C"]
) -> Float[np.ndarray, "T C"]:
    """Deviation of the noise that is new in each frame; inf where nothing is measured. sigma: what each frame by itself
    leaves open; largest: the noise's share of that at most.

    What a frame is unsure of it answers alike every time, so its own deviation overstates the noise from frame to
    frame: the calm parts of the clip show that, and unsure frames get more of it than sure ones. A clip may have no
    calm part, as with a quick talker at 15 frames a second, and then motion would pass for noise: hence the bound.
    """
    seen = np.isfinite(sigma).all(1)
    if not seen.any():
        return sigma
    typical = np.maximum(np.median(sigma[seen], axis=0), 1e-12)
    level = np.minimum(noise_level(measured, sigma), largest * typical)
    return sigma / typical * np.maximum(level, 1e-9)


def smooth_turns(
    times_s: Float[np.ndarray, " T"],
    measured: Float[np.ndarray, "T 3"],
    noise: Float[np.ndarray, "T 3"],
    amount: float = 1.0,
) -> Float[np.ndarray, "T 3"]:
    """`smooth` for rotations (axis-angle, radians) of any size, such as a head that turns round: as unit quaternions.

    An axis-angle vector jumps where the angle passes 180 degrees; a quaternion whose sign follows its neighbour's does
    not, and between two of them the straight line goes the shorter way round. O(T).
    """
    known = np.isfinite(noise).all(1)
    quats = _quaternions(measured)
    last = None
    for i in np.flatnonzero(known):
        if last is not None and quats[i] @ last < 0:
            quats[i] = -quats[i]
        last = quats[i]
    sigma = np.repeat(np.where(known, 0.5 * noise.mean(1), np.inf)[:, None], 4, axis=1)
    out = smooth(times_s, quats, sigma, amount)
    return _axis_angles(out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12))


def _quaternions(turns: Float[np.ndarray, "T 3"]) -> Float[np.ndarray, "T 4"]:
    """Unit quaternions (w first) of axis-angle vectors."""
    angle = np.linalg.norm(turns, axis=1, keepdims=True)
    return np.concatenate([np.cos(angle / 2), 0.5 * np.sinc(angle / (2 * np.pi)) * turns], axis=1)


def _axis_angles(quats: Float[np.ndarray, "T 4"]) -> Float[np.ndarray, "T 3"]:
    """The inverse, with angles up to 180 degrees."""
    quats = np.where(quats[:, :1] < 0, -quats, quats)
    sine = np.linalg.norm(quats[:, 1:], axis=1, keepdims=True)
    angle = 2 * np.arctan2(sine, quats[:, :1])
    return quats[:, 1:] * np.where(sine > 1e-9, angle / np.maximum(sine, 1e-12), 2.0)


def _smooth(times_s: np.ndarray, measured: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    start = filled(times_s, measured, sigma)
    known = np.isfinite(sigma)
    # What is not measured stays on the straight line across the gap, or where it was last: it does not run on.
    typical = np.nanmedian(np.where(known, sigma, np.nan), axis=0) if known.any() else np.ones(measured.shape[1])
    typical = np.where(np.isfinite(typical) & (typical > 0), typical, 1e-9)
    precision = 1.0 / np.maximum(np.where(known, sigma, typical), 1e-12) ** 2
    rows = _second_difference(times_s)
    x = start
    raw = _apply(rows, start)
    both = known[2:] & known[1:-1] & known[:-2]
    size = np.array([np.median(np.abs(r[b])) if b.any() else 0.0 for r, b in zip(raw.T, both.T, strict=True)]) / _MEDIAN
    scale = np.sqrt(np.maximum(size**2 - (_NOISE_GAIN * typical) ** 2, (_LEAST_SHARE * typical) ** 2))
    for _ in range(_ROUNDS):
        ratio = _apply(rows, x) / scale
        weight = (_FREEDOM + 1) / (_FREEDOM + ratio**2) / scale**2
        x = _solve(rows, precision, weight, precision * start)
    return x


def _second_difference(times_s: np.ndarray) -> Float[np.ndarray, "R 3"]:
    """Coefficients that turn three values into their acceleration times the square of the usual step."""
    step = np.maximum(np.diff(times_s), 1e-6)
    usual = float(np.median(step))
    # A pause in a recording is no reason to expect a smooth way across it.
    step = np.minimum(step, 5 * usual)
    first, second = step[:-1], step[1:]
    factor = 2 * usual**2 / (first + second)
    return np.stack([factor / first, -factor * (1 / first + 1 / second), factor / second], axis=1)


def _apply(rows: np.ndarray, x: np.ndarray) -> np.ndarray:
    return rows[:, :1] * x[:-2] + rows[:, 1:2] * x[1:-1] + rows[:, 2:] * x[2:]


def _solve(rows: np.ndarray, precision: np.ndarray, weight: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(diag(precision) + D' diag(weight) D) x = right, by an LDL' factorisation along time."""
    count = len(right)
    main, upper, upper2 = precision.copy(), np.zeros_like(precision), np.zeros_like(precision)
    a, b, c = (rows[:, i : i + 1] for i in range(3))
    main[:-2] += weight * a * a
    main[1:-1] += weight * b * b
    main[2:] += weight * c * c
    upper[:-2] += weight * a * b
    upper[1:-1] += weight * b * c
    upper2[:-2] += weight * a * c
    for t in range(count - 1):
        first = upper[t] / main[t]
        main[t + 1] -= first * upper[t]
        if t + 2 < count:
            second = upper2[t] / main[t]
            upper[t + 1] -= first * upper2[t]
            main[t + 2] -= second * upper2[t]
            upper2[t] = second
        upper[t] = first
    x = right.copy()
    for t in range(count):
        if t >= 1:
            x[t] -= upper[t - 1] * x[t - 1]
        if t >= 2:
            x[t] -= upper2[t - 2] * x[t - 2]
    x /= main
    for t in range(count - 2, -1, -1):
        x[t] -= upper[t] * x[t + 1]
        if t + 2 < count:
            x[t] -= upper2[t] * x[t + 2]
    return x
