// What a reader has read and done, kept in this browser's localStorage and sent nowhere. A lab counts as read when its
// end came into view; an exercise as done when the reader says so. Where nothing can be kept, nothing is shown.
(() => {
  "use strict";
  const KEY = "deepspeed-course-progress";
  const KEPT = "This is kept in this browser alone; nothing is sent.";

  function read() {
    try {
      const kept = JSON.parse(localStorage.getItem(KEY) ?? "{}");
      return { pages: kept.pages ?? {}, exercises: kept.exercises ?? {} };
    } catch {
      return { pages: {}, exercises: {} };
    }
  }

  function change(kind, name, value) {
    const progress = read();
    if (value) progress[kind][name] = true;
    else delete progress[kind][name];
    localStorage.setItem(KEY, JSON.stringify(progress));
  }

  function works() {
    try {
      localStorage.setItem(`${KEY}-test`, "");
      localStorage.removeItem(`${KEY}-test`);
      return true;
    } catch {
      return false;
    }
  }

  function element(name, properties, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  const nameOf = (address) => new URL(address, location.href).pathname.split("/").pop().replace(".html", "");

  function noteTheEnd(end) {
    const seen = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      change("pages", nameOf(location.href), true);
      seen.disconnect();
    });
    seen.observe(end);
  }

  // The list of a lab's exercises becomes a list of boxes to tick.
  function offerMarks(list) {
    const { exercises } = read();
    for (const row of list.children) {
      const name = row.dataset.exercise;
      const box = element("input", { type: "checkbox", checked: Boolean(exercises[name]) });
      box.addEventListener("change", () => change("exercises", name, box.checked));
      row.replaceChildren(element("label", {}, box, " ", ...row.childNodes));
    }
    list.before(element("p", {}, `Tick what you have done. ${KEPT}`));
  }

  function inWords(isRead, done, of) {
    const words = [isRead && "read", done && `${done} of ${of} exercises`].filter(Boolean);
    return words.length ? `✓ ${words.join(", ")}` : "";
  }

  function showInTable(table) {
    const exercisesOf = JSON.parse(table.querySelector('script[type="application/json"]').textContent);
    const note = element("p", { className: "progress-note" });
    const forget = element("button", { type: "button", className: "btn btn-outline-secondary btn-sm" }, "Forget it");
    const marks = [...table.querySelectorAll("tbody tr")].map((row) => {
      const name = nameOf(row.querySelector("a").href);
      return [name, row.cells[0].appendChild(element("span", { className: "lab-progress" }))];
    });
    const show = () => {
      const { pages, exercises } = read();
      for (const [name, mark] of marks) {
        const own = exercisesOf[name] ?? [];
        mark.textContent = inWords(pages[name], own.filter((each) => exercises[each]).length, own.length);
      }
      const any = marks.some(([, mark]) => mark.textContent);
      note.replaceChildren(`A lab that you read to its end is ticked here, and so are exercises that you tick there. ${KEPT} `);
      if (any) note.append(forget);
    };
    forget.addEventListener("click", () => {
      localStorage.removeItem(KEY);
      show();
    });
    table.append(note);
    show();
  }

  function start() {
    if (!works()) return;
    const end = document.querySelector(".prev-next-footer");
    if (end && location.pathname.includes("/notebooks/")) noteTheEnd(end);
    document.querySelectorAll("ul.exercise-marks").forEach(offerMarks);
    document.querySelectorAll(".labs-table").forEach(showInTable);
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
