"use strict";
// A viewer of Gaussian splats in one file: unpacks the frames embedded in this page, sorts and draws them with WebGL2.
// Options in the address: #yaw=20&pitch=5&zoom=1.5&frame=3&play=0&background=dark&plain=1

const element = (id) => document.getElementById(id);
const header = JSON.parse(element("header").textContent);
const options = new URLSearchParams(location.hash.slice(1));
const numberOption = (name, otherwise) => {
  const value = parseFloat(options.get(name));
  return Number.isFinite(value) ? value : otherwise;
};
const BACKGROUNDS = ["light", "dark", "white", "black"];
const WIDTH = 1024; // of the textures that hold the splats

function fail(text) {
  element("message").textContent = text;
  document.body.dataset.state = "failed";
}

// --- unpacking ----------------------------------------------------------------------------------------------------

async function inflated(id) {
  const text = atob(element(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; ++i) bytes[i] = text.charCodeAt(i);
  element(id).textContent = ""; // the page need not hold it twice
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Each frame is stored in planes of bytes (all low bytes of x, all high bytes of x, ...), each less that of the frame
// before: what hardly moves becomes zeros, which pack well.
async function unpackFrames() {
  const { count, frames, planes } = header;
  const rows = Math.ceil(count / WIDTH);
  const before = new Uint8Array(planes.length * count);
  const unpacked = [];
  for (let f = 0; f < frames; ++f) {
    const stream = await inflated(`stream-${f}`);
    if (stream.length !== before.length) throw new Error("the page is damaged: a frame has the wrong length");
    for (let i = 0; i < stream.length; ++i) before[i] += stream[i];
    const frame = {
      places: new Uint8Array(8 * WIDTH * rows), turns: new Uint8Array(4 * WIDTH * rows),
      sizes: new Uint8Array(4 * WIDTH * rows), colours: new Uint8Array(4 * WIDTH * rows),
    };
    planes.forEach(([name, stride, offset], p) => {
      const target = frame[name], start = p * count;
      for (let i = 0; i < count; ++i) target[stride * i + offset] = before[start + i];
    });
    unpacked.push(frame);
    element("message").textContent = frames > 1 ? `Unpacking ${f + 1} of ${frames} …` : "";
  }
  return unpacked;
}

// --- drawing ------------------------------------------------------------------------------------------------------

const canvas = element("view");
const gl = canvas.getContext("webgl2", { alpha: true, premultipliedAlpha: true, antialias: false, depth: false });

function compile() {
  const program = gl.createProgram();
  for (const [kind, id] of [[gl.VERTEX_SHADER, "vertex-shader"], [gl.FRAGMENT_SHADER, "fragment-shader"]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, element(id).textContent.trim());
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(program, shader);
  }
  gl.bindAttribLocation(program, 0, "corner");
  gl.bindAttribLocation(program, 1, "index");
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  return program;
}

const TEXTURES = {
  places: ["RGBA16UI", "RGBA_INTEGER", "UNSIGNED_SHORT", Uint16Array],
  turns: ["R32UI", "RED_INTEGER", "UNSIGNED_INT", Uint32Array],
  sizes: ["RGBA8", "RGBA", "UNSIGNED_BYTE", Uint8Array],
  colours: ["RGBA8", "RGBA", "UNSIGNED_BYTE", Uint8Array],
  harmonics: ["RGBA8_SNORM", "RGBA", "BYTE", Int8Array],
};
const UNITS = Object.keys(TEXTURES);
const textures = {};

function upload(name, bytes, width = WIDTH) {
  const [internal, format, type, View] = TEXTURES[name];
  const values = new View(bytes.buffer, bytes.byteOffset, bytes.byteLength / View.BYTES_PER_ELEMENT);
  const height = values.length / width / (format === "RED_INTEGER" ? 1 : 4);
  gl.activeTexture(gl.TEXTURE0 + UNITS.indexOf(name));
  if (!textures[name]) {
    textures[name] = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, textures[name]);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.texStorage2D(gl.TEXTURE_2D, 1, gl[internal], width, height);
  }
  gl.bindTexture(gl.TEXTURE_2D, textures[name]);
  gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, width, height, gl[format], gl[type], values);
}

const uniforms = {};

