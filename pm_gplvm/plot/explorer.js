// Interactive view of a fit: the latent plane on the left, the decoded row on the right.
// One module for Jupyter (anywidget calls `render`) and for the page that `explore` writes.

const SIDE = 420; // pixels of the plane
const VIEW = { width: 300, height: 190 }; // of a curve or bars
const IMAGE = 190; // the longer side of an image
const SHAPES = {
  circle: "M-4,0A4,4 0 1 0 4,0A4,4 0 1 0 -4,0Z",
  square: "M-3.6,-3.6H3.6V3.6H-3.6Z",
  triangle: "M0,-4.6L4.4,3.4H-4.4Z",
  diamond: "M0,-5L4.4,0L0,5L-4.4,0Z",
  down: "M0,4.6L4.4,-3.4H-4.4Z",
  plus: "M-1.5,-4.5H1.5V-1.5H4.5V1.5H1.5V4.5H-1.5V1.5H-4.5V-1.5H-1.5Z",
};
// Ground and text of JupyterLab's theme, or VS Code's, or Sphinx's, or else what the browser prefers.
const STYLE = `
.gplvm { --ground: #fff; --text: #111; }
@media (prefers-color-scheme: dark) { .gplvm { --ground: #121212; --text: #e8e8e8; } }
.gplvm { background: var(--jp-layout-color0, var(--vscode-editor-background, var(--pst-color-background, var(--ground))));
  color: var(--jp-content-font-color1, var(--vscode-editor-foreground, var(--pst-color-text-base, var(--text))));
  --line: color-mix(in srgb, currentColor 45%, transparent); --faint: color-mix(in srgb, currentColor 14%, transparent);
  --band: color-mix(in srgb, currentColor 30%, transparent); --bar: color-mix(in srgb, var(--accent) 45%, transparent);
  font: 13px/1.4 system-ui, sans-serif; display: flex; flex-wrap: wrap; gap: 22px; padding: 8px; }
.gplvm h4 { font-size: 13px; margin: 0 0 4px; font-weight: 600; color: inherit; }
.gplvm .plane { position: relative; width: ${SIDE}px; height: ${SIDE}px; border: 1px solid var(--line);
  touch-action: none; cursor: crosshair; }
.gplvm .plane canvas, .gplvm .plane svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.gplvm .plane:focus { outline: 2px solid var(--accent); }
.gplvm .views { display: flex; gap: 14px; flex-wrap: wrap; align-items: flex-start; }
.gplvm figure { margin: 0; } .gplvm figcaption { font-size: 12px; }
.gplvm canvas.image { image-rendering: pixelated; border: 1px solid var(--line); display: block; }
.gplvm .views svg text { fill: currentColor; }
.gplvm .legend span { margin-right: 10px; white-space: nowrap; }
.gplvm .status { min-height: 1.4em; font-variant-numeric: tabular-nums; }
.gplvm .side { min-width: 300px; max-width: 460px; flex: 1; }
.gplvm .neighbours { display: flex; gap: 6px; flex-wrap: wrap; }
.gplvm .neighbours button { border: 1px solid var(--line); background: transparent; color: inherit; padding: 2px 5px;
  cursor: pointer; font: inherit; font-size: 12px; }
`;

const svg = (name, attributes, parent) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return parent.appendChild(node);
};
const html = (name, parent, attributes = {}) =>
  parent.appendChild(Object.assign(document.createElement(name), attributes));
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const number = (value) => Number(value).toPrecision(3).replace(/\.?0+$/, "");

// Traits of bytes come as a DataView anywhere in a buffer; a copy is aligned.
const floats = (view) =>
  new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));

// Weights of the four cells about a place in the plane.
function around([x, y], { limits, grid }) {
  const along = [x, y].map((v, i) =>
    clamp(((v - limits[0][i]) / (limits[1][i] - limits[0][i])) * grid - 0.5, 0, grid - 1));
  const [i, j] = along.map((v) => Math.min(Math.floor(v), grid - 2));
  const [a, b] = [along[0] - i, along[1] - j];
  return [[j * grid + i, (1 - a) * (1 - b)], [j * grid + i + 1, a * (1 - b)],
    [(j + 1) * grid + i, (1 - a) * b], [(j + 1) * grid + i + 1, a * b]];
}

function decode(place, about, table, width) {
  const row = new Float64Array(width);
  for (const [cell, weight] of around(place, about)) {
    for (let d = 0; d < width; d++) row[d] += weight * table[cell * width + d];
  }
  return row;
}

// A colour of a style sheet as three numbers.
function rgb(colour) {
  const context = html("canvas", document.createElement("div"), { width: 1, height: 1 }).getContext("2d");
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  return Array.from(context.getImageData(0, 0, 1, 1).data.slice(0, 3));
}

