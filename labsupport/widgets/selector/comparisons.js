// What else there is: every way to train, how far the machines go, and two choices side by side.

const MARKS = { fits: "✓ yes", host: "host too small", no: "✗ no" };

// Every way to train the same model on the same cards, the cheapest first. The rows stay, so that the focus does.
function ladderPart(choose, current) {
  const caption = element("caption");
  const rows = WAYS.map((way) => {
    const name = element("button", { type: "button", click: () => choose(inAnotherWay(current(), way)) }, wayInWords(way));
    const cells = ["fits", "peak", "largest", "host", "sends", "copies"].map((kind) => element("td", { class: kind }));
    return { row: element("tr", {}, element("th", { scope: "row" }, name), ...cells), cells };
  });
  const all = element("button", { type: "button", class: "all", "aria-expanded": "false", click: toggle });
  const head = ["Way to train", "Fits", "Peak of a GPU", "Largest part of it", "Host of a node", "Sends, times DDP", "To and from the host, at least"];
  const root = element(
    "section",
    { class: "ladder" },
    element("h3", {}, "Every way to train it, the cheapest first"),
    element(
      "div",
      { class: "table-scroll", tabindex: "0", role: "region", "aria-label": "Every way to train it" },
      element(
        "table",
        {},
        caption,
        element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, text)))),
        element("tbody", {}, ...rows.map(({ row }) => row)),
      ),
    ),
    element("div", { class: "run-controls" }, all),
    element(
      "p",
      { class: "quiet" },
      "Cheap is what leaves data on the GPU: computing layers again (checkpointing) comes before the host, whose link is slower, " +
        "and a drive is slower still. Of two alike the lower stage stands first, even where it sends more bytes: it sends fewer " +
        "and larger messages. It is an order of what has to move, not of measured speed. Choose a row to see it above.",
    ),
  );
  let open = false;
  function toggle() {
    open = !open;
    fold(Number(all.dataset.first));
  }
  // Where something fits without NVMe, the rows with NVMe fold away.
  function fold(first) {
    all.dataset.first = first;
    rows.forEach(({ row }, number) => (row.hidden = !open && number >= first && row.getAttribute("aria-current") !== "true"));
    all.hidden = first >= rows.length;
    all.textContent = open ? "Hide those with NVMe" : `Show the ${rows.length - first} with NVMe as well`;
    all.setAttribute("aria-expanded", open);
  }
  function draw(choice) {
    caption.textContent =
      `${modelInWords(choice)} on ${choice.world_size} x ${choice.card}, ${choice.precision}, ` +
      `${counted(choice.micro_batch_size, "sample")} per micro-batch`;
    const found = ladder(choice);
    found.forEach(({ choice: other, outcome }, number) => {
      const { row, cells } = rows[number];
      const verdict = verdictOf(outcome);
      const { timesDdp } = outcome.plan.messages();
      row.className = verdict;
      row.setAttribute("aria-current", sameRun(other, choice));
      cells[0].textContent = MARKS[verdict];
      cells[1].dataset.bytes = outcome.plan.peakBytes;
      cells[1].textContent = inBytes(outcome.plan.peakBytes);
      cells[2].textContent = largestRoles(outcome.plan.moments.peak).join();
      cells[3].dataset.bytes = outcome.hostBytes;
      cells[3].textContent = inGigabytes(outcome.hostBytes);
      cells[4].textContent = choice.world_size > 1 ? timesDdp.toFixed(2) : "0";
      cells[5].textContent = outcome.plan.copiedBytes ? inBytes(outcome.plan.copiedBytes) : "0";
    });
    const onNvme = found.findIndex(({ distance }) => distance === 2);
    const needed = !found.slice(0, onNvme).some(({ outcome }) => outcome.fits) && found.some(({ outcome }) => outcome.fits);
    fold(needed ? rows.length : onNvme);
  }
  return { root, draw };
}

