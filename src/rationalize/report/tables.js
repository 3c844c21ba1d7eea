"use strict";
// Tables: a click on a head sorts the rows; a table that is wider than the page says so and can be
// scrolled with the keyboard.
(() => {
  // "−1.7[−10.8, +7.5]" -> -1.7; text without a number sorts as text, empty cells last
  function value(cell) {
    const text = (cell?.firstChild?.textContent ?? "").trim();
    const number = parseFloat(text.replace("−", "-").replace(/^[+<]/, "").replace(/,(?=\d{3})/g, ""));
    return Number.isNaN(number) ? text : number;
  }

  function compare(x, y) {
    const empty = [x === "–" || x === "", y === "–" || y === ""];
    if (empty[0] || empty[1]) return empty[0] - empty[1];
    if (typeof x === "number" && typeof y === "number") return y - x; // the largest first
    if (typeof x === "number" || typeof y === "number") return typeof x === "number" ? -1 : 1;
    return x.localeCompare(y);
  }

  for (const table of document.querySelectorAll("table.numbers:not(.matrix)")) {
    const body = table.tBodies[0];
    const rows = [...(body?.rows ?? [])];
    if (rows.length < 2) continue;
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        // unsorted, then one way, then the other, then unsorted again
        const was = head.getAttribute("aria-sort");
        const now = { descending: "ascending", ascending: null }[was] ?? (was ? null : "descending");
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        if (now && was !== "ascending") head.setAttribute("aria-sort", now);
        const order = head.getAttribute("aria-sort");
        const key = (row) => value(row.cells[column]);
        const sorted = [...rows];
        if (order === "descending") sorted.sort((x, y) => compare(key(x), key(y)));
        if (order === "ascending") sorted.sort((x, y) => compare(key(y), key(x)));
        body.append(...sorted);
      });
    });
  }

  function hint() {
    for (const box of document.querySelectorAll(".wide, .matrices .wide")) {
      const wide = box.scrollWidth > box.clientWidth + 1;
      box.classList.toggle("more", wide);
      if (!wide) {
        for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
        continue;
      }
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", "table, wider than the page: scroll it sideways");
    }
  }

  hint();
  addEventListener("resize", hint);
  document.addEventListener("toggle", hint, true); // what was folded had no width
})();