// The theme as it is: ground and ink, which of the palettes is legible there, and a mix of both.
function themeOf(root) {
  const { backgroundColor, color } = getComputedStyle(root);
  const [ground, ink] = [rgb(backgroundColor), rgb(color)];
  const light = (c) => 0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2];
  const [palette, low, high] = light(ground) < light(ink) ? ["dark", "black", "white"] : ["light", "white", "black"];
  return { palette, low, high,
    mix: (share) => ground.map((g, i) => g + share * (ink[i] - g)) };
}

// Tell of a change of the theme; returns what ends it.
function onTheme(tell) {
  const watch = new MutationObserver(tell);
  for (const node of [document.documentElement, document.body]) watch.observe(node, { attributes: true });
  const preferred = matchMedia("(prefers-color-scheme: dark)");
  preferred.addEventListener("change", tell);
  return () => { watch.disconnect(); preferred.removeEventListener("change", tell); };
}

// An image of numbers, the ground's colour at `low` and the text's at `high`.
function paint(canvas, [height, width], values, low, high, theme) {
  Object.assign(canvas, { width, height });
  const scale = IMAGE / Math.max(width, height);
  canvas.style.width = `${canvas.small ? 40 : width * scale}px`;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  values.forEach((value, k) => {
    if (Number.isNaN(value)) return picture.data.set([255, 210, 160, 255], 4 * k); // missing
    picture.data.set([...theme().mix(clamp((value - low) / (high - low || 1), 0, 1)), 255], 4 * k);
  });
  context.putImageData(picture, 0, 0);
}

// A view of one row: an image of it, and one of its sd where it has one; or a curve; or bars.
function rowView(parent, about, say, theme) {
  const { kind, shape, low, high, features } = about;
  const told = (d, mean, sd) =>
    say(`${features[d]}: ${number(mean[d])}${sd ? ` ± ${number(sd[d])}` : ""}`);
  const views = html("div", parent, { className: "views" });
  if (kind === "image") {
    const part = (role) => {
      const figure = html("figure", views);
      const canvas = html("canvas", figure, { className: "image" });
      canvas.dataset.role = role;
      return { canvas, caption: html("figcaption", figure) };
    };
    const [first, second] = [part("mean"), part("sd")];
    return (mean, sd) => {
      second.canvas.parentNode.style.display = sd ? "" : "none";
      paint(first.canvas, shape, mean, low, high, theme);
      first.caption.textContent = `${theme().low} ${number(low)}, ${theme().high} ${number(high)}`;
      if (sd) {
        paint(second.canvas, shape, sd, 0, about.sd_high, theme);
        second.caption.textContent = `sd: ${theme().low} 0, ${theme().high} ${number(about.sd_high)}`;
      }
      for (const { canvas } of [first, second]) {
        canvas.onpointermove = (event) => {
          const box = canvas.getBoundingClientRect();
          const i = Math.floor(((event.clientY - box.top) / box.height) * shape[0]);
          const j = Math.floor(((event.clientX - box.left) / box.width) * shape[1]);
          told(clamp(i, 0, shape[0] - 1) * shape[1] + clamp(j, 0, shape[1] - 1), mean, sd);
        };
      }
    };
  }
  const plot = svg("svg", { ...VIEW, viewBox: `-44 -8 ${VIEW.width + 50} ${VIEW.height + 30}` }, views);
  plot.dataset.role = "mean";
  const width = features.length;
  const x = (d) => ((d + 0.5) / width) * VIEW.width;
  const y = (value) => VIEW.height * (1 - clamp((value - low) / (high - low || 1), -0.05, 1.05));
  for (const value of [low, (low + high) / 2, high]) {
    svg("line", { x1: 0, x2: VIEW.width, y1: y(value), y2: y(value), stroke: "var(--faint)" }, plot);
    svg("text", { x: -4, y: y(value) + 4, "text-anchor": "end", "font-size": 11 }, plot).textContent = number(value);
  }
  const caption = svg("text", { x: VIEW.width / 2, y: VIEW.height + 18, "text-anchor": "middle", "font-size": 11 }, plot);
  caption.textContent = width > 1 ? `${features[0]} … ${features[width - 1]}` : features[0];
  const layer = svg("g", {}, plot);
  // A missing value leaves a gap.
  const line = (values) => values.map((v, d) =>
    Number.isNaN(v) ? "" : `${d && !Number.isNaN(values[d - 1]) ? "L" : "M"}${x(d)},${y(v)}`).join("");
  return (mean, sd) => {
    layer.replaceChildren();
    mean = Array.from(mean);
    if (kind === "bars") {
      const base = y(clamp(0, low, high));
      mean.forEach((m, d) => {
        if (Number.isNaN(m)) return;
        const [top, bottom] = [Math.min(y(m), base), Math.max(y(m), base)];
        const bar = { x: x(d) - 0.35 * VIEW.width / width, width: 0.7 * VIEW.width / width, y: top };
        svg("rect", { ...bar, height: Math.max(bottom - top, 0.5), fill: "var(--bar)", stroke: "var(--accent)" }, layer);
        if (sd) svg("line", { x1: x(d), x2: x(d), y1: y(m - 2 * sd[d]), y2: y(m + 2 * sd[d]), stroke: "currentColor" }, layer);
      });
    } else {
      if (sd) {
        const upper = line(mean.map((m, d) => m + 2 * sd[d]));
        const lower = mean.map((m, d) => `L${x(width - 1 - d)},${y(mean[width - 1 - d] - 2 * sd[width - 1 - d])}`);
        svg("path", { d: `${upper}${lower.join("")}Z`, fill: "var(--band)" }, layer);
      }
      svg("path", { d: line(mean), fill: "none", stroke: "var(--accent)", "stroke-width": 1.5 }, layer);
    }
    plot.onpointermove = (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(plot.getScreenCTM().inverse());
      told(clamp(Math.floor((at.x / VIEW.width) * width), 0, width - 1), mean, sd);
    };
  };
}

