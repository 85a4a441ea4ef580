"use strict";
(() => {
  for (const element of document.querySelectorAll(".needs-script")) element.hidden = false;

  // A heading sorts its column: numbers from the largest, names from the first, and back; what is missing stays last.
  const names = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const key = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

  const sort = (table, heading) => {
    const column = heading.cellIndex;
    const byName = heading.dataset.type === "name";
    const first = byName ? "ascending" : "descending";
    const second = byName ? "descending" : "ascending";
    const order = heading.getAttribute("aria-sort") === first ? second : first;
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => [key(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      return sign * (byName ? names.compare(a, b) : Number(a) - Number(b));
    });
    body.append(...rows.map(([, row]) => row));
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const heading of table.tHead.rows[0].cells) {
      if (heading.classList.contains("fixed")) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, heading));
      heading.append(button);
    }
  }

  const opacity = document.getElementById("opacity");
  if (opacity) {
    const faces = document.querySelector(".over");
    const said = opacity.parentElement.querySelector("output");
    opacity.addEventListener("input", () => {
      faces.style.setProperty("--opacity", opacity.value / 100);
      said.textContent = `${opacity.value}\u202f%`;
    });
  }
})();
