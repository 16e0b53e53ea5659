// Step through one recorded training step: who holds what, and what is sent. Drawn from recorded/walkthrough.json.
// The same module is an anywidget in a notebook and a part of the static page: model.get("recording") is the whole
// record, model.get("stage") the stage to begin with. words.js stands before this text.

const LIVE_ROLES = [
  "parameters", "gathered parameters", "gradients", "communication buckets", "master weights", "optimizer states",
];
const STAGES = ["nothing is cut", "optimizer is cut", "gradients too", "parameters too"];
const SECONDS_PER_FRAME = 1.6;
let instances = 0;

function element(tag, className = "", text = "", attributes = {}) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function choices(legend, name, options, chosen, onChange) {
  const group = element("fieldset", "choices");
  group.append(element("legend", "", legend));
  for (const [value, label, note] of options) {
    const input = element("input", "", "", { type: "radio", name, value });
    input.checked = value === chosen;
    input.addEventListener("change", () => onChange(value));
    const face = element("span", "face", label);
    if (note) face.append(element("small", "", note));
    const whole = element("label");
    whole.append(input, face);
    group.append(whole);
  }
  return group;
}

function buildCell() {
  const cell = element("div", "cell");
  const bars = {};
  cell.parts = LAYERS_OF_A_CELL.map(([bar, role]) => {
    bars[bar] ??= cell.appendChild(element("div", `bar ${bar}`));
    return bars[bar].appendChild(element("span", `part ${role.replaceAll(" ", "-")}`));
  });
  cell.words = cell.appendChild(element("div", "words"));
  return cell;
}

// The ranks as rows, the blocks as columns, and between two ranks a row for what passes between them.
function buildPicture(picture, run, blocks) {
  picture.replaceChildren();
  const heads = blocks.map((name) => {
    const head = element("div", "head");
    const short = name.replace("layer ", "L").replace("embedding", "emb.");
    head.append(element("span", "long", name), element("span", "short", short), element("span", "doing"));
    return head;
  });
  picture.append(element("div"), ...heads);
  const rows = [];
  const gaps = [];
  for (let rank = 0; rank < run.world_size; rank += 1) {
    if (rank) {
      const gap = { label: element("div", "passing"), arrows: blocks.map(() => element("div", "arrow")) };
      gaps.push(gap);
      picture.append(gap.label, ...gap.arrows);
    }
    const name = element("div", `rank rank-${rank}`, `rank ${rank}`);
    const cells = blocks.map(buildCell);
    rows.push(cells);
    picture.append(name, ...cells);
  }
  return { heads, rows, gaps };
}

function drawCell(cell, run, all, index, rank, block) {
  const moment = all[index];
  const [ownStart, ownShare] = ownPart(run, moment, rank, block);
  LAYERS_OF_A_CELL.forEach(([, role, size], layer) => {
    const share = Math.min(1, moment.held[role][block][rank] / (size * run.elements[block]));
    const start = share > 1.01 * ownShare ? 0 : ownStart;
    cell.parts[layer].style.left = `${100 * start}%`;
    cell.parts[layer].style.width = `${share < 0.002 ? 0 : 100 * share}%`;
  });
  const words = changeWords(run, all, index, rank, block);
  cell.classList.toggle("changed", words !== null);
  cell.classList.toggle("working", ["forward", "backward"].includes(moment.event) && moment.blocks.includes(block));
  cell.words.replaceChildren(...(words ?? []).map((text, narrow) => element("span", narrow ? "short" : "long", text)));
}

// Between rank `above` and the next: which ways something passes.
function directions(moment, above) {
  if (!moment.wire_bytes || moment.event === "step") return [];
  if (!moment.to) return ["up", "down"];
  const targets = Object.keys(moment.to).filter((rank) => moment.to[rank] >= SEEN_BYTES).map(Number);
  const ways = [targets.some((rank) => rank <= above) && "up", targets.some((rank) => rank > above) && "down"];
  return ways.filter(Boolean);
}

function drawGap(gap, moment, above) {
  const ways = directions(moment, above);
  const kind = moment.event === "all_gather" ? "gathers" : "reduces";
  const said = ways.length && above === 0;
  gap.label.textContent = said ? `${COLLECTIVES[moment.event]}\n${bytes(moment.wire_bytes)} each` : "";
  gap.arrows.forEach((arrow, block) => {
    const marks = moment.blocks.includes(block) ? ways.map((way) => element("span", `${way} ${kind}`)) : [];
    arrow.replaceChildren(...marks);
  });
}

