"use strict";
// Tables: a click on a column's name sorts by it, another click turns the order round.
const valueOf = (row, column) => {
  const cell = row.cells[column], text = cell.dataset.v ?? cell.textContent.trim();
  const number = parseFloat(text);
  return text === "" || text === "–" ? null : /^[-+]?[.\d]/.test(text) && !isNaN(number) ? number : text;
};
const compare = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
for (const table of document.querySelectorAll("table.sortable")) {
  table.tHead.addEventListener("click", event => {
    const head = event.target.closest("th");
    if (!head) return;
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const body = table.tBodies[0], sign = descending ? -1 : 1;
    const keyed = Array.from(body.rows, row => [valueOf(row, head.cellIndex), row]);
    keyed.sort(([a], [b]) => a === null ? (b === null ? 0 : 1) : b === null ? -1 : sign * compare(a, b));
    body.append(...keyed.map(([, row]) => row));
  });
}
for (const input of document.querySelectorAll("input.filter")) {
  const rows = input.closest("section").querySelector("tbody").rows;
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}
// Plots: dragging zooms in, a double click or the button shows all. Marks keep their size, since
// their strokes do not scale: only the viewBox and the ticks change.
const ticks = (low, high) => {
  const raw = (high - low) / 6, size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(f => f * size).find(s => s >= raw * (1 - 1e-9));
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) found.push(+(n * step).toPrecision(10));
  return found;
};
for (const plot of document.querySelectorAll("svg.plot")) {
  const frame = plot.parentElement, reset = plot.closest("figure").querySelector(".reset");
  const {x0, x1, y0, y1, floor, whole} = plot.dataset;
  let view = [0, 0, 1000, 1000], start = null, box = null;
  const put = (holder, side, marks) => {
    holder.replaceChildren(...marks.map(([share, value]) => {
      const span = document.createElement("span");
      span.style[side] = 100 * share + "%";
      span.textContent = value;
      return span;
    }));
  };
  const show = next => {
    view = next;
    plot.setAttribute("viewBox", view.join(" "));
    const [left, top, width, height] = view;
    const xAt = x => +x0 + (x1 - x0) * x / 1000, yAt = y => +y1 - (y1 - y0) * y / 1000;
    const xs = [xAt(left), xAt(left + width)], ys = [yAt(top + height), yAt(top)];
    put(frame.querySelector(".x-ticks"), "left", ticks(...xs)
      .filter(x => whole === undefined || Number.isInteger(x)).map(x => [(x - xs[0]) / (xs[1] - xs[0]), x]));
    const levels = ticks(...ys).filter(y => floor === undefined || y >= +floor);
    put(frame.querySelector(".y-ticks"), "top", levels.map(y => [(ys[1] - y) / (ys[1] - ys[0]), y]));
    plot.querySelector(".grid").replaceChildren(...levels.map(y => {
      const line = document.createElementNS(plot.namespaceURI, "path");
      line.setAttribute("d", `M0 ${1000 * (y1 - y) / (y1 - y0)}h1000`);
      return line;
    }));
    reset.hidden = width === 1000 && height === 1000;
  };
  const at = event => {
    const area = plot.getBoundingClientRect();
    const share = [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
    return share.map((s, i) => view[i] + Math.min(1, Math.max(0, s)) * view[i + 2]);
  };
  plot.addEventListener("pointerdown", event => {
    if (event.button) return;
    start = at(event);
    plot.setPointerCapture(event.pointerId);
  });
  const dragged = event => {
    const end = at(event);
    return [0, 1].map(i => Math.min(start[i], end[i])).concat([0, 1].map(i => Math.abs(start[i] - end[i])));
  };
  plot.addEventListener("pointermove", event => {
    if (!start) return;
    box ??= plot.appendChild(document.createElementNS(plot.namespaceURI, "rect"));
    ["x", "y", "width", "height"].forEach((name, i) => box.setAttribute(name, dragged(event)[i]));
  });
  const drop = () => { start = null; box?.remove(); box = null; };
  plot.addEventListener("pointerup", event => {
    if (!start) return;
    const chosen = dragged(event);
    drop();
    if (chosen[2] > view[2] / 50 && chosen[3] > view[3] / 50) show(chosen);
  });
  plot.addEventListener("pointercancel", drop);
  const all = () => show([0, 0, 1000, 1000]);
  plot.addEventListener("dblclick", all);
  reset.addEventListener("click", all);
}
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("#repeat details")) part.open = true;
});
