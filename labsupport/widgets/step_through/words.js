// The frames of a recorded training step, unfolded, and what is said about each. widget.py puts
// step_through.js, which draws them, behind this text: the two are one module.

const LAYERS_OF_A_CELL = [
  // What is drawn in a cell, as [bar, role, bytes of an element where nothing is missing]; bf16 with AdamW.
  ["parameters", "gathered parameters", 2],
  ["parameters", "parameters", 2],
  ["gradients", "gradients", 2],
  ["master", "master weights", 4],
  ["states", "optimizer states", 8],
];
const SEEN_BYTES = 1000; // less, such as a norm, is too small to be drawn
const COLLECTIVES = {
  all_reduce: "all-reduce", reduce: "reduce", reduce_scatter: "reduce-scatter", all_gather: "all-gather",
};

// Numbers and words

function bytes(count) {
  if (count < 1000) return `${count} B`;
  return count < 1e6 ? `${Math.round(count / 1000)} kB` : `${(count / 1e6).toFixed(2)} MB`;
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const ranksOf = (run) => [...Array(run.world_size).keys()];
const and = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);

function blockNames(blocks, numbers) {
  if (numbers.length === blocks.length) return "all blocks";
  return and(numbers.map((number) => (/\d/.test(blocks[number]) ? blocks[number] : `the ${blocks[number]}`)));
}

// The frames, unfolded

// A frame of the record holds what changed; a moment is everything at the end of that frame.
function moments(run) {
  const none = Array(run.world_size).fill(0);
  let held = {};
  let live = {};
  let sentBytes = 0;
  for (const [, role] of LAYERS_OF_A_CELL) held[role] = run.elements.map(() => none);
  return run.frames.map((frame) => {
    held = { ...held };
    for (const [role, changed] of Object.entries(frame.held ?? {})) {
      held[role] = held[role].map((ranks, block) => changed[block] ?? ranks);
    }
    live = { ...live, ...frame.live };
    sentBytes += frame.wire_bytes;
    const total = ranksOf(run).map((rank) => sum(Object.values(live).map((ranks) => ranks[rank])));
    return { ...frame, blocks: frame.blocks ?? [], held, live, total, sentBytes };
  });
}

// What plain data parallelism sends: one all-reduce of all gradients, in bf16, on a ring.
function plainBytes(run) {
  return (2 * (run.world_size - 1) * sum(run.elements) * 2) / run.world_size;
}

// Where a rank's part of a block begins and how long it is, as shares of the block: by the master weights it holds.
function ownPart(run, moment, rank, block) {
  const shares = moment.held["master weights"][block].map((count) => count / (4 * run.elements[block]));
  return shares[rank] >= 1 ? [0, 1] : [sum(shares.slice(0, rank)), shares[rank]];
}

// Which phase a frame is in: the gather before the first backward pass belongs to it.
function phases(run) {
  const events = run.frames.map((frame) => frame.event);
  let backward = events.indexOf("backward");
  if (events[backward - 1] === "all_gather") backward -= 1;
  const step = events.indexOf("step");
  return [["forward", backward], ["backward", step - backward], ["step", events.length - step]];
}

// The sentences

function frameName(run, blocks, index) {
  const frame = run.frames[index];
  const names = blockNames(blocks, frame.blocks ?? []);
  if (frame.event === "rest") return index ? "The step is done" : "Before the step";
  if (frame.event === "step") return "Optimizer step";
  if (run.stage === 3 && isAfterStep(run, index)) return "All-gather: the norms";
  if (frame.event in COLLECTIVES) return `${capital(COLLECTIVES[frame.event])}: ${names}`;
  return `${capital(frame.event)}: ${names}`;
}

function isAfterStep(run, index) {
  return run.frames[index].event === "all_gather" && run.frames.slice(0, index).some(({ event }) => event === "step");
}

function sentence(run, blocks, all, index) {
  const moment = all[index];
  const names = blockNames(blocks, moment.blocks);
  const last = index === all.length - 1;
  const say = { forward, backward, release, step, rest: last ? done : before, all_gather: gather };
  return (say[moment.event] ?? reduction)({ run, blocks, all, index, moment, names });
}

function messages(moment) {
  const onAverage = moment.event === "reduce" ? " on average" : ""; // a chain: every rank but one sends the message
  return `Message ${bytes(sum(Object.values(moment.sent)))}, each rank sends ${bytes(moment.wire_bytes)}${onAverage}`;
}

function before({ run }) {
  return [
    "Every rank holds the whole model: parameters, master weights and optimizer states.",
    "Every rank holds all parameters, but master weights and optimizer states only of its own part.",
    "As at stage 1, every rank holds all parameters and the optimizer of its own part. Watch the gradients.",
    "Every rank holds only its own part of everything, and the room for its part of the gradients.",
  ][run.stage] + " Each rank will train on its own batch.";
}