const WORKING = { forward: "forward →", backward: "← backward", release: "released" };

function drawPicture(parts, run, all, index) {
  const moment = all[index];
  parts.rows.forEach((cells, rank) => cells.forEach((cell, block) => drawCell(cell, run, all, index, rank, block)));
  parts.gaps.forEach((gap, above) => drawGap(gap, moment, above));
  parts.heads.forEach((head, block) => {
    const active = moment.blocks.includes(block);
    head.classList.toggle("active", active);
    head.lastChild.textContent = active ? WORKING[moment.event] ?? "" : "";
  });
}

function number(count) {
  return element("data", "", bytes(count), { value: count });
}

function drawMeters(meters, run, all, index, most) {
  const moment = all[index];
  const plain = plainBytes(run);
  const rows = moment.total.map((total, rank) => {
    const bar = element("div", "stack");
    for (const role of LIVE_ROLES) {
      const part = bar.appendChild(element("span", role.replaceAll(" ", "-")));
      part.style.width = `${(100 * (moment.live[role]?.[rank] ?? 0)) / most}%`;
    }
    return meterRow(`held by rank ${rank}`, bar, [number(total)]);
  });
  const sent = element("div", "stack sent");
  const filled = sent.appendChild(element("span", "wire"));
  filled.style.width = `${(100 * moment.sentBytes) / (1.6 * plain)}%`;
  sent.append(element("i", "plain"));
  const times = ` = ${(moment.sentBytes / plain).toFixed(2)} x`;
  rows.push(meterRow("sent by each rank", sent, [number(moment.sentBytes), times]));
  const scale = `| marks 1 x: the ${bytes(plain)} that plain data parallelism sends in a step.`;
  const held = Math.max(...all.flatMap(({ total }) => total));
  const peak = `The most that a rank holds after an event of this step: ${bytes(held)}.`;
  meters.replaceChildren(...rows.flat(), element("p", "scale", scale), element("p", "scale peak", peak));
}

function meterRow(label, bar, words) {
  const value = element("div", "value");
  value.append(...words);
  return [element("div", "label", label), bar, value];
}

// Controls

function button(text, onClick) {
  const made = element("button", "", text, { type: "button" });
  made.addEventListener("click", onClick);
  return made;
}

function legend() {
  const items = LIVE_ROLES.map((role) => {
    const item = element("li");
    item.append(element("span", `swatch ${role.replaceAll(" ", "-")}`), role);
    return item;
  });
  const list = element("ul", "legend");
  list.append(...items);
  return list;
}

function provenance(record) {
  const { torch, deepspeed } = record.versions;
  return (
    `Recorded ${record.date.slice(0, 10)} on ${record.hardware}: DeepSpeed ${deepspeed}, torch ${torch}, ` +
    `commit ${record.commit}. Not drawn: activations, and what is made and freed again within one event. ` +
    `Buckets, and room that is made in advance, are in the bars of a rank and not in its layers.`
  );
}

function note(run, version) {
  if (run.stage === 0) return "";
  if (run.stage < 3) {
    return (
      "The cut goes through the row of all parameters. A tensor that lies across it keeps its whole gradient on both " +
      "ranks until the backward pass is done."
    );
  }
  return (
    "For this run stage3_max_live_parameters and stage3_max_reuse_distance are 0, and leaf_module gathers a layer as " +
    `a whole. With its defaults DeepSpeed ${version} releases nothing of a model below 1e9 parameters.`
  );
}

function phaseStrip(run) {
  const strip = element("div", "phases", "", { "aria-hidden": "true" });
  const most = Math.max(...run.frames.map((frame) => frame.wire_bytes));
  let index = 0;
  for (const [name, count] of phases(run)) {
    const phase = element("div", "phase");
    phase.style.flexGrow = count;
    const ticks = phase.appendChild(element("div", "ticks"));
    for (const frame of run.frames.slice(index, index + count)) {
      const tick = ticks.appendChild(element("span", frame.event));
      tick.style.height = frame.wire_bytes ? `${Math.max(15, (100 * frame.wire_bytes) / most)}%` : "2px";
    }
    phase.append(element("span", "", name));
    strip.append(phase);
    index += count;
  }
  return strip;
}

