#version 300 es
// Colours are blended as they are stored, in sRGB: that is how they were learned, so nothing is converted anywhere.
precision highp float;

in vec2 offset;
flat in vec3 conic;
flat in vec4 colour;
out vec4 shown;

void main() {
  float q = conic.x * offset.x * offset.x + 2.0 * conic.y * offset.x * offset.y + conic.z * offset.y * offset.y;
  float alpha = min(0.999, colour.a * exp(-0.5 * q));
  if (alpha < 1.0 / 255.0) discard;
  shown = vec4(colour.rgb * alpha, alpha);
}
