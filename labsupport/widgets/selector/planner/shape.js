// labsupport/shapes in JavaScript: the tensors of a model, from the sizes that its config.json has. FACTS.families is
// families.FAMILIES, and FACTS.config_keys the names of the sizes. All in elements.

// The shape of a config.json; throws a Refusal, in one sentence, for what Python's shape_of_config refuses.
function shapeOfConfig(config, name = "The config.json") {
  if (config === null || typeof config !== "object" || Array.isArray(config)) {
    throw new Refusal(`${name} is not an object with a model_type: give a whole config.json.`);
  }
  const family = Object.hasOwn(FACTS.families, config.model_type) ? FACTS.families[config.model_type] : null;
  if (!family) {
    throw new Refusal(
      `${name} has the model_type ${JSON.stringify(config.model_type ?? null)}, which the planner does not know: it knows ` +
        `${Object.keys(FACTS.families).join(", ")}; give its number of parameters instead.`,
    );
  }
  for (const [key, harmless] of Object.entries(FACTS.not_described)) {
    const value = config[key] ?? null;
    if (value !== null && JSON.stringify(value) !== JSON.stringify(harmless)) {
      throw new Refusal(
        `${name} sets ${key} to ${JSON.stringify(value)}, which the planner does not describe: give its number of parameters instead.`,
      );
    }
  }
  const size = (keys, ...fallback) => sizeInConfig(config, keys, name, ...fallback);
  const shape = { architecture: config.model_type, family };
  for (const [field, keys] of Object.entries(FACTS.config_keys)) shape[field] = size(keys);
  const heads = shape.attention_heads;
  const keyHeads = size(["num_key_value_heads"], heads);
  if (heads % keyHeads) throw new Refusal(`${name} has ${heads} attention heads on ${keyHeads} key heads: these must divide.`);
  const headSize = size(["head_dim"], family.head_size);
  if (headSize === null && shape.hidden_size % heads) {
    throw new Refusal(`${name} has a hidden_size of ${shape.hidden_size} and ${heads} heads: these must divide.`);
  }
  shape.experts = family.experts ? size(FACTS.expert_keys) : 0;
  shape.experts_per_token = shape.experts ? size(["num_experts_per_tok"]) : 0;
  if (shape.experts_per_token > shape.experts) {
    throw new Refusal(`${name} sends a token to ${shape.experts_per_token} of ${shape.experts} experts: give fewer.`);
  }
  shape.shared_expert_size = config.model_type === "qwen2_moe" ? size([FACTS.shared_expert_key]) : 0;
  shape.mlp_size = mlpSizeInConfig(config, shape, size);
  shape.query_size = heads * (headSize ?? Math.floor(shape.hidden_size / heads));
  shape.key_value_size = Math.floor((shape.query_size * keyHeads) / heads);
  shape.tied = config.tie_word_embeddings ?? family.tied;
  shape.attention_bias = Boolean(config.attention_bias);
  if (shape.layers > FACTS.most_layers || withTensors(shape).parameters > FACTS.most_parameters) {
    throw new Refusal(`${name} would have more than 1e+14 parameters or 10,000 layers: mend its sizes.`);
  }
  return shape;
}

function mlpSizeInConfig(config, shape, size) {
  if (shape.experts && "moe_intermediate_size" in config) return size(["moe_intermediate_size"]);
  if ("n_embd" in config) return size(["n_inner"], 4 * shape.hidden_size); // GPT-2's may be left out
  return size(["intermediate_size"]);
}

// The first of these keys that the config has, a positive integer; the fallback where none is there or is null.
function sizeInConfig(config, keys, name, ...fallback) {
  const key = keys.find((each) => (config[each] ?? null) !== null);
  if (key === undefined) {
    if (fallback.length) return fallback[0];
    throw new Refusal(`${name} has no ${keys[0]}: a config.json of this model_type needs it.`);
  }
  if (!Number.isSafeInteger(config[key]) || config[key] < 1) {
    throw new Refusal(`${key} of ${name} is ${JSON.stringify(config[key])}: give a whole number of at least 1.`);
  }
  return config[key];
}

// The shape with its tensors counted: layer_sizes, before, after, layer_parameters, parameters, longest and sizes.
function withTensors(shape) {
  const layer = shape.family.own_layer ? gpt2Layer(shape) : [...attentionTensors(shape), ...mlpTensors(shape), ...normTensors(shape)];
  const before = [shape.vocabulary * shape.hidden_size];
  if (shape.family.learned_positions) before.push(shape.longest_sequence * shape.hidden_size);
  const after = shape.family.norms.length ? [shape.hidden_size] : [];
  if (shape.family.norm_bias) after.push(shape.hidden_size);
  if (!shape.tied) after.push(shape.vocabulary * shape.hidden_size);
  const layer_parameters = sum(layer);
  return Object.assign(shape, {
    layer_sizes: layer,
    before,
    after,
    layer_parameters,
    parameters: sum(before) + sum(after) + shape.layers * layer_parameters,
  });
}

// The elements of every tensor, in the order of model.parameters(); tied ones stand once.
function sizesOf(shape) {
  return remembered(shape, "sizes", () => {
    const sizes = [...shape.before];
    for (let layer = 0; layer < shape.layers; layer += 1) sizes.push(...shape.layer_sizes);
    return sizes.concat(shape.after);
  });
}

// How many tensors there are of each size: few sizes, many tensors.
function countsOf(sizes) {
  return remembered(sizes, "counts", () => {
    const counts = new Map();
    for (const size of sizes) counts.set(size, (counts.get(size) ?? 0) + 1);
    return counts;
  });
}

function largestOf(sizes) {
  return Math.max(...countsOf(sizes).keys());
}

function withLayers(shape, layers) {
  return withTensors({ ...shape, layers });
}

function attentionTensors({ family, hidden_size: h, query_size: q, key_value_size: kv, attention_heads, attention_bias }) {
  const bias = attention_bias ? "all" : family.bias;
  if (family.fused_qkv) return [h * q, (q + 2 * kv) * h];
  const sizes = [];
  for (const [name, rows, columns] of [["q", q, h], ["k", kv, h], ["v", kv, h], ["o", h, q]]) {
    sizes.push(rows * columns);
    if (bias === "all" || (bias === "qkv" && name !== "o")) sizes.push(rows);
  }
  const oneHead = q / attention_heads;
  if (family.head_norms) sizes.push(...(family.head_norms === "head" ? [oneHead, oneHead] : [q, kv]));
  return sizes;
}

function mlpTensors({ family, architecture, hidden_size: h, mlp_size: f, experts, shared_expert_size: shared }) {
  if (experts) {
    const [router, weights] = [experts * h, [experts * 2 * f * h, experts * h * f]];
    const sizes = architecture === "qwen3_moe" ? [...weights, router] : [router, ...weights];
    return shared ? [...sizes, h * shared, h * shared, h * shared, h] : sizes;
  }
  if (family.mlp === "plain") return [f * h, f, h * f, h];
  return family.mlp === "fused" ? [2 * f * h, h * f] : [f * h, f * h, h * f];
}

function normTensors({ family, hidden_size }) {
  return Array(family.norms.length * (family.norm_bias ? 2 : 1)).fill(hidden_size);
}

function gpt2Layer({ hidden_size: h, mlp_size: f }) {
  return [h, h, 3 * h * h, 3 * h, h * h, h, h, h, h * f, f, f * h, h];
}
