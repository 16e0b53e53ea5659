// The part of the stage selector that runs a choice, or shows the run that was recorded for it: loss curves, bytes by
// role, speed. widget.py joins the files.

const LINE_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];

// Loss over steps, a line a run. curves: [{label, losses, strong}].
function lossChart(curves) {
  const [width, height, left, bottom] = [640, 260, 48, 34];
  const all = curves.flatMap(({ losses }) => losses);
  const [low, high] = [Math.min(...all), Math.max(...all, Math.min(...all) + 0.1)];
  const steps = Math.max(2, ...curves.map(({ losses }) => losses.length));
  const x = (step) => left + (step / (steps - 1)) * (width - left - 8);
  const y = (loss) => 8 + ((high - loss) / (high - low)) * (height - bottom - 8);
  const picture = drawing("svg", { viewBox: `0 0 ${width} ${height}`, class: "loss-chart", role: "img" });
  picture.setAttribute("aria-label", `Loss of ${curves.map(({ label }) => label).join(", ")}`);
  for (let tick = 0; tick <= 4; tick += 1) {
    const loss = low + ((high - low) * tick) / 4;
    picture.append(drawing("line", { class: "grid", x1: left, x2: width - 8, y1: y(loss), y2: y(loss) }));
    picture.append(drawing("text", { x: left - 6, y: y(loss) + 4, "text-anchor": "end" }, loss.toFixed(2)));
  }
  for (const step of new Set([0, Math.floor((steps - 1) / 2), steps - 1])) {
    picture.append(drawing("text", { x: x(step), y: height - 16, "text-anchor": "middle" }, String(step + 1)));
  }
  picture.append(drawing("text", { x: width / 2, y: height - 2, "text-anchor": "middle" }, "optimizer step"));
  curves.forEach(({ losses, strong }, number) => {
    picture.append(
      drawing("polyline", {
        points: losses.map((loss, step) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(" "),
        class: strong ? "curve strong" : "curve",
        stroke: LINE_COLOURS[number % LINE_COLOURS.length],
        "stroke-dasharray": number < LINE_COLOURS.length ? "none" : "6 4",
      }),
    );
  });
  return picture;
}

function curveKey(curves) {
  return element(
    "ul",
    { class: "role-key" },
    ...curves.map(({ label, losses, strong }, number) =>
      element(
        "li",
        {},
        element("span", { class: "line-swatch", style: `background: ${LINE_COLOURS[number % LINE_COLOURS.length]}` }),
        `${label}${strong ? " (this one)" : ""}: ${losses.at(-1).toFixed(3)}`,
      ),
    ),
  );
}

function lossPart(curves) {
  return [element("h4", {}, "Loss, nats per byte"), lossChart(curves), curveKey(curves)];
}

// A run's bytes, predicted above measured; run.predicted and run.measured are {moment: {role: bytes}}.
function bytesOfRun(run) {
  const moments = Object.keys(run.measured);
  const bars = moments.flatMap((moment) => ["predicted", "measured"].map((kind) => [moment, kind, run[kind][moment]]));
  const full = Math.max(...bars.map(([, , held]) => sum(Object.values(held))));
  const roles = FACTS.roles.filter((role) => bars.some(([, , held]) => held[role] > 0));
  return [
    ...bars.map(([moment, kind, held]) =>
      roleBar(`${moment}, ${kind}`, roles.map((role) => [role, held[role] ?? 0]), full, kind),
    ),
    roleKey(roles, ["predicted", "measured"]),
  ];
}

// Speeds only of runs on the reader's own machine: the recorded ones shared theirs with other work.
function runTable(runs, withSpeed) {
  const speed = withSpeed ? ["Samples per second"] : [];
  const head = ["Run", ...speed, "Last loss", "Peak, predicted", "Peak, measured", "Sends, times DDP"];
  const row = (run) => [
    run.label,
    ...speed.map(() => run.samples_per_second.toFixed(1)),
    run.losses.at(-1).toFixed(3),
    inBytes(sum(Object.values(run.predicted.peak))),
    inBytes(sum(Object.values(run.measured.peak))),
    run.times_ddp ? run.times_ddp.toFixed(2) : "one rank sends nothing",
  ];
  return element(
    "div",
    { class: "table-scroll", tabindex: "0", role: "region", "aria-label": "Runs" },
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, text)))),
      element(
        "tbody",
        {},
        ...runs.map((run) => element("tr", {}, ...row(run).map((text) => element("td", {}, text)))),
      ),
    ),
  );
}

