// The stage selector: choose, and see at once whether it fits the cards and their hosts, what each holds and sends, what
// else would fit, the config and the commands. The last of the files that widget.py joins into one module.

let selectors = 0; // several on one page need names of their own

const VERDICTS = {
  fits: (outcome) => (outcome.loads ? "Fits." : "Fits, once it is loaded."),
  host: (outcome) => `Fits the GPU, not a host of ${inGigabytes(outcome.hostCapacity)}.`,
  no: () => "Does not fit.",
};

function verdictOf({ onCard, onHost }) {
  return onCard ? (onHost ? "fits" : "host") : "no";
}

// The roles of which most is held at a moment, as words: "activations 20.1 GiB".
function largestRoles(places, count = 1) {
  const roles = Object.entries(places.GPU).sort(([, one], [, other]) => other - one);
  return roles.slice(0, count).map(([role, bytes]) => `${role} ${inBytes(bytes)}`);
}

// Whether it fits, and the next thing to try.
function verdictPart(choose) {
  const words = element("p", { class: "verdict-words", tabindex: "-1" });
  const host = element("p", { class: "verdict-host" });
  const next = element("span");
  const tryIt = element("button", { type: "button", class: "try" }, "Choose it");
  const root = element("section", { class: "verdict", role: "status", "aria-label": "Verdict" }, words, host, element("p", {}, next, " ", tryIt));
  let offered = null;
  tryIt.addEventListener("click", () => {
    choose(offered);
    words.focus(); // the button is gone, and the keyboard goes on from what it changed
  });
  function draw(choice, outcome, { shape }) {
    const verdict = verdictOf(outcome);
    const refused = choice.precision === "bf16" && FACTS.cards[choice.card].precision !== "bf16";
    for (const name of Object.keys(VERDICTS)) root.classList.toggle(name, verdict === name && !refused);
    const { plan } = outcome;
    const uncounted = shape && !shape.family.counted ? " Activations are not counted." : shape ? "" : " Model states and buffers alone.";
    words.replaceChildren(
      element("strong", {}, VERDICTS[verdict](outcome)),
      refused ? ` But a ${choice.card} computes no bf16: choose fp16.` : "",
      ` At the peak a rank needs ${inBytes(plan.peakBytes)}, most of it ${largestRoles(plan.moments.peak).join()}, and CUDA and ` +
        `NCCL about ${inBytes(FACTS.allowance_bytes)} more. One ${choice.card} has ${inBytes(outcome.capacity)}.${uncounted}`,
    );
    host.textContent = hostInWords(choice, outcome);
    const found = nextToTry(choice);
    offered = found && !sameRun(found, choice) ? found : null;
    tryIt.hidden = !offered;
    next.textContent = adviceInWords(choice, outcome, found, offered);
  }
  return { root, draw };
}

function hostInWords(choice, { ranks, hostBytes, loadingBytes, hostCapacity, onHost, loads }) {
  const has = `a node has ${inGigabytes(hostCapacity)}`;
  const room = onHost ? has : `and ${has}: too little`;
  const load = loads
    ? `To load it needs up to ${inGigabytes(loadingBytes)}, where each rank loads the whole model.`
    : `Loading needs up to ${inGigabytes(loadingBytes)} where each rank loads the whole model, and ${has}: ` +
      (choice.stage === 3 ? "build it under zero.Init, which spares that." : "load one rank after the other, or on fewer ranks a node.");
  return `The host of ${counted(ranks, "rank")} needs ${inGigabytes(hostBytes)} when a step peaks, ${room}. ${load}`;
}

