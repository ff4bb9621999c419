// Sort a table by the column whose button is pressed; empty cells stay last.
const collator = new Intl.Collator("en", { numeric: true });
const numberIn = (text) => {
  const plain = text.replace(/,/g, "").replace(/\s?%$|x$/, "");
  return plain !== "" && isFinite(plain) ? Number(plain) : null;
};
function compare(a, b) {
  const x = numberIn(a), y = numberIn(b);
  return x !== null && y !== null ? x - y : collator.compare(a, b);
}
function sortBy(head) {
  const down = head.getAttribute("aria-sort") === "ascending";
  const body = head.closest("table").tBodies[0];
  const text = (row) => row.cells[head.cellIndex].textContent.trim();
  const rows = Array.from(body.rows);
  rows.sort((r, s) => {
    const a = text(r), b = text(s);
    if (a === "" || b === "") return (a === "") - (b === "");
    return down ? compare(b, a) : compare(a, b);
  });
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...rows);
}
for (const button of document.querySelectorAll("table.sortable thead button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}
