"use strict";

const filters = {
  class: document.getElementById("class-filter"),
  kind: document.getElementById("kind-filter"),
  why: document.getElementById("why-filter"),
};

function isWanted(image) {
  const has = (list, value) => value === "" || JSON.parse(list).includes(value);
  return has(image.dataset.classes, filters.class.value)
    && has(image.dataset.kinds, filters.kind.value)
    && (filters.why.value === "" || image.dataset.why === filters.why.value);
}

function showWanted() {
  let shown = 0;
  for (const image of document.querySelectorAll(".triple")) {
    image.hidden = !isWanted(image);
    shown += image.hidden ? 0 : 1;
  }
  document.getElementById("shown-count").textContent = `${shown} image${shown === 1 ? "" : "s"}`;
}

function sortKey(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text); // "0.500*" is 0.5
  if (column === 0) return text.toLowerCase();
  return Number.isNaN(number) ? -Infinity : number;
}

function sortBy(heading) {
  const body = heading.closest("table").tBodies[0];
  const column = heading.cellIndex;
  const descending = heading.getAttribute("aria-sort") !== "descending" && column > 0
    || heading.getAttribute("aria-sort") === "ascending";
  for (const other of heading.parentElement.cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0) * (descending ? -1 : 1);
  const rows = [...body.rows].sort((a, b) => order(sortKey(a, column), sortKey(b, column)));
  body.append(...rows);
}

if (filters.class) {
  for (const filter of Object.values(filters)) filter.addEventListener("change", showWanted);
  document.getElementById("switches").addEventListener("submit", (event) => event.preventDefault());
  showWanted(); // a reloaded page keeps its switches
}
for (const button of document.querySelectorAll("#class-table thead button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}
