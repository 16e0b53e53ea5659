// Step through one recorded training step: who holds what, and what is sent. Drawn from recorded/walkthrough.json.
// The same module is an anywidget in a notebook and a part of the static page: model.get("recording") is the whole
// record, model.get("stage") the stage to begin with.

const LAYERS_OF_A_CELL = [
  // What is drawn in a cell, as [bar, role, bytes of an element where nothing is missing]; bf16 with AdamW.
  ["parameters", "gathered parameters", 2],
  ["parameters", "parameters", 2],
  ["gradients", "gradients", 2],
  ["master", "master weights", 4],
  ["states", "optimizer states", 8],
];
const LIVE_ROLES = ["parameters", "gathered parameters", "gradients", "communication buckets", "master weights", "optimizer states"];
const STAGES = ["nothing is cut", "optimizer is cut", "gradients too", "parameters too"];
const SECONDS_PER_FRAME = 1.6;
const COLLECTIVES = { all_reduce: "all-reduce", reduce: "reduce", reduce_scatter: "reduce-scatter", all_gather: "all-gather" };
let instances = 0;

// Numbers and words

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  return count < 1e6 ? `${Math.round(count / 1000)} kB` : `${(count / 1e6).toFixed(2)} MB`;
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const and = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);

function blockNames(blocks, numbers) {
  if (numbers.length === blocks.length) return "all blocks";
  return and(numbers.map((number) => (/\d/.test(blocks[number]) ? blocks[number] : `the ${blocks[number]}`)));
}

// The frames, unfolded

// A frame of the record holds what changed; a moment is everything at the end of that frame.
export function moments(run) {
  const none = Array(run.world_size).fill(0);
  let held = {};
  let live = {};
  let sent = 0;
  for (const [, role] of LAYERS_OF_A_CELL) held[role] = run.elements.map(() => none);
  return run.frames.map((frame) => {
    held = { ...held };
    for (const [role, changed] of Object.entries(frame.held ?? {})) {
      held[role] = held[role].map((ranks, block) => changed[block] ?? ranks);
    }
    live = { ...live, ...frame.live };
    sent += frame.wire_bytes;
    return { ...frame, blocks: frame.blocks ?? [], held, live, sent, total: none.map((_, rank) => liveBytes(live, rank)) };
  });
}

function liveBytes(live, rank) {
  return sum(Object.values(live).map((ranks) => ranks[rank]));
}

// What plain data parallelism sends: one all-reduce of all gradients, in bf16, on a ring.
export function plainBytes(run) {
  return (2 * (run.world_size - 1) * sum(run.elements) * 2) / run.world_size;
}

// Where a rank's part of a block begins and how long it is, as shares of the block: by the master weights it holds.
function ownPart(run, moment, rank, block) {
  const shares = moment.held["master weights"][block].map((count) => count / (4 * run.elements[block]));
  return shares[rank] >= 1 ? [0, 1] : [sum(shares.slice(0, rank)), shares[rank]];
}

// Which phase a frame is in: the gather before the first backward pass belongs to it.
export function phases(run) {
  const events = run.frames.map((frame) => frame.event);
  let backward = events.indexOf("backward");
  if (events[backward - 1] === "all_gather") backward -= 1;
  const step = events.indexOf("step");
  return [["forward pass", backward], ["backward pass", step - backward], ["optimizer step", events.length - step]];
}

// The sentences

export function frameName(run, blocks, index) {
  const frame = run.frames[index];
  const names = blockNames(blocks, frame.blocks ?? []);
  if (frame.event === "rest") return index ? "The step is done" : "Before the step";
  if (frame.event === "step") return "Optimizer step";
  if (frame.event in COLLECTIVES) return `${capital(COLLECTIVES[frame.event])}: ${names}`;
  return `${capital(frame.event)}: ${names}`;
}

export function sentence(run, blocks, all, index) {
  const moment = all[index];
  const names = blockNames(blocks, moment.blocks);
  const last = index === all.length - 1;
  const say = { forward, backward, release, step, rest: last ? done : before, all_gather: gather };
  return (say[moment.event] ?? reduction)({ run, blocks, all, index, moment, names });
}

const messages = (moment) =>
  `message ${bytes(sum(Object.values(moment.sent)))}, each rank sends ${bytes(moment.wire_bytes)}`;

function before({ run }) {
  const each = "Each rank will train on its own batch.";
  return [
    `Every rank holds the whole model: parameters, master weights and optimizer states. ${each}`,
    `Every rank holds all parameters, but master weights and optimizer states only of its own part. ${each}`,
    `As at stage 1, every rank holds all parameters and the optimizer of its own part. Watch the gradients. ${each}`,
    `Every rank holds only its own part of everything, and the room for its part of the gradients. ${each}`,
  ][run.stage];
}

function done({ run, moment }) {
  const times = (moment.sent / plainBytes(run)).toFixed(2);
  const ends = run.stage === 3 ? "Every rank has the new values of its own part." : "Every rank has the same new parameters.";
  return `${ends} Each rank sent ${bytes(moment.sent)}, ${times} times what plain data parallelism sends.`;
}

function forward({ run, names }) {
  const why = run.stage === 3 ? "It is whole on every rank for this moment." : "All parameters are there, so nothing is sent.";
  return `Every rank runs its own batch through ${names}. ${why}`;
}