function adviceInWords(choice, outcome, found, offered) {
  if (!found) return "Nothing here fits, not on 1,024 of these cards: choose a card or a host with more memory.";
  if (!offered) return "Nothing cheaper fits.";
  const changes = [
    found.micro_batch_size !== choice.micro_batch_size ? "one sample per micro-batch" : "",
    found.world_size !== choice.world_size ? `${found.world_size} GPUs` : "",
    found.grad_accum_dtype !== choice.grad_accum_dtype ? "sums in the precision" : "",
  ].filter(Boolean);
  const checkpointing = choice.checkpointing && !found.checkpointing ? ["no checkpointing"] : [];
  const what = [wayInWords(found), ...checkpointing, ...changes].join(", ");
  return `${outcome.fits ? "Cheaper, and fits too" : "The cheapest that fits"}: ${what}, ${inBytes(outcomeOf(found).plan.peakBytes)} a GPU.`;
}

// The verdict in one line, in sight as long as the controls are. Whoever listens hears the verdict itself.
function briefPart() {
  const root = element("div", { class: "brief", "aria-hidden": "true" });
  function draw(choice, outcome) {
    const verdict = verdictOf(outcome);
    root.classList.toggle("fits", verdict === "fits");
    const { plan, hostBytes } = outcome;
    root.replaceChildren(
      element("strong", {}, VERDICTS[verdict](outcome)),
      ` ${inBytes(plan.peakBytes)} of a GPU's ${inBytes(outcome.capacity)}, ${inGigabytes(hostBytes)} of the host's ${inGigabytes(outcome.hostCapacity)}.`,
    );
  }
  return { root, draw };
}

// The bytes of one rank and of a node's host, as bars against what there is, and the same numbers as a table.
function memoryPart() {
  const root = element("section", { class: "memory" });
  function draw(choice, outcome) {
    const { plan, capacity } = outcome;
    const [rest, peak] = [plan.moments["at rest"].GPU, plan.moments.peak.GPU];
    const pairs = (held) => FACTS.roles.map((role) => [role, held[role] ?? 0]);
    const close = capacity < 20 * plan.peakBytes;
    const full = close ? Math.max(capacity, plan.peakBytes) : plan.peakBytes;
    const card = element(
      "div",
      { class: "bars" },
      roleBar("GPU, at rest", pairs(rest), full, "predicted"),
      roleBar(`GPU, at the peak (${plan.peakPhase})`, pairs(peak), full, "predicted"),
    );
    if (close) addLine(card, capacity / full);
    const held = close
      ? `The line is what one ${choice.card} holds: ${inBytes(capacity)}.`
      : `One ${choice.card} holds ${inBytes(capacity)}, ${Math.round(capacity / plan.peakBytes)} times as much.`;
    const roles = FACTS.roles.filter((role) => rest[role] || peak[role]);
    const nvme = plan.nvmeBytes ? `Each rank also keeps ${inGigabytes(plan.nvmeBytes)} on its drive.` : "";
    root.replaceChildren(
      element("h3", {}, "Memory, predicted"),
      card,
      element("p", { class: "quiet" }, held),
      ...hostBars(outcome),
      element("p", { class: "elsewhere" }, nvme),
      roleKey(FACTS.roles.filter((role) => rest[role] || peak[role] || onHostOf(plan)[role]), ["predicted"]),
      element("details", { class: "roles" }, element("summary", {}, "The GPU's bytes by role"), roleTable(roles, rest, peak)),
    );
  }
  return { root, draw };
}

function addLine(bars, share) {
  const line = element("span", { class: "capacity", style: `left: ${100 * share}%` });
  bars.querySelectorAll(".bar-track").forEach((track) => track.append(line.cloneNode()));
}

// {role: bytes} that one rank has in the host's memory when a step peaks.
function onHostOf(plan) {
  const held = {};
  for (const place of ["host", "pinned host"]) {
    for (const [role, bytes] of Object.entries(plan.moments.peak[place] ?? {})) held[role] = (held[role] ?? 0) + bytes;
  }
  return held;
}

