// What fits, and what else would: on the card and in the host's memory, the cheapest first.

// What a choice comes to: its plan, what a node's host needs, and whether each has room.
function outcomeOf(choice, model = modelOf(choice)) {
  const settings = settingsOf(choice, model);
  const plan = planOfChoice(choice, model);
  const ranks = Math.min(choice.world_size, choice.gpus_per_node);
  const hostBytes = hostBytesOfNode(plan, ranks);
  const loadingBytes = loadingBytesOfNode(plan, ranks, settings);
  const hostCapacity = choice.host_memory * 1e9;
  const [onCard, onHost] = [fitsCard(plan, choice.card), hostBytes <= hostCapacity];
  return {
    plan,
    ranks,
    hostBytes,
    loadingBytes,
    hostCapacity,
    capacity: FACTS.cards[choice.card].memory_bytes,
    onCard,
    onHost,
    fits: onCard && onHost,
    loads: loadingBytes <= hostCapacity,
  };
}

// Every way to train: the strategies that DeepSpeed makes, with and without computing layers again, the cheapest first.
// What stays on the GPU comes before what goes to the host, and that before NVMe; of those the ways that compute no layer
// twice; then FACTS.strategies' order, which is by what is copied, and by stage.
const WAYS = [0, 1, 2].flatMap((distance) =>
  [false, true].flatMap((checkpointing) =>
    FACTS.strategies
      .filter(({ farthest }) => farthest === distance)
      .map(({ stage, offload_optimizer, offload_param }) => ({ stage, offload_optimizer, offload_param, checkpointing, distance })),
  ),
);

// A choice in another of the WAYS. Sums in fp32, where DeepSpeed has none, are left out.
function inAnotherWay(choice, { distance, ...way }) {
  const other = { ...choice, ...way };
  const refused = other.grad_accum_dtype && FACTS.sums_refused[`${other.stage}|${other.precision}`];
  return refused ? { ...other, grad_accum_dtype: null } : other;
}

function ladder(choice) {
  const model = modelOf(choice);
  return WAYS.map((way) => {
    const other = inAnotherWay(choice, way);
    return { choice: other, distance: way.distance, outcome: outcomeOf(other, model) };
  });
}

// The cheapest choice that fits, or null: with the same samples and GPUs, then with one sample per micro-batch, then on
// twice the GPUs and again, up to 1,024.
function nextToTry(choice) {
  const model = modelOf(choice);
  const changes = [{}];
  if (choice.micro_batch_size > 1) changes.push({ micro_batch_size: 1 });
  for (let world_size = 2 * choice.world_size; world_size <= 1024; world_size *= 2) changes.push({ micro_batch_size: 1, world_size });
  for (const change of changes) {
    for (const way of WAYS) {
      const other = inAnotherWay({ ...choice, ...change }, way);
      if (outcomeOf(other, model).fits) return other;
    }
  }
  return null;
}

const MOST_LAYERS_TRIED = 1000; // of the search for the largest model: enough for any that is trained

// The largest model for a choice's cards and hosts, {choice, parameters, most}, or null: of the same shape with more or
// fewer layers, or a bare number of parameters. most: whether the search ended at MOST_LAYERS_TRIED.
function largestModel(choice) {
  const { shape } = modelOf(choice);
  const candidate = (size) => (shape ? { shape: withLayers(shape, size) } : { parameters: size });
  const most = shape ? MOST_LAYERS_TRIED : FACTS.most_parameters;
  const size = lastThatHolds((number) => outcomeOf(choice, candidate(number)).fits, most);
  if (!size) return null;
  if (!shape) return { choice: { ...choice, parameters: size }, parameters: size, most: size === most };
  const config = choice.model === "own" ? choice.config_json : FACTS.models[choice.model];
  const layers = FACTS.config_keys.layers.find((key) => key in config);
  const found = { ...choice, model: "own", config_json: { ...withoutName(config), [layers]: size } };
  return { choice: found, parameters: withLayers(shape, size).parameters, layers: size, most: size === most };
}

function withoutName({ repository, ...config }) {
  return config;
}

// The fewest cards on which a choice fits, or null.
function fewestCards(choice) {
  const model = modelOf(choice);
  const tooFew = (world_size) => !outcomeOf({ ...choice, world_size }, model).fits;
  const ranks = lastThatHolds(tooFew, FACTS.most_gpus) + 1;
  return ranks > FACTS.most_gpus ? null : { ...choice, world_size: ranks };
}

// The limits of the cards, [{words, ways}]: of this choice, and of the ways that put as much on the GPU, the host, NVMe.
function limitQuestions(choice) {
  const far = (distance) => WAYS.filter((way) => way.distance === distance && way.checkpointing).map((way) => inAnotherWay(choice, way));
  return [
    { words: "this choice", ways: [choice] },
    { words: "all on the GPU, checkpointing", ways: far(0) },
    { words: "with the host, checkpointing", ways: far(1) },
    { words: "with NVMe, checkpointing", ways: far(2) },
  ];
}

function notesFor(choice, model, plan) {
  const known = {
    ...choice,
    model_parameters: plan.parameters,
    card_precision: FACTS.cards[choice.card].precision,
    has_shape: Boolean(model.shape),
    counted: Boolean(model.shape?.family.counted),
    sizes_set: Object.keys(choice.sizes).length,
  };
  const isIn = (value, wanted) =>
    Array.isArray(wanted) ? wanted.includes(value) : value >= (wanted.least ?? value) && value <= (wanted.most ?? value);
  return FACTS.notes
    .filter(({ when }) => Object.entries(when).every(([what, wanted]) => isIn(known[what], wanted)))
    .map(({ text }) => text);
}
