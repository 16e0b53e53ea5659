// memory/moments.py in JavaScript: which bytes a rank holds where, and when, on a GPU with FusedAdam. Places and roles
// are names, so that a new role or term is a line here and nowhere else.

// {moments: {moment: {place: {role: bytes}}}, phase}
function momentsOf(shares, s, activations) {
  const [fresh, rest] = [restingBytes(shares, s, false), restingBytes(shares, s, true)];
  let peak = null;
  for (const [phase, moment, extra] of stepPhases(shares, s)) {
    extra.activations = moment ? activations[moment] : 0;
    const total = sum(Object.values(extra));
    if (!peak || total > peak.total) peak = { phase, extra, total };
  }
  return {
    moments: {
      "after initialisation": fresh,
      "after backward": withMore(
        withMore(fresh, "GPU", { gradients: backwardGradientBytes(shares, s) }),
        "pinned host",
        { gradients: accumulatedOnCpuBytes(shares, s) },
      ),
      "at rest": rest,
      peak: withMore(rest, "GPU", peak.extra),
    },
    phase: peak.phase,
  };
}

function restingBytes(shares, s, stepped) {
  const states = { none: "GPU", cpu: "pinned host", nvme: "NVMe" }[s.offload_optimizer];
  const parameters = s.offload_param === "none" ? "GPU" : "pinned host";
  const gradients = s.offload_optimizer === "none" ? "GPU" : "pinned host";
  const atOnce = s.stage === 0 && s.precision !== "fp32"; // there DeepSpeed makes the optimizer's states at once
  const onDrive = states === "NVMe" ? aligned : (bytes) => bytes;
  const adam = s.states * onDrive(Math.floor(optimizerStateBytes(shares, s) / Math.max(1, s.states)));
  const [onDevice, onHost] = stagingBytes(shares, s);
  // DeepSpeedCPUAdam makes its two states in ordinary memory; the masters, the gradients and the buffers are pinned.
  const ofAdam = states === "pinned host" ? "host" : states;
  const places = {};
  for (const place of ["GPU", "pinned host", states, ofAdam]) places[place] = {};
  const add = (place, role, bytes) => (places[place][role] = (places[place][role] ?? 0) + bytes);
  add(parameters, "parameters", parameterBytes(shares, s));
  add(gradients, "gradients", restingGradientBytes(shares, s));
  add(states, "master weights", onDrive(masterBytes(shares, s)));
  add(ofAdam, "optimizer states", stepped || atOnce ? adam : 0);
  add("GPU", "communication buckets", onDevice + (s.stage === 3 ? bucketBytes(shares, s) : 0));
  add("pinned host", "communication buckets", onHost + nvmeBufferBytes(shares.share, s));
  add("GPU", "gathered parameters", stepped ? persistentBytes(shares, s) : 0);
  if (stepped) add("pinned host", "gradients", accumulatedOnCpuBytes(shares, s));
  return places;
}

// [phase, moment of the activations or null, {role: bytes}]: the moments at which a step can peak, in their order.
function stepPhases(shares, s) {
  const [window, arrived] = [windowGradientBytes(shares, s), backwardGradientBytes(shares, s)];
  const bucket = s.stage === 1 || s.stage === 2 ? bucketBytes(shares, s) : 0;
  const keptBucket = s.stage === 1 && s.accumulation_steps > 1 ? bucket : 0;
  const persistent = persistentBytes(shares, s);
  const gathered = Math.max(0, gatheredBytes(shares, s) - persistent);
  const collected =
    s.stage === 2
      ? window + (window && accumulatesApart(s) ? 0 : arrived)
      : Math.max(window, collectedGradientBytes(shares, s));
  const reducing = bucket + reductionBytes(shares, s);
  return [
    ["forward", "forward", phaseRoles(window, keptBucket, gathered + prefetchBytes(shares, s))],
    ["backward", "loss", phaseRoles(window, keptBucket, gathered)],
    ["backward", "backward", phaseRoles(window, bucket, gathered)],
    ["backward", "reduction", phaseRoles(s.stage === 2 ? collected : window, bucket, gathered)],
    ["backward", "backward_end", phaseRoles(collected, bucket)],
    ["backward", null, phaseRoles(collected + (s.stage === 1 ? arrived : 0), reducing)],
    ["step", null, phaseRoles(flattenedGradientBytes(shares, s))],
    ["step", null, phaseRoles(stepGradientBytes(shares, s), 0, -persistent)],
    ["step", null, phaseRoles()],
  ];
}

function phaseRoles(gradients = 0, buckets = 0, gathered = 0, other = 0) {
  return { gradients, "communication buckets": buckets, "gathered parameters": gathered, other };
}

// A copy of {place: {role: bytes}} with more bytes in one place.
function withMore(places, place, extra) {
  const result = { ...places, [place]: { ...places[place] } };
  for (const [role, bytes] of Object.entries(extra)) result[place][role] = (result[place][role] ?? 0) + bytes;
  return result;
}
