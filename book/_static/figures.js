// Draws the figures that labsupport/plots.py leaves on a page: <figure class="lab-figure"> with the data as JSON.
// A still picture, made when the book was built, stands there first. plotly.min.js is fetched from beside this file,
// once for the page, when the first figure comes into view; a live figure takes its picture's place, equally high.
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
    const names = ["text", "grid", "line", "ground"];
    return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--lab-figure-${name}`).trim()]));
  }

  // The figure's own layout, with this page's colours. The title stands above the plot as text, which wraps.
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

  // The words of the caption say what the drawing shows; a screen reader is spared its parts.
  function hideDrawing(live) {
    for (const svg of live.querySelectorAll("svg.main-svg")) svg.setAttribute("aria-hidden", "true");
  }

  async function draw(figure) {
    const plot = figure.querySelector(".lab-figure-plot");
    try {
      const plotly = await loadPlotly();
      const { data, layout, config } = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
      const live = plot.querySelector(".lab-figure-live") ?? document.createElement("div");
      live.className = "lab-figure-live";
      plot.append(live);
      await plotly.react(live, data, themed(layout), { ...config, responsive: true });
      hideDrawing(live);
      plot.querySelector(".lab-figure-still")?.remove();
      figure.classList.add("is-drawn");
      drawn.add(figure);
    } catch (error) {
      figure.classList.add("is-missing"); // the still picture and the caption stay
      console.error(error);
    }
  }

  function start() {
    const inView = new IntersectionObserver((entries) => {
      for (const entry of entries.filter((each) => each.isIntersecting)) {
        inView.unobserve(entry.target);
        draw(entry.target.closest("figure.lab-figure"));
      }
    });
    for (const plot of document.querySelectorAll("figure.lab-figure .lab-figure-plot")) inView.observe(plot);
    const redraw = () => drawn.forEach(draw);
    new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    still.addEventListener("change", redraw);
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
