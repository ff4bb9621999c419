"use strict";
// Draws the charts of the page from their plain data (bench/report/figures/chart.py): axes, marks,
// names, a legend that hides and shows, words for the mark pointed at or reached by arrow keys, and
// zooming by drawing a rectangle with the mouse.
const charts = JSON.parse(document.getElementById("charts").textContent);
const pen = document.createElement("canvas").getContext("2d");
pen.font = "12px system-ui, sans-serif";
const widthOf = (text) => pen.measureText(text).width;
const ink = (colour) => colour === "#000000" ? "var(--ink)" : colour;
const put = (parent, name, attributes = {}, text = "") => {
  const svg = ["svg", "g", "path", "rect", "text", "line", "clipPath"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return parent.appendChild(made);
};
const star = (n, inner) => Array.from({ length: 2 * n }, (_, k) => {
  const r = k % 2 ? inner : 1.2, a = Math.PI * (k / n - 0.5);
  return [r * Math.cos(a), r * Math.sin(a)];
});
const SHAPES = {
  "s": [[-.9, -.9], [.9, -.9], [.9, .9], [-.9, .9]], "D": [[0, -1.2], [1.2, 0], [0, 1.2], [-1.2, 0]],
  "^": [[0, -1.1], [1.1, .9], [-1.1, .9]], "v": [[0, 1.1], [1.1, -.9], [-1.1, -.9]],
  "P": [[-.4, -1.1], [.4, -1.1], [.4, -.4], [1.1, -.4], [1.1, .4], [.4, .4], [.4, 1.1], [-.4, 1.1],
    [-.4, .4], [-1.1, .4], [-1.1, -.4], [-.4, -.4]],
  "X": [[0, -.5], [.7, -1.1], [1.1, -.7], [.5, 0], [1.1, .7], [.7, 1.1], [0, .5], [-.7, 1.1],
    [-1.1, .7], [-.5, 0], [-1.1, -.7], [-.7, -1.1]],
  "*": star(5, .5),
};
const shape = (mark, x, y, r) => {
  if (mark === "o") return `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`;
  return `M${SHAPES[mark].map(([a, b]) => `${x + a * r},${y + b * r}`).join("L")}Z`;
};
function extent(panel, hidden) {
  const xs = [], ys = [];
  for (const s of panel.series) {
    if (hidden.has(s.name)) continue;
    for (const x of s.x) xs.push(x);
    for (const key of ["y", "low", "high"]) for (const y of s[key] || []) ys.push(y);
  }
  const span = (values, [low, high]) => {
    let a = Infinity, b = -Infinity;
    for (const v of values) { a = Math.min(a, v); b = Math.max(b, v); }
    if (!(b >= a)) [a, b] = [0, 1];
    const room = 0.06 * (b - a) || 0.05 * Math.abs(a) || 1;
    return [low ?? a - room, high ?? b + room];
  };
  return [span(xs, panel.x_limits), span(ys, panel.y_limits)];
}
function ticks([low, high], most, whole) {
  const raw = (high - low) / most, base = 10 ** Math.floor(Math.log10(raw));
  let step = [1, 2, 5, 10].map((n) => n * base).find((n) => n >= raw);
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k++) found.push(k * step);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return found.map((value) => [value, value.toFixed(digits)]);
}
function path(s, x, y) {
  const parts = s.x.map((v, n) => {
    if (!n) return `M${x(v)},${y(s.y[n])}`;
    return s.steps ? `H${x(v)}V${y(s.y[n])}` : `L${x(v)},${y(s.y[n])}`;
  });
  return parts.join("");
}
function drawSeries(plot, s, x, y, bounds) {
  const colour = ink(s.colour || (s.style && s.style.colour));
  if (s.kind === "Line") {
    put(plot, "path", { d: path(s, x, y), fill: "none", stroke: colour, "stroke-width": 1.3,
      opacity: s.opacity, "stroke-dasharray": s.dash ? "6 4" : "none" });
  } else if (s.kind === "Bars") {
    s.x.forEach((v, n) => put(plot, "rect", { x: x(v - s.width / 2), y: y(s.y[n]), fill: colour,
      width: x(s.width) - x(0), height: Math.max(0, y(0) - y(s.y[n])), opacity: s.opacity }));
  } else {
    const look = { fill: s.filled ? colour : "none", stroke: colour,
      "stroke-width": s.filled ? 0 : 1.4, opacity: s.opacity };
    if (s.joined) put(plot, "path", { d: path(s, x, y), fill: "none", stroke: colour });
    s.x.forEach((v, n) => {
      const tip = (s.tips || [])[n], at = { "class": "mark" };
      if (tip) Object.assign(at, { tabindex: -1, role: "img", "aria-label": tip });
      const mark = put(plot, "g", at), r = s.size / 2 + .5;
      if (s.low) put(mark, "path", { stroke: colour, "stroke-width": 1.2, fill: "none",
        d: `M${x(v)},${y(s.low[n])}V${y(s.high[n])}m-3,0h6M${x(v) - 3},${y(s.low[n])}h6` });
      put(mark, "path", { d: shape(s.style.mark, x(v), y(s.y[n]), r), ...look });
      if (tip) put(mark, "path", { d: shape("o", x(v), y(s.y[n]), 9), class: "reach" });
      mark.place = [x(v), y(s.y[n])];
    });
  }
}
function name(plot, panel, x, y, bounds) {
  // The first names first; one that would cover a mark or another name is left out.
  const taken = [];
  for (const s of panel.series) if (s.kind === "Marks" && s.opacity === 1) {
    s.x.forEach((v, n) => taken.push([x(v) - 6, y(s.y[n]) - 6, x(v) + 6, y(s.y[n]) + 6]));
  }
  for (const label of panel.labels || []) {
    const w = widthOf(label.text), px = x(label.x), py = y(label.y);
    const spots = [[8, -6], [-8 - w, -6], [8, 14], [-8 - w, 14], [-w / 2, -12], [-w / 2, 20]];
    const free = spots.find(([dx, dy]) => {
      const box = [px + dx, py + dy - 11, px + dx + w, py + dy + 2];
      const inside = box[0] > bounds.left && box[2] < bounds.right && box[1] > bounds.top &&
        box[3] < bounds.bottom;
      return inside && !taken.some((t) => t[0] < box[2] && box[0] < t[2] && t[1] < box[3] && box[1] < t[3]);
    });
    if (!free) continue;
    const [dx, dy] = free;
    taken.push([px + dx, py + dy - 11, px + dx + w, py + dy + 2]);
    put(plot, "text", { x: px + dx, y: py + dy, class: "name" }, label.text);
  }
}
function drawPanel(host, panel, width, state, number) {
  const [xs, ys] = state.zoom[number] || extent(panel, state.hidden);
  const yTicks = ticks(ys, 6, false), left = 26 + Math.max(20, ...yTicks.map(([, t]) => widthOf(t)));
  const label = widthOf(panel.x_label) > width - left - 10 ? panel.x_label.split(" (") : [panel.x_label];
  const height = Math.min(430, Math.max(230, .62 * width));
  const bounds = { left, right: width - 8, top: 8, bottom: height - 26 - 15 * label.length };
  const x = (v) => bounds.left + (v - xs[0]) / (xs[1] - xs[0]) * (bounds.right - bounds.left);
  const y = (v) => bounds.bottom - (v - ys[0]) / (ys[1] - ys[0]) * (bounds.bottom - bounds.top);
  const svg = put(host, "svg", { viewBox: `0 0 ${width} ${height}`, width, height });
  const clip = `clip${state.id}-${number}`;
  put(put(svg, "clipPath", { id: clip }), "rect",
    { x: left, y: 0, width: bounds.right - left + 8, height: bounds.bottom });
  for (const [value, text] of ticks(xs, Math.max(3, width / 90), panel.whole_x)) {
    put(svg, "line", { x1: x(value), x2: x(value), y1: bounds.top, y2: bounds.bottom, class: "grid" });
    put(svg, "text", { x: x(value), y: bounds.bottom + 16, "text-anchor": "middle" }, text);
  }
  for (const [value, text] of yTicks) {
    put(svg, "line", { x1: left, x2: bounds.right, y1: y(value), y2: y(value), class: "grid" });
    put(svg, "text", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, text);
  }
  label.forEach((text, n) => put(svg, "text", { x: (left + bounds.right) / 2,
    y: bounds.bottom + 34 + 15 * n, "text-anchor": "middle" }, n ? `(${text}` : text));
  const middle = (bounds.top + bounds.bottom) / 2;
  put(svg, "text", { transform: `translate(12 ${middle}) rotate(-90)`, "text-anchor": "middle" },
    panel.y_label);
  const plot = put(svg, "g", { "clip-path": `url(#${clip})` });
  for (const s of panel.series) if (!state.hidden.has(s.name)) drawSeries(plot, s, x, y, bounds);
  name(plot, panel, x, y, bounds);
  if (panel.message) put(svg, "text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, panel.message);
  point(host, svg);
  zoomable(svg, bounds, xs, ys, (view) => { state.zoom[number] = view; state.redraw(); });
}
function point(host, svg) {
  const marks = [...svg.querySelectorAll(".mark[aria-label]")];
  if (!marks.length) return;
  marks[0].setAttribute("tabindex", 0);
  // Outside of what scrolls, so that nothing of it is cut off.
  const holder = host.closest("figure");
  const tip = holder.querySelector(".tip") || put(holder, "div", { class: "tip", hidden: "" });
  const show = (mark) => {
    const [head, ...rest] = mark.getAttribute("aria-label").split("\n");
    tip.replaceChildren();
    put(tip, "b", {}, head);
    for (const line of rest) put(tip, "div", {}, line);
    tip.hidden = false;
    const box = svg.getBoundingClientRect(), own = holder.getBoundingClientRect();
    const px = mark.place[0] + box.left - own.left, py = mark.place[1] + box.top - own.top;
    tip.style.left = `${Math.max(0, Math.min(px + 14, own.width - tip.offsetWidth))}px`;
    tip.style.top = `${py + 14}px`;
  };
  marks.forEach((mark, n) => {
    mark.addEventListener("pointerenter", () => show(mark));
    mark.addEventListener("pointerleave", () => { tip.hidden = true; });
    mark.addEventListener("focus", () => show(mark));
    mark.addEventListener("blur", () => { tip.hidden = true; });
    mark.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") tip.hidden = true;
      if (!step) return;
      event.preventDefault();
      marks[(n + step + marks.length) % marks.length].focus();
    });
  });
}
function zoomable(svg, bounds, xs, ys, zoom) {
  let from = null, frame = null;
  const at = (event) => {
    const box = svg.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  svg.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || event.button) return;
    from = at(event);
    frame = put(svg, "rect", { class: "zoom" });
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (!from) return;
    const [px, py] = at(event);
    for (const [key, value] of Object.entries({ x: Math.min(px, from[0]), y: Math.min(py, from[1]),
      width: Math.abs(px - from[0]), height: Math.abs(py - from[1]) })) frame.setAttribute(key, value);
  });
  svg.addEventListener("pointerup", (event) => {
    if (!from) return;
    const to = at(event), start = from;
    from = null;
    frame.remove();
    if (Math.abs(to[0] - start[0]) < 8 || Math.abs(to[1] - start[1]) < 8) return;
    const value = (p, [low, high], a, b) => low + (p - a) / (b - a) * (high - low);
    const across = [start[0], to[0]].map((p) => value(p, xs, bounds.left, bounds.right));
    const up = [start[1], to[1]].map((p) => value(p, ys, bounds.bottom, bounds.top));
    const rising = (a, b) => a - b;
    zoom([across.sort(rising), up.sort(rising)]);
  });
}
function entry(host, series, tag, attributes = {}) {
  const made = put(host, tag, { class: "entry", ...attributes });
  const key = put(made, "svg", { width: 20, height: 12, "aria-hidden": "true" });
  const colour = ink(series.colour || series.style.colour);
  if (series.kind === "Line") put(key, "path", { d: "M0,6H20", stroke: colour, "stroke-width": 2,
    "stroke-dasharray": series.dash ? "6 4" : "none" });
  else put(key, "path", { d: shape(series.style.mark, 10, 6, 4.5), stroke: colour, "stroke-width": 1.3,
    fill: series.filled ? colour : "none" });
  put(made, "span", {}, series.name);
  return made;
}
const named = (panels) => {
  const found = new Map();
  for (const s of panels.flatMap((p) => p.series)) {
    if (s.name && (!found.has(s.name) || s.opacity === 1)) found.set(s.name, s);
  }
  return [...found.values()];
};
function start(figure) {
  const id = figure.dataset.chart, chart = charts[id];
  const state = { id, hidden: new Set(), zoom: {} };
  const panels = put(figure, "div", { class: `panels${chart.columns > 1 ? " several" : ""}` });
  const reset = put(figure, "button", { type: "button", class: "reset", hidden: "" }, "Whole view");
  const all = named(chart.panels);
  if (!chart.legend_in_panels && all.length > 1) {
    const legend = put(figure, "div", { class: "legend", role: "group", "aria-label": "Show or hide" });
    for (const series of all) {
      const button = entry(legend, series, "button", { type: "button",
        "aria-pressed": String(!state.hidden.has(series.name)) });
      button.addEventListener("click", () => {
        const shown = state.hidden.delete(series.name);
        if (!shown) state.hidden.add(series.name);
        button.setAttribute("aria-pressed", String(shown));
        state.redraw();
      });
    }
  }
  state.redraw = () => {
    const held = panels.scrollLeft, tip = figure.querySelector(".tip");
    if (tip) tip.hidden = true;
    panels.replaceChildren();
    // All are there before any is drawn: the first would be as wide as all of them.
    const hosts = chart.panels.map(() => put(panels, "div", { class: "panel" }));
    chart.panels.forEach((panel, number) => {
      const host = hosts[number];
      if (panel.title) put(host, "p", { class: "panel-title" }, panel.title);
      if (chart.legend_in_panels) for (const s of named([panel])) entry(host, s, "span");
      drawPanel(host, panel, host.clientWidth, state, number);
    });
    panels.scrollLeft = held;
    reset.hidden = !Object.keys(state.zoom).length;
  };
  reset.addEventListener("click", () => { state.zoom = {}; state.redraw(); });
  let drawn = 0;
  return () => {
    const width = figure.clientWidth;
    if (!width || width === drawn) return;
    drawn = width;
    state.redraw();
  };
}
// Each is drawn when it can be seen, and again when the page is as wide as another.
const fits = [...document.querySelectorAll("figure[data-chart]")].map(start);
const fit = () => fits.forEach((one) => one());
window.addEventListener("resize", fit);
document.addEventListener("toggle", fit, true);
fit();
// A link to a folded part opens it.
function unfold() {
  const part = location.hash && document.getElementById(location.hash.slice(1));
  if (part && part.tagName === "DETAILS") part.open = true;
}
window.addEventListener("hashchange", unfold);
unfold();
