// memory/liger.py in JavaScript: the activations of a Llama whose norms, MLP and loss are Liger's kernels. In bytes.

// Whether Liger's kernels are planned for this shape.
function ligerIsPlanned(shape) {
  return shape.family.counted && isLlama(shape);
}

function ligerActivationBytes(shape, microBatch, sequence, e, checkpointing, reduceBucketSize) {
  const t = microBatch * sequence;
  const { hidden_size: h, mlp_size: f } = shape;
  const hidden = t * h * e;
  const norm = 2 * hidden + FP32 * t;
  const heads = t * (2 * e * (shape.query_size + shape.key_value_size) + headNormBytes(shape, e));
  const layer = 2 * norm + heads + attentionBytes(shape, t) + 3 * t * f * e;
  const working = t * e * (f + h) + h * f * e;
  const keptLayers = shape.layers * (checkpointing ? hidden + FACTS.rng_state_bytes : layer);
  const first = 2 * 8 * t + rotaryBytes(shape, sequence, e);
  const outputLayer = shape.vocabulary * h;
  const kept = first + keptLayers + norm + hidden + outputLayer * e;
  const oneLayer = checkpointing ? layer : 0;
  return {
    kept,
    forward: kept + chunkOfTokens(shape, t) * shape.vocabulary * e + outputLayer * (e + FP32),
    loss: kept,
    backward: first + keptLayers + oneLayer + working,
    reduction: first + stillKept(shape, keptLayers, reduceBucketSize) + oneLayer + working,
    backward_end: first + (checkpointing ? hidden : 0) + layer + working,
  };
}

// For how many tokens the logits exist at a time: a power of two.
function chunkOfTokens(shape, t) {
  const wanted = Math.ceil(t / Math.ceil(shape.vocabulary / shape.hidden_size));
  let chunk = 1;
  while (chunk < wanted) chunk *= 2;
  return chunk;
}
