// HTML elements, the bars of roles, and numbers in words: what every part of the selector is drawn with.

// An HTML element; attributes that are functions are listeners, children are elements or text.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function drawing(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// One bar of stacked roles. roles: [[role, bytes]]; kind: "predicted", which is hatched, or "measured".
function roleBar(label, roles, full, kind) {
  const total = sum(roles.map(([, bytes]) => bytes));
  const parts = roles
    .filter(([, bytes]) => bytes > 0)
    .map(([role, bytes]) =>
      element("span", {
        class: `role role-${role.replaceAll(" ", "-")} ${kind}`,
        style: `width: ${(100 * bytes) / full}%`,
        title: `${role}: ${inBytes(bytes)}, ${kind}`,
      }),
    );
  return element(
    "div",
    { class: "role-bar" },
    element("span", { class: "bar-label" }, label),
    element("span", { class: "bar-track", "aria-hidden": "true" }, ...parts),
    element("span", { class: "bar-total", "data-bytes": total }, inBytes(total)),
  );
}

// The roles that any of the bars has, each with its colours, in words.
function roleKey(roles, kinds) {
  return element(
    "ul",
    { class: "role-key" },
    ...roles.map((role) =>
      element(
        "li",
        {},
        ...kinds.map((kind) => element("span", { class: `swatch role-${role.replaceAll(" ", "-")} ${kind}` })),
        role,
      ),
    ),
  );
}

// Bytes in words, binary units with three digits, as cards are sold: 24 GiB.
function inBytes(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let [value, unit] = [bytes, 0];
  while (value >= 999.5 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${units[unit]}`;
}

function strategyInWords({ stage, offload_optimizer, offload_param }) {
  const where = { cpu: "on the host", nvme: "on NVMe" };
  const parts = [];
  if (offload_optimizer !== "none" && offload_optimizer === offload_param) {
    parts.push(`optimizer and parameters ${where[offload_param]}`);
  } else {
    if (offload_optimizer !== "none") parts.push(`optimizer ${where[offload_optimizer]}`);
    if (offload_param !== "none") parts.push(`parameters ${where[offload_param]}`);
  }
  return [`stage ${stage}`, ...parts].join(", ");
}

// Bytes in units of 1e9, as hosts' memory is sold: 64 GB.
function inGigabytes(bytes) {
  const value = bytes / 1e9;
  if (Number.isInteger(value)) return `${NUMBERS.format(value)} GB`;
  return value >= 99.5 ? `${NUMBERS.format(Math.round(value))} GB` : `${value.toFixed(value >= 9.95 ? 1 : 2)} GB`;
}

function parametersInWords(parameters) {
  if (parameters >= 999.95e9) return `${(parameters / 1e12).toFixed(2)} trillion parameters`;
  if (parameters >= 999.95e6) return `${(parameters / 1e9).toFixed(parameters >= 99.95e9 ? 0 : 1)} billion parameters`;
  if (parameters >= 999.5e3) return `${(parameters / 1e6).toFixed(1)} million parameters`;
  return `${parameters >= 1000 ? `${Math.round(parameters / 1e3)} thousand` : parameters} parameters`;
}

function modelInWords(choice) {
  if (choice.model === "parameters") return `a model of ${parametersInWords(choice.parameters)}`;
  return choice.model === "own" ? `your ${choice.config_json.model_type}` : choice.model;
}

function counted(number, one, several = `${one}s`) {
  return `${NUMBERS.format(number)} ${number === 1 ? one : several}`;
}

// A strategy and whether layers are computed again, as the rows of a ladder say it.
function wayInWords(choice) {
  return strategyInWords(choice) + (choice.checkpointing ? ", checkpointing" : "");
}
