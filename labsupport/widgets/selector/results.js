// What a choice comes to: the verdict, the memory of a GPU and of its host, what a step sends, what to know of it.

const VERDICTS = {
  fits: (outcome) => (outcome.loads ? "Fits." : "Fits, once it is loaded."),
  host: (outcome) => `Fits the GPU, not a host of ${inGigabytes(outcome.hostCapacity)}.`,
  no: () => "Does not fit.",
};

function verdictOf({ onCard, onHost }) {
  return onCard ? (onHost ? "fits" : "host") : "no";
}

// The roles of which most is held at a moment, as words: "activations 20.1 GiB".
function largestRoles(places, count = 1) {
  const roles = Object.entries(places.GPU).sort(([, one], [, other]) => other - one);
  return roles.slice(0, count).map(([role, bytes]) => `${role} ${inBytes(bytes)}`);
}

// Whether it fits, and the next thing to try.
function verdictPart(choose) {
  const words = element("p", { class: "verdict-words", tabindex: "-1" });
  const host = element("p", { class: "verdict-host" });
  const next = element("span");
  const tryIt = element("button", { type: "button", class: "try" }, "Choose it");
  const root = element("section", { class: "verdict", role: "status", "aria-label": "Verdict" }, words, host, element("p", {}, next, " ", tryIt));
  let offered = null;
  tryIt.addEventListener("click", () => {
    choose(offered);
    words.focus(); // the button is gone, and the keyboard goes on from what it changed
  });
  function draw(choice, outcome, { shape }) {
    const verdict = verdictOf(outcome);
    const refused = choice.precision === "bf16" && FACTS.cards[choice.card].precision !== "bf16";
    for (const name of Object.keys(VERDICTS)) root.classList.toggle(name, verdict === name && !refused);
    const { plan } = outcome;
    const uncounted = shape && !shape.family.counted ? " Activations are not counted." : shape ? "" : " Model states and buffers alone.";
    words.replaceChildren(
      element("strong", {}, VERDICTS[verdict](outcome)),
      refused ? ` But a ${choice.card} computes no bf16: choose fp16.` : "",
      ` At the peak a rank needs ${inBytes(plan.peakBytes)}, most of it ${largestRoles(plan.moments.peak).join()}, and CUDA and ` +
        `NCCL about ${inBytes(FACTS.allowance_bytes)} more. One ${choice.card} has ${inBytes(outcome.capacity)}.${uncounted}`,
    );
    host.textContent = hostInWords(choice, outcome);
    const found = nextToTry(choice);
    offered = found && !sameRun(found, choice) ? found : null;
    tryIt.hidden = !offered;
    next.textContent = adviceInWords(choice, outcome, found, offered);
  }
  return { root, draw };
}

function hostInWords(choice, { ranks, hostBytes, loadingBytes, hostCapacity, onHost, loads }) {
  const has = `a node has ${inGigabytes(hostCapacity)}`;
  const room = onHost ? has : `and ${has}: too little`;
  const load = loads
    ? `To load it needs up to ${inGigabytes(loadingBytes)}, where each rank loads the whole model.`
    : `Loading needs up to ${inGigabytes(loadingBytes)} where each rank loads the whole model, and ${has}: ` +
      (choice.stage === 3 ? "build it under zero.Init, which spares that." : "load one rank after the other, or on fewer ranks a node.");
  return `The host of ${counted(ranks, "rank")} needs ${inGigabytes(hostBytes)} when a step peaks, ${room}. ${load}`;
}

function adviceInWords(choice, outcome, found, offered) {
  if (!found) return "Nothing here fits, not on 1,024 of these cards: choose a card or a host with more memory.";
  if (!offered) return "Nothing cheaper fits.";
  const changes = [
    found.micro_batch_size !== choice.micro_batch_size ? "one sample per micro-batch" : "",
    found.world_size !== choice.world_size ? `${found.world_size} GPUs` : "",
    found.grad_accum_dtype !== choice.grad_accum_dtype ? "sums in the precision" : "",
  ].filter(Boolean);
  const checkpointing = choice.checkpointing && !found.checkpointing ? ["no checkpointing"] : [];
  const what = [wayInWords(found), ...checkpointing, ...changes].join(", ");
  return `${outcome.fits ? "Cheaper, and fits too" : "The cheapest that fits"}: ${what}, ${inBytes(outcomeOf(found).plan.peakBytes)} a GPU.`;
}

// The verdict in one line, in sight as long as the controls are. Whoever listens hears the verdict itself.
function briefPart() {
  const root = element("div", { class: "brief", "aria-hidden": "true" });
  function draw(choice, outcome) {
    const verdict = verdictOf(outcome);
    root.classList.toggle("fits", verdict === "fits");
    const { plan, hostBytes } = outcome;
    root.replaceChildren(
      element("strong", {}, VERDICTS[verdict](outcome)),
      ` ${inBytes(plan.peakBytes)} of a GPU's ${inBytes(outcome.capacity)}, ${inGigabytes(hostBytes)} of the host's ${inGigabytes(outcome.hostCapacity)}.`,
    );
  }
  return { root, draw };
}

