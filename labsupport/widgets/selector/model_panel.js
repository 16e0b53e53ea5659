// A model of the reader's own: its shape in numbers, a bare number of parameters, or a pasted config.json.

const OWN_SIZES = [
  ["num_hidden_layers", "Layers"],
  ["hidden_size", "Hidden size"],
  ["num_attention_heads", "Heads"],
  ["num_key_value_heads", "Key-value heads"],
  ["intermediate_size", "MLP size"],
  ["vocab_size", "Vocabulary"],
  ["max_position_embeddings", "Longest sample, tokens"],
];
const GPT2_KEYS = {
  num_hidden_layers: "n_layer",
  hidden_size: "n_embd",
  num_attention_heads: "n_head",
  intermediate_size: "n_inner",
  max_position_embeddings: "n_positions",
};

// The config.json to start a shape of one's own from: that of the model chosen before.
function ownConfigFrom(choice) {
  return withoutName(FACTS.models[choice.model] ?? choice.config_json ?? FACTS.models["7b"]);
}

function modelPanel(choose, current) {
  const parameters = numberControl({ axis: "parameters", label: "Parameters, for example 7.5e9 or 70b", text: true }, choose);
  const architecture = element(
    "select",
    { change: () => chooseConfig({ model_type: architecture.value }) },
    ...Object.keys(FACTS.families)
      .filter((name) => !FACTS.families[name].experts)
      .map((name) => element("option", { value: name }, name)),
  );
  const tied = element("input", { type: "checkbox", change: () => chooseConfig({ tie_word_embeddings: tied.checked }) });
  const sizes = OWN_SIZES.map(([key, label]) => {
    const { input, show: showSize } = numberInput({ type: "number", min: 1 }, (value) => chooseConfig({ [key]: value ?? NaN }), choose);
    input.dataset.size = key;
    return { key, showSize, root: element("label", { class: "control" }, element("span", {}, label), input) };
  });
  const shape = element(
    "fieldset",
    { class: "group own-shape" },
    element("legend", {}, "The shape of your model"),
    element("label", { class: "control" }, element("span", {}, "Built like"), architecture),
    ...sizes.map(({ root }) => root),
    element("label", { class: "control check" }, tied, " The output layer is the embedding (tied)"),
  );
  const root = element("div", {}, parameters.root, shape);

  // Another architecture or size, in the names that the architecture's config.json has.
  function chooseConfig(change) {
    const config = inCommonNames(current().config_json);
    if ("hidden_size" in change || "num_attention_heads" in change) delete config.head_dim; // it follows from the two
    return choose({ config_json: inOwnNames({ ...config, ...change }) });
  }

  function show(choice) {
    parameters.root.hidden = choice.model !== "parameters";
    shape.hidden = choice.model !== "own";
    parameters.show(choice);
    if (choice.model !== "own") return;
    const config = inCommonNames(choice.config_json);
    const read = modelOf(choice).shape;
    const known = { ...config, num_key_value_heads: config.num_key_value_heads ?? read.attention_heads, intermediate_size: read.mlp_size };
    architecture.value = config.model_type;
    tied.checked = read.tied;
    for (const { key, showSize, root: label } of sizes) {
      label.hidden = key === "num_key_value_heads" && config.model_type === "gpt2";
      showSize(known[key]);
    }
  }
  return { root, show };
}

// GPT-2's names of its sizes and everybody else's.
function inCommonNames(config) {
  const common = { ...config };
  for (const [name, own] of Object.entries(GPT2_KEYS)) {
    if (own in common) common[name] = common[own];
    delete common[own];
  }
  return common;
}

function inOwnNames(config) {
  const { ...own } = config;
  if (config.model_type !== "gpt2") return own;
  for (const [name, key] of Object.entries(GPT2_KEYS)) {
    if (name in own) own[key] = own[name];
    delete own[name];
  }
  delete own.num_key_value_heads;
  return own;
}

// One box for both files: which of them it is shows in its keys.
function pastePanel(choose, current) {
  const box = element("textarea", { rows: 5, spellcheck: "false", "aria-label": "A config.json or a ds_config.json" });
  const said = element("p", { class: "pasted-words", role: "status" });
  const read = element("button", { type: "button", click: readBox }, "Read it");
  const root = element(
    "details",
    { class: "paste" },
    element("summary", {}, "Paste a model's config.json, or a ds_config.json"),
    box,
    element("div", { class: "run-controls" }, read),
    said,
  );
  function readBox() {
    try {
      const { change, said: words } = readPasted(box.value, current());
      if (choose(change)) said.textContent = words;
      else said.textContent = "It was read, and cannot be planned: the sentence above says why.";
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      said.textContent = error.message;
    }
  }
  return { root };
}

// Buckets and sums: what is empty is as the Trainer's "auto", or as DeepSpeed has it.
function sizesPanel(choose, current) {
  const sums = buttonsControl(
    { axis: "grad_accum_dtype", label: "Gradients are added up in", words: (dtype) => dtype ?? "the precision" },
    choose,
    `sums-${(panels += 1)}`,
  );
  const controls = Object.entries(FACTS.sizes).map(([key, size]) => {
    const take = (value) => {
      const { [key]: _, ...others } = current().sizes;
      return choose({ sizes: value === null ? others : { ...others, [key]: value } });
    };
    const { input, show } = size.least === null ? switchInput(take) : numberInput({ type: "number", min: size.least, step: 1 }, take, choose);
    input.dataset.size = key;
    const root = element("label", { class: "control" }, element("span", {}, key), input);
    return {
      root,
      show: (choice, settings) => {
        root.hidden = !size.stages.includes(choice.stage);
        show(choice.sizes[key] ?? null, settings[size.field]);
      },
    };
  });
  const root = element(
    "details",
    { class: "sizes" },
    element("summary", {}, "Buckets and other sizes of zero_optimization, in elements"),
    element("div", { class: "group" }, sums.root, ...controls.map((each) => each.root)),
  );
  const show = (choice) => {
    const settings = settingsOf(choice, modelOf(choice));
    sums.show(choice);
    controls.forEach((each) => each.show(choice, settings));
  };
  return { root, show };
}

// True, false, or as DeepSpeed has it.
function switchInput(take) {
  const words = { "": "as usual", true: "true", false: "false" };
  const options = Object.entries(words).map(([value, text]) => element("option", { value }, text));
  const input = element("select", { change: () => take(input.value ? input.value === "true" : null) }, ...options);
  return { input, show: (value) => (input.value = String(value ?? "")) };
}

let panels = 0; // several on one page need names of their own