function done({ run, moment }) {
  const times = (moment.sentBytes / plainBytes(run)).toFixed(2);
  const has = run.stage === 3 ? "the new values of its own part" : "the same new parameters";
  const sent = `Each rank sent ${bytes(moment.sentBytes)}, ${times} times what plain data parallelism sends.`;
  return `Every rank has ${has}. ${sent}`;
}

function forward({ run, names }) {
  const why = run.stage === 3 ? "It is whole on every rank for now." : "All parameters are there: nothing is sent.";
  return `Every rank runs its own batch through ${names}. ${why}`;
}

function backward({ run, moment, names }) {
  if (moment.goes_on) return `The backward pass of ${names} goes on: its other gradients go into the emptied bucket.`;
  return `Every rank computes its gradients of ${names}` + [
    ". They differ, since the batches do; they stay until all are done.",
    " and keeps them until the backward pass is done.",
    ". They wait in the bucket, which goes when the next ones no longer fit.",
    ", whole for now. They wait in the bucket, which goes when the next ones no longer fit.",
  ][run.stage];
}

function release({ names }) {
  return `${capital(names)} is not needed now. Every rank drops the whole copy and keeps its own part.`;
}

function step({ run, moment }) {
  const control = sum(Object.values(moment.sent ?? {}));
  const agreed = control ? `The ranks agree on the norm of the gradients (${control} B). ` : "";
  const work = run.stage
    ? `Every rank updates only its own part, 1/${run.world_size} of the work: master weights first, then the bf16 copy.`
    : `Every rank updates the whole model with the same gradients: the same work ${run.world_size} times.`;
  return agreed + work + (run.stage === 3 ? "" : " The gradients are freed.");
}

function gather({ run, all, index, moment, names }) {
  const earlier = all.slice(0, index);
  const again = earlier.some(({ event, blocks }) => event === "all_gather" && `${blocks}` === `${moment.blocks}`);
  const stepped = earlier.some(({ event }) => event === "step");
  let why = again
    ? `The backward pass needs ${names} again`
    : `${capital(names)} comes next, and no rank holds it whole`;
  why += ": every rank sends its part, and gets a whole copy beside it.";
  if (stepped) why = "The norms, small tensors that stay whole on every rank, get their new values.";
  if (run.stage < 3) why = "Every rank sends its updated part to the others, so that all have all new parameters.";
  return `${why} ${messages(moment)}.`;
}

function reduction({ run, moment, names }) {
  if (run.stage === 0) {
    return `Every rank hands in all its gradients and gets the average back, the same for all. ${messages(moment)}.`;
  }
  return `The bucket with the gradients of ${names} is sent. ${whoGets(run, moment)} ${messages(moment)}.`;
}

function whoGets(run, moment) {
  if (moment.event === "reduce_scatter") return "Every rank hands in the whole and gets the average of its own part.";
  if (moment.event === "reduce") {
    const to = and(Object.entries(moment.to).map(([rank, count]) => `rank ${rank} (${bytes(count)})`));
    return `The average goes only where it is needed for the update: to ${to}.`;
  }
  const needs = (rank) => moment.blocks.some((block) => ownPart(run, moment, rank, block)[1] > 0);
  const keepers = ranksOf(run).filter(needs);
  const some = keepers.length < run.world_size;
  const who = some ? and(keepers.map((rank) => `rank ${rank}`)) : "every rank, each its own part";
  return `Every rank gets the average. It is kept where it is needed for the update: ${who}.`;
}

// What is said in a cell that changed: [on a wide picture, on a narrow one].
function changeWords(run, all, index, rank, block) {
  const moment = all[index];
  const owns = ownPart(run, moment, rank, block)[1] > 0;
  const [bar, change] = index ? largestChange(all[index - 1], moment, rank, block) : ["", 0];
  if (moment.event === "step" && owns) return ["updated", "new"];
  if (change) {
    const count = `${change > 0 ? "+" : "−"}${bytes(Math.abs(change))}`;
    return [`${bar}\n${count}`, count.replace(" ", "")];
  }
  if (!moment.blocks.includes(block)) return null;
  if (["all_reduce", "reduce"].includes(moment.event) && owns) return ["averaged", "mean"];
  return moment.event === "all_gather" && run.stage < 3 ? ["new values", "new"] : null;
}

function largestChange(earlier, later, rank, block) {
  const held = (moment, role) => moment.held[role][block][rank];
  const changes = LAYERS_OF_A_CELL.map(([bar, role]) => [bar, held(later, role) - held(earlier, role)]);
  const [bar, change] = changes.sort(([, one], [, other]) => Math.abs(other) - Math.abs(one))[0];
  return [bar, Math.abs(change) < SEEN_BYTES ? 0 : change];
}
