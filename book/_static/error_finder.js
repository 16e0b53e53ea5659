// The box of the troubleshooting page: a reader pastes an error or a log and sees the entries that match.
// The patterns stand on the page as JSON, made from the entries of labsupport/symptoms; nothing is sent anywhere.
(() => {
  "use strict";
  const KINDS = ["error", "warning", "follower"]; // the first cause before what follows from it
  const MOST_LETTERS = 2_000_000;
  const PAUSE_MS = 150; // after the last key

  function readEntries(place) {
    const entries = JSON.parse(place.querySelector('script[type="application/json"]').textContent);
    return entries.map((entry) => ({ ...entry, pattern: new RegExp(entry.patterns.join("|")) }));
  }

  // [{entry, at, line}] of a text: line by line, or, where a message was wrapped, in the text as one line.
  function find(entries, text) {
    const plain = text.slice(0, MOST_LETTERS).replace(/\u001b\[[0-9;]*[A-Za-z]/g, "");
    const found = findIn(entries, plain.split(/\r\n|\r|\n/));
    const matches = found.length ? found : findIn(entries, [plain.replace(/\s+/g, " ")]);
    return matches.sort((a, b) => KINDS.indexOf(a.entry.kind) - KINDS.indexOf(b.entry.kind) || a.at - b.at);
  }

  function findIn(entries, lines) {
    const matches = new Map();
    lines.forEach((line, at) => {
      for (const entry of entries) {
        if (!matches.has(entry) && entry.pattern.test(line)) matches.set(entry, { entry, at, line: excerpt(entry, line) });
      }
    });
    return [...matches.values()];
  }

  function excerpt(entry, line) {
    const start = line.length > 300 ? Math.max(0, entry.pattern.exec(line).index - 100) : 0;
    return line.slice(start, start + 300).trim();
  }

  // The entries in which every word stands: for a text that is no error's, but what a reader remembers of it.
  function findByWords(entries, text) {
    const words = text.toLowerCase().match(/[\p{L}\p{N}_]{3,}/gu) ?? [];
    if (!words.length || words.length > 8) return [];
    const said = (entry) => `${entry.title} ${sectionOf(entry)?.textContent ?? ""}`.toLowerCase();
    return entries.filter((entry) => words.every((word) => said(entry).includes(word))).map((entry) => ({ entry }));
  }

  function sectionOf(entry) {
    return document.getElementById(entry.anchor)?.closest("section");
  }

  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  // What the page says of an entry, once more: its paragraphs and commands, without the ids that they have below.
  function answer({ entry, line }) {
    const item = element("li", {}, element("a", { href: `#${entry.anchor}`, textContent: entry.title }));
    if (line) item.append(element("code", { className: "error-finder-line", textContent: line }));
    const parts = [...(sectionOf(entry)?.querySelectorAll(":scope > p, :scope > div.highlight-bash") ?? [])];
    const from = parts.findIndex((part) => part.textContent.startsWith("Cause."));
    for (const part of from < 0 ? [] : parts.slice(from)) {
      if (part.textContent.startsWith("Source:")) continue;
      const copy = part.cloneNode(true);
      for (const each of [copy, ...copy.querySelectorAll("[id]")]) each.removeAttribute("id");
      for (const button of copy.querySelectorAll("button")) button.remove();
      item.append(copy);
    }
    return item;
  }

  function inWords(text, matches, byWords) {
    if (!text.trim()) return "";
    if (byWords.length) return `No entry has this text. ${counted(byWords)} these words:`;
    if (!matches.length) return "No entry matches. Is it the first error of all ranks' output? Later ones only follow from it.";
    const cut = text.length > MOST_LETTERS ? " Only the first two million letters were looked at." : "";
    const order = matches.length > 1 ? " What came first stands first; what only follows from it, last." : "";
    return `${matches.length === 1 ? "One entry matches." : `${matches.length} entries match.`}${order}${cut}`;
  }

  function counted(matches) {
    return matches.length === 1 ? "One has" : `${matches.length} have`;
  }

  function build(place) {
    const entries = readEntries(place);
    const box = element("textarea", { id: "error-finder-text", rows: 4, spellcheck: false, autocomplete: "off" });
    box.placeholder = "[rank0]: AssertionError: ...";
    box.setAttribute("aria-describedby", "error-finder-hint");
    const hint = element("p", {
      id: "error-finder-hint",
      textContent: `One of ${entries.length} entries may know it. The text is looked at in your browser and sent nowhere.`,
    });
    const status = element("p", { className: "error-finder-status" });
    status.setAttribute("role", "status");
    const list = element("ol", { className: "error-finder-found" });
    const clear = element("button", { type: "button", textContent: "Clear", hidden: true });
    const show = () => {
      place.classList.remove("is-waiting");
      const matches = find(entries, box.value);
      const byWords = matches.length ? [] : findByWords(entries, box.value);
      status.textContent = inWords(box.value, matches, byWords);
      list.replaceChildren(...(matches.length ? matches : byWords).map(answer));
      clear.hidden = !box.value;
    };
    let waiting = null;
    box.addEventListener("input", () => {
      clearTimeout(waiting);
      place.classList.add("is-waiting");
      waiting = setTimeout(show, PAUSE_MS);
    });
    clear.addEventListener("click", () => {
      box.value = "";
      show();
      box.focus();
    });
    const label = element("label", { htmlFor: box.id, textContent: "Paste an error, or a whole log" });
    place.replaceChildren(label, box, hint, clear, status, list);
    if (box.value) show(); // what the browser kept from before
  }

  function start() {
    for (const place of document.querySelectorAll(".error-finder")) build(place);
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
