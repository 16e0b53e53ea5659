// The stage selector: choose, and see at once the config, the bytes per rank, the bytes sent, and whether it fits.
// The last of the files that widget.py joins into one module, for anywidget and for the book's pages.

const CONTROLS = [
  { axis: "model", label: "Model", words: (name, table) => `${name}, ${parametersInWords(table.models[name])}` },
  { axis: "card", label: "Each GPU", words: (name, table) => `${name}, ${inBytes(table.cards[name].memory_bytes)}` },
  { axis: "world_size", label: "GPUs, one rank each" },
  { axis: "micro_batch_size", label: "Samples per micro-batch" },
  { axis: "accumulation", label: "Micro-batches per step" },
  { axis: "stage", label: "ZeRO stage", radio: true },
  { axis: "precision", label: "Precision", radio: true },
  { axis: "offload_optimizer", label: "Optimizer states live on", radio: true, words: (where) => PLACE_WORDS[where] },
  { axis: "offload_param", label: "Parameters live on", radio: true, words: (where) => PLACE_WORDS[where] },
  { axis: "checkpointing", label: "Activation checkpointing", radio: true, words: (on) => (on ? "on" : "off") },
];
const PLACE_WORDS = { none: "the GPU", cpu: "the host", nvme: "NVMe" };
let selectors = 0; // several on one page need names of their own

function parametersInWords({ parameters }) {
  if (parameters >= 1e9) return `${(parameters / 1e9).toFixed(1)} billion parameters`;
  if (parameters >= 1e6) return `${(parameters / 1e6).toFixed(1)} million parameters`;
  return `${Math.round(parameters / 1e3)} thousand parameters`;
}

// One control: a <select>, or a row of radio buttons in which a refused value stays reachable and says why.
function control({ axis, label, radio, words = String }, table, choose, name) {
  const values = table.axes[axis];
  if (!radio) {
    const options = values.map((value, number) => element("option", { value: number }, words(value, table)));
    const select = element("select", { change: () => choose({ [axis]: values[select.value] }) }, ...options);
    select.dataset.axis = axis;
    const show = (choice) => (select.value = values.indexOf(choice[axis]));
    return { root: element("label", { class: "control" }, element("span", {}, label), select), show };
  }
  const inputs = values.map((value) =>
    element("input", { type: "radio", name: `${name}-${axis}`, change: () => choose({ [axis]: value }) }),
  );
  const buttons = inputs.map((input, number) =>
    element("label", { class: "segment" }, input, element("span", {}, words(values[number], table))),
  );
  const root = element("fieldset", { class: "control" }, element("legend", {}, label), ...buttons);
  root.dataset.axis = axis;
  function show(choice) {
    inputs.forEach((input, number) => {
      const why = refusalOf(table, { ...choice, [axis]: values[number] });
      input.checked = choice[axis] === values[number];
      input.setAttribute("aria-disabled", Boolean(why));
      buttons[number].title = why;
    });
  }
  return { root, show };
}

// The bytes per rank: bars against the card's capacity, and the same numbers as a table.
function memoryPart(table) {
  const root = element("section", { class: "memory" });
  function draw(choice, facts) {
    const pairs = (bytes) => table.roles.map((role, number) => [role, bytes[number]]);
    const close = facts.capacity < 20 * facts.peakBytes;
    const full = close ? Math.max(facts.capacity, facts.peakBytes) : facts.peakBytes;
    const bars = element(
      "div",
      { class: "bars" },
      roleBar("GPU, at rest", pairs(facts.atRest), full, "predicted"),
      roleBar(`GPU, at the peak (${facts.peakPhase})`, pairs(facts.peak), full, "predicted"),
    );
    if (close) {
      const line = element("span", { class: "capacity", style: `left: ${(100 * facts.capacity) / full}%` });
      bars.querySelectorAll(".bar-track").forEach((track) => track.append(line.cloneNode()));
    }
    const capacity = close
      ? `The line is what one ${choice.card} holds: ${inBytes(facts.capacity)}.`
      : `One ${choice.card} holds ${inBytes(facts.capacity)}, ${Math.round(facts.capacity / facts.peakBytes)} times as much.`;
    const elsewhere = [
      facts.hostBytes ? `in the host's memory ${inBytes(facts.hostBytes)}` : "",
      facts.nvmeBytes ? `on NVMe ${inBytes(facts.nvmeBytes)}` : "",
    ].filter(Boolean);
    const roles = table.roles.filter((_, number) => facts.atRest[number] || facts.peak[number]);
    root.replaceChildren(
      element("h3", {}, "Memory of one rank, predicted"),
      bars,
      element("p", { class: "quiet" }, capacity),
      element("p", { class: "elsewhere" }, elsewhere.length ? `Each rank also holds ${elsewhere.join(" and ")}.` : ""),
      element("details", { open: true }, element("summary", {}, "The bytes by role"), roleTable(table, roles, facts)),
      roleKey(roles, ["predicted"]),
    );
  }
  return { root, draw };
}

