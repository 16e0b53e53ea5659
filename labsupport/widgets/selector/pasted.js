// What a reader pastes: a model's config.json, or a ds_config.json. Both become changes of the choice.

const ADAMS = ["adam", "adamw", "fusedadam", "cpuadam", "onebitadam"];

// {change, said}; throws a Refusal, in one sentence, for a text that is neither.
function readPasted(text, choice) {
  let config;
  try {
    config = JSON.parse(text);
  } catch (error) {
    throw new Refusal(`This is not JSON (${error.message.split("\n")[0]}): paste a whole config.json or ds_config.json.`);
  }
  if (config === null || typeof config !== "object" || Array.isArray(config)) {
    throw new Refusal("This is JSON and not an object: paste a whole config.json or ds_config.json.");
  }
  const isDsConfig = DS_CONFIG_KEYS.some((key) => key in config);
  return isDsConfig && !("model_type" in config) ? readDsConfig(config, choice) : readModelConfig(config, choice);
}

const DS_CONFIG_KEYS = [
  "zero_optimization", "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "bf16", "fp16",
  "optimizer", "scheduler",
];

function readModelConfig(config, choice) {
  const shape = shapeOfConfig(config);
  const own = ownConfigOf(shape, config);
  const change = { model: "own", config_json: own, parameters: null, ...fittingSequence(choice, shape) };
  return { change, said: `Read as a ${shape.architecture} of ${parametersInWords(shape.parameters)}.` };
}

// The sizes of a config.json, and nothing else of it: what its tensors follow from.
function ownConfigOf(shape, config) {
  const keys = [
    "model_type", ...Object.values(FACTS.config_keys).flat(), "num_key_value_heads", "head_dim", "intermediate_size", "n_inner",
    "moe_intermediate_size", ...FACTS.expert_keys, "num_experts_per_tok", FACTS.shared_expert_key, "attention_bias",
    "tie_word_embeddings",
  ];
  return Object.fromEntries(keys.filter((key) => (config[key] ?? null) !== null).map((key) => [key, config[key]]));
}

// A model that reads shorter samples than were chosen gets its usual ones.
function fittingSequence({ sequence_length }, shape) {
  return sequence_length && shape && sequence_length > shape.longest_sequence ? { sequence_length: null } : {};
}

function readDsConfig(config, choice) {
  const reader = { change: { sizes: {}, grad_accum_dtype: null }, unused: [], auto: [] };
  const zero = config.zero_optimization ?? {};
  if (typeof zero !== "object" || Array.isArray(zero)) throw new Refusal("zero_optimization is no object: paste the whole ds_config.json.");
  readBatch(config, choice, reader);
  reader.change.precision = precisionOf(config, choice, reader);
  reader.change.stage = whole(zero.stage ?? 0, "zero_optimization.stage");
  for (const key of ["offload_optimizer", "offload_param"]) {
    const device = zero[key]?.device ?? "none";
    if (!FACTS.axes[key].includes(device)) throw new Refusal(`zero_optimization.${key}.device is ${JSON.stringify(device)}: give none, cpu or nvme.`);
    reader.change[key] = device;
  }
  for (const [key, value] of Object.entries(zero)) readZeroKey(key, value, reader);
  for (const [key, value] of Object.entries(config)) readTopKey(key, value, reader);
  return { change: reader.change, said: dsConfigInWords(reader) };
}

function readBatch(config, { world_size, micro_batch_size, accumulation }, { change, auto }) {
  const given = (key) => {
    if (config[key] === "auto") auto.push(key);
    return config[key] === undefined || config[key] === null || config[key] === "auto" ? null : whole(config[key], key);
  };
  const [micro, steps, batch] = ["train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size"].map(given);
  const perRank = batch === null ? null : batch / world_size;
  change.micro_batch_size = micro ?? (perRank === null ? micro_batch_size : perRank / (steps ?? 1));
  change.accumulation = steps ?? (perRank === null || micro === null ? (batch === null ? accumulation : 1) : perRank / micro);
  if (batch !== null && batch !== change.micro_batch_size * change.accumulation * world_size) {
    throw new Refusal(
      `train_batch_size ${batch} is not micro-batch ${micro ?? "?"} times ${steps ?? "?"} steps on ${counted(world_size, "GPU")}: ` +
        "set the number of GPUs that it is meant for first.",
    );
  }
  if (!Number.isInteger(change.micro_batch_size) || !Number.isInteger(change.accumulation)) {
    throw new Refusal(`train_batch_size ${batch} does not divide on ${counted(world_size, "GPU")}: set the number of GPUs first.`);
  }
}

function whole(value, key) {
  if (!Number.isInteger(value)) throw new Refusal(`${key} is ${JSON.stringify(value)}: give a whole number.`);
  return value;
}

function precisionOf(config, choice, { auto }) {
  const on = (key) => {
    const enabled = config[key]?.enabled;
    if (enabled === "auto") auto.push(`${key}.enabled`);
    return enabled === "auto" ? choice.precision === key : Boolean(enabled);
  };
  const [bf16, fp16] = [on("bf16"), on("fp16")];
  return bf16 ? "bf16" : fp16 ? "fp16" : "fp32";
}

function readZeroKey(key, value, { change, unused, auto }) {
  if (key === "stage") return;
  if (key === "offload_optimizer" || key === "offload_param") {
    unused.push(...Object.keys(value ?? {}).filter((name) => !["device", "pin_memory", "nvme_path"].includes(name)).map((name) => `${key}.${name}`));
  } else if (!FACTS.sizes[key]) unused.push(`zero_optimization.${key}`);
  else if (value === "auto") auto.push(key);
  else change.sizes[key] = value;
}

function readTopKey(key, value, { change, unused }) {
  const read = ["zero_optimization", "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"];
  if (read.includes(key)) return;
  if (key === "bf16" || key === "fp16") {
    unused.push(...Object.keys(value ?? {}).filter((name) => name !== "enabled").map((name) => `${key}.${name}`));
  } else if (key === "data_types" && (value?.grad_accum_dtype ?? null) !== null) {
    if (value.grad_accum_dtype === "fp32") change.grad_accum_dtype = "fp32";
    else if (value.grad_accum_dtype !== change.precision) unused.push("data_types.grad_accum_dtype");
  } else if (key === "optimizer") {
    if (!ADAMS.includes(String(value?.type).toLowerCase())) unused.push(`optimizer.type ${value?.type} (planned as AdamW)`);
    else if (value.params) unused.push("optimizer.params");
  } else unused.push(key);
}

function dsConfigInWords({ change, unused, auto }) {
  const parts = [`Read: ${strategyInWords(change)}, ${change.precision}.`];
  if (auto.length) parts.push(`Left as the Trainer sets it ("auto"): ${auto.join(", ")}.`);
  if (unused.length) parts.push(`Not used by the selector: ${unused.join(", ")}.`);
  return parts.join(" ");
}
