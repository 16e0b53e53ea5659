// A choice as text to take along: commands, the Trainer's arguments, the address of the page.

// The command that plans the same, with the files that it reads beside it.
function planCommand(choice, model) {
  const named =
    choice.model === "parameters"
      ? `--parameters ${choice.parameters}`
      : choice.model === "own"
        ? "--hf-config config.json"
        : `--model ${choice.model}`;
  return [
    "python -m labsupport.memory",
    named,
    "--config ds_config.json",
    `--world-size ${choice.world_size}`,
    model.shape ? `--sequence-length ${sequenceOf(choice, model)}` : "",
    choice.checkpointing ? "--activation-checkpointing" : "",
    choice.liger ? "--liger" : "",
    `--gpu "${choice.card}"`,
    `--gpus-per-node ${choice.gpus_per_node}`,
    `--host-memory ${choice.host_memory}`,
  ]
    .filter(Boolean)
    .join(" \\\n    ");
}

// What starts the ranks, on one node or on several.
function launchCommand({ world_size, gpus_per_node }) {
  const program = "train.py --deepspeed_config ds_config.json";
  if (world_size <= gpus_per_node) return `deepspeed --num_gpus ${world_size} ${program}`;
  const nodes = Math.ceil(world_size / gpus_per_node);
  const last = world_size - (nodes - 1) * gpus_per_node;
  const line = (number, slots) => `node-${number} slots=${slots}`;
  const lines =
    nodes > 4
      ? [line(1, gpus_per_node), `# ... node-2 to node-${nodes - 1}, each with slots=${gpus_per_node}`, line(nodes, last)]
      : Array.from({ length: nodes }, (_, number) => line(number + 1, number + 1 === nodes ? last : gpus_per_node));
  return [`cat > hostfile.txt <<'END'`, ...lines, "END", `deepspeed --hostfile hostfile.txt ${program}`].join("\n");
}

// The Hugging Face Trainer's arguments that agree with the ds_config.
function trainingArguments(choice, config) {
  const { lr, weight_decay } = config.optimizer.params;
  return [
    "from transformers import TrainingArguments",
    "",
    "arguments = TrainingArguments(",
    '    output_dir="output",',
    '    deepspeed="ds_config.json",',
    `    per_device_train_batch_size=${choice.micro_batch_size},`,
    `    gradient_accumulation_steps=${choice.accumulation},`,
    `    learning_rate=${lr},`,
    `    weight_decay=${weight_decay},`,
    `    max_grad_norm=${config.gradient_clipping},`,
    ...(choice.precision === "fp32" ? [] : [`    ${choice.precision}=True,`]),
    ...(choice.checkpointing ? ["    # Up to transformers 5.17 it is called gradient_checkpointing.", "    activation_checkpointing=True,"] : []),
    ...(choice.liger ? ["    use_liger_kernel=True,"] : []),
    ")",
  ].join("\n");
}

const HASH = "#choice:";

// The choice, and the pinned one, as the part of an address behind its #: what differs from the defaults.
function hashOf(choice, pinned) {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(differing(choice))) parts.set(name, typeof value === "string" ? value : JSON.stringify(value));
  if (pinned) parts.set("pinned", JSON.stringify(differing(pinned)));
  return HASH + parts.toString();
}

function differing(choice) {
  return Object.fromEntries(
    Object.entries(choice).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(FACTS.default[name])),
  );
}

// {choice, pinned} of an address, or null where it holds none that can be planned.
function readHash(hash) {
  if (!hash.startsWith(HASH)) return null;
  try {
    const parts = Object.fromEntries(new URLSearchParams(hash.slice(HASH.length)));
    const { pinned, ...values } = parts;
    if (!Object.keys(values).every((name) => Object.hasOwn(FACTS.default, name))) return null;
    const choice = wholeChoice(Object.fromEntries(Object.entries(values).map(([name, text]) => [name, valueIn(name, text)])));
    return choice && { choice, pinned: pinned ? wholeChoice(JSON.parse(pinned)) : null };
  } catch {
    return null;
  }
}

function valueIn(name, text) {
  return typeof FACTS.default[name] === "string" || name === "grad_accum_dtype" ? text : JSON.parse(text);
}

// A choice from some of its values, or null where one is unknown or it cannot be planned.
function wholeChoice(values) {
  const choice = { ...FACTS.default, ...values };
  const known = Object.entries(FACTS.axes).every(([axis, allowed]) => allowed.includes(choice[axis]));
  const sizes = typeof choice.sizes === "object" && choice.sizes !== null && Object.keys(choice.sizes).every((key) => key in FACTS.sizes);
  return known && sizes && !refusalOf(choice) ? choice : null;
}
