// memory/planner.py and memory/room.py in JavaScript: what a rank will hold and send, on GPUs, and whether it has room.

// "" where there is a plan for a model, else the sentence that says why there is none.
function planRefusal({ shape }, { sequence_length, liger }) {
  if (shape && sequence_length > shape.longest_sequence) {
    return `The samples have ${sequence_length} tokens, and this model reads at most ${shape.longest_sequence}: give fewer.`;
  }
  if (shape && liger && !ligerIsPlanned(shape)) {
    return `Liger's kernels are planned for a Llama and its like, not for ${shape.architecture}: switch them off.`;
  }
  return "";
}

// The plan of a model on GPUs, where planRefusal has nothing against it. model: {shape} or {parameters}; training: {sequence_length, checkpointing, liger}.
function planOf(model, s, training) {
  const { shape } = model;
  let activations = NO_ACTIVATIONS;
  if (shape?.family.counted) {
    const count = training.liger ? ligerActivationBytes : activationBytes;
    activations = count(shape, s.micro_batch_size, training.sequence_length, s.parameter_bytes, training.checkpointing, s.reduce_bucket_size);
  }
  const sizes = shape ? sizesOf(shape) : [model.parameters];
  const shares = shape ? sharesOf(sizes, s) : sharesOfNumber(model.parameters, s);
  const { moments, phase } = momentsOf(shares, s, activations);
  const plan = {
    parameters: shares.parameters,
    moments,
    peakPhase: phase,
    peakBytes: placeBytes(moments.peak, "GPU"),
    restingBytes: placeBytes(moments["at rest"], "GPU"),
    hostBytes: placeBytes(moments.peak, "host") + placeBytes(moments.peak, "pinned host"),
    nvmeBytes: placeBytes(moments["at rest"], "NVMe"),
    nvmeBufferBytes: nvmeBufferBytes(shares.share, s),
    copiedBytes: hostLinkBytes(s) * Math.ceil(shares.parameters / s.world_size),
  };
  return Object.assign(plan, {
    // What is sent takes a second replay at stage 3, and most plans are asked for their memory alone.
    messages: () => {
      const collectives = predictedCollectives(sizes, s, shape && training.checkpointing ? shape.layers : 0, Boolean(shape?.tied));
      const sentBytes = totalWireBytes(collectives, s.world_size);
      return { collectives, sentBytes, timesDdp: timesDdp(sentBytes, plan.parameters, s) };
    },
  });
}

function placeBytes(places, place) {
  return sum(Object.values(places[place] ?? {}));
}

// Whether the peak, and 1 GiB for CUDA's and NCCL's own use, fit into a card's memory.
function fitsCard(plan, cardName) {
  return plan.peakBytes + FACTS.allowance_bytes <= FACTS.cards[cardName].memory_bytes;
}

// What `ranks` ranks on one node keep in its memory when a step peaks: what is offloaded, and each rank's libraries.
function hostBytesOfNode(plan, ranks) {
  return ranks * (plan.hostBytes + FACTS.rank_bytes);
}

// What they need while each of them builds or loads the whole model by itself.
function loadingBytesOfNode(plan, ranks, s) {
  return ranks * (plan.parameters * s.parameter_bytes + FACTS.rank_bytes);
}