function prepare(program) {
  gl.useProgram(program);
  for (let i = 0; i < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); ++i) {
    const name = gl.getActiveUniform(program, i).name;
    uniforms[name] = gl.getUniformLocation(program, name);
  }
  UNITS.forEach((name, unit) => gl.uniform1i(uniforms[name], unit));
  gl.uniform3fv(uniforms.boxLow, header.box_low);
  gl.uniform3fv(uniforms.boxStep, header.box_step);
  gl.uniform2fv(uniforms.logScales, header.log_scales);
  gl.uniform1i(uniforms.harmonicCount, header.harmonics);
  gl.uniform1f(uniforms.harmonicScale, header.harmonic_scale);
  gl.uniform1i(uniforms.antialiased, header.antialiased ? 1 : 0);
  gl.bindVertexArray(gl.createVertexArray());
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
  gl.enableVertexAttribArray(0);
  gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer()); // stays bound: `order` goes there
  gl.enableVertexAttribArray(1);
  gl.vertexAttribIPointer(1, 1, gl.UNSIGNED_INT, 0, 0);
  gl.vertexAttribDivisor(1, 1);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
}

// --- the camera: turns about a point, +y stays up -------------------------------------------------------------------

const home = {
  yaw: numberOption("yaw", header.view.yaw), pitch: numberOption("pitch", header.view.pitch),
  distance: header.view.distance / Math.max(numberOption("zoom", 1), 0.01), target: header.view.target,
};
let view = { ...home, target: [...home.target] };

function cameraAxes() {
  const [yaw, pitch] = [view.yaw * Math.PI / 180, view.pitch * Math.PI / 180];
  const forward = [-Math.sin(yaw) * Math.cos(pitch), -Math.sin(pitch), -Math.cos(yaw) * Math.cos(pitch)];
  const right = [Math.cos(yaw), 0, -Math.sin(yaw)];
  const down = [Math.sin(yaw) * Math.sin(pitch), -Math.cos(pitch), Math.cos(yaw) * Math.sin(pitch)];
  return { right, down, forward };
}

function draw() {
  const { right, down, forward } = cameraAxes();
  const eye = view.target.map((t, i) => t - view.distance * forward[i]);
  const scale = Math.min(window.devicePixelRatio || 1, 2);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((n) => Math.max(1, Math.round(n * scale)));
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  gl.viewport(0, 0, width, height);
  gl.clearColor(0, 0, 0, 0); // the page's own background shows through
  gl.clear(gl.COLOR_BUFFER_BIT);
  // The view's angle holds for the shorter side, so that a phone held upright shows the whole head too.
  const focal = 0.5 * Math.min(width, height) / Math.tan(header.view.angle * Math.PI / 360);
  gl.uniform2f(uniforms.focal, focal, focal);
  gl.uniform2f(uniforms.viewport, width, height);
  gl.uniform3fv(uniforms.eye, eye);
  const m = [right, down, forward];
  gl.uniformMatrix3fv(uniforms.worldToCamera, false, [0, 1, 2].flatMap((column) => m.map((row) => row[column])));
  gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, drawn);
  return forward;
}

// --- sorting and time -----------------------------------------------------------------------------------------------

let frames = [], shown = -1, drawn = 0;
let sorting = false, sorted = null, dirty = true;
let worker = null, sortHere = null;

function startSorter() {
  const source = element("sorter").textContent;
  try {
    worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    worker.onmessage = (event) => take(event.data);
  } catch {
    // Some browsers allow no workers in pages from disk: the same code then runs here.
    const scope = new Function("postMessage", `let onmessage; ${source}; return (data) => onmessage({ data });`);
    sortHere = scope((data) => take(data));
  }
}

function toSorter(data) {
  if (worker) worker.postMessage(data);
  else sortHere(data);
}

function take(data) {
  sorting = false;
  gl.bufferData(gl.ARRAY_BUFFER, data.order, gl.DYNAMIC_DRAW);
  drawn = data.order.length;
  dirty = true;
}

function sortFor(forward) {
  const direction = forward.map((value, i) => value * header.box_step[i]);
  const key = direction.join() + "/" + shown;
  if (sorting || key === sorted) return;
  [sorting, sorted] = [true, key];
  toSorter({ direction });
}

function show(index) {
  if (index === shown) return;
  shown = index;
  for (const name of ["places", "turns", "sizes", "colours"]) upload(name, frames[index][name]);
  toSorter({ places: new Uint16Array(frames[index].places.buffer).slice(0, 4 * header.count) });
  element("frame").value = index;
  element("time").textContent = `${header.times[index].toFixed(2)} s`;
  dirty = true;
}

let playing = false, clock = 0, last = 0;