// The bytes of one rank and of a node's host, as bars against what there is, and the same numbers as a table.
function memoryPart() {
  const root = element("section", { class: "memory" });
  function draw(choice, outcome) {
    const { plan, capacity } = outcome;
    const [rest, peak] = [plan.moments["at rest"].GPU, plan.moments.peak.GPU];
    const pairs = (held) => FACTS.roles.map((role) => [role, held[role] ?? 0]);
    const close = capacity < 20 * plan.peakBytes;
    const full = close ? Math.max(capacity, plan.peakBytes) : plan.peakBytes;
    const card = element(
      "div",
      { class: "bars" },
      roleBar("GPU, at rest", pairs(rest), full, "predicted"),
      roleBar(`GPU, at the peak (${plan.peakPhase})`, pairs(peak), full, "predicted"),
    );
    if (close) addLine(card, capacity / full);
    const held = close
      ? `The line is what one ${choice.card} holds: ${inBytes(capacity)}.`
      : `One ${choice.card} holds ${inBytes(capacity)}, ${Math.round(capacity / plan.peakBytes)} times as much.`;
    const roles = FACTS.roles.filter((role) => rest[role] || peak[role]);
    const nvme = plan.nvmeBytes ? `Each rank also keeps ${inGigabytes(plan.nvmeBytes)} on its drive.` : "";
    root.replaceChildren(
      element("h3", {}, "Memory, predicted"),
      card,
      element("p", { class: "quiet" }, held),
      ...hostBars(outcome),
      element("p", { class: "elsewhere" }, nvme),
      roleKey(FACTS.roles.filter((role) => rest[role] || peak[role] || onHostOf(plan)[role]), ["predicted"]),
      element("details", { class: "roles" }, element("summary", {}, "The GPU's bytes by role"), roleTable(roles, rest, peak)),
    );
  }
  return { root, draw };
}

function addLine(bars, share) {
  const line = element("span", { class: "capacity", style: `left: ${100 * share}%` });
  bars.querySelectorAll(".bar-track").forEach((track) => track.append(line.cloneNode()));
}

// {role: bytes} that one rank has in the host's memory when a step peaks.
function onHostOf(plan) {
  const held = {};
  for (const place of ["host", "pinned host"]) {
    for (const [role, bytes] of Object.entries(plan.moments.peak[place] ?? {})) held[role] = (held[role] ?? 0) + bytes;
  }
  return held;
}

function hostBars({ plan, ranks, hostBytes, hostCapacity }) {
  if (!plan.hostBytes) return [];
  const held = onHostOf(plan);
  const full = Math.max(hostBytes, hostCapacity);
  const bars = element(
    "div",
    { class: "bars host" },
    roleBar(`Host of ${counted(ranks, "rank")}, at the peak`, FACTS.roles.map((role) => [role, ranks * (held[role] ?? 0)]), full, "predicted"),
  );
  addLine(bars, hostCapacity / full);
  const libraries = `The line is the host's ${inGigabytes(hostCapacity)}. Each rank's libraries take some ${inBytes(FACTS.rank_bytes)} more, an allowance.`;
  return [bars, element("p", { class: "quiet" }, libraries)];
}

function roleTable(roles, rest, peak) {
  const row = (name, ...bytes) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, name),
      ...bytes.map((count) => element("td", { "data-bytes": count }, inBytes(count))),
    );
  return element(
    "table",
    { class: "role-table" },
    element("thead", {}, element("tr", {}, ...["role", "at rest", "at the peak"].map((text) => element("th", { scope: "col" }, text)))),
    element("tbody", {}, ...roles.map((role) => row(role, rest[role] ?? 0, peak[role] ?? 0))),
  );
}

// What a step sends, against plain data parallelism, and what it copies to and from the host.
function sentPart() {
  const root = element("section", { class: "sent" });
  function draw(choice, { plan }, model, messages) {
    const words = messages.sentBytes
      ? `${messages.timesDdp.toFixed(2)} times what plain data parallelism sends: ${inBytes(messages.sentBytes)} from each rank.`
      : "One rank sends nothing.";
    const width = Math.min(100, (100 * messages.timesDdp) / 4);
    root.replaceChildren(
      element("h3", {}, "Communication of one step, predicted"),
      element(
        "div",
        { class: "bar-track ddp", "aria-hidden": "true" },
        element("span", { class: "role predicted role-communication-buckets", style: `width: ${width}%` }),
        element("span", { class: "capacity", style: "left: 25%" }),
      ),
      element("p", { class: "sent-words", "data-bytes": messages.sentBytes, "data-times-ddp": messages.timesDdp }, words),
      element(
        "p",
        { class: "copied-words", "data-bytes": plan.copiedBytes },
        plan.copiedBytes ? `Between each GPU and its host go at least ${inBytes(plan.copiedBytes)} more.` : "",
      ),
    );
  }
  return { root, draw };
}

function notesPart() {
  const root = element("ul", { class: "notes", "aria-label": "What to know about this choice" });
  return {
    root,
    draw: (choice, { plan }, model) => root.replaceChildren(...notesFor(choice, model, plan).map((text) => element("li", {}, text))),
  };
}
