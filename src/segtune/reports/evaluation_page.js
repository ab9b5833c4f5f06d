"use strict";

const filters = {
  class: document.getElementById("class-filter"),
  type: document.getElementById("type-filter"),
  reason: document.getElementById("reason-filter"),
};

function isSelected(image) {
  const has = (list, value) => value === "" || JSON.parse(list).includes(value);
  return has(image.dataset.classes, filters.class.value)
    && has(image.dataset.types, filters.type.value)
    && (filters.reason.value === "" || image.dataset.reason === filters.reason.value);
}

function applyFilters() {
  let shown = 0;
  for (const image of document.querySelectorAll(".triple")) {
    image.hidden = !isSelected(image);
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
  for (const filter of Object.values(filters)) filter.addEventListener("change", applyFilters);
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  applyFilters(); // a browser restores the filters of a reloaded page
}
for (const button of document.querySelectorAll("#class-table thead button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}