// What no run depends on: the card, and what the selector knows of the nodes.
const WHERE = ["card", "gpus_per_node", "host_memory"];

// Two choices are the same run; one that was recorded names what differs from the defaults, and some of those.
function sameRun(one, other) {
  const [whole, wanted] = [one, other].map((choice) => ({ ...FACTS.default, ...choice }));
  return Object.keys(whole).every(
    (name) => WHERE.includes(name) || JSON.stringify(whole[name]) === JSON.stringify(wanted[name]),
  );
}

function onTheGpu({ offload_optimizer, offload_param }) {
  return offload_optimizer === "none" && offload_param === "none";
}

function recordedPanel(model) {
  const record = model.get("recorded");
  const root = element("section", { class: "run" });
  function draw(choice) {
    const found = record.runs.find((run) => sameRun(run.choice, choice));
    root.replaceChildren(element("h3", {}, "The recorded run of this choice"));
    if (!found) {
      const models = [...new Set(record.runs.map((run) => run.choice.model))];
      root.append(
        element(
          "p",
          { class: "quiet" },
          `None was recorded: the ${record.runs.length} that were are of the models ${models.join(" and ")} on 1, 2 and 4 ` +
            `ranks. In a notebook a choice is run on the machine that is there.`,
        ),
      );
      return;
    }
    const axes = ["model", "world_size", "precision", "micro_batch_size", "accumulation", "checkpointing"];
    const alike = record.runs.filter((run) => axes.every((axis) => run.choice[axis] === choice[axis]));
    const beside = alike.filter((run) => run === found || onTheGpu(run.choice));
    const curves = beside.map((run) => ({ ...run, strong: run === found }));
    root.append(
      element("p", { class: "quiet" }, record.provenance),
      ...lossPart(curves),
      element("h4", {}, `Bytes on rank 0: ${found.label}`),
      ...bytesOfRun(found),
      runTable(beside, false),
    );
  }
  return { root, draw };
}

function livePanel(model) {
  const start = element("button", { type: "button", class: "primary", click: () => model.send({ do: "run" }) }, "Run it");
  const stop = element("button", { type: "button", click: () => model.send({ do: "stop" }) }, "Stop");
  const progress = element("progress", { max: 1, value: 0, "aria-label": "Steps trained" });
  const words = element("p", { class: "run-words", role: "status" });
  const picture = element("div", { class: "run-picture" });
  const root = element(
    "section",
    { class: "run" },
    element("h3", {}, "Run it on this machine"),
    element("div", { class: "run-controls" }, start, stop, progress),
    words,
    picture,
  );

  function draw() {
    const [run, runs, obstacle] = [model.get("run"), model.get("runs"), model.get("obstacle")];
    const busy = ["starting", "training", "measuring", "stopping"].includes(run.state);
    start.disabled = busy || Boolean(obstacle);
    stop.disabled = !busy || run.state === "stopping";
    if (run.steps && run.state === "training") progress.value = run.losses.length / run.steps;
    else if (run.state === "starting") progress.removeAttribute("value");
    else progress.value = run.state === "ended" ? 1 : 0;
    words.textContent = busy || !obstacle ? run.message : obstacle;
    words.classList.toggle("is-wrong", run.state === "failed" || (!busy && Boolean(obstacle)));
    const curves = runs.map((each) => ({ ...each, strong: false }));
    if (busy && run.losses.length) curves.push({ label: run.label, losses: run.losses, strong: true });
    picture.replaceChildren();
    if (curves.length) picture.append(...lossPart(curves));
    if (busy && run.held) {
      const held = FACTS.roles.filter((role) => run.held[role] > 0).map((role) => [role, run.held[role]]);
      const full = sum(held.map(([, bytes]) => bytes));
      picture.append(element("h4", {}, "Bytes on rank 0, now"), roleBar("at rest, measured", held, full, "measured"));
      picture.append(roleKey(held.map(([role]) => role), ["measured"]));
    }
    const last = runs.at(-1);
    if (last && !busy) picture.append(element("h4", {}, `Bytes on rank 0: ${last.label}`), ...bytesOfRun(last));
    if (runs.length) picture.append(runTable(runs, true));
  }

  for (const name of ["run", "runs", "obstacle"]) model.on(`change:${name}`, draw);
  return { root, draw };
}
