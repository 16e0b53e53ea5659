// The texts of a choice, to copy and to download: the config, commands, the Trainer's arguments.

// What the config doctor says of the config, where a kernel can ask it; elsewhere the command that asks it.
function doctorPart(model) {
  const root = element("section", { class: "doctor" });
  const draw = () => {
    const { world_size, card } = model.get("choice");
    const command = `python -m labsupport.doctor ds_config.json --world-size ${world_size} --gpu "${card}"`;
    const found = model.get("findings") ?? [];
    const list = element("ul", {}, ...found.map((text) => element("li", {}, text)));
    const words = found.length ? "The config doctor says of it:" : "The config doctor has nothing to say of it.";
    const asked = element("p", {}, "What DeepSpeed will make of the file, whatever you change in it: ", element("code", {}, command));
    root.replaceChildren(...(model.get("live") ? [element("p", {}, words), list] : []), asked);
  };
  model.on("change:findings", draw);
  return { root, draw };
}

// A block of text with its buttons: copy, and download where it is a file.
function textBlock(label, { file = null, fill }) {
  let text = "";
  const code = element("code");
  const said = element("p", { class: "quiet", role: "status" });
  const copy = element("button", { type: "button", class: "copy", click: copyText, "aria-label": `Copy ${label}` }, "Copy");
  const download = file ? [element("button", { type: "button", class: "download", click: downloadText }, `Download ${file}`)] : [];
  const parts = [
    element("div", { class: "run-controls" }, copy, ...download),
    said,
    element("pre", { tabindex: "0", "aria-label": label }, code),
  ];

  async function copyText() {
    try {
      await navigator.clipboard.writeText(text); // only where the page came over https or from this machine
      said.textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(code);
      said.textContent = document.execCommand("copy") ? "Copied." : "Selected: copy it with the keyboard.";
    }
  }

  function downloadText() {
    const address = URL.createObjectURL(new Blob([`${text}\n`], { type: "text/plain" }));
    element("a", { href: address, download: file }).click();
    URL.revokeObjectURL(address);
  }

  function draw(...facts) {
    const filled = fill(...facts);
    text = filled.text;
    code.replaceChildren(...(filled.nodes ?? [text]));
    said.textContent = filled.said ?? "";
  }
  return { parts, draw };
}

// The exact ds_config, with the lines that the last choice changed.
function configPart() {
  let before = null;
  const block = textBlock("ds_config.json", {
    file: "ds_config.json",
    fill: (config) => {
      const { lines, removed } = comparedLines(config, before ?? config);
      const changed = lines.filter((line) => line.changed).length;
      before = config;
      return {
        text: lines.map((line) => line.text).join("\n"),
        nodes: lines.map((line) => element(line.changed ? "mark" : "span", {}, `${line.text}\n`)),
        said: [
          changed ? `The last choice changed the ${changed === 1 ? "marked line" : `${changed} marked lines`}.` : "",
          removed.length ? `It removed ${removed.join(", ")}.` : "",
        ].join(" "),
      };
    },
  });
  const root = element("section", { class: "config" }, element("h3", {}, "The config"), ...block.parts);
  return { root, draw: (choice, outcome, model) => block.draw(configOf(choice, model)) };
}

// The same choice for the command line, the launcher and the Trainer.
function exportsPart(onPage) {
  const plain = (label, make, file) => ({ label, block: textBlock(label, { file, fill: (...facts) => ({ text: make(...facts) }) }) });
  const blocks = [
    plain("The same figures on the command line", (choice, model) => planCommand(choice, model)),
    plain("What starts the ranks", (choice) => launchCommand(choice)),
    plain("The Hugging Face Trainer's arguments", (choice, model) => trainingArguments(choice, configOf(choice, model))),
    plain("The model's config.json", (choice) => JSON.stringify(choice.config_json, null, 2), "config.json"),
    ...(onPage ? [plain("A link to this choice", (choice) => location.href.split("#")[0] + hashOf(choice, null))] : []),
  ].map(({ label, block }) => ({
    block,
    root: element("details", { class: "export" }, element("summary", {}, label), ...block.parts),
  }));
  const root = element("section", { class: "exports" }, element("h3", {}, "Take it along"), ...blocks.map((each) => each.root));
  function draw(choice, outcome, model) {
    blocks.forEach(({ block }) => block.draw(choice, model));
    blocks[3].root.hidden = choice.model !== "own";
  }
  return { root, draw };
}