function hostBars({ plan, ranks, hostBytes, hostCapacity }) {
  if (!plan.hostBytes) return [];
  const held = onHostOf(plan);
  const full = Math.max(hostBytes, hostCapacity);
  const bars = element(
    "div",
    { class: "bars host" },
    roleBar(`Host of ${counted(ranks, "rank")}, at the peak`, FACTS.roles.map((role) => [role, ranks * (held[role] ?? 0)]), full, "predicted"),
  );
  addLine(bars, hostCapacity / full);
  const libraries = `The line is the host's ${inGigabytes(hostCapacity)}. Each rank's libraries take some ${inBytes(FACTS.rank_bytes)} more, an allowance.`;
  return [bars, element("p", { class: "quiet" }, libraries)];
}

function roleTable(roles, rest, peak) {
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
    element("thead", {}, element("tr", {}, ...["role", "at rest", "at the peak"].map((text) => element("th", { scope: "col" }, text)))),
    element("tbody", {}, ...roles.map((role) => row(role, rest[role] ?? 0, peak[role] ?? 0))),
  );
}

// What a step sends, against plain data parallelism, and what it copies to and from the host.
function sentPart() {
  const root = element("section", { class: "sent" });
  function draw(choice, { plan }, model, messages) {
    const words = messages.sentBytes
      ? `${messages.timesDdp.toFixed(2)} times what plain data parallelism sends: ${inBytes(messages.sentBytes)} from each rank.`
      : "One rank sends nothing.";
    const width = Math.min(100, (100 * messages.timesDdp) / 4);
    root.replaceChildren(
      element("h3", {}, "Communication of one step, predicted"),
      element(
        "div",
        { class: "bar-track ddp", "aria-hidden": "true" },
        element("span", { class: "role predicted role-communication-buckets", style: `width: ${width}%` }),
        element("span", { class: "capacity", style: "left: 25%" }),
      ),
      element("p", { class: "sent-words", "data-bytes": messages.sentBytes, "data-times-ddp": messages.timesDdp }, words),
      element(
        "p",
        { class: "copied-words", "data-bytes": plan.copiedBytes },
        plan.copiedBytes ? `Between each GPU and its host go at least ${inBytes(plan.copiedBytes)} more.` : "",
      ),
    );
  }
  return { root, draw };
}

const MARKS = { fits: "✓ yes", host: "host too small", no: "✗ no" };

// Every way to train the same model on the same cards, the cheapest first. The rows stay, so that the focus does.
function ladderPart(choose, current) {
  const caption = element("caption");
  const rows = WAYS.map((way) => {
    const name = element("button", { type: "button", click: () => choose(inAnotherWay(current(), way)) }, wayInWords(way));
    const cells = ["fits", "peak", "largest", "host", "sends", "copies"].map((kind) => element("td", { class: kind }));
    return { row: element("tr", {}, element("th", { scope: "row" }, name), ...cells), cells };
  });
  const all = element("button", { type: "button", class: "all", "aria-expanded": "false", click: toggle });
  const head = ["Way to train", "Fits", "Peak of a GPU", "Largest part of it", "Host of a node", "Sends, times DDP", "To and from the host, at least"];
  const root = element(
    "section",
    { class: "ladder" },
    element("h3", {}, "Every way to train it, the cheapest first"),
    element(
      "div",
      { class: "table-scroll", tabindex: "0", role: "region", "aria-label": "Every way to train it" },
      element(
        "table",
        {},
        caption,
        element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, text)))),
        element("tbody", {}, ...rows.map(({ row }) => row)),
      ),
    ),
    element("div", { class: "run-controls" }, all),
    element(
      "p",
      { class: "quiet" },
      "Cheap is what leaves data on the GPU: computing layers again (checkpointing) comes before the host, whose link is slower, " +
        "and a drive is slower still. Of two alike the lower stage stands first, even where it sends more bytes: it sends fewer " +
        "and larger messages. It is an order of what has to move, not of measured speed. Choose a row to see it above.",
    ),
  );
  let open = false;
  function toggle() {
    open = !open;
    fold(Number(all.dataset.first));
  }
  // Where something fits without NVMe, the rows with NVMe fold away.
  function fold(first) {
    all.dataset.first = first;
    rows.forEach(({ row }, number) => (row.hidden = !open && number >= first && row.getAttribute("aria-current") !== "true"));
    all.hidden = first >= rows.length;
    all.textContent = open ? "Hide those with NVMe" : `Show the ${rows.length - first} with NVMe as well`;
    all.setAttribute("aria-expanded", open);
  }
  function draw(choice) {
    caption.textContent =
      `${modelInWords(choice)} on ${choice.world_size} x ${choice.card}, ${choice.precision}, ` +
      `${counted(choice.micro_batch_size, "sample")} per micro-batch`;
    const found = ladder(choice);
    found.forEach(({ choice: other, outcome }, number) => {
      const { row, cells } = rows[number];
      const verdict = verdictOf(outcome);
      const { timesDdp } = outcome.plan.messages();
      row.className = verdict;
      row.setAttribute("aria-current", sameRun(other, choice));
      cells[0].textContent = MARKS[verdict];
      cells[1].dataset.bytes = outcome.plan.peakBytes;
      cells[1].textContent = inBytes(outcome.plan.peakBytes);
      cells[2].textContent = largestRoles(outcome.plan.moments.peak).join();
      cells[3].dataset.bytes = outcome.hostBytes;
      cells[3].textContent = inGigabytes(outcome.hostBytes);
      cells[4].textContent = choice.world_size > 1 ? timesDdp.toFixed(2) : "0";
      cells[5].textContent = outcome.plan.copiedBytes ? inBytes(outcome.plan.copiedBytes) : "0";
    });
    const onNvme = found.findIndex(({ distance }) => distance === 2);
    const needed = !found.slice(0, onNvme).some(({ outcome }) => outcome.fits) && found.some(({ outcome }) => outcome.fits);
    fold(needed ? rows.length : onNvme);
  }
  return { root, draw };
}

