// memory/messages.py and memory/host_link.py in JavaScript: what a rank sends in a step, and what offload moves.

// {collective: message bytes} of one optimizer step, all micro-batches together.
function predictedCollectives(sizes, s, checkpointedLayers, tiedEmbedding) {
  const elements = s.stage === 3 ? stage3Elements(sizes, s, checkpointedLayers, tiedEmbedding) : stages0To2Elements(sum(sizes), s);
  const messages = {};
  for (const [name, count] of Object.entries(elements)) if (count) messages[name] = count * s.parameter_bytes;
  return messages;
}

function stages0To2Elements(parameters, s) {
  const whole = Math.ceil(parameters / (2 * s.world_size)) * 2 * s.world_size;
  const otherClass = s.stage === 1 && s.precision === "bf16" && s.accumulation_dtype === "fp32" && !offloadsOptimizer(s);
  const byOwner = s.stage > 0 && s.reduce_scatter && !s.multi_rank_allreduce && !otherClass;
  return {
    [byOwner ? "reduce" : "all_reduce"]: (otherClass ? whole : parameters) * reductionsOf(s),
    all_gather: s.stage > 0 && s.world_size > 1 ? whole / s.world_size : 0,
  };
}

function reductionsOf(s) {
  return s.stage >= 2 ? s.accumulation_steps : 1;
}

function stage3Elements(sizes, s, checkpointedLayers, tiedEmbedding) {
  const ranks = s.world_size;
  let [summed, scattered] = [0, 0];
  for (const [size, count] of countsOf(sizes)) {
    if (!s.reduce_scatter && size <= s.reduce_bucket_size) summed += size * count;
    else scattered += Math.ceil(size / ranks) * count;
  }
  return {
    all_reduce: summed * reductionsOf(s),
    reduce_scatter: scattered * ranks * reductionsOf(s),
    all_gather: ranks > 1 ? gatheredElements(sizes, s, checkpointedLayers, tiedEmbedding) : 0,
  };
}

function gatheredElements(sizes, s, layers, tied) {
  const part = (size) => Math.ceil(size / s.world_size);
  let once = 0;
  for (const [size, count] of countsOf(sizes)) if (size <= s.persistence_threshold) once += part(size) * count;
  let large = largeOf(sizes, s.persistence_threshold);
  let parts = large.map(part);
  let tiedFirst = tied && large[0] === sizes[0];
  if (sizes.length === 1 && large.length) {
    large = equalPieces(sizes[0], layers);
    parts = large.map(() => Math.ceil(sizes[0] / (s.world_size * large.length)));
    tiedFirst = false;
  }
  let each = 0;
  gatheringOf(large, s, layers, tiedFirst).times.forEach((count, number) => (each += parts[number] * count));
  return once + s.accumulation_steps * each;
}

// The bytes that one rank sends for {collective: message bytes}, on a ring.
function totalWireBytes(collectives, ranks) {
  const perByte = { all_reduce: (2 * (ranks - 1)) / ranks, all_gather: ranks - 1 }; // the others: (ranks - 1) / ranks
  let total = 0;
  for (const [name, bytes] of Object.entries(collectives)) total += bytes * (perByte[name] ?? (ranks - 1) / ranks);
  return total;
}

function timesDdp(sentBytes, parameters, s) {
  const plain = totalWireBytes({ all_reduce: parameters * s.parameter_bytes }, s.world_size);
  return plain ? sentBytes / plain : 0;
}

// The bytes that go over a GPU's link to its host for each parameter of a rank's part, in a step.
function hostLinkBytes({ stage, accumulation_steps: steps, parameter_bytes, offload_optimizer, offload_param }) {
  const [optimizer, parameters] = [offload_optimizer !== "none", offload_param !== "none"];
  let copies = 0;
  if (optimizer) copies += { 2: steps > 1 ? 2 * steps - 1 : 0, 3: 2 * steps }[stage] ?? 0;
  if (parameters) copies += 2 * steps + (optimizer ? 0 : 1);
  else if (optimizer) copies += 1;
  return copies * parameter_bytes + (optimizer ? 4 : 0);
}
