// Sort a table by the column of a clicked header: first click ascending, second descending; empty values last.
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th"), table = header.closest("table"), body = table.tBodies[0];
    const descending = header.getAttribute("aria-sort") === "ascending";
    const value = row => row.cells[header.cellIndex].dataset.value;
    const compare = (a, b) => header.classList.contains("text") ? a.localeCompare(b) : a - b;
    const rows = [...body.rows].sort((p, q) => {
      const a = value(p), b = value(q);
      return (a === "") - (b === "") || (descending ? compare(b, a) : compare(a, b));
    });
    table.querySelectorAll("th").forEach(th => th.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    body.append(...rows);
  });
}