// The largest model on these cards and the fewest cards for this model. They take a while, so they follow when the
// choice has stood still.
function limitsPart(choose) {
  const rows = limitQuestions(FACTS.default).map(({ words }) => ({
    words,
    largest: element("td", { class: "largest-model" }),
    fewest: element("td", { class: "fewest-cards" }),
  }));
  const body = rows.map(({ words, largest, fewest }) => element("tr", {}, element("th", { scope: "row" }, words), largest, fewest));
  const head = [element("th", { scope: "col" }, "Way to train"), element("th", { scope: "col" }), element("th", { scope: "col" })];
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
  const said = element("p", { class: "quiet", role: "status" });
  const root = element(
    "section",
    { class: "limits" },
    element("h3", {}, "How far these machines go"),
    element("div", { class: "table-scroll", tabindex: "0", role: "region", "aria-label": "How far these machines go" }, table),
    said,
  );
  let waiting = null;

  function draw(choice, outcome, { shape }) {
    clearTimeout(waiting);
    const on = `on ${choice.world_size} x ${choice.card}`;
    head[1].textContent = shape ? `The largest of this shape, with more or fewer layers, ${on}` : `The largest, ${on}`;
    head[2].textContent = "The fewest cards for this model";
    said.textContent = "Looking ...";
    const work = limitQuestions(choice).flatMap(({ ways }, number) => [{ number }, ...ways.map((way) => ({ number, way }))]);
    const best = rows.map(() => ({ largest: null, fewest: null }));
    const step = () => {
      const started = performance.now();
      while (work.length && performance.now() - started < 12) {
        const { number, way } = work.shift();
        if (way) better(best[number], way);
        else if (number) show(number - 1, best[number - 1]);
      }
      if (work.length) waiting = setTimeout(step);
      else {
        show(rows.length - 1, best.at(-1));
        said.textContent = `With the samples, the precision and the host of ${inGigabytes(choice.host_memory * 1e9)} that are chosen above.`;
      }
    };
    waiting = setTimeout(step, 150);
  }

  function better(best, way) {
    const [largest, fewest] = [largestModel(way), fewestCards(way)];
    if (largest && !(best.largest?.parameters >= largest.parameters)) best.largest = { ...largest, way };
    if (fewest && !(best.fewest?.world_size <= fewest.world_size)) best.fewest = fewest;
  }

  function show(number, { largest, fewest }) {
    const offer = (cell, words, found) =>
      cell.replaceChildren(element("button", { type: "button", click: () => choose(found) }, words), number ? ` ${wayInWords(found)}` : "");
    if (largest) {
      const layers = largest.layers ? ` (${largest.layers} layers${largest.most ? " or more" : ""})` : "";
      offer(rows[number].largest, parametersInWords(largest.parameters) + layers, largest.choice);
      rows[number].largest.dataset.parameters = largest.parameters;
    } else rows[number].largest.replaceChildren("none fits");
    if (fewest) offer(rows[number].fewest, counted(fewest.world_size, "card"), fewest);
    else rows[number].fewest.replaceChildren("no number of them");
  }
  return { root, draw };
}

