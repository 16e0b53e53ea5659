// memory/model_states.py in JavaScript, term by term under the same names; there each says what of DeepSpeed it
// describes. s is a Settings with parameter_bytes and accumulation_bytes; shares is what sharesOf returns.

const FP32 = 4;

// How a model's elements divide over the ranks, of rank 0. sizes: the elements of each tensor, in order.
function sharesOf(sizes, s) {
  const total = remembered(sizes, "total", () => sum(sizes));
  const largest = largestOf(sizes);
  const none = { persistent: 0, tensors: 1, window: 0, kept: 0 };
  if (s.stage === 0) return { ...none, parameters: total, whole: total, share: total, cut: total, largest, tensors: sizes.length };
  if (s.stage === 3) {
    const large = largeOf(sizes, s.persistence_threshold);
    let [share, persistent] = [0, 0];
    for (const [size, count] of countsOf(sizes)) {
      share += Math.ceil(size / s.world_size) * count;
      if (size <= s.persistence_threshold) persistent += size * count;
    }
    const window = remembered(large, "window", () => windowOf(large));
    return { ...none, parameters: total, whole: total, share, cut: share, largest, persistent, window, kept: gatheringOf(large, s).whole };
  }
  const share = Math.ceil(total / (2 * s.world_size)) * 2;
  let cut = 0;
  for (const size of sizes) {
    if (cut >= share) break;
    cut += size;
  }
  return { ...none, parameters: total, whole: share * s.world_size, share, cut, largest };
}

// The shares of a model of which only the number of parameters is known: no tensor is small or large.
function sharesOfNumber(parameters, s) {
  const share = s.stage === 0 ? parameters : Math.ceil(parameters / s.world_size);
  const kept = s.stage === 3 ? rounded(gatheringOf(equalPieces(parameters), s).whole) : 0;
  return { parameters, whole: parameters, share, cut: share, largest: 0, persistent: 0, tensors: 1, window: 0, kept };
}

// The partitioned tensors that are whole at one time when none is kept: the one in use and the next two.
function windowOf(large) {
  let most = 0;
  for (let start = 0; start < large.length; start += 1) {
    most = Math.max(most, large[start] + (large[start + 1] ?? 0) + (large[start + 2] ?? 0));
  }
  return most;
}

function parameterBytes(shares, s) {
  return (s.stage === 3 ? shares.share : shares.whole) * s.parameter_bytes;
}

function persistentBytes(shares, s) {
  return isGathered(s) ? shares.persistent * s.parameter_bytes : 0;
}

// Whether a whole parameter is another tensor than this rank's share of it, on a GPU.
function isGathered(s) {
  return s.world_size > 1 || s.offload_param !== "none";
}

function masterBytes(shares, s) {
  return s.stage === 0 && s.precision === "fp32" ? 0 : shares.share * s.master_bytes;
}

function optimizerStateBytes(shares, s) {
  return shares.share * s.states * s.state_bytes;
}

function offloadsOptimizer(s) {
  return s.offload_optimizer !== "none";
}

function restingGradientBytes(shares, s) {
  const fp32OnCpu = s.offload_optimizer === "cpu" ? shares.share * s.master_bytes : 0;
  if (s.stage === 3) return shares.share * s.accumulation_bytes + fp32OnCpu;
  return throughBf16Optimizer(s) ? shares.whole * FP32 : fp32OnCpu;
}

function accumulatedOnCpuBytes(shares, s) {
  if (s.stage !== 2 || s.offload_optimizer !== "cpu" || s.accumulation_steps === 1 || accumulatesApart(s)) return 0;
  return shares.cut * s.parameter_bytes;
}

function throughBf16Optimizer(s) {
  return s.stage === 1 && accumulatesApart(s) && s.precision === "bf16" && !offloadsOptimizer(s);
}

function accumulatesApart(s) {
  return s.accumulation_bytes > s.parameter_bytes;
}

