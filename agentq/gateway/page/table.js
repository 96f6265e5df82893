// Tables that become cards on a narrow screen, and stay tables for those who listen.

import { h, keyed, renew } from "./dom.js";

/** A table that can be brought up to date. `columns`: [name, cell(item), class?]…; `key(item)` names a row.
 *
 * Answers the element, and `show(items)`; rows that stay keep their place, and only cells whose text differs change. */
export function table(caption, columns, key, { rowClass = () => "" } = {}) {
  const body = h("tbody", { role: "rowgroup" });
  const heads = columns.map(([name, , kind]) => h("th", { scope: "col", role: "columnheader", class: kind }, name));
  const element = h(
    "table",
    { class: "cards", role: "table" },
    h("caption", { class: "unseen" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)),
    body,
  );
  const make = () =>
    h(
      "tr",
      { role: "row" },
      columns.map(([name, , kind]) => h("td", { role: "cell", dataset: { label: name }, class: kind })),
    );
  const change = (row, item) => {
    row.className = rowClass(item);
    columns.forEach(([, cell], at) => {
      renew(row.children[at], cell(item));
      row.children[at].classList.toggle("none", row.children[at].textContent === "–");
    });
  };
  return { element, show: (items) => keyed(body, items, key, make, change) };
}