// Two choices side by side: one is pinned, the other goes on changing.
function comparePart(choose, pins) {
  const root = element("section", { class: "compare" });
  const pin = element("button", { type: "button", click: () => pins.set(pins.current()) }, "Pin this choice");
  const back = element("button", { type: "button", click: () => choose(pins.get()) }, "Go back to the pinned one");
  const unpin = element("button", { type: "button", click: () => { pins.set(null); pin.focus(); } }, "Unpin it");
  const controls = element("div", { class: "run-controls" }, pin, back, unpin);
  const hint = element("p", { class: "quiet" }, "Pin a choice, change something above, and see both side by side.");
  const place = element("div", { class: "table-scroll", tabindex: "0", role: "region", "aria-label": "Two choices side by side" });
  root.append(element("h3", {}, "Two choices side by side"), controls, hint, place);

  function draw(choice) {
    const pinned = pins.get();
    back.hidden = unpin.hidden = place.hidden = !pinned;
    hint.hidden = Boolean(pinned);
    pin.textContent = pinned ? "Pin this one in its place" : "Pin this choice";
    if (pinned) place.replaceChildren(comparison(pinned, choice));
  }
  return { root, draw };
}

function comparison(pinned, choice) {
  const both = [pinned, choice].map((each) => ({ each, outcome: outcomeOf(each), messages: outcomeOf(each).plan.messages() }));
  const differs = Object.keys(choice).filter((name) => JSON.stringify(choice[name]) !== JSON.stringify(pinned[name]));
  const rows = [
    ...differs.map((name) => [name.replaceAll("_", " "), ({ each }) => valueInWords(name, each)]),
    ["verdict", ({ outcome }) => VERDICTS[verdictOf(outcome)](outcome)],
    ["peak of a GPU", ({ outcome }) => inBytes(outcome.plan.peakBytes)],
    ["at rest on a GPU", ({ outcome }) => inBytes(outcome.plan.restingBytes)],
    ["largest part at the peak", ({ outcome }) => largestRoles(outcome.plan.moments.peak).join()],
    ["host of a node, at the peak", ({ outcome }) => inGigabytes(outcome.hostBytes)],
    ["a rank sends in a step", ({ messages }) => inBytes(messages.sentBytes)],
    ["to and from the host, at least", ({ outcome }) => inBytes(outcome.plan.copiedBytes)],
  ];
  const head = ["", "pinned", "this one"].map((text) => (text ? element("th", { scope: "col" }, text) : element("td")));
  return element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ...head)),
    element(
      "tbody",
      {},
      ...rows.map(([name, words], number) =>
        element(
          "tr",
          { class: number < differs.length ? "differs" : "" },
          element("th", { scope: "row" }, name),
          ...both.map((side) => element("td", {}, words(side))),
        ),
      ),
    ),
  );
}

