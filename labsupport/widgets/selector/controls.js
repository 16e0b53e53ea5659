// The controls: lists, rows of buttons, numbers. Each is {root, show(choice)} and calls choose({name: value}).

const PLACE_WORDS = { none: "the GPU", cpu: "the host", nvme: "NVMe" };
const ON_OFF = (on) => (on ? "on" : "off");
const MODEL_WORDS = { own: "your own shape, or a config.json", parameters: "a number of parameters" };

const GROUPS = [
  {
    legend: "Model and samples",
    controls: [
      { axis: "model", label: "Model", kind: "models", wide: true },
      { axis: "sequence_length", label: "Tokens of a sample", kind: "number", usual: (choice) => sequenceOf(choice, modelOf(choice)) },
      { axis: "micro_batch_size", label: "Samples per micro-batch", kind: "number" },
      { axis: "accumulation", label: "Micro-batches per step", kind: "number" },
    ],
  },
  {
    legend: "Machines",
    controls: [
      { axis: "card", label: "Each GPU", kind: "list", words: (name) => `${name}, ${inBytes(FACTS.cards[name].memory_bytes)}` },
      { axis: "world_size", label: "GPUs, one rank each", kind: "number" },
      { axis: "gpus_per_node", label: "GPUs in a node", kind: "number" },
      { axis: "host_memory", label: "A node's host memory, GB", kind: "number" },
    ],
  },
  {
    legend: "How it is trained",
    controls: [
      { axis: "stage", label: "ZeRO stage" },
      { axis: "precision", label: "Precision" },
      { axis: "offload_optimizer", label: "Optimizer states live on", words: (where) => PLACE_WORDS[where] },
      { axis: "offload_param", label: "Parameters live on", words: (where) => PLACE_WORDS[where] },
      { axis: "checkpointing", label: "Activation checkpointing", words: ON_OFF },
      { axis: "liger", label: "Liger's kernels", words: ON_OFF },
    ],
  },
];

function controlOf(spec, choose, name) {
  if (spec.kind === "number") return numberControl(spec, choose);
  if (spec.kind === "list" || spec.kind === "models") return listControl(spec, choose);
  return buttonsControl(spec, choose, name);
}

function listControl({ axis, label, kind, words }, choose) {
  const option = (value) => element("option", { value }, kind === "models" ? modelOption(value) : words(value));
  const group = (title, values) => element("optgroup", { label: title }, ...values.map(option));
  const values = FACTS.axes[axis];
  const options =
    kind === "models"
      ? [
          group("Your own", values.slice(-2)),
          group("The course's models, of bytes", values.slice(0, FACTS.presets)),
          group("Well-known models", values.slice(FACTS.presets, -2)),
        ]
      : values.map(option);
  const select = element("select", { change: () => choose({ [axis]: select.value }) }, ...options);
  select.dataset.axis = axis;
  const root = element("label", { class: "control" }, element("span", {}, label), select);
  return { root, show: (choice) => (select.value = choice[axis]) };
}

function modelOption(name) {
  return MODEL_WORDS[name] ?? `${name}, ${parametersInWords(shapeOfConfig(FACTS.models[name]).parameters)}`;
}

// A row of buttons in which a refused value stays reachable and says why.
function buttonsControl({ axis, label, words = String }, choose, name) {
  const values = FACTS.axes[axis];
  const inputs = values.map((value) =>
    element("input", { type: "radio", name: `${name}-${axis}`, change: () => choose({ [axis]: value }) }),
  );
  const buttons = inputs.map((input, number) =>
    element("label", { class: "segment" }, input, element("span", {}, words(values[number]))),
  );
  const root = element("fieldset", { class: "control" }, element("legend", {}, label), ...buttons);
  root.dataset.axis = axis;
  function show(choice) {
    inputs.forEach((input, number) => {
      const why = refusalOf({ ...choice, [axis]: values[number] });
      input.checked = choice[axis] === values[number];
      input.setAttribute("aria-disabled", Boolean(why));
      buttons[number].title = why;
    });
  }
  return { root, show };
}

// A free number. Where it may be left empty, `usual` says what stands for it then.
function numberControl({ axis, label, usual, text = false }, choose) {
  const attributes = { type: text ? "text" : "number", min: FACTS.bounds[axis][0], step: axis === "host_memory" ? "any" : "1" };
  const { input, show } = numberInput(attributes, (value) => choose({ [axis]: value ?? (usual ? null : NaN) }), choose);
  input.dataset.axis = axis;
  const root = element("label", { class: "control" }, element("span", {}, label), input);
  return { root, show: (choice) => show(choice[axis], usual?.(choice) ?? "") };
}

// An input for a number. What is being typed is taken with each key, and stands as it was typed; what is refused then
// is marked, and taken back when the reader leaves. take: says whether the number was taken.
function numberInput(attributes, take, choose) {
  let typing = false;
  const refused = () => input.getAttribute("aria-invalid") === "true";
  const input = element("input", {
    inputmode: "decimal",
    autocomplete: "off",
    ...attributes,
    input: () => {
      typing = true;
      input.setAttribute("aria-invalid", !take(numberIn(input.value)));
      typing = false;
    },
    blur: () => refused() && choose({}),
  });
  function show(value, usual = "") {
    input.placeholder = usual;
    if (typing) return;
    input.setAttribute("aria-invalid", false);
    if (numberIn(input.value) !== value) input.value = value ?? "";
  }
  return { input, show };
}

// The number that a text says, NaN where it says none, null where it is empty: "7.5e9", "70b", "1,024".
function numberIn(text) {
  const bare = text.trim().toLowerCase().replaceAll(/[,_\s]/g, "");
  if (!bare) return null;
  const [, digits, unit] = bare.match(/^(.*?)([kmbt]?)$/);
  const value = Number(digits || "?") * { "": 1, k: 1e3, m: 1e6, b: 1e9, t: 1e12 }[unit];
  return unit ? Math.round(value) : value;
}