function legend(parent, { legend: entries, scale, color }) {
  const line = html("div", parent, { className: "legend" });
  if (color) html("b", line, { textContent: `${color}  ` });
  for (const { name, shape, colour } of entries) {
    const item = html("span", line);
    const mark = svg("svg", { width: 12, height: 12, viewBox: "-6 -6 12 12" }, item);
    svg("path", { d: SHAPES[shape] ?? "", "data-colour": colour, stroke: "#222", "stroke-width": 0.5 }, mark);
    item.append(` ${name}`);
  }
  if (scale) {
    line.append(`${scale.ends[0]} `);
    const bar = html("span", line);
    bar.dataset.role = "scale";
    bar.style.cssText = "display:inline-block;width:120px;height:10px";
    line.append(` ${scale.ends[1]}`);
  }
}

function render({ model, el }) {
  const about = model.get("about");
  const [mean, sd, table] = ["mean", "sd", "table"].map((name) => floats(model.get(name)));
  const unknown = floats(model.get("uncertainty"));
  const { limits, grid, points, features, names } = about;
  const width = features.length;

  html("style", el, { textContent: STYLE });
  const root = html("div", el, { className: "gplvm" });
  let look = themeOf(root);
  const theme = () => look;
  const left = html("div", root);
  const outside = about.outside ? `; ${about.outside} outside, on the border` : "";
  html("h4", left, { textContent: `${about.dims[1]} ↑, ${about.dims[0]} →; shaded: less is known${outside}` });
  const plane = html("div", left, { className: "plane", tabIndex: 0 });
  plane.setAttribute("aria-label", "latent plane: move with the pointer or the arrow keys, Enter selects the nearest row");
  const ground = html("canvas", plane, { width: grid, height: grid });
  const shade = () => {
    const picture = ground.getContext("2d").createImageData(grid, grid);
    for (let j = 0; j < grid; j++) for (let i = 0; i < grid; i++) {
      picture.data.set([...look.mix(0.6 * unknown[(grid - 1 - j) * grid + i]), 255], 4 * (j * grid + i));
    }
    ground.getContext("2d").putImageData(picture, 0, 0);
  };
  const marks = svg("svg", { viewBox: `0 0 ${SIDE} ${SIDE}` }, plane);
  const pixel = (place) => [0, 1].map((i) => {
    const share = clamp((place[i] - limits[0][i]) / (limits[1][i] - limits[0][i]), 0, 1);
    return SIDE * (i ? 1 - share : share);
  });
  const [across, up] = [0, 1].map((i) => SIDE / (limits[1][i] - limits[0][i]));
  about.ellipses.forEach(([a, b, c, d], n) => {
    const [x, y] = pixel(points[n]);
    svg("circle", { r: 1, fill: "none", stroke: "currentColor", "stroke-width": 0.5, "stroke-opacity": 0.6,
      "vector-effect": "non-scaling-stroke", "data-ellipse": n,
      transform: `matrix(${across * a},${-up * b},${across * c},${-up * d},${x},${y})` }, marks);
  });
  points.forEach((place, n) => {
    const [x, y] = pixel(place);
    svg("path", { d: SHAPES[about.shapes[n]], "data-colour": about.colours[n], stroke: "#222",
      "stroke-width": 0.5, transform: `translate(${x},${y})`, "data-row": n }, marks);
  });
  const links = svg("g", { stroke: "currentColor", fill: "none" }, marks);
  const cross = svg("path", { d: "M-11,0H-4M4,0H11M0,-11V-4M0,4V11", stroke: "#d41159", "stroke-width": 2.5,
    "data-role": "marker" }, marks);
  legend(left, about);

  const side = html("div", root, { className: "side" });
  const place = html("h4", side);
  place.dataset.role = "place";
  const status = html("div", side, { className: "status", textContent: "point at a value to read it" });
  status.dataset.role = "status";
  const decoded = rowView(side, about, (text) => { status.textContent = text; }, theme);
  const title = html("h4", side);
  title.dataset.role = "row";
  title.style.marginTop = "14px";
  const shown = rowView(side, about, (text) => { status.textContent = `data, ${text}`; }, theme);
  const near = html("div", side, { className: "neighbours" });
  near.dataset.role = "neighbours";

  const rowOf = (n) => table.subarray(n * width, (n + 1) * width);

  function move(to) {
    const at = to.map((v, i) => clamp(v, limits[0][i], limits[1][i]));
    const [x, y] = pixel(at);
    cross.setAttribute("transform", `translate(${x},${y})`);
    place.textContent = `decoded at (${at.map((v) => v.toFixed(3)).join(", ")})`;
    place.dataset.at = JSON.stringify(at);
    decoded(decode(at, about, mean, width), decode(at, about, sd, width));
    model.set("position", at);
    model.save_changes();
  }

  function select(n) {
    title.textContent = `row ${names[n]}${about.values ? `, ${about.color || "value"} ${about.values[n]}` : ""}: its data`;
    shown(rowOf(n), null);
    near.replaceChildren();
    links.replaceChildren();
    html("div", near, { textContent: about.neighbour_note }).style.flexBasis = "100%";
    for (const [other, probability] of about.neighbours[n]) {
      const [[x1, y1], [x2, y2]] = [pixel(points[n]), pixel(points[other])];
      svg("line", { x1, y1, x2, y2, "stroke-width": 0.3 + probability }, links);
      const button = html("button", near, { onclick: () => select(other) });
      if (about.kind === "image") {
        const canvas = html("canvas", button, { className: "image", small: true });
        paint(canvas, about.shape, rowOf(other), about.low, about.high, theme);
      }
      html("div", button, { textContent: `${names[other]}${about.values ? ` (${about.values[other]})` : ""} ${Math.round(100 * probability)} %` });
    }
    const [cx, cy] = pixel(points[n]);
    svg("circle", { cx, cy, r: 8, "stroke-width": 2 }, links);
    model.set("row", n);
    model.save_changes();
  }

  const under = (event) => {
    const box = plane.getBoundingClientRect();
    const share = [(event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height];
    return share.map((v, i) => limits[0][i] + v * (limits[1][i] - limits[0][i]));
  };
  const nearest = (at) => {
    const [x, y] = pixel(at);
    const apart = points.map((p) => { const [u, v] = pixel(p); return Math.hypot(u - x, v - y); });
    const least = Math.min(...apart);
    return [apart.indexOf(least), least];
  };
  plane.addEventListener("pointerdown", (event) => plane.setPointerCapture(event.pointerId));
  plane.addEventListener("pointermove", (event) => move(under(event)));
  plane.addEventListener("click", (event) => {
    const [n, apart] = nearest(under(event));
    if (apart < 12) select(n);
  });
  plane.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    const at = JSON.parse(place.dataset.at);
    if (step) move(at.map((v, i) => v + (step[i] * (limits[1][i] - limits[0][i])) / 40));
    else if (event.key === "Enter") select(nearest(at)[0]);
    else return;
    event.preventDefault();
  });
  // What has a colour of its own, in those of the theme.
  function dress() {
    look = themeOf(root);
    const palette = about.palettes[look.palette];
    root.dataset.theme = look.palette;
    root.style.setProperty("--accent", look.palette === "dark" ? "#56B4E9" : "#332288");
    for (const mark of root.querySelectorAll("[data-colour]")) {
      mark.setAttribute("fill", palette[mark.dataset.colour]);
    }
    const bar = root.querySelector("[data-role=scale]");
    if (bar) bar.style.background = `linear-gradient(to right, ${palette.slice(0, -1).filter((_, i) => i % 15 === 0)})`;
    shade();
  }
  dress();
  move(points[0]);
  select(0);
  return onTheme(() => {
    dress();
    const [at, row] = [JSON.parse(place.dataset.at), model.get("row")];
    move(at);
    select(row);
  });
}

export default { render };