function roleTable(table, roles, facts) {
  const row = (name, ...bytes) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, name),
      ...bytes.map((count) => element("td", { "data-bytes": count }, inBytes(count))),
    );
  return element(
    "table",
    { class: "role-table" },
    element("thead", {}, element("tr", {}, ...["", "at rest", "at the peak"].map((text) => element("th", {}, text)))),
    element(
      "tbody",
      {},
      ...roles.map((role) => row(role, facts.atRest[table.roles.indexOf(role)], facts.peak[table.roles.indexOf(role)])),
    ),
  );
}

// What a step sends, against plain data parallelism, and what it copies to and from the host.
function sentPart() {
  const root = element("section", { class: "sent" });
  function draw(choice, facts) {
    const words = facts.sentBytes
      ? `${facts.timesDdp.toFixed(2)} times what plain data parallelism sends: ${inBytes(facts.sentBytes)} from each rank.`
      : "One rank sends nothing.";
    const width = Math.min(100, (100 * facts.timesDdp) / 4);
    root.replaceChildren(
      element("h3", {}, "Communication of one step, predicted"),
      element(
        "div",
        { class: "bar-track ddp", "aria-hidden": "true" },
        element("span", { class: "role predicted role-communication-buckets", style: `width: ${width}%` }),
        element("span", { class: "capacity", style: "left: 25%" }),
      ),
      element("p", { class: "sent-words", "data-bytes": facts.sentBytes, "data-times-ddp": facts.timesDdp }, words),
      element(
        "p",
        { class: "copied-words", "data-bytes": facts.copiedBytes },
        facts.copiedBytes ? `Between each GPU and its host go at least ${inBytes(facts.copiedBytes)} more.` : "",
      ),
    );
  }
  return { root, draw };
}

// Every strategy for the same model, ranks and card, the cheapest first. The rows stay, so that the focus does.
function ladderPart(table, choose) {
  const caption = element("caption");
  const rows = table.strategies.map((strategy) => {
    const name = element("button", { type: "button", click: () => choose(strategy) }, strategyInWords(strategy));
    const cells = ["peak", "fits", "largest", "sends", "copies"].map((kind) => element("td", { class: kind }));
    return { row: element("tr", {}, element("th", { scope: "row" }, name), ...cells), cells };
  });
  const head = ["Strategy", "Peak of a rank", "Fits", "Largest part", "Sends, times DDP", "To and from the host, at least"];
  const root = element(
    "section",
    { class: "ladder" },
    element("h3", {}, "Every strategy, the cheapest first"),
    element(
      "div",
      { class: "table-scroll", tabindex: "0", role: "region", "aria-label": "Every strategy" },
      element(
        "table",
        {},
        caption,
        element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, text)))),
        element("tbody", {}, ...rows.map(({ row }) => row)),
      ),
    ),
    element(
      "p",
      { class: "quiet" },
      "Cheap is what leaves data on the GPU: the host's link is slower than the GPU's memory, and a drive slower still. " +
        "Of two alike, the lower stage sends fewer and larger messages. Choose a row to see it above.",
    ),
  );
  function draw(choice) {
    caption.textContent =
      `${choice.model} on ${choice.world_size} x ${choice.card}, ${choice.precision}, micro-batch ` +
      `${choice.micro_batch_size}, checkpointing ${choice.checkpointing ? "on" : "off"}`;
    const current = strategyNumber(table, choice);
    ladder(table, choice).forEach(({ facts }, number) => {
      const { row, cells } = rows[number];
      row.classList.toggle("fits", facts.fits);
      row.setAttribute("aria-current", number === current);
      cells[0].dataset.bytes = facts.peakBytes;
      cells[0].textContent = inBytes(facts.peakBytes);
      cells[1].textContent = facts.fits ? "✓ yes" : "✗ no";
      cells[2].textContent = facts.largest;
      cells[3].textContent = facts.sentBytes ? facts.timesDdp.toFixed(2) : "0";
      cells[4].textContent = facts.copiedBytes ? inBytes(facts.copiedBytes) : "0";
    });
  }
  return { root, draw };
}