function valueInWords(name, choice) {
  if (name === "config_json") return choice.config_json ? parametersInWords(modelOf(choice).shape.parameters) : "-";
  if (name === "sizes") return Object.entries(choice.sizes).map(([key, value]) => `${key} ${value}`).join(", ") || "as usual";
  if (name === "sequence_length") return String(sequenceOf(choice, modelOf(choice)) ?? "-");
  const value = choice[name];
  return typeof value === "boolean" ? ON_OFF(value) : (PLACE_WORDS[value] ?? String(value ?? "as usual"));
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

// A block of text with its buttons: copy, and download where it is a file.
function textBlock(label, { file = null, fill }) {
  let text = "";
  const code = element("code");
  const said = element("p", { class: "quiet", role: "status" });
  const copy = element("button", { type: "button", class: "copy", click: copyText, "aria-label": `Copy ${label}` }, "Copy");
  const download = file ? [element("button", { type: "button", class: "download", click: downloadText }, `Download ${file}`)] : [];
  const parts = [
    element("div", { class: "run-controls" }, copy, ...download),
    said,
    element("pre", { tabindex: "0", "aria-label": label }, code),
  ];

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
    const address = URL.createObjectURL(new Blob([`${text}\n`], { type: "text/plain" }));
    element("a", { href: address, download: file }).click();
    URL.revokeObjectURL(address);
  }

  function draw(...facts) {
    const filled = fill(...facts);
    text = filled.text;
    code.replaceChildren(...(filled.nodes ?? [text]));
    said.textContent = filled.said ?? "";
  }
  return { parts, draw };
}

// The exact ds_config, with the lines that the last choice changed.
function configPart() {
  let before = null;
  const block = textBlock("ds_config.json", {
    file: "ds_config.json",
    fill: (config) => {
      const { lines, removed } = comparedLines(config, before ?? config);
      const changed = lines.filter((line) => line.changed).length;
      before = config;
      return {
        text: lines.map((line) => line.text).join("\n"),
        nodes: lines.map((line) => element(line.changed ? "mark" : "span", {}, `${line.text}\n`)),
        said: [
          changed ? `The last choice changed the ${changed === 1 ? "marked line" : `${changed} marked lines`}.` : "",
          removed.length ? `It removed ${removed.join(", ")}.` : "",
        ].join(" "),
      };
    },
  });
  const root = element("section", { class: "config" }, element("h3", {}, "The config"), ...block.parts);
  return { root, draw: (choice, outcome, model) => block.draw(configOf(choice, model)) };
}

// The same choice for the command line, the launcher and the Trainer.
function exportsPart(onPage) {
  const plain = (label, make, file) => ({ label, block: textBlock(label, { file, fill: (...facts) => ({ text: make(...facts) }) }) });
  const blocks = [
    plain("The same figures on the command line", (choice, model) => planCommand(choice, model)),
    plain("What starts the ranks", (choice) => launchCommand(choice)),
    plain("The Hugging Face Trainer's arguments", (choice, model) => trainingArguments(choice, configOf(choice, model))),
    plain("The model's config.json", (choice) => JSON.stringify(choice.config_json, null, 2), "config.json"),
    ...(onPage ? [plain("A link to this choice", (choice) => location.href.split("#")[0] + hashOf(choice, null))] : []),
  ].map(({ label, block }) => ({
    block,
    root: element("details", { class: "export" }, element("summary", {}, label), ...block.parts),
  }));
  const root = element("section", { class: "exports" }, element("h3", {}, "Take it along"), ...blocks.map((each) => each.root));
  function draw(choice, outcome, model) {
    blocks.forEach(({ block }) => block.draw(choice, model));
    blocks[3].root.hidden = choice.model !== "own";
  }
  return { root, draw };
}

function notesPart() {
  const root = element("ul", { class: "notes", "aria-label": "What to know about this choice" });
  return {
    root,
    draw: (choice, { plan }, model) => root.replaceChildren(...notesFor(choice, model, plan).map((text) => element("li", {}, text))),
  };
}

