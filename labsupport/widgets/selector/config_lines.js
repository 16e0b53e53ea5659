// A config as lines of text, and which of them another config has not.

// The config as JSON's own lines, each with the path of what it says, so that two configs can be compared.
function configLines(value, path = "", indent = "", comma = "", name = "") {
  const key = name ? `${JSON.stringify(name)}: ` : "";
  if (typeof value !== "object" || value === null) {
    return [{ path, text: `${indent}${key}${JSON.stringify(value)}${comma}`, value }];
  }
  const entries = Object.entries(value);
  const inner = entries.flatMap(([child, content], number) =>
    configLines(content, `${path}.${child}`, `${indent}  `, number < entries.length - 1 ? "," : "", child),
  );
  return [
    { path, text: `${indent}${key}{`, value: "{" },
    ...inner,
    { path: `${path}}`, text: `${indent}}${comma}`, value: "}" },
  ];
}

// The lines of `config`, those marked that `before` has not; and the paths that only `before` has.
function comparedLines(config, before) {
  const [lines, old] = [configLines(config), configLines(before)];
  const known = new Map(old.map(({ path, value }) => [path, value]));
  const paths = new Set(lines.map(({ path }) => path));
  return {
    lines: lines.map((line) => ({ ...line, changed: known.get(line.path) !== line.value })),
    removed: old.filter(({ path }) => !paths.has(path) && !path.endsWith("}")).map(({ path }) => path.slice(1)),
  };
}