function render({ model, el }) {
  const record = model.get("recording");
  const { blocks, runs } = record.measured;
  const chosen = { stage: Number(model.get("stage") ?? 0), ranks: 2, toOwners: false };
  const group = `step-through-${(instances += 1)}`;
  const most = Math.max(...runs.flatMap((run) => moments(run).flatMap((moment) => moment.total)));
  let run, all, parts, timer;
  let index = 0;

  const root = element("section", "step-through", "", { "aria-label": "Step through one training step" });
  const options = element("div", "options");
  const picture = element("div", "picture", "", {
    tabindex: "0",
    role: "group",
    "aria-label": "Picture: ranks are rows, blocks are columns. Arrow keys step, space plays.",
  });
  const strip = element("div", "strip");
  const slider = element("input", "", "", { type: "range", min: 0, "aria-label": "Frame" });
  const play = button("Play", () => (timer ? pause() : start()));
  const told = element("p", "told", "", { "aria-live": "polite" });
  const meters = element("div", "meters");
  const remark = element("p", "remark");
  const transport = element("div", "transport");
  const back = button("Back", () => go(index - 1));
  const next = button("Next", () => go(index + 1));
  const source = element("p", "provenance", provenance(record));
  transport.append(back, play, next);
  // The small form is for a page that only wants to show what there is to see.
  root.append(...(model.get("small") ? [legend(), picture, transport, told] : [
    options, legend(), picture, strip, slider, transport, told, meters, remark, source,
  ]));
  root.classList.toggle("small", Boolean(model.get("small")));
  el.append(root);

  function go(wanted) {
    index = Math.max(0, Math.min(all.length - 1, wanted));
    if (index === all.length - 1) pause();
    drawPicture(parts, run, all, index);
    drawMeters(meters, run, all, index, most);
    const name = frameName(run, blocks, index);
    slider.value = index;
    slider.setAttribute("aria-valuetext", `${index + 1} of ${all.length}: ${name}`);
    const title = element("strong", "", `${index + 1}/${all.length} ${name}. `);
    told.replaceChildren(title, sentence(run, blocks, all, index));
    strip.querySelectorAll(".ticks span").forEach((tick, at) => tick.classList.toggle("now", at === index));
  }

  function start() {
    if (index === all.length - 1) go(0);
    timer = setInterval(() => go(index + 1), 1000 * SECONDS_PER_FRAME);
    play.textContent = "Pause";
  }

  function pause() {
    clearInterval(timer);
    timer = undefined;
    play.textContent = "Play";
  }

  function show() {
    pause();
    const cut = chosen.stage === 1 || chosen.stage === 2;
    const wanted = [chosen.stage, chosen.ranks, cut && chosen.toOwners];
    run = runs.find(({ stage, world_size, to_owners }) => `${[stage, world_size, to_owners]}` === `${wanted}`);
    all = moments(run);
    parts = buildPicture(picture, run, blocks);
    strip.replaceChildren(phaseStrip(run));
    slider.max = all.length - 1;
    remark.textContent = note(run, record.versions.deepspeed);
    way.hidden = !cut;
    go(0);
  }

  function choose(key) {
    return (value) => {
      chosen[key] = value;
      if (key === "stage") {
        model.set("stage", value);
        model.save_changes();
      }
      show();
    };
  }

  const stages = STAGES.map((what, stage) => [stage, `${stage}`, what]);
  const ways = [[false, "to all", "DeepSpeed's default"], [true, "to their owner", "as in the paper"]];
  const way = choices("Gradients go", `${group}-way`, ways, chosen.toOwners, choose("toOwners"));
  way.classList.add("way");
  options.append(
    choices("ZeRO stage", `${group}-stage`, stages, chosen.stage, choose("stage")),
    choices("Ranks", `${group}-ranks`, [[2, "2"], [4, "4"]], chosen.ranks, choose("ranks")),
    way,
  );

  const keys = {
    ArrowLeft: () => go(index - 1),
    ArrowRight: () => go(index + 1),
    Home: () => go(0),
    End: () => go(all.length - 1),
    " ": () => play.click(),
  };
  picture.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  slider.addEventListener("input", () => go(Number(slider.value)));

  function follow() {
    const stage = Number(model.get("stage"));
    if (stage === chosen.stage) return;
    chosen.stage = stage;
    root.querySelector(`input[name="${group}-stage"][value="${stage}"]`).checked = true;
    show();
  }

  model.on("change:stage", follow);
  show();
  return () => {
    pause();
    model.off?.("change:stage", follow);
  };
}

export default { render };
