"use strict";
// Sorts splats by depth, the farthest first, away from the thread that draws. Gets {places} (x, y, z, unused: 16 bits
// each) when the frame changes and {direction} when the view does; answers that with {order}.
let places = null;
let depths = new Float32Array(0);
const BUCKETS = 1 << 16;
const starts = new Uint32Array(BUCKETS + 1);

function sortByDepth(direction) {
  const count = places.length / 4;
  if (depths.length !== count) depths = new Float32Array(count);
  let nearest = Infinity, farthest = -Infinity;
  for (let i = 0; i < count; ++i) {
    const depth = direction[0] * places[4 * i] + direction[1] * places[4 * i + 1] + direction[2] * places[4 * i + 2];
    depths[i] = depth;
    if (depth < nearest) nearest = depth;
    if (depth > farthest) farthest = depth;
  }
  // A counting sort: one pass to count, one to place. 65,536 levels of depth are finer than the places themselves.
  const scale = (BUCKETS - 1) / Math.max(farthest - nearest, 1e-12);
  starts.fill(0);
  for (let i = 0; i < count; ++i) ++starts[((farthest - depths[i]) * scale | 0) + 1];
  for (let b = 0; b < BUCKETS; ++b) starts[b + 1] += starts[b];
  const order = new Uint32Array(count);
  for (let i = 0; i < count; ++i) order[starts[(farthest - depths[i]) * scale | 0]++] = i;
  return order;
}

onmessage = (event) => {
  if (event.data.places) places = event.data.places;
  if (!event.data.direction || !places) return;
  const order = sortByDepth(event.data.direction);
  postMessage({ order }, [order.buffer]);
};
