// What the stage selector works out from the table of table.py: it adds up and compares, nothing more.
// Put before run_panel.js and selector.js by widget.py; tests compare the whole grid with `plan`.

// The place of a choice in the table's lists.
function place(table, choice, axis) {
  return table.axes[axis].indexOf(choice[axis]);
}

function strategyNumber(table, choice) {
  return table.strategies.findIndex((strategy) => Object.keys(strategy).every((axis) => strategy[axis] === choice[axis]));
}

// "" where DeepSpeed combines the choice's stage and offload, else the sentence that says why it does not.
function refusalOf(table, choice) {
  return table.refusals[[choice.stage, choice.offload_optimizer, choice.offload_param].join("|")];
}

function sum(numbers) {
  return numbers.reduce((total, number) => total + number, 0);
}

// Everything shown of a choice that DeepSpeed combines, in bytes: lists by table.roles.
function lookUp(table, choice) {
  const model = table.models[choice.model];
  const strategy = strategyNumber(table, choice);
  const cell = model.cells[choice.precision][strategy][place(table, choice, "world_size")];
  const [atRest, phases] = cell.memory[choice.accumulation > 1 ? 1 : 0];
  const activations =
    model.activations[choice.precision][place(table, choice, "checkpointing")][place(table, choice, "micro_batch_size")];
  let peak = null;
  for (const [phase, moment, extra] of phases) {
    const roles = atRest[0].map((bytes, role) => bytes + extra[role]);
    if (moment) roles[table.roles.indexOf("activations")] += activations[table.moments.indexOf(moment)];
    if (!peak || sum(roles) > sum(peak.roles)) peak = { phase, roles };
  }
  const capacity = table.cards[choice.card].memory_bytes;
  const peakBytes = sum(peak.roles);
  const accumulation = place(table, choice, "accumulation");
  const sent = cell.sent[place(table, choice, "checkpointing")][accumulation];
  return {
    atRest: atRest[0],
    peak: peak.roles,
    peakPhase: peak.phase,
    peakBytes,
    hostBytes: sum(atRest[1]),
    nvmeBytes: sum(atRest[2]),
    capacity,
    fits: peakBytes + table.allowance_bytes <= capacity,
    sentBytes: sent,
    timesDdp: cell.ddp ? sent / cell.ddp : 0,
    copiedBytes: cell.trips[accumulation] * cell.share,
    largest: table.roles[peak.roles.indexOf(Math.max(...peak.roles))],
  };
}

// Every strategy for the choice's other values, the cheapest first.
function ladder(table, choice) {
  return table.strategies.map((strategy) => {
    const other = { ...choice, ...strategy };
    return { choice: other, facts: lookUp(table, other) };
  });
}

// The next thing to try, {choice, facts}: the cheapest that fits with the same samples and GPUs, then with one sample
// per micro-batch, then on more GPUs; null where none does. To compute activations again comes before offload, and
// what goes to the host before what goes to NVMe.
function nextToTry(table, choice) {
  const changes = [
    {},
    { micro_batch_size: 1 },
    ...table.axes.world_size
      .filter((ranks) => ranks > choice.world_size)
      .map((world_size) => ({ micro_batch_size: 1, world_size })),
  ];
  for (const change of changes) {
    for (const distance of [0, 1, 2]) {
      for (const checkpointing of [false, true]) {
        const found = ladder(table, { ...choice, ...change, checkpointing }).find(
          ({ facts }, number) => facts.fits && table.farthest[number] === distance,
        );
        if (found) return found;
      }
    }
  }
  return null;
}

function notesFor(table, choice) {
  const holds = ({ when }) => Object.entries(when).every(([axis, values]) => values.includes(choice[axis]));
  return table.notes.filter(holds).map(({ text }) => text);
}

function configOf(table, choice) {
  const config = table.models[choice.model].configs[choice.precision][strategyNumber(table, choice)];
  return {
    ...config,
    train_micro_batch_size_per_gpu: choice.micro_batch_size,
    gradient_accumulation_steps: choice.accumulation,
  };
}

// The config as JSON's own lines, each with the path of what it says, so that two configs can be compared.
function configLines(value, path = "", indent = "", comma = "", name = "") {
  const key = name ? `${JSON.stringify(name)}: ` : "";
  if (typeof value !== "object" || value === null) {
    return [{ path, text: `${indent}${key}${JSON.stringify(value)}${comma}`, value }];
  }
  const entries = Object.entries(value);
  const inner = entries.flatMap(([child, content], number) =>
    configLines(content, `${path}.${child}`, `${indent}  `, number < entries.length - 1 ? "," : "", child),
  );
  return [
    { path, text: `${indent}${key}{`, value: "{" },
    ...inner,
    { path: `${path}}`, text: `${indent}}${comma}`, value: "}" },
  ];
}

// The lines of `config`, those marked that `before` has not; and the paths that only `before` has.
function comparedLines(config, before) {
  const [lines, old] = [configLines(config), configLines(before)];
  const known = new Map(old.map(({ path, value }) => [path, value]));
  const paths = new Set(lines.map(({ path }) => path));
  return {
    lines: lines.map((line) => ({ ...line, changed: known.get(line.path) !== line.value })),
    removed: old.filter(({ path }) => !paths.has(path) && !path.endsWith("}")).map(({ path }) => path.slice(1)),
  };
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