// The largest model on these cards and the fewest cards for this model. They take a while, so they follow when the
// choice has stood still.
function limitsPart(choose) {
  const rows = limitQuestions(FACTS.default).map(({ words }) => ({
    words,
    largest: element("td", { class: "largest-model" }),
    fewest: element("td", { class: "fewest-cards" }),
  }));
  const body = rows.map(({ words, largest, fewest }) => element("tr", {}, element("th", { scope: "row" }, words), largest, fewest));
  const head = [element("th", { scope: "col" }, "Way to train"), element("th", { scope: "col" }), element("th", { scope: "col" })];
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
  const said = element("p", { class: "quiet", role: "status" });
  const root = element(
    "section",
    { class: "limits" },
    element("h3", {}, "How far these machines go"),
    element("div", { class: "table-scroll", tabindex: "0", role: "region", "aria-label": "How far these machines go" }, table),
    said,
  );
  let waiting = null;

  function draw(choice, outcome, { shape }) {
    clearTimeout(waiting);
    const on = `on ${choice.world_size} x ${choice.card}`;
    head[1].textContent = shape ? `The largest of this shape, with more or fewer layers, ${on}` : `The largest, ${on}`;
    head[2].textContent = "The fewest cards for this model";
    said.textContent = "Looking ...";
    const work = limitQuestions(choice).flatMap(({ ways }, number) => [{ number }, ...ways.map((way) => ({ number, way }))]);
    const best = rows.map(() => ({ largest: null, fewest: null }));
    const step = () => {
      const started = performance.now();
      while (work.length && performance.now() - started < 12) {
        const { number, way } = work.shift();
        if (way) better(best[number], way);
        else if (number) show(number - 1, best[number - 1]);
      }
      if (work.length) waiting = setTimeout(step);
      else {
        show(rows.length - 1, best.at(-1));
        said.textContent = `With the samples, the precision and the host of ${inGigabytes(choice.host_memory * 1e9)} that are chosen above.`;
      }
    };
    waiting = setTimeout(step, 150);
  }

  function better(best, way) {
    const [largest, fewest] = [largestModel(way), fewestCards(way)];
    if (largest && !(best.largest?.parameters >= largest.parameters)) best.largest = { ...largest, way };
    if (fewest && !(best.fewest?.world_size <= fewest.world_size)) best.fewest = fewest;
  }

  function show(number, { largest, fewest }) {
    const offer = (cell, words, found) =>
      cell.replaceChildren(element("button", { type: "button", click: () => choose(found) }, words), number ? ` ${wayInWords(found)}` : "");
    if (largest) {
      const layers = largest.layers ? ` (${largest.layers} layers${largest.most ? " or more" : ""})` : "";
      offer(rows[number].largest, parametersInWords(largest.parameters) + layers, largest.choice);
      rows[number].largest.dataset.parameters = largest.parameters;
    } else rows[number].largest.replaceChildren("none fits");
    if (fewest) offer(rows[number].fewest, counted(fewest.world_size, "card"), fewest);
    else rows[number].fewest.replaceChildren("no number of them");
  }
  return { root, draw };
}

// Two choices side by side: one is pinned, the other goes on changing.
function comparePart(choose, pins) {
  const root = element("section", { class: "compare" });
  const pin = element("button", { type: "button", click: () => pins.set(pins.current()) }, "Pin this choice");
  const back = element("button", { type: "button", click: () => choose(pins.get()) }, "Go back to the pinned one");
  const unpin = element("button", { type: "button", click: () => { pins.set(null); pin.focus(); } }, "Unpin it");
  const controls = element("div", { class: "run-controls" }, pin, back, unpin);
  const hint = element("p", { class: "quiet" }, "Pin a choice, change something above, and see both side by side.");
  const place = element("div", { class: "table-scroll", tabindex: "0", role: "region", "aria-label": "Two choices side by side" });
  root.append(element("h3", {}, "Two choices side by side"), controls, hint, place);

  function draw(choice) {
    const pinned = pins.get();
    back.hidden = unpin.hidden = place.hidden = !pinned;
    hint.hidden = Boolean(pinned);
    pin.textContent = pinned ? "Pin this one in its place" : "Pin this choice";
    if (pinned) place.replaceChildren(comparison(pinned, choice));
  }
  return { root, draw };
}

function comparison(pinned, choice) {
  const both = [pinned, choice].map((each) => ({ each, outcome: outcomeOf(each), messages: outcomeOf(each).plan.messages() }));
  const differs = Object.keys(choice).filter((name) => JSON.stringify(choice[name]) !== JSON.stringify(pinned[name]));
  const rows = [
    ...differs.map((name) => [name.replaceAll("_", " "), ({ each }) => valueInWords(name, each)]),
    ["verdict", ({ outcome }) => VERDICTS[verdictOf(outcome)](outcome)],
    ["peak of a GPU", ({ outcome }) => inBytes(outcome.plan.peakBytes)],
    ["at rest on a GPU", ({ outcome }) => inBytes(outcome.plan.restingBytes)],
    ["largest part at the peak", ({ outcome }) => largestRoles(outcome.plan.moments.peak).join()],
    ["host of a node, at the peak", ({ outcome }) => inGigabytes(outcome.hostBytes)],
    ["a rank sends in a step", ({ messages }) => inBytes(messages.sentBytes)],
    ["to and from the host, at least", ({ outcome }) => inBytes(outcome.plan.copiedBytes)],
  ];
  const head = ["", "pinned", "this one"].map((text) => (text ? element("th", { scope: "col" }, text) : element("td")));
  return element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ...head)),
    element(
      "tbody",
      {},
      ...rows.map(([name, words], number) =>
        element(
          "tr",
          { class: number < differs.length ? "differs" : "" },
          element("th", { scope: "row" }, name),
          ...both.map((side) => element("td", {}, words(side))),
        ),
      ),
    ),
  );
}

function valueInWords(name, choice) {
  if (name === "config_json") return choice.config_json ? parametersInWords(modelOf(choice).shape.parameters) : "-";
  if (name === "sizes") return Object.entries(choice.sizes).map(([key, value]) => `${key} ${value}`).join(", ") || "as usual";
  if (name === "sequence_length") return String(sequenceOf(choice, modelOf(choice)) ?? "-");
  const value = choice[name];
  return typeof value === "boolean" ? ON_OFF(value) : (PLACE_WORDS[value] ?? String(value ?? "as usual"));
}