function backwardGradientBytes(shares, s) {
  if (s.stage === 0 || throughBf16Optimizer(s)) return shares.whole * s.parameter_bytes;
  if (s.stage === 3) return 0;
  if (accumulatesApart(s)) return shares.share * FP32 + (s.stage === 1 ? bucketBytes(shares, s) : 0);
  return s.offload_optimizer === "cpu" ? 0 : shares.cut * s.parameter_bytes;
}

function collectedGradientBytes(shares, s) {
  if (s.stage > 1) return 0;
  const apart = s.stage === 1 && !throughBf16Optimizer(s);
  return shares.whole * (apart ? Math.max(s.accumulation_bytes, s.parameter_bytes) : s.parameter_bytes);
}

function windowGradientBytes(shares, s) {
  if (s.accumulation_steps === 1) return 0;
  if (s.stage === 1 && !throughBf16Optimizer(s)) return collectedGradientBytes(shares, s);
  return backwardGradientBytes(shares, s);
}

function bucketBytes(shares, s) {
  if (s.stage === 0 || throughBf16Optimizer(s)) return 0;
  const each = s.stage === 1 ? s.accumulation_bytes : s.parameter_bytes;
  return s.reduce_bucket_size * each * (s.overlap_comm && s.stage !== 3 ? 2 : 1);
}

// [on the device, on the host]
function stagingBytes(shares, s) {
  if ((s.stage !== 1 && s.stage !== 2) || s.offload_optimizer !== "cpu") return [0, 0];
  const largest = shares.largest * s.parameter_bytes;
  return [largest, largest + shares.share * s.parameter_bytes];
}

function gatheredBytes(shares, s) {
  if (s.stage !== 3 || !isGathered(s)) return 0;
  return Math.min(shares.whole, shares.persistent + Math.max(shares.kept, shares.window)) * s.parameter_bytes;
}

function prefetchBytes(shares, s) {
  if (s.stage !== 3 || s.world_size === 1) return 0;
  return Math.min(shares.whole - shares.persistent, s.prefetch_bucket_size) * s.parameter_bytes;
}

function reductionBytes(shares, s) {
  if (s.stage === 0) return Math.min(shares.whole, 500_000_000) * s.parameter_bytes;
  if (s.world_size === 1 || s.stage === 3 || throughBf16Optimizer(s)) return 0;
  return Math.min(shares.whole, s.reduce_bucket_size) * s.parameter_bytes;
}

// With FusedAdam, as on a GPU.
function flattenedGradientBytes(shares, s) {
  if (s.stage === 0) return s.precision !== "fp32" ? shares.whole * (s.parameter_bytes + 2 * FP32) : 0;
  if (throughBf16Optimizer(s) || offloadsOptimizer(s) || (s.stage < 3 && accumulatesApart(s))) return 0;
  const arrived = s.stage < 3 ? shares.cut * s.accumulation_bytes : 0;
  const copy = s.master_bytes !== s.accumulation_bytes ? s.master_bytes : 0;
  return arrived + stepGradientElements(shares, s) * (s.accumulation_bytes + copy);
}

function stepGradientBytes(shares, s) {
  if (s.stage === 0) return shares.whole * (s.parameter_bytes + (s.precision !== "fp32" ? FP32 : 0));
  if (throughBf16Optimizer(s)) return shares.whole * s.parameter_bytes;
  return offloadsOptimizer(s) ? 0 : stepGradientElements(shares, s) * s.master_bytes;
}

function stepGradientElements(shares, s) {
  return s.stage === 3 ? Math.min(shares.share, s.sub_group_size) : shares.share;
}

// The pinned host buffers through which NVMe offload reads and writes; labsupport/settings.py.
function nvmeBufferBytes(share, s) {
  let bytes = 0;
  if (s.offload_optimizer === "nvme") bytes += s.optimizer_buffers * aligned(Math.min(share, s.sub_group_size) * FP32);
  if (s.offload_param === "nvme") bytes += s.parameter_buffers * aligned(s.parameter_buffer_size * s.parameter_bytes);
  return bytes;
}

function aligned(bytes) {
  return Math.ceil(bytes / FACTS.nvme_alignment_bytes) * FACTS.nvme_alignment_bytes;
}