// What the config doctor says of the config, where a kernel can ask it; elsewhere the command that asks it.
function doctorPart(model) {
  const root = element("section", { class: "doctor" });
  const draw = () => {
    const { world_size, card } = model.get("choice");
    const command = `python -m labsupport.doctor ds_config.json --world-size ${world_size} --gpu "${card}"`;
    const found = model.get("findings") ?? [];
    const list = element("ul", {}, ...found.map((text) => element("li", {}, text)));
    const words = found.length ? "The config doctor says of it:" : "The config doctor has nothing to say of it.";
    const asked = element("p", {}, "What DeepSpeed will make of the file, whatever you change in it: ", element("code", {}, command));
    root.replaceChildren(...(model.get("live") ? [element("p", {}, words), list] : []), asked);
  };
  model.on("change:findings", draw);
  return { root, draw };
}

// The exact ds_config, with the lines that the last choice changed.
function configPart(table) {
  let [before, text] = [null, ""];
  const code = element("code");
  const block = element("pre", { tabindex: "0", "aria-label": "ds_config.json" }, code);
  const said = element("p", { class: "quiet", role: "status" });
  const copy = element("button", { type: "button", class: "copy", click: copyText }, "Copy");
  const download = element("button", { type: "button", class: "download", click: downloadText }, "Download ds_config.json");
  const buttons = element("div", { class: "run-controls" }, copy, download);
  const root = element("section", { class: "config" }, element("h3", {}, "The config"), buttons, said, block);

  async function copyText() {
    try {
      await navigator.clipboard.writeText(text); // only where the page came over https or from this machine
      said.textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(code);
      said.textContent = document.execCommand("copy") ? "Copied." : "Selected: copy it with the keyboard.";
    }
  }

  function downloadText() {
    const address = URL.createObjectURL(new Blob([`${text}\n`], { type: "application/json" }));
    element("a", { href: address, download: "ds_config.json" }).click();
    URL.revokeObjectURL(address);
  }

  function draw(choice) {
    const config = configOf(table, choice);
    const { lines, removed } = comparedLines(config, before ?? config);
    const changed = lines.filter((line) => line.changed).length;
    before = config;
    text = lines.map((line) => line.text).join("\n");
    code.replaceChildren(...lines.map((line) => element(line.changed ? "mark" : "span", {}, `${line.text}\n`)));
    said.textContent = [
      changed ? `The last choice changed the ${changed === 1 ? "marked line" : `${changed} marked lines`}.` : "",
      removed.length ? `It removed ${removed.join(", ")}.` : "",
    ].join(" ");
  }
  return { root, draw };
}

