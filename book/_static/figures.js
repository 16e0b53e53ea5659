// Draws the figures that labsupport/plots.py leaves on a page: <figure class="lab-figure"> with the data as JSON.
// plotly.min.js is fetched from beside this file, once, and only when a figure comes near the screen.
// Without JavaScript the caption still says in words what the figure shows.
(() => {
  "use strict";
  const library = new URL("plotly.min.js", document.currentScript.src).href;
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  const drawn = new Set();
  let loading = null;

  function loadPlotly() {
    loading ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = library;
      script.onload = () => resolve(window.Plotly);
      script.onerror = () => reject(new Error(`${library} did not load`));
      document.head.append(script);
    });
    return loading;
  }

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const read = (name, fallback) => style.getPropertyValue(name).trim() || fallback;
    return {
      text: read("--lab-figure-text", "#222"),
      grid: read("--lab-figure-grid", "#ddd"),
      line: read("--lab-figure-line", "#888"),
      ground: read("--lab-figure-ground", "#fff"),
    };
  }

  // The figure's own layout, with this page's colours. The title goes above the plot as text, which wraps.
  function themed(layout) {
    const { text, grid, line, ground } = colours();
    const result = structuredClone(layout);
    delete result.title;
    result.font = { ...result.font, color: text, family: getComputedStyle(document.body).fontFamily, size: 13 };
    result.margin = { ...result.margin, t: 16 };
    result.autosize = true;
    delete result.width;
    result.transition = { duration: still.matches ? 0 : 200 };
    result.hoverlabel = { bgcolor: ground, bordercolor: line, font: { color: text } };
    result.modebar = { bgcolor: "rgba(0,0,0,0)", color: line, activecolor: text };
    for (const name of Object.keys(result).filter((key) => /^[xy]axis\d*$/.test(key)).concat("xaxis", "yaxis")) {
      result[name] = {
        ...result[name],
        automargin: true,
        gridcolor: grid,
        zerolinecolor: line,
        linecolor: line,
        tickcolor: line,
      };
    }
    return result;
  }

  function read(figure) {
    figure.lab ??= JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
    return figure.lab;
  }

  function showTitle(figure) {
    const text = read(figure).layout?.title?.text;
    if (!text || figure.querySelector(".lab-figure-title")) return;
    const title = document.createElement("p");
    title.className = "lab-figure-title";
    title.textContent = text.replace(/<br\s*\/?>/g, " ").replace(/<[^>]+>/g, "");
    figure.prepend(title);
  }

  async function draw(figure) {
    const plot = figure.querySelector(".lab-figure-plot");
    try {
      const plotly = await loadPlotly();
      const { data, layout } = read(figure);
      await plotly.react(plot, structuredClone(data), themed(layout), {
        responsive: true,
        displaylogo: false,
        modeBarButtonsToRemove: ["select2d", "lasso2d"],
      });
      figure.classList.add("is-drawn");
      drawn.add(figure);
    } catch (error) {
      figure.classList.add("is-missing"); // the caption stands alone
      console.error(error);
    }
  }

  function start() {
    const figures = [...document.querySelectorAll("figure.lab-figure")].filter((figure) =>
      figure.querySelector('script[type="application/json"]'),
    );
    if (!figures.length) return;
    for (const figure of figures) showTitle(figure);
    const nearby = new IntersectionObserver(
      (entries) => {
        for (const entry of entries.filter((each) => each.isIntersecting)) {
          nearby.unobserve(entry.target);
          draw(entry.target);
        }
      },
      { rootMargin: "600px" },
    );
    for (const figure of figures) nearby.observe(figure);
    const redraw = () => drawn.forEach(draw);
    new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    still.addEventListener("change", redraw);
    window.addEventListener("beforeprint", () => figures.forEach(draw));
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
