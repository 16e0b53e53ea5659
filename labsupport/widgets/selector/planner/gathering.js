// memory/gathering.py in JavaScript: which parameters stage 3 gathers, keeps and lets go in one step. In elements.

// {times, whole}: how often each tensor is gathered, and what is whole when a forward pass ends.
function gatheringOf(large, settings, checkpointedLayers = 0, tiedEmbedding = false) {
  const { max_live_parameters: maxLive, max_reuse_distance: maxReuse, prefetch_bucket_size: bucket } = settings;
  const tied = tiedEmbedding && large.length > 0 ? 1 : 0;
  const key = ["gathering", checkpointedLayers, tied, maxLive, maxReuse, bucket].join("|");
  return remembered(large, key, () => replay(large, checkpointedLayers, tied, maxLive, maxReuse, bucket));
}

function replay(large, layers, tied, maxLive, maxReuse, bucket) {
  const blocks = blocksOf(tied ? large.slice(1) : large, layers);
  const { uses, kept } = usesOf(large.length, blocks, tied);
  const endsForward = large.length + tied;
  const { used, nextUse } = between(uses, large);
  const here = new Uint8Array(large.length);
  const marked = new Int32Array(large.length).fill(-1);
  const times = new Array(large.length).fill(0);
  let [live, ahead, whole] = [0, 0, 0];
  for (let step = 0; step < uses.length; step += 1) {
    const tensor = uses[step];
    if (tensor !== null && !here[tensor]) {
      here[tensor] = 1;
      live += large[tensor];
      times[tensor] += 1;
    }
    ahead = Math.max(ahead, step + 1);
    const room = Math.min(maxLive - live, bucket);
    let fetched = 0;
    while (ahead < uses.length && fetched < room) {
      const other = uses[ahead];
      ahead += 1;
      if (other === null) continue;
      marked[other] = ahead - 1;
      if (!here[other]) {
        here[other] = 1;
        fetched += large[other];
        times[other] += 1;
      }
    }
    live += fetched;
    if (tensor !== null && !kept.has(step)) {
      const near = nextUse[step] !== null && used[nextUse[step]] - used[step + 1] < maxReuse;
      if (!near && marked[tensor] <= step + 1) {
        here[tensor] = 0;
        live -= large[tensor];
      }
    }
    if (step === endsForward) whole = live;
  }
  return { times, whole };
}

// The tensors that stage 3 cuts, because they are larger than its threshold.
function largeOf(sizes, threshold) {
  return remembered(sizes, `larger than ${threshold}`, () => sizes.filter((size) => size > threshold));
}

// A model of which only the number of parameters is known, as equal tensors: 250, or 4 a layer.
function equalPieces(parameters, layers = 0) {
  const pieces = Math.max(250, 4 * layers);
  return Array(pieces).fill(parameters / pieces);
}

// The elements used before each use, and where each tensor is used next.
function between(uses, large) {
  const [used, nextUse, seen] = [[0], Array(uses.length).fill(null), new Map()];
  uses.forEach((tensor, step) => {
    used.push(used[step] + (tensor === null ? 0 : large[tensor]));
    if (seen.has(tensor)) nextUse[seen.get(tensor)] = step;
    seen.set(tensor, step);
  });
  return { used, nextUse };
}

// The tensors in the order of their uses, forward and backward; null is the use of the whole model, at the start of each.
function usesOf(count, { positions, tensors }, tied) {
  const first = tied ? [0] : [];
  const others = [];
  for (let tensor = tied; tensor < count; tensor += 1) others.push(tensor);
  const uses = [null, ...first, ...others, ...first, null, ...first];
  const kept = new Set();
  while (others.length) {
    if (!positions.has(others[others.length - 1] - tied)) {
      uses.push(others.pop());
      continue;
    }
    const recomputed = others.splice(-tensors);
    const last = recomputed[recomputed.length - 1];
    kept.add(uses.length);
    uses.push(last, ...recomputed, ...recomputed.slice(0, -1).reverse());
  }
  uses.push(...first);
  return { uses, kept };
}

// The positions of the tensors whose sizes occur in each of the equal blocks, and how many of them a block has.
function blocksOf(sizes, layers) {
  const count = new Map();
  if (layers) for (const size of sizes) count.set(size, (count.get(size) ?? 0) + 1);
  const positions = new Set();
  sizes.forEach((size, position) => {
    if (layers && count.get(size) >= layers) positions.add(position);
  });
  return { positions, tensors: layers ? Math.max(1, Math.floor(positions.size / layers)) : 1 };
}