// What comes along with another model: the shape to start from, and samples that it can read.
function withItsModel(change, before) {
  if (!("model" in change) || change.model === before.model) return change;
  const wanted = { config_json: null, parameters: null, ...change };
  if (change.model === "own") wanted.config_json ??= ownConfigFrom(before);
  if (change.model === "parameters") wanted.parameters ??= modelOf(before).shape.parameters;
  const { shape } = modelOf({ ...before, ...wanted });
  if (shape && before.liger && !ligerIsPlanned(shape)) wanted.liger = false;
  return { ...fittingSequence(before, shape), ...wanted };
}

function render({ model, el }) {
  const onPage = !model.get("live");
  const name = `stage-selector-${(selectors += 1)}`;
  const refusal = element("p", { class: "refusal", role: "status" });
  const current = () => model.get("choice");
  // Takes the change and returns true, or says why not, shows what stays chosen and returns false.
  const choose = (change) => {
    const wanted = { ...current(), ...withItsModel(change, current()) };
    refusal.textContent = refusalOf(wanted);
    if (refusal.textContent) {
      showAll.forEach((show) => show(current()));
      return false;
    }
    model.set("choice", wanted);
    model.save_changes();
    remember();
    return true;
  };
  const remember = () => onPage && history.replaceState(history.state, "", hashOf(current(), pinned));
  let pinned = null;
  const pins = {
    get: () => pinned,
    current,
    set: (choice) => {
      pinned = choice;
      remember();
      draw();
    },
  };
  if (onPage) {
    const found = readHash(location.hash);
    if (found) {
      model.set("choice", found.choice);
      pinned = found.pinned;
    }
  }
  const own = modelPanel(choose, current);
  const sizes = sizesPanel(choose, current);
  const groups = GROUPS.map(({ legend, controls }) => {
    const made = controls.map((spec) => ({ spec, ...controlOf(spec, choose, name) }));
    made.filter(({ spec }) => spec.wide).forEach(({ root }) => root.classList.add("wide"));
    const extra = controls[0].axis === "model" ? [own.root] : [];
    const [first, ...others] = made.map(({ root }) => root);
    const root = element("fieldset", { class: "group" }, element("legend", {}, legend), first, ...extra, ...others);
    return { root, shows: made.map(({ show }) => show) };
  });
  const showAll = [...groups.flatMap(({ shows }) => shows), own.show, sizes.show];
  const parts = {
    brief: briefPart(),
    verdict: verdictPart(choose),
    memory: memoryPart(),
    sent: sentPart(),
    notes: notesPart(),
    ladder: ladderPart(choose, current),
    limits: limitsPart(choose),
    compare: comparePart(choose, pins),
    config: configPart(),
    doctor: doctorPart(model),
    exports: exportsPart(onPage),
    run: onPage ? recordedPanel(model) : livePanel(model),
  };
  const draw = () => {
    const choice = current();
    const chosen = modelOf(choice);
    const outcome = outcomeOf(choice, chosen);
    showAll.forEach((show) => show(choice));
    Object.values(parts).forEach((part) => part.draw(choice, outcome, chosen, outcome.plan.messages()));
  };
  const goTo = () => {
    const found = readHash(location.hash);
    if (!found) return;
    pinned = found.pinned;
    model.set("choice", found.choice);
  };
  el.replaceChildren(
    element(
      "div",
      { class: "stage-selector", role: "group", "aria-label": "Stage selector" },
      element("div", { class: "controls" }, ...groups.map(({ root }) => root), sizes.root, pastePanel(choose, current).root, parts.brief.root),
      refusal,
      parts.verdict.root,
      element("div", { class: "columns" }, parts.memory.root, parts.sent.root),
      parts.notes.root,
      parts.ladder.root,
      parts.limits.root,
      parts.compare.root,
      parts.config.root,
      parts.doctor.root,
      parts.exports.root,
      parts.run.root,
    ),
  );
  model.on("change:choice", draw);
  if (onPage) window.addEventListener("hashchange", goTo);
  draw();
  return () => {
    model.off("change:choice", draw);
    window.removeEventListener("hashchange", goTo);
  };
}

export default { render };
