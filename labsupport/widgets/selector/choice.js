// A choice in JavaScript, as choices.py has it: its model, its Settings, its ds_config, what refuses it.

const NUMBERS = new Intl.NumberFormat("en");
const rememberedModels = new Map();

// {shape} or {parameters} of a choice; throws a Refusal for a config.json that is not understood.
function modelOf(choice) {
  if (choice.model === "parameters") return { parameters: choice.parameters };
  const config = choice.model === "own" ? choice.config_json : FACTS.models[choice.model];
  const key = choice.model === "own" ? JSON.stringify(config) : choice.model;
  if (!rememberedModels.has(key)) rememberedModels.set(key, { shape: shapeOfConfig(config) });
  return rememberedModels.get(key);
}

// The tokens of a sample.
function sequenceOf(choice, { shape }) {
  return shape ? (choice.sequence_length ?? Math.min(shape.longest_sequence, FACTS.usual_sequence)) : null;
}

function strategyOf(choice) {
  return FACTS.strategies.findIndex(
    (each) =>
      each.stage === choice.stage &&
      each.offload_optimizer === choice.offload_optimizer &&
      each.offload_param === choice.offload_param,
  );
}

// The keys of zero_optimization that the choice sets beyond its strategy, in their order in the config.
function zeroKeys(choice, { shape }) {
  const keys = {};
  if (shape && choice.stage) keys.reduce_bucket_size = shape.hidden_size ** 2;
  if (shape && choice.stage === 3) {
    keys.stage3_prefetch_bucket_size = Math.trunc(0.9 * shape.hidden_size ** 2);
    keys.stage3_param_persistence_threshold = 10 * shape.hidden_size;
  }
  for (const [key, value] of Object.entries(choice.sizes)) {
    if (FACTS.sizes[key].stages.includes(choice.stage)) keys[key] = value;
  }
  return keys;
}

function settingsOf(choice, model) {
  const settings = {
    ...FACTS.settings,
    ...FACTS.strategies[strategyOf(choice)].settings,
    precision: choice.precision,
    accumulation_dtype: choice.grad_accum_dtype ?? choice.precision,
    world_size: choice.world_size,
    micro_batch_size: choice.micro_batch_size,
    accumulation_steps: choice.accumulation,
  };
  for (const [key, value] of Object.entries(zeroKeys(choice, model))) settings[FACTS.sizes[key].field] = value;
  if (model.shape && choice.offload_param === "nvme") settings.parameter_buffer_size = largestOf(sizesOf(model.shape));
  settings.parameter_bytes = FACTS.bytes_of[settings.precision];
  settings.accumulation_bytes = FACTS.bytes_of[settings.accumulation_dtype];
  return settings;
}

// The plan of a choice; throws a Refusal.
function planOfChoice(choice, model = modelOf(choice)) {
  return planOf(model, settingsOf(choice, model), trainingOf(choice, model));
}

function trainingOf(choice, model) {
  return { sequence_length: sequenceOf(choice, model), checkpointing: choice.checkpointing, liger: choice.liger };
}

// The ds_config of a choice, its keys in the order that Python gives them.
function configOf(choice, model = modelOf(choice)) {
  const base = FACTS.configs[choice.precision][strategyOf(choice)];
  const zero = { ...base.zero_optimization };
  if (model.shape && choice.offload_param === "nvme") {
    zero.offload_param = { ...zero.offload_param, buffer_size: largestOf(sizesOf(model.shape)) };
  }
  const config = {
    ...base,
    train_micro_batch_size_per_gpu: choice.micro_batch_size,
    gradient_accumulation_steps: choice.accumulation,
    zero_optimization: { ...zero, ...zeroKeys(choice, model) },
  };
  if (choice.grad_accum_dtype) config.data_types = { grad_accum_dtype: choice.grad_accum_dtype };
  return config;
}

// "" where the choice can be planned, else the sentence that says why it cannot.
function refusalOf(choice) {
  const combined = FACTS.refusals[[choice.stage, choice.offload_optimizer, choice.offload_param].join("|")];
  if (combined) return combined;
  const sums = choice.grad_accum_dtype ? FACTS.sums_refused[`${choice.stage}|${choice.precision}`] : "";
  if (sums) return sums;
  for (const [name, [low, high]] of Object.entries(FACTS.bounds)) {
    const value = choice[name];
    if (value === FACTS.default[name]) continue;
    const whole = name !== "host_memory";
    if (typeof value !== "number" || !(value >= low && value <= high) || (whole && !Number.isInteger(value))) {
      return `${NAMES_IN_WORDS[name]}: give a ${whole ? "whole " : ""}number from ${low} to ${NUMBERS.format(high)}.`;
    }
  }
  for (const [key, value] of Object.entries(choice.sizes)) {
    const { least } = FACTS.sizes[key];
    if (least === null ? typeof value !== "boolean" : !Number.isInteger(value) || value < least || value > FACTS.most_size) {
      return `${key}: give ${least === null ? "true or false" : `a whole number from ${least} to ${NUMBERS.format(FACTS.most_size)}`}.`;
    }
  }
  if (choice.model === "parameters" && choice.parameters === null) return "Give the model's number of parameters.";
  try {
    const model = modelOf(choice);
    const tokens = choice.micro_batch_size * (sequenceOf(choice, model) ?? 1);
    if (tokens > FACTS.most_tokens) {
      return `A micro-batch would have ${NUMBERS.format(tokens)} tokens: give fewer samples or shorter ones.`;
    }
    return planRefusal(model, trainingOf(choice, model));
  } catch (error) {
    if (error instanceof Refusal) return error.message;
    throw error;
  }
}

const NAMES_IN_WORDS = {
  world_size: "GPUs",
  gpus_per_node: "GPUs in a node",
  host_memory: "Host memory of a node",
  micro_batch_size: "Samples per micro-batch",
  accumulation: "Micro-batches per step",
  sequence_length: "Tokens of a sample",
  parameters: "Parameters",
};
