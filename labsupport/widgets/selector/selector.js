// The stage selector: choose, and see at once whether it fits the cards and their hosts, what each holds and sends, what
// else would fit, the config and the commands. The last of the files that widget.py joins into one module.

let selectors = 0; // several on one page need names of their own

// What comes along with another model: the shape to start from, and samples that it can read.
function withItsModel(change, before) {
  if (!("model" in change) || change.model === before.model) return change;
  const wanted = { config_json: null, parameters: null, ...change };
  if (change.model === "own") wanted.config_json ??= ownConfigFrom(before);
  if (change.model === "parameters") wanted.parameters ??= modelOf(before).shape.parameters;
  const { shape } = modelOf({ ...before, ...wanted });
  if (shape && before.liger && !ligerIsPlanned(shape)) wanted.liger = false;
  return { ...fittingSequence(before, shape), ...wanted };
}

function render({ model, el }) {
  const onPage = !model.get("live");
  const name = `stage-selector-${(selectors += 1)}`;
  const refusal = element("p", { class: "refusal", role: "status" });
  const current = () => model.get("choice");
  // Takes the change and returns true, or says why not, shows what stays chosen and returns false.
  const choose = (change) => {
    const wanted = { ...current(), ...withItsModel(change, current()) };
    refusal.textContent = refusalOf(wanted);
    if (refusal.textContent) {
      showAll.forEach((show) => show(current()));
      return false;
    }
    model.set("choice", wanted);
    model.save_changes();
    remember();
    return true;
  };
  const remember = () => onPage && history.replaceState(history.state, "", hashOf(current(), pinned));
  let pinned = null;
  const pins = {
    get: () => pinned,
    current,
    set: (choice) => {
      pinned = choice;
      remember();
      draw();
    },
  };
  if (onPage) {
    const found = readHash(location.hash);
    if (found) {
      model.set("choice", found.choice);
      pinned = found.pinned;
    }
  }
  const own = modelPanel(choose, current);
  const sizes = sizesPanel(choose, current);
  const groups = GROUPS.map(({ legend, controls }) => {
    const made = controls.map((spec) => ({ spec, ...controlOf(spec, choose, name) }));
    made.filter(({ spec }) => spec.wide).forEach(({ root }) => root.classList.add("wide"));
    const extra = controls[0].axis === "model" ? [own.root] : [];
    const [first, ...others] = made.map(({ root }) => root);
    const root = element("fieldset", { class: "group" }, element("legend", {}, legend), first, ...extra, ...others);
    return { root, shows: made.map(({ show }) => show) };
  });
  const showAll = [...groups.flatMap(({ shows }) => shows), own.show, sizes.show];
  const parts = {
    brief: briefPart(),
    verdict: verdictPart(choose),
    memory: memoryPart(),
    sent: sentPart(),
    notes: notesPart(),
    ladder: ladderPart(choose, current),
    limits: limitsPart(choose),
    compare: comparePart(choose, pins),
    config: configPart(),
    doctor: doctorPart(model),
    exports: exportsPart(onPage),
    run: onPage ? recordedPanel(model) : livePanel(model),
  };
  const draw = () => {
    const choice = current();
    const chosen = modelOf(choice);
    const outcome = outcomeOf(choice, chosen);
    showAll.forEach((show) => show(choice));
    Object.values(parts).forEach((part) => part.draw(choice, outcome, chosen, outcome.plan.messages()));
  };
  const goTo = () => {
    const found = readHash(location.hash);
    if (!found) return;
    pinned = found.pinned;
    model.set("choice", found.choice);
  };
  el.replaceChildren(
    element(
      "div",
      { class: "stage-selector", role: "group", "aria-label": "Stage selector" },
      element("div", { class: "controls" }, ...groups.map(({ root }) => root), sizes.root, pastePanel(choose, current).root, parts.brief.root),
      refusal,
      parts.verdict.root,
      element("div", { class: "columns" }, parts.memory.root, parts.sent.root),
      parts.notes.root,
      parts.ladder.root,
      parts.limits.root,
      parts.compare.root,
      parts.config.root,
      parts.doctor.root,
      parts.exports.root,
      parts.run.root,
    ),
  );
  model.on("change:choice", draw);
  if (onPage) window.addEventListener("hashchange", goTo);
  draw();
  return () => {
    model.off("change:choice", draw);
    window.removeEventListener("hashchange", goTo);
  };
}

export default { render };