function backward({ run, names }) {
  return [
    `Every rank computes its gradients of ${names}. They differ, since the batches do; they stay until all are done.`,
    `Every rank computes its gradients of ${names} and keeps them until the backward pass is done.`,
    `Every rank computes its gradients of ${names}. They wait until the bucket is full.`,
    `Every rank computes its gradients of ${names}, whole for now. They wait until the bucket is full.`,
  ][run.stage];
}

function release({ names }) {
  return `${capital(names)} is used. Every rank lets the others' parts go and keeps its own: that memory is free again.`;
}

function step({ run, moment }) {
  const control = moment.wire_bytes ? ` A few bytes (${sum(Object.values(moment.sent))}) agree on the gradients' norm.` : "";
  const work = run.stage
    ? `Every rank updates only its own part, 1/${run.world_size} of the work: its master weights first, then the bf16 copy.`
    : `Every rank updates the whole model with the same gradients: the same work ${run.world_size} times.`;
  return work + (run.stage === 3 ? "" : " The gradients are freed.") + control;
}

function gather({ run, all, index, moment, names }) {
  if (run.stage < 3) return `Every rank sends its updated part to the others, so that all have all new parameters: ${messages(moment)}.`;
  const stepped = all.slice(0, index).some((earlier) => earlier.event === "step");
  if (stepped) return `The small tensors that stay whole on every rank, the norms, get their new values: ${messages(moment)}.`;
  const again = all.slice(0, index).some((earlier) => earlier.event === "all_gather" && `${earlier.blocks}` === `${moment.blocks}`);
  const why = again ? `The backward pass needs ${names} again` : `${capital(names)} comes next and no rank holds it whole`;
  return `${why}: every rank sends its part to the others. All-gather, ${messages(moment)}.`;
}

function reduction({ run, moment, names }) {
  const sends = messages(moment);
  if (run.stage === 0) return `Every rank hands in all its gradients and gets the average back, the same on every rank. All-reduce, ${sends}.`;
  const full = `The bucket with the gradients of ${names} is sent.`;
  if (moment.event === "reduce_scatter") return `${full} Every rank hands in the whole and gets the average of its own part only. Reduce-scatter, ${sends}.`;
  if (moment.event === "reduce") {
    const to = and(Object.entries(moment.to).map(([rank, count]) => `rank ${rank} (${bytes(count)})`));
    return `${full} The average goes only to the rank that updates it: ${to}. Reduce, ${sends} on average.`;
  }
  const owners = [...Array(run.world_size).keys()].filter((rank) => moment.blocks.some((block) => ownPart(run, moment, rank, block)[1] > 0));
  const keeps = `Only ${and(owners.map((rank) => `rank ${rank}`))} will update it and keeps it.`;
  return `${full} Every rank gets the average. ${owners.length < run.world_size ? keeps : "Each rank keeps its own part."} All-reduce, ${sends}.`;
}

// What is said in a cell that changed
function changeWords(run, all, index, rank, block) {
  const moment = all[index];
  const concerned = moment.blocks.includes(block) || moment.event === "step";
  const owns = ownPart(run, moment, rank, block)[1] > 0;
  const changes = index === 0 ? [] : LAYERS_OF_A_CELL.map(([bar, role]) => {
    return [bar, moment.held[role][block][rank] - all[index - 1].held[role][block][rank]];
  }).filter(([, change]) => Math.abs(change) >= 1000);
  if (moment.event === "step") return owns ? ["updated", "new"] : changes.length ? ["gradients freed", "−"] : null;
  if (changes.length) {
    const [bar, change] = changes.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]))[0];
    const sign = change > 0 ? "+" : "−";
    return [`${bar} ${sign}${bytes(Math.abs(change))}`, sign];
  }
  if (!concerned) return null;
  if (moment.event === "all_reduce") return owns ? ["averaged", "avg"] : null;
  if (moment.event === "all_gather" && run.stage < 3) return ["new values", "new"];
  return null;
}

// Drawing

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
    head.append(element("span", "long", name), element("span", "short", name.replace("layer ", "L").slice(0, 4)), element("span", "doing"));
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
  cell.words.replaceChildren(...(words ? [element("span", "long", words[0]), element("span", "short", words[1])] : []));
}

// Between rank `above` and the next: which ways something passes.
function directions(moment, above) {
  if (!moment.wire_bytes || moment.event === "step") return [];
  const targets = Object.keys(moment.to ?? {}).map(Number);
  if (!targets.length) return ["up", "down"];
  return [targets.some((rank) => rank <= above) && "up", targets.some((rank) => rank > above) && "down"].filter(Boolean);
}

function drawGap(gap, moment, above) {
  const ways = directions(moment, above);
  const kind = moment.event === "all_gather" ? "gathers" : "reduces";
  gap.label.textContent = ways.length && above === 0 ? COLLECTIVES[moment.event] : "";
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

function number(count, text = bytes(count)) {
  return element("data", "", text, { value: count });
}

function drawMeters(meters, run, moment, most) {
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
  filled.style.width = `${(100 * moment.sent) / (1.6 * plain)}%`;
  sent.append(element("i", "plain"));
  rows.push(meterRow("sent by each rank", sent, [number(moment.sent), ` = ${(moment.sent / plain).toFixed(2)} x`]));
  meters.replaceChildren(...rows.flat(), element("p", "scale", `| marks 1 x: the ${bytes(plain)} that plain data parallelism sends in a step.`));
}

function meterRow(label, bar, words) {
  const value = element("div", "value");
  value.append(...words);
  return [element("div", "label", label), bar, value];
}
