// The results on search.html: sections that Pagefind finds in its index, which book/_extensions/course/finished makes.
// A page that was opened from the disk may load no modules: there Sphinx's own search takes over, which finds pages.
(() => {
  "use strict";
  const ROWS = 10; // at a time
  const beside = (file) => new URL(file, document.currentScript.src).href;
  const engine = beside("../pagefind/pagefind.js");
  const sphinx = ["searchtools.js", "language_data.js", "../searchindex.js"].map(beside);
  const weights = { "book/troubleshooting": 4, "book/reference": 0.2 }; // as in search.py, for pages of Sphinx's search

  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  function inWords(count, query) {
    if (count === 0) return `No section has “${query}”.`;
    return count === 1 ? `One section has “${query}”.` : `${count} sections have “${query}”, the best first.`;
  }

  async function row(result) {
    const { meta, excerpt } = await result.data();
    const link = element("a", { href: meta.address, textContent: meta.title });
    const page = element("span", { className: "search-page", textContent: meta.page === meta.title ? "" : meta.page });
    return element("li", {}, link, " ", page, element("p", { className: "context", innerHTML: excerpt }));
  }

  async function show(pagefind, query, place) {
    const { results } = await pagefind.search(query);
    const status = element("p", { textContent: inWords(results.length, query) });
    status.setAttribute("role", "status");
    const list = element("ul", { className: "search" });
    const more = element("button", { type: "button", className: "btn btn-outline-secondary", textContent: "More" });
    const add = async () => {
      const from = list.children.length;
      list.append(...(await Promise.all(results.slice(from, from + ROWS).map(row))));
      more.hidden = list.children.length >= results.length;
      if (from) list.children[from].querySelector("a").focus();
    };
    more.addEventListener("click", add);
    await add();
    place.replaceChildren(status, list, more);
  }

  function load(address) {
    return new Promise((resolve, reject) => {
      document.head.append(element("script", { src: address, onload: resolve, onerror: reject }));
    });
  }

  // Sphinx's search begins when its first script has come; the others bring the words.
  async function searchAsSphinxDoes() {
    window.Scorer = {
      score: ([page, , , , score]) => score * (weights[page] ?? 1),
      objNameMatch: 11,
      objPartialMatch: 6,
      objPrio: { 0: 15, 1: 5, 2: -5 },
      objPrioDefault: 0,
      title: 15,
      partialTitle: 7,
      term: 5,
      partialTerm: 2,
    };
    if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false; // it would fetch the pages
    for (const script of sphinx) await load(script);
  }

  async function start() {
    const query = new URLSearchParams(location.search).get("q")?.trim();
    const place = document.getElementById("search-results");
    if (!query || !place) return;
    for (const box of document.querySelectorAll(".bd-search-container input[name=q]")) box.value = query;
    try {
      if (location.protocol === "file:") throw new Error("modules are not loaded from the disk");
      await show(await import(engine), query, place);
    } catch {
      await searchAsSphinxDoes();
    }
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
