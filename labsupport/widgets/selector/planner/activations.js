// memory/activations.py in JavaScript, with PyTorch's fused attention: what a forward pass keeps for its backward pass.
// t: the tokens of a micro-batch; e: the bytes of a number in the model's precision. All in bytes.

const NO_ACTIVATIONS = { kept: 0, forward: 0, loss: 0, backward: 0, reduction: 0, backward_end: 0 };

// What is held at the moments of one micro-batch; reduceBucketSize in elements, the gradients after which `reduction` is.
function activationBytes(shape, microBatch, sequence, e, checkpointing, reduceBucketSize) {
  const t = microBatch * sequence;
  const hidden = t * shape.hidden_size * e;
  const layer = layerBytes(shape, t, e);
  const working = layerWorkingBytes(shape, t, e);
  const keptLayers = shape.layers * (checkpointing ? hidden + FACTS.rng_state_bytes : layer);
  // Labels and token numbers are int64.
  const first = (isLlama(shape) ? 0 : hidden) + 2 * 8 * t + rotaryBytes(shape, sequence, e);
  const end = finalNormBytes(shape, t, e) + lossBytes(shape, t);
  const oneLayer = checkpointing ? layer : 0;
  const kept = first + keptLayers + end;
  return {
    kept,
    forward: Math.max(kept + logitsBytes(shape, t, e), keptLayers + first + 3 * hidden),
    loss: kept + 2 * lossBytes(shape, t),
    backward: Math.max(first + keptLayers + oneLayer + working, first + keptLayers + finalNormWorkingBytes(shape, t)),
    reduction: first + stillKept(shape, keptLayers, reduceBucketSize) + oneLayer + working,
    backward_end: first + (checkpointing ? hidden : 0) + layer + working,
  };
}

// What the layers still keep when the first bucket is full of gradients.
function stillKept(shape, keptLayers, reduceBucketSize) {
  const behind = Math.min(1, reduceBucketSize / (shape.layers * shape.layer_parameters));
  return Math.trunc(keptLayers * (1 - behind));
}

function isLlama(shape) {
  return shape.architecture !== "gpt2";
}

function layerBytes(shape, t, e) {
  const { hidden_size: h, mlp_size: f } = shape;
  const attention = attentionBytes(shape, t);
  if (!isLlama(shape)) return t * e * (8 * h + 2 * f) + 4 * e * t + attention;
  const heads = 2 * e * (shape.query_size + shape.key_value_size);
  return t * (2 * (4 * h + 2 * e * h + 4) + heads + headNormBytes(shape, e) + 4 * e * f) + attention;
}

function headNormBytes(shape, e) {
  if (!shape.family.head_norms) return 0;
  const wide = shape.query_size + shape.key_value_size;
  return wide * (4 + e) + Math.floor((4 * wide * shape.attention_heads) / shape.query_size);
}

function attentionBytes(shape, t) {
  return 4 * t * shape.attention_heads;
}

function rotaryBytes(shape, sequence, e) {
  return isLlama(shape) ? Math.floor((2 * sequence * shape.query_size) / shape.attention_heads) * e : 0;
}

function layerWorkingBytes(shape, t, e) {
  const { hidden_size: h, mlp_size: f } = shape;
  return (isLlama(shape) ? t * e * 2 * f : t * e * (f - h)) + h * f * e;
}

function finalNormBytes(shape, t, e) {
  const h = shape.hidden_size;
  return isLlama(shape) ? t * (4 * h + 2 * e * h + 4) : t * e * (h + 2);
}

function finalNormWorkingBytes(shape, t) {
  return isLlama(shape) ? t * shape.hidden_size * 4 * 6 : 0;
}

function lossBytes(shape, t) {
  return 4 * t * shape.vocabulary;
}

function logitsBytes(shape, t, e) {
  return t * shape.vocabulary * (e + (e < 4 ? 4 : 0));
}
