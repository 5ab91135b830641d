// Filters, sorts, zooms and copies. Without it the page is whole all the same: what it needs is shown by it.
"use strict";

// A long table has its rows in several bodies, of which only those in sight are laid out.
const rowsOf = (table) => [...table.tBodies].flatMap((body) => [...body.rows]);

// What a body that was not laid out yet will be high, by the rows of it that are shown.
const measure = (body) => {
  const shown = [...body.rows].filter((row) => !row.hidden).length;
  body.hidden = shown === 0;
  body.style.containIntrinsicSize = `none calc(${shown} * var(--height))`;
};

// A filter of a table's rows: words that all must be there, and the class of a row.
for (const filter of document.querySelectorAll(".filter")) {
  const table = document.getElementById(filter.dataset.table);
  const input = filter.querySelector("input");
  const select = filter.querySelector("select");
  const count = filter.querySelector("output");
  // The sorter moves rows, and a row keeps its place here.
  const rows = rowsOf(table);
  // The texts are read once, and not before somebody types.
  let texts = null;
  const apply = () => {
    texts ??= rows.map((row) => row.textContent.toLowerCase());
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const classes = select.value.split(" ").filter(Boolean);
    let shown = 0;
    rows.forEach((row, at) => {
      const fits = words.every((word) => texts[at].includes(word))
        && (classes.length === 0 || classes.some((name) => row.classList.contains(name)));
      if (row.hidden === fits) row.hidden = !fits;
      if (fits) shown += 1;
    });
    for (const body of table.tBodies) measure(body);
    count.textContent = `${shown} of ${rows.length} ${filter.dataset.word}`;
  };
  input.addEventListener("input", apply);
  select.addEventListener("change", apply);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      input.value = "";
      apply();
    }
  });
  count.textContent = `${rows.length} ${filter.dataset.word}`;
  filter.hidden = rows.length === 0;
}

// Sorting by a column: numbers by data-v, the rest as text.
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const rows = rowsOf(table);
      const numbers = rows.length > 0 && rows[0].cells[column].dataset.v !== undefined;
      // Of numbers one looks for the largest.
      const first = numbers && head.classList.contains("n") ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const keyed = rows.map((row) => {
        const cell = row.cells[column];
        return [numbers ? Number(cell.dataset.v) : cell.textContent, row];
      });
      const collator = new Intl.Collator("en", { numeric: true });
      const compare = numbers ? (a, b) => a[0] - b[0] : (a, b) => collator.compare(a[0], b[0]);
      keyed.sort(order === "ascending" ? compare : (a, b) => compare(b, a));
      const sizes = [...table.tBodies].map((body) => body.rows.length);
      let next = 0;
      [...table.tBodies].forEach((body, at) => {
        body.replaceChildren(...keyed.slice(next, next + sizes[at]).map(([, row]) => row));
        next += sizes[at];
        measure(body);
      });
    });
  });
}

// The drawing: its size, and moving it by hand.
for (const canvas of document.querySelectorAll(".canvas")) {
  const scroll = canvas.querySelector(".scroll");
  const svg = scroll.querySelector("svg");
  const shown = canvas.querySelector("output");
  const { width, height } = svg.viewBox.baseVal;
  let scale = 1;
  const zoom = (wanted, x, y) => {
    const before = scale;
    scale = Math.min(4, Math.max(0.1, wanted));
    const [left, top] = [scroll.scrollLeft + x, scroll.scrollTop + y];
    svg.setAttribute("width", String(width * scale));
    svg.setAttribute("height", String(height * scale));
    scroll.scrollLeft = (left * scale) / before - x;
    scroll.scrollTop = (top * scale) / before - y;
    shown.textContent = `${Math.round(scale * 100)} %`;
  };
  const middle = (wanted) => zoom(wanted, scroll.clientWidth / 2, scroll.clientHeight / 2);
  const fit = () => middle(Math.min(1, (scroll.clientWidth - 2) / width));
  const does = { in: () => middle(scale * 1.25), out: () => middle(scale / 1.25), fit };
  for (const button of canvas.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", does[button.dataset.zoom]);
  }
  scroll.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    const box = scroll.getBoundingClientRect();
    zoom(scale * Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  scroll.addEventListener("keydown", (event) => {
    const key = { "+": "in", "=": "in", "-": "out", 0: "fit" }[event.key];
    if (!key || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    does[key]();
  });
  let held = null;
  scroll.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.pointerType !== "mouse") return;
    held = [event.clientX + scroll.scrollLeft, event.clientY + scroll.scrollTop];
    scroll.setPointerCapture(event.pointerId);
  });
  scroll.addEventListener("pointermove", (event) => {
    if (held === null) return;
    scroll.scrollLeft = held[0] - event.clientX;
    scroll.scrollTop = held[1] - event.clientY;
  });
  for (const end of ["pointerup", "pointercancel"]) scroll.addEventListener(end, () => { held = null; });
  canvas.querySelector(".tools").hidden = false;
  fit();
}

// A browser that does not let a file write to the clipboard still selects the text.
for (const button of document.querySelectorAll("button.copy")) {
  const text = button.closest("figure").querySelector("pre");
  button.hidden = false;
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(text);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected";
    }
  });
}

// On paper nothing can be opened.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
