// On paper nothing can be opened: hints, answers and solutions are printed open, and closed again afterwards.
(() => {
  "use strict";
  let opened = [];

  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("article details:not([open])")];
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });
})();
