#version 300 es
// One splat: a Gaussian's ellipse on the screen, by the local linear approximation of EWA splatting (Zwicker et al. 2002,
// as in Kerbl et al. 2023). The same rules as the renderer that the avatar was made with.
precision highp float;
precision highp int;
precision highp usampler2D;

uniform usampler2D places;      // RGBA16UI: x, y, z in steps of the box
uniform usampler2D turns;       // R32UI: the three smallest components of a quaternion, 10 bits each
uniform sampler2D sizes;        // RGBA8: logarithms of the scales
uniform sampler2D colours;      // RGBA8: sRGB and opacity
uniform sampler2D harmonics;    // RGBA8_SNORM: coefficients of degree 1 and up, one after another
uniform int harmonicCount;      // of those, per splat
uniform float harmonicScale;
uniform vec3 boxLow, boxStep;
uniform vec2 logScales;         // smallest, and the step that a byte counts
uniform mat3 worldToCamera;     // x right, y down, z forward
uniform vec3 eye;
uniform vec2 focal, viewport;   // pixels
uniform bool antialiased;

in vec2 corner;                 // of the quad, -1..1
in uint index;

out vec2 offset;                // pixels from the centre
flat out vec3 conic;            // inverse covariance: xx, xy, yy
flat out vec4 colour;           // sRGB and opacity

const float BLUR = 0.3;         // pixels², so that no splat falls between pixels
const float FAINTEST = 1.0 / 255.0;

ivec2 texel(int i, sampler2D from) { int w = textureSize(from, 0).x; return ivec2(i % w, i / w); }
ivec2 texel(int i, usampler2D from) { int w = textureSize(from, 0).x; return ivec2(i % w, i / w); }

mat3 rotation(uint word) {
  float small[3];
  float left = 1.0;
  for (int i = 0; i < 3; ++i) {
    uint field = (word >> uint(20 - 10 * i)) & 1023u;
    small[i] = float(field & 511u) * (0.70710678 / 511.0) * ((field & 512u) != 0u ? -1.0 : 1.0);
    left -= small[i] * small[i];
  }
  float big = sqrt(max(left, 0.0));
  uint largest = word >> 30;
  vec4 q = largest == 0u ? vec4(big, small[0], small[1], small[2])
         : largest == 1u ? vec4(small[0], big, small[1], small[2])
         : largest == 2u ? vec4(small[0], small[1], big, small[2])
         : vec4(small[0], small[1], small[2], big);
  float x = q.x, y = q.y, z = q.z, w = q.w;
  return mat3(1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y),
              2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x),
              2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y));
}

vec3 coefficient(int splat, int k) {
  return texelFetch(harmonics, texel(splat * harmonicCount + k, harmonics), 0).rgb * harmonicScale;
}

// What depends on the direction of view: real spherical harmonics with the Condon-Shortley phase.
vec3 viewDependent(int i, vec3 d) {
  vec3 sum = vec3(0.0);
  if (harmonicCount < 3) return sum;
  float x = d.x, y = d.y, z = d.z, xx = x * x, yy = y * y, zz = z * z;
  sum += 0.48860251 * (-y * coefficient(i, 0) + z * coefficient(i, 1) - x * coefficient(i, 2));
  if (harmonicCount < 8) return sum;
  sum += 1.09254843 * (x * y * coefficient(i, 3) - y * z * coefficient(i, 4) - x * z * coefficient(i, 6))
       + 0.31539157 * (3.0 * zz - 1.0) * coefficient(i, 5) + 0.54627421 * (xx - yy) * coefficient(i, 7);
  if (harmonicCount < 15) return sum;
  sum += 0.59004359 * (-y * (3.0 * xx - yy) * coefficient(i, 8) - x * (xx - 3.0 * yy) * coefficient(i, 14))
       + 2.89061144 * x * y * z * coefficient(i, 9) + 1.44530572 * z * (xx - yy) * coefficient(i, 13)
       - 0.45704580 * (5.0 * zz - 1.0) * (y * coefficient(i, 10) + x * coefficient(i, 12))
       + 0.37317633 * z * (5.0 * zz - 3.0) * coefficient(i, 11);
  return sum;
}

void main() {
  int i = int(index);
  gl_Position = vec4(2.0, 2.0, 2.0, 1.0);  // outside, unless the splat is seen
  vec3 place = boxLow + boxStep * vec3(texelFetch(places, texel(i, places), 0).xyz);
  vec3 p = worldToCamera * (place - eye);
  if (p.z < 0.01) return;

  vec3 scale = exp(logScales.x + logScales.y * 255.0 * texelFetch(sizes, texel(i, sizes), 0).xyz);
  mat3 axes = rotation(texelFetch(turns, texel(i, turns), 0).x);
  // Beyond the rim the slope of the projection is held, or splats there would smear over the picture.
  vec2 slope = clamp(p.xy / p.z, -0.65 * viewport / focal, 0.65 * viewport / focal);
  vec2 f = focal / p.z;
  vec3 rowX = vec3(f.x, 0.0, -f.x * slope.x) * worldToCamera;
  vec3 rowY = vec3(0.0, f.y, -f.y * slope.y) * worldToCamera;
  vec3 gx = rowX * axes * scale, gy = rowY * axes * scale;
  float a = dot(gx, gx), b = dot(gx, gy), c = dot(gy, gy);
  vec3 area = cross(gx, gy);
  float plain = dot(area, area);
  float det = plain + BLUR * (a + c + BLUR);
  a += BLUR;
  c += BLUR;

  vec4 seen = texelFetch(colours, texel(i, colours), 0);
  float opacity = antialiased ? seen.a * sqrt(max(plain / det, 1e-12)) : seen.a;
  float reach2 = 2.0 * log(opacity / FAINTEST);  // squared distance, in deviations, at which it fades out
  if (!(reach2 > 0.0) || !(det > 1e-30)) return;
  conic = vec3(c, -b, a) / det;
  colour = vec4(max(seen.rgb + viewDependent(i, normalize(place - eye)), 0.0), opacity);

  // The quad lies along the ellipse's axes: half the pixels of a box around long, thin splats.
  float mid = 0.5 * (a + c), spread = sqrt(max(mid * mid - det, 0.0));
  vec2 along = abs(b) < 1e-9 ? (a >= c ? vec2(1.0, 0.0) : vec2(0.0, 1.0)) : normalize(vec2(b, mid + spread - a));
  offset = corner.x * along * sqrt(reach2 * (mid + spread))
         + corner.y * vec2(-along.y, along.x) * sqrt(reach2 * max(mid - spread, BLUR));
  vec2 pixel = p.xy * f + offset;  // from the middle of the picture, y down
  gl_Position = vec4(pixel * vec2(2.0, -2.0) / viewport, 0.0, 1.0);
}
