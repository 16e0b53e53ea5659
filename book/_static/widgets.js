// Mounts the course's widgets on a page that has no kernel. labsupport/widgets.py leaves <div class="lab-widget"> with
// its first state; the module and the rest of the state lie beside this file, and are fetched when the widget is near.

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

function besideThis(file) {
  return new URL(file, import.meta.url).href;
}

async function mount(widget) {
  const name = widget.dataset.widget;
  const own = JSON.parse(widget.querySelector('script[type="application/json"]').textContent);
  const [module, answer] = await Promise.all([import(besideThis(`${name}.js`)), fetch(besideThis(`${name}.json`))]);
  const state = { ...(await answer.json()), ...own };
  const el = document.createElement("div");
  widget.append(el);
  module.default.render({ model: pageModel(state), el });
  widget.querySelector(".lab-widget-still").remove();
  widget.classList.add("is-live");
}

function start() {
  const nearby = new IntersectionObserver(
    (entries) => {
      for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
        nearby.unobserve(target);
        mount(target).catch((error) => console.error(error)); // the table in its place stays
      }
    },
    { rootMargin: "300px" },
  );
  for (const widget of document.querySelectorAll(".lab-widget")) nearby.observe(widget);
}

start(); // a module runs when the page has been read
