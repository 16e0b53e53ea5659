// Mounts the course's widgets on a page that has no kernel. labsupport/widgets leaves <div class="lab-widget"> with its
// first state; the widget's script and the rest of its state lie beside this file, and are loaded when it is near.
// They are plain scripts, so that a page works that was opened from the disk.
(() => {
  "use strict";
  const here = document.currentScript.src;
  const loads = {};

  function pageModel(state) {
    const listeners = {};
    return {
      get: (name) => state[name],
      set: (name, value) => {
        state[name] = value;
        for (const listener of listeners[`change:${name}`] ?? []) listener();
      },
      save_changes() {},
      on: (event, listener) => (listeners[event] ??= []).push(listener),
      off: (event, listener) => (listeners[event] = (listeners[event] ?? []).filter((each) => each !== listener)),
    };
  }

  function load(file) {
    loads[file] ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = new URL(file, here).href;
      script.onload = resolve;
      script.onerror = () => reject(new Error(`${script.src} did not load`));
      document.head.append(script);
    });
    return loads[file];
  }

  async function mount(widget) {
    const name = widget.dataset.widget;
    const own = JSON.parse(widget.querySelector('script[type="application/json"]').textContent);
    await Promise.all([load(`${name}.js`), load(`${name}_data.js`)]);
    const el = document.createElement("div");
    widget.append(el);
    window.labWidgets[name].render({ model: pageModel({ ...window.labWidgetStates[name], ...own }), el });
    widget.querySelector(".lab-widget-still").remove();
    widget.classList.add("is-live");
  }

  function start() {
    const nearby = new IntersectionObserver(
      (entries) => {
        for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
          nearby.unobserve(target);
          mount(target).catch((error) => console.error(error)); // what stands in its place stays
        }
      },
      { rootMargin: "300px" },
    );
    for (const widget of document.querySelectorAll(".lab-widget")) nearby.observe(widget);
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