function advance(now) {
  const passed = Math.min((now - last) / 1000, 0.1);
  last = now;
  if (!playing) return;
  const length = header.times[frames.length - 1] + header.frame_seconds;
  clock = (clock + passed) % length;
  let index = header.times.findLastIndex((t) => t <= clock);
  show(Math.max(index, 0));
}

function loop(now) {
  advance(now);
  const resized = canvas.clientWidth !== loop.width || canvas.clientHeight !== loop.height;
  [loop.width, loop.height] = [canvas.clientWidth, canvas.clientHeight];
  if (dirty || resized) {
    dirty = false;
    sortFor(draw());
    if (drawn && !sorting) document.body.dataset.state = "ready";
  }
  requestAnimationFrame(loop);
}

// --- hands ------------------------------------------------------------------------------------------------------------

function turn(dx, dy) {
  view.yaw -= 0.35 * dx;
  view.pitch = Math.max(-89, Math.min(89, view.pitch + 0.35 * dy));
  dirty = true;
}

function pan(dx, dy) {
  const { right, down } = cameraAxes();
  const metres = 2 * view.distance * Math.tan(header.view.angle * Math.PI / 360)
    / Math.min(canvas.clientWidth, canvas.clientHeight);
  view.target = view.target.map((t, i) => t - metres * (dx * right[i] + dy * down[i]));
  dirty = true;
}

function zoom(factor) {
  view.distance = Math.max(0.1 * header.view.distance, Math.min(10 * header.view.distance, view.distance * factor));
  dirty = true;
}

function listen() {
  const touches = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    touches.set(event.pointerId, event);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (e) => touches.delete(e.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    const before = touches.get(event.pointerId);
    if (!before) return;
    const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
    const other = [...touches.values()].find((touch) => touch.pointerId !== event.pointerId);
    touches.set(event.pointerId, event);
    if (other) {
      const apart = (touch) => Math.hypot(touch.clientX - other.clientX, touch.clientY - other.clientY);
      zoom(apart(before) / Math.max(apart(event), 1));
      pan(dx / 2, dy / 2);
    } else if (event.shiftKey || event.buttons & 6) pan(dx, dy);
    else turn(dx, dy);
  });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(0.001 * event.deltaY)); },
    { passive: false });
  const keys = {
    ArrowLeft: () => turn(-20, 0), ArrowRight: () => turn(20, 0), ArrowUp: () => turn(0, -20), ArrowDown: () => turn(0, 20),
    "+": () => zoom(0.9), "-": () => zoom(1 / 0.9), b: nextBackground, r: reset, " ": () => play(!playing),
  };
  addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.target.closest("button, input")) return;
    event.preventDefault();
    keys[event.key]();
  });
  element("background").addEventListener("click", nextBackground);
  element("home").addEventListener("click", reset);
  element("play").addEventListener("click", () => play(!playing));
  element("frame").addEventListener("input", (event) => {
    play(false);
    clock = header.times[event.target.value];
    show(Number(event.target.value));
  });
}

function nextBackground() {
  const at = BACKGROUNDS.indexOf(document.body.dataset.background);
  document.body.dataset.background = BACKGROUNDS[(at + 1) % BACKGROUNDS.length];
}

function reset() {
  view = { ...home, target: [...home.target] };
  dirty = true;
}

function play(on) {
  playing = on && frames.length > 1;
  element("play").textContent = playing ? "❚❚" : "▶";
}

// --- start --------------------------------------------------------------------------------------------------------------

async function start() {
  if (BACKGROUNDS.includes(options.get("background"))) document.body.dataset.background = options.get("background");
  if (options.get("plain") === "1") document.body.dataset.plain = "";
  if (!gl) throw new Error("this browser has no WebGL2, which draws the splats");
  prepare(compile());
  startSorter();
  frames = await unpackFrames();
  const rest = header.harmonics ? await inflated("stream-harmonics") : new Uint8Array(4);
  upload("harmonics", rest, header.harmonics ? WIDTH : 1);
  element("message").textContent = "";
  if (frames.length > 1) {
    element("frame").max = frames.length - 1;
    for (const id of ["play", "frame", "time"]) element(id).hidden = false;
  }
  const first = Math.max(0, Math.min(frames.length - 1, Math.round(numberOption("frame", 0))));
  clock = header.times[first];
  show(first);
  play(options.get("play") !== "0");
  listen();
  requestAnimationFrame((now) => { last = now; loop(now); });
}

start().catch((error) => fail(`Cannot show this page: ${error.message}`));