// Whether it fits, and the next thing to try.
function verdictPart(table, choose) {
  const words = element("p", { class: "verdict-words", tabindex: "-1" });
  const next = element("span");
  const tryIt = element("button", { type: "button", class: "try" }, "Choose it");
  const root = element("section", { class: "verdict", role: "status" }, words, element("p", {}, next, " ", tryIt));
  let offered = null;
  tryIt.addEventListener("click", () => {
    choose(offered);
    words.focus(); // the button is gone, and the keyboard goes on from what it changed
  });
  function draw(choice, facts) {
    const refused = choice.precision === "bf16" && table.cards[choice.card].precision !== "bf16";
    root.classList.toggle("fits", facts.fits && !refused);
    words.replaceChildren(
      element("strong", {}, facts.fits ? "Fits." : "Does not fit."),
      refused ? ` But a ${choice.card} computes no bf16: choose fp16.` : "",
      ` At the peak a rank needs ${inBytes(facts.peakBytes)}, the largest part for ${facts.largest}, and CUDA and NCCL ` +
        `about ${inBytes(table.allowance_bytes)} more. One ${choice.card} has ${inBytes(facts.capacity)}.`,
    );
    const found = nextToTry(table, choice);
    offered = found && !sameRun(found.choice, choice) ? found.choice : null;
    tryIt.hidden = !offered;
    next.textContent = adviceInWords(choice, facts, found, offered);
  }
  return { root, draw };
}

const CHECKPOINTING_WORDS = { true: "activation checkpointing on", false: "activation checkpointing off" };

function adviceInWords(choice, facts, found, offered) {
  if (!found) return "Nothing here fits, not on 64 of these cards: choose a card with more memory.";
  if (!offered) return "Nothing cheaper fits.";
  const changes = [
    found.choice.checkpointing !== choice.checkpointing ? CHECKPOINTING_WORDS[found.choice.checkpointing] : "",
    found.choice.micro_batch_size !== choice.micro_batch_size ? "one sample per micro-batch" : "",
    found.choice.world_size !== choice.world_size ? `${found.choice.world_size} GPUs` : "",
  ].filter(Boolean);
  const what = [strategyInWords(found.choice), ...changes].join(", ");
  return `${facts.fits ? "Cheaper, and fits too" : "The cheapest that fits"}: ${what}, ${inBytes(found.facts.peakBytes)}.`;
}

function notesPart(table) {
  const root = element("ul", { class: "notes", "aria-label": "What to know about this choice" });
  return {
    root,
    draw: (choice) => root.replaceChildren(...notesFor(table, choice).map((text) => element("li", {}, text))),
  };
}

function render({ model, el }) {
  const table = model.get("table");
  const name = `stage-selector-${(selectors += 1)}`;
  const refusal = element("p", { class: "refusal", role: "status" });
  const choose = (change) => {
    const wanted = { ...model.get("choice"), ...change };
    refusal.textContent = refusalOf(table, wanted);
    if (refusal.textContent) return controls.forEach(({ show }) => show(model.get("choice")));
    model.set("choice", wanted);
    model.save_changes();
  };
  const controls = CONTROLS.map((each) => control(each, table, choose, name));
  const run = model.get("live") ? livePanel(model, table) : recordedPanel(model, table);
  const parts = {
    verdict: verdictPart(table, choose),
    memory: memoryPart(table),
    sent: sentPart(),
    notes: notesPart(table),
    ladder: ladderPart(table, choose),
    config: configPart(table),
    doctor: doctorPart(model),
    run,
  };
  const draw = () => {
    const choice = model.get("choice");
    const facts = lookUp(table, choice);
    controls.forEach(({ show }) => show(choice));
    Object.values(parts).forEach((part) => part.draw(choice, facts));
  };
  el.replaceChildren(
    element(
      "div",
      { class: "stage-selector", role: "group", "aria-label": "Stage selector" },
      element("div", { class: "controls" }, ...controls.map(({ root }) => root)),
      refusal,
      parts.verdict.root,
      element("div", { class: "columns" }, parts.memory.root, parts.sent.root),
      parts.notes.root,
      parts.ladder.root,
      parts.config.root,
      parts.doctor.root,
      parts.run.root,
    ),
  );
  model.on("change:choice", draw);
  draw();
  return () => model.off("change:choice", draw);
}

export default { render };
