// Pages of genomes and runs are templates, which cost nothing until their address (#run-…) is visited.
"use strict";
const pictures = JSON.parse(document.getElementById("pictures").textContent);
const overview = document.getElementById("overview");
const view = document.getElementById("view");
const title = document.title;

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// Tables: a click on a head sorts; a field under it filters: words, or a comparison such as >27

function valueOf(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  const word = cell.textContent.trim();
  return word === "" ? null : word;
}

function order(one, other) {
  if (one === null || other === null) return (one === null) - (other === null); // what is missing comes last
  if (typeof one === "number" && typeof other === "number") return one - other;
  return String(one).localeCompare(String(other), undefined, { numeric: true });
}

function sort(table, head) {
  const column = head.cellIndex;
  const first = head.classList.contains("number") && head.textContent !== "rank" ? "descending" : "ascending";
  const now = head.getAttribute("aria-sort");
  const next = now === null ? first : now === "ascending" ? "descending" : "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", next);
  const sign = next === "ascending" ? 1 : -1;
  const rows = Array.from(table.tBodies[0].rows, (row) => [valueOf(row, column), row]);
  const missing = (pair) => pair[0] === null;
  rows.sort((a, b) => (missing(a) || missing(b) ? missing(a) - missing(b) : sign * order(a[0], b[0])));
  table.tBodies[0].append(...rows.map((pair) => pair[1]));
}

function matcher(text) {
  const wanted = text.trim().toLowerCase();
  const compared = /^(<=|>=|<|>|=)\s*(-?[\d.]+)$/.exec(wanted);
  if (!compared) return (row, column) => row.cells[column].textContent.toLowerCase().includes(wanted);
  const [, sign, number] = compared;
  const tests = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => a === b };
  return (row, column) => {
    const value = valueOf(row, column);
    return typeof value === "number" && tests[sign](value, Number(number));
  };
}

function filter(table, fields) {
  const tests = fields.map((field, column) => [column, field.value]).filter((test) => test[1].trim());
  const made = tests.map(([column, text]) => [column, matcher(text)]);
  for (const row of table.tBodies[0].rows) row.hidden = !made.every(([column, test]) => test(row, column));
}

function prepare(table) {
  const heads = Array.from(table.tHead.rows[0].cells);
  for (const head of heads) {
    const button = element("button", { type: "button" }, head.textContent);
    button.addEventListener("click", () => sort(table, head));
    head.replaceChildren(button);
  }
  if (table.tBodies[0].rows.length < 5) return;
  const fields = heads.map((head) => element("input", { type: "search", ariaLabel: `filter ${head.textContent}`, placeholder: head.classList.contains("number") ? ">, <" : "" }));
  const row = element("tr", { className: "filters" }, ...fields.map((field) => element("th", {}, field)));
  for (const field of fields) field.addEventListener("input", () => filter(table, fields));
  table.tHead.append(row);
}

// Downloads, from the numbers at full precision

function save(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: address, download: name }).click();
  URL.revokeObjectURL(address);
}

function csv(data) {
  const quoted = (value) => (value === null ? "" : /[",\n\r]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  return [data.columns, ...data.rows].map((row) => row.map(quoted).join(",")).join("\n") + "\n";
}

function json(data) {
  return JSON.stringify(data.rows.map((row) => Object.fromEntries(data.columns.map((name, at) => [name, row[at]]))), null, 1) + "\n";
}

for (const tools of document.querySelectorAll(".tools")) {
  const data = JSON.parse(document.querySelector(`#${tools.dataset.for} script.rows`).textContent);
  for (const [form, write, type] of [["CSV", csv, "text/csv"], ["JSON", json, "application/json"]]) {
    const button = element("button", { type: "button" }, form);
    button.addEventListener("click", () => save(`${data.name}.${form.toLowerCase()}`, write(data), type));
    tools.append(button);
  }
}

// Two pictures, one over the other

const WIDE = 400; // pixels on the screen, about, at first

function compare(box) {
  const pair = box.querySelector(".pair");
  const images = Array.from(pair.querySelectorAll("img"));
  const zoom = box.querySelector("[data-zoom]");
  const border = box.querySelector("[data-border]");
  const sides = Array.from(box.querySelectorAll("[data-side]"));
  const move = (share) => pair.style.setProperty("--border", `${share}%`);
  function show() {
    const chosen = Object.fromEntries(sides.map((side) => [side.dataset.side, side.value]));
    for (const image of images) {
      const kind = image.dataset.kind;
      image.classList.toggle("left", kind === chosen.left);
      image.classList.toggle("right", kind === chosen.right && chosen.left !== chosen.right);
    }
    const widest = Math.max(...images.map((image) => image.naturalWidth));
    if (widest > 1 && zoom.dataset.zoom === "") zoom.value = zoom.dataset.zoom = Math.max(1, Math.round(WIDE / widest)); // at first
    for (const image of images) image.style.width = `${widest * Number(zoom.value)}px`;
  }
  for (const image of images) {
    image.dataset.kind = image.className;
    image.addEventListener("load", show);
  }
  for (const side of [...sides, zoom]) side.addEventListener("input", show);
  border.addEventListener("input", () => move(border.value));
  pair.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse" || event.buttons !== 1) return;
    event.preventDefault();
    const inside = pair.getBoundingClientRect();
    const share = Math.min(100, Math.max(0, (100 * (event.clientX - inside.left)) / inside.width));
    border.value = share;
    move(share);
  });
  pair.addEventListener("dragstart", (event) => event.preventDefault());
  show();
}

// Pages

function visit() {
  const id = location.hash.slice(1); // ids are letters, digits and dashes
  const page = document.getElementById(id);
  const is_page = page instanceof HTMLTemplateElement;
  overview.hidden = is_page;
  view.replaceChildren();
  document.title = title;
  if (!is_page) {
    if (page) page.scrollIntoView();
    return;
  }
  const back = element("a", { href: "#top" }, "all tables");
  view.append(element("p", {}, back), page.content.cloneNode(true));
  for (const image of view.querySelectorAll("img[data-picture]")) image.src = pictures[image.dataset.picture] ?? image.src;
  view.querySelectorAll("table[data-sorts]").forEach(prepare);
  view.querySelectorAll("[data-compare]").forEach(compare);
  const head = view.querySelector("h2");
  document.title = `${head.textContent} – ${title}`;
  window.scrollTo(0, 0);
  head.focus({ preventScroll: true });
}

document.querySelectorAll("#overview table[data-sorts]").forEach(prepare);
window.addEventListener("hashchange", visit);
if (location.hash) visit();
