# SPDX-License-Identifier: Apache-2.0
"""Style and script of the report page. Nothing of it is fetched from anywhere."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark;
  --page:#f7f7f5; --card:#fff; --text:#1d1f23; --soft:#5d636e; --rule:#dfe1e5; --mark:#fdecc8; --good:#0a6b3d;
  --run0:#2158c7; --run1:#c2570c; --run2:#0b7a5b; --run3:#b3246f; --run4:#6d3fc4; --run5:#0e7490; --run6:#5c7a12;
  --run7:#b42318; }
@media (prefers-color-scheme: dark) { :root {
  --page:#14161a; --card:#1d2026; --text:#e7e9ed; --soft:#a0a7b4; --rule:#333842; --mark:#574313; --good:#6ad69f;
  --run0:#7aa8ff; --run1:#ffa15c; --run2:#4fd1a5; --run3:#ff8cc3; --run4:#b99bff; --run5:#5cc8e0; --run6:#b3d25a;
  --run7:#ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1320px; padding: 20px 16px 48px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 22px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 17px; margin: 32px 0 10px; }
p { margin: 0 0 10px; }
.soft, figcaption span { color: var(--soft); }
.problem { border-left: 4px solid var(--run7); padding: 4px 10px; background: var(--card); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 10px 0 0; padding: 0; list-style: none; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; background: var(--c);
  margin-right: 6px; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--rule); border-radius: 8px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: 7px 12px; text-align: right; white-space: nowrap; border-top: 1px solid var(--rule);
  overflow-wrap: normal; }
thead th { border-top: 0; color: var(--soft); font-weight: 600; font-size: 13px; }
th:first-child, td:first-child, .words td, .words th { text-align: left; }
td.best { font-weight: 700; color: var(--good); }
fieldset { border: 0; margin: 0 0 10px; padding: 0; display: flex; gap: 16px; flex-wrap: wrap; }
label { cursor: pointer; padding: 4px 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 360px), 1fr)); gap: 14px; }
.lengths { display: grid; grid-template-columns: minmax(0, 1fr); gap: 14px; }
@media (min-width: 960px) { .lengths { grid-template-columns: minmax(0, 430px) minmax(0, 1fr); } }
figure { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 12px;
  position: relative; min-width: 0; }
figcaption { font-weight: 600; margin-bottom: 6px; }
figcaption span { display: block; font-weight: 400; font-size: 13px; }
svg.chart { display: block; width: 100%; height: auto; touch-action: pan-y; }
svg text { fill: var(--soft); font-size: 12px; }
svg .grid { stroke: var(--rule); }
svg .line { fill: none; stroke: var(--c); stroke-width: 2; }
svg .line circle { fill: var(--c); stroke: none; }
svg .training { stroke-width: 1.3; opacity: .55; }
svg .dashed { stroke-dasharray: 5 4; }
svg .level { stroke-width: 1.3; stroke-dasharray: 2 4; }
svg .cursor { stroke: var(--soft); visibility: hidden; }
.tip { position: absolute; z-index: 1; pointer-events: none; background: var(--card); color: var(--text);
  border: 1px solid var(--soft); border-radius: 6px; padding: 6px 9px; font-size: 12.5px;
  line-height: 1.4; max-width: 85%; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr)); gap: 14px; }
.example { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 12px; min-width: 0; }
mark { background: var(--mark); color: inherit; padding: 1px 3px; border-radius: 3px; }
dl { margin: 0; display: grid; grid-template-columns: auto 1fr auto; gap: 2px 10px; }
dt { color: var(--soft); } dd { margin: 0; }
dd.right { color: var(--good); font-weight: 600; }
details { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 8px 12px;
  margin-top: 10px; }
summary { cursor: pointer; font-weight: 600; padding: 4px 0; }
body:has(#by-tokens:checked) .by-step, body:not(:has(#by-tokens:checked)) .by-tokens { display: none; }
:focus-visible { outline: 2px solid var(--run0); outline-offset: 2px; }
"""

# Reads the nearest point of every line out under the pointer.
SCRIPT = """
"use strict";
for (const chart of document.querySelectorAll("svg.chart")) {
  const data = JSON.parse(chart.dataset.chart), cursor = chart.querySelector(".cursor");
  const figure = chart.closest("figure");
  const xs = [...new Set(data.lines.flatMap(line => line.points.map(point => point[0])))].sort((a, b) => a - b);
  if (!xs.length) continue;
  let tip = null;
  const nearest = (list, x, key) => list.reduce((a, b) => Math.abs(key(b) - x) < Math.abs(key(a) - x) ? b : a);
  const show = value => data.percent ? (100 * value).toFixed(1) + " %"
    : value.toLocaleString("en", {maximumSignificantDigits: 4});
  const hide = () => { if (tip) tip.remove(); tip = null; cursor.style.visibility = "hidden"; };
  const read = event => {
    const box = chart.getBoundingClientRect(), scale = chart.viewBox.baseVal.width / box.width;
    const part = ((event.clientX - box.left) * scale - data.left) / (data.right - data.left);
    if (part < -0.05 || part > 1.05) return hide();
    const wanted = data.x[0] + part * (data.x[1] - data.x[0]), x = nearest(xs, wanted, value => value);
    const place = data.left + (x - data.x[0]) / (data.x[1] - data.x[0]) * (data.right - data.left);
    cursor.setAttribute("x1", place); cursor.setAttribute("x2", place); cursor.style.visibility = "visible";
    if (!tip) { tip = document.createElement("div"); tip.className = "tip"; figure.append(tip); }
    tip.replaceChildren();
    const head = document.createElement("b");
    head.textContent = data.names.length ? `${data.names[x]} tokens`
      : `${data.axis} ${Math.round(x).toLocaleString("en")}`;
    tip.append(head);
    for (const line of data.lines) {
      if (x < line.points[0][0] || x > line.points.at(-1)[0]) continue;
      const point = nearest(line.points, x, p => p[0]);
      const row = document.createElement("div"), swatch = document.createElement("span");
      swatch.className = "swatch"; swatch.style.setProperty("--c", `var(--run${line.colour % 8})`);
      row.append(swatch, `${line.label}: ${show(point[1])}`); tip.append(row);
    }
    const frame = figure.getBoundingClientRect(), left = place / scale + box.left - frame.left + 12;
    const fits = left + tip.offsetWidth <= frame.width - 4;
    tip.style.left = Math.max(4, fits ? left : left - tip.offsetWidth - 24) + "px";
    tip.style.top = box.top - frame.top + 8 + "px";
  };
  chart.addEventListener("pointermove", read);
  chart.addEventListener("pointerdown", read);
  chart.addEventListener("pointerleave", hide);
}
"""
