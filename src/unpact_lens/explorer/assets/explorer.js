// The explorer's page, used by the notebook widget and by `unpact explore`. Text is only ever set as text, never as HTML.

const ROLE = { before: "original", after: "unlearned", control: "retrained" };
const PLAYERS = {
  pattern: ["pattern", "where the head looks"],
  input: ["input", "what it reads there"],
  ov: ["OV", "its value and output weights"],
  readout: ["readout", "final norm and unembedding"],
};
const GROUPS = { forget: "to forget", near: "to keep, near", far: "to keep, far", general: "general", unknown: "never taught" };
const NUMBERS_IN = 8; // columns up to which a map shows its numbers

function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(2).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

const signed = (v, digits = 3) => {
  if (v === null) return "–";
  const size = Math.abs(v).toFixed(digits);
  return Number(size) ? `${v > 0 ? "+" : "−"}${size}` : "0";
};
const plain = (v, digits = 2) => (v === null ? "–" : v.toFixed(digits).replace("-", "−"));
const chance = (p) =>
  p === null ? "–" : p >= 0.0995 ? p.toFixed(2) : p >= 0.001 ? p.toFixed(3) : p.toExponential(1).replace("-", "−");
const mean = (row) => row.reduce((a, b) => a + b, 0) / row.length;
const minus = (a, b) => (a === null || b === null ? null : a - b);
const short = (text, n) => (text.length > n ? `${text.slice(0, n - 1)}…` : text);
const limitOf = (...tables) => {
  const top = Math.max(0, ...tables.flat(3).map((v) => Math.abs(v ?? 0)));
  return top || 1;
};

// Colours: one diverging scale, the page's own colour at 0.

const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
function paint(stops, value, limit) {
  const at = Math.min(Math.max(((value ?? 0) / limit + 1) / 2, 0), 1);
  let i = stops.findIndex(([place]) => place >= at);
  i = Math.max(i, 1);
  const [[low, from], [high, to]] = [stops[i - 1], stops[i]];
  const t = (at - low) / (high - low);
  const [a, b] = [rgb(from), rgb(to)];
  const mixed = a.map((c, k) => Math.round(c + t * (b[k] - c)));
  const light = mixed.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  const luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2];
  return [`rgb(${mixed.join(" ")})`, luminance > 0.179 ? "#000000" : "#ffffff"]; // a contrast of at least 4.5
}

function isDark() {
  const { body } = document;
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "false";
  if (body.classList.contains("vscode-dark")) return true;
  if (body.classList.contains("vscode-light")) return false;
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

function legend(stops, limit, unit) {
  const bar = h("span", { class: "bar", style: { background: `linear-gradient(90deg, ${stops.map(([p, c]) => `${c} ${p * 100}%`).join(", ")})` } });
  return h("div", { class: "legend" }, h("span", {}, signed(-limit, 2)), bar, h("span", {}, `${signed(limit, 2)} ${unit}`),
    h("span", { class: "muted" }, "negative: lowers the answer, positive: raises it"));
}

// A heat map as a grid: arrow keys move, Enter or Space selects, headers are buttons.

function heatMap(stops, m) {
  const numbers = m.cols.length <= NUMBERS_IN;
  const dense = m.cols.length > 16;
  const cells = [];
  const focus = (r, c) => {
    const cell = cells[Math.min(Math.max(r, 0), m.rows.length - 1)][Math.min(Math.max(c, 0), m.cols.length - 1)];
    grid.querySelector("[tabindex='0'][role='gridcell']")?.setAttribute("tabindex", "-1");
    cell.setAttribute("tabindex", "0");
    cell.focus();
  };
  const header = (text, label, onclick, chosen, row) =>
    onclick
      ? h("button", { type: "button", class: "pick", "aria-pressed": String(chosen), "aria-label": label, title: label, onclick }, h("bdi", {}, text))
      : h("bdi", { title: label }, text);
  const cell = (value, r, c) => {
    const [background, color] = value === null ? ["transparent", "inherit"] : paint(stops, value, m.limit);
    const label = `${m.rowLabel(r)}, ${m.colLabel(c)}: ${signed(value, 2)} ${m.unit}`;
    const node = h("td", {
      role: "gridcell", tabindex: r === 0 && c === 0 ? "0" : "-1", "aria-label": label, title: label,
      "aria-selected": String(Boolean(m.chosen?.(r, c))), style: { background, color },
      onclick: () => m.onCell?.(r, c),
      onmouseenter: () => m.onHover?.(r, c),
      onfocus: () => m.onHover?.(r, c),
      onkeydown: (event) => {
        const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
        if (step) focus(r + step[0], c + step[1]);
        else if (event.key === "Enter" || event.key === " ") m.onCell?.(r, c);
        else return;
        event.preventDefault();
      },
    }, numbers ? signed(value, 2) : "");
    (cells[r] ??= [])[c] = node;
    return node;
  };
  const grid = h("table", { role: "grid", class: `heat${numbers ? " numbers" : " steep"}${dense ? " dense" : ""}`, "aria-label": m.label },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, h("td", { role: "gridcell", class: "corner" }),
      m.cols.map((text, c) => h("th", { role: "columnheader", scope: "col", "data-chosen": m.colChosen?.(c) },
        header(text, m.colLabel(c), m.onCol && (() => m.onCol(c)), m.colChosen?.(c)))))),
    h("tbody", { role: "rowgroup" }, m.rows.map((text, r) => h("tr", { role: "row" },
      h("th", { role: "rowheader", scope: "row", "data-chosen": m.rowChosen?.(r) },
        header(text, m.rowLabel(r), m.onRow && (() => m.onRow(r)), m.rowChosen?.(r))),
      m.cols.map((_, c) => cell(m.value(r, c), r, c))))));
  return h("figure", { class: "map" }, h("figcaption", {}, m.title), h("div", { class: "scroll" }, grid));
}

// Three maps of one shape: original, unlearned, Δ, on one scale. The line below says what is under the pointer.

function triptych(stops, t) {
  const limit = limitOf(t.before, t.after, t.before.map((row, r) => row.map((v, c) => minus(t.after[r][c], v))));
  const readout = h("output", { class: "readout", "aria-live": "off" }, t.hint);
  const sides = [
    ["Original model", (r, c) => t.before[r][c]],
    ["Unlearned model", (r, c) => t.after[r][c]],
    ["Δ = unlearned − original", (r, c) => minus(t.after[r][c], t.before[r][c])],
  ];
  const onHover = (r, c) => {
    readout.textContent = `${t.rowLabel(r)}, ${t.colLabel(c)}: original ${signed(t.before[r][c])}, unlearned ${signed(t.after[r][c])}, Δ ${signed(minus(t.after[r][c], t.before[r][c]))} ${t.unit}`;
  };
  return [
    h("div", { class: "maps" }, sides.map(([title, value]) => heatMap(stops, { ...t, title, value, limit, onHover, label: `${title}: ${t.label}` }))),
    readout,
    legend(stops, limit, t.unit),
  ];
}

// A table of numbers with a coloured cell for each: name | original | unlearned | Δ.

function sideTable(stops, t) {
  const limit = limitOf(t.before, t.after, t.before.map((v, i) => minus(t.after[i], v)));
  const number = (value) => {
    const [background, color] = paint(stops, value, limit);
    return h("td", { class: "number", style: { background, color } }, signed(value));
  };
  return [
    h("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": t.label },
      h("table", { class: "sides" },
        h("thead", {}, h("tr", {}, [t.first, "original", "unlearned", "Δ"].map((text) => h("th", { scope: "col" }, text)))),
        h("tbody", {}, t.order.map((i) => h("tr", { "data-chosen": t.chosen?.(i) },
          h("th", { scope: "row" }, t.onRow
            ? h("button", { type: "button", class: "pick", "aria-pressed": String(Boolean(t.chosen?.(i))), onclick: () => t.onRow(i) }, h("bdi", {}, t.names[i]))
            : h("bdi", {}, t.names[i])),
          number(t.before[i]), number(t.after[i]), number(minus(t.after[i], t.before[i]))))))),
    legend(stops, limit, t.unit),
  ];
}

const headers = (...texts) => texts.map((text) => h("th", { scope: "col", class: /^log p|^p\(|closed/.test(text) ? "number" : null }, text));

function bars(rows, limit, unit) {
  return h("table", { class: "bars" }, h("tbody", {}, rows.map(({ name, line, value }) =>
    h("tr", {}, h("th", { scope: "row" }, name, line && h("small", {}, line)),
      h("td", { class: "track" }, h("span", { class: value < 0 ? "fill negative" : "fill", style: { width: `${(50 * Math.abs(value ?? 0)) / limit}%` } })),
      h("td", { class: "number" }, `${signed(value)} ${unit}`)))));
}

let fieldCount = 0;
function field(text, control, kind = "") {
  control.id = `unpact-field-${fieldCount++}`;
  return h("div", { class: `field ${kind}` }, h("label", { for: control.id }, text), control);
}

class Panel {
  constructor(title, hint) {
    this.run = 0;
    this.code = null;
    this.title = h("h2", {}, title);
    this.copy = h("button", { type: "button", class: "quiet", disabled: true, onclick: () => this.copyCode() }, "Copy as code");
    this.hint = h("p", { class: "hint" }, hint);
    this.body = h("div", { class: "body" });
    this.error = h("p", { class: "error", role: "alert", hidden: true });
    this.listing = h("pre", { class: "code", hidden: true, tabindex: "0", "aria-label": "Code of this view" });
    this.node = h("section", { "aria-label": title }, h("header", {}, this.title, this.copy), this.hint, this.error, this.body, this.listing);
  }

  async copyCode() {
    this.listing.textContent = this.code;
    this.listing.hidden = !this.listing.hidden;
    if (this.listing.hidden) return this.copy.replaceChildren("Copy as code");
    try {
      await navigator.clipboard.writeText(this.code);
      this.copy.replaceChildren("Copied – hide the code");
    } catch {
      getSelection().selectAllChildren(this.listing); // the browser forbids it: one key press copies the selection
      this.copy.replaceChildren("Selected – hide the code");
    }
  }

  fail(message) {
    this.error.textContent = message ?? "";
    this.error.hidden = !message;
  }

  // Replaces the content; what had the focus, and how far each part was scrolled, stays.
  redraw(nodes) {
    const parts = () => [...this.body.querySelectorAll("button, [role=gridcell]")];
    const at = parts().indexOf(this.body.getRootNode().activeElement);
    const scrolled = [...this.body.querySelectorAll(".scroll")].map((part) => [part.scrollLeft, part.scrollTop]);
    this.body.replaceChildren(...nodes);
    this.body.querySelectorAll(".scroll").forEach((part, i) => { if (scrolled[i]) [part.scrollLeft, part.scrollTop] = scrolled[i]; });
    if (at >= 0) parts()[at]?.focus({ preventScroll: true });
  }

  // Asks, and draws the reply unless a later request of this panel overtook it.
  async load(ask, request, draw) {
    const run = ++this.run;
    this.node.setAttribute("aria-busy", "true");
    try {
      const data = await ask(request);
      if (run !== this.run) return null;
      this.fail(null);
      this.code = data.code;
      this.copy.disabled = !data.code;
      if (!this.listing.hidden) this.listing.textContent = data.code;
      this.draw = () => this.redraw([draw(data)].flat(2).filter(Boolean));
      this.draw();
      return data;
    } catch (error) {
      if (run === this.run) this.fail(error.message);
      return null;
    } finally {
      if (run === this.run) this.node.removeAttribute("aria-busy");
    }
  }
}

export function mount(root, send) {
  const ask = async (request) => {
    const reply = await send(request);
    if (reply.error) throw new Error(reply.error);
    return reply.data;
  };
  const state = { question: {}, column: null, source: null, head: null, answer: null, tokens: null, heads: null, patched: [] };
  const panels = {
    answer: new Panel("Answer", "Greedy answers, and log p of each token of the asked answer, nats. An answer token shows its own column in all views below."),
    tokens: new Panel("Prompt tokens", "Contribution of each prompt token (rows) to each answer token (columns): how much log p falls without it. A prompt token shows the heads that read it."),
    heads: new Panel("Heads", "What each head (layer × head) adds to the answer's logit directly. A head shows its source tokens."),
    head: new Panel("One head", ""),
    attempt: new Panel("Try emphasis and prefill", "Ask again with words of the prompt emphasised, or with the beginning of the answer given."),
  };
  let setup = null;
  let stops = null;
  const restyle = () => {
    root.dataset.theme = isDark() ? "dark" : "light";
    if (!setup) return;
    stops = setup.colours[root.dataset.theme];
    for (const panel of Object.values(panels)) panel.draw?.();
  };
  const about = () => ({ ...state.question, column: state.column });
  const columnName = () => (state.column === null ? "mean over the answer tokens" : `answer token ${state.tokens?.answer_tokens[state.column] ?? ""}`);

  // Answer

  const models = h("p", { class: "models" });
  const notes = (texts) => (texts ?? []).map((text) => h("p", { class: "note" }, `Note: ${text}.`));

  function drawAnswer(data) {
    const rows = data.rows.map((row) => [row.log_prob, ...row.per_token]);
    const names = ["mean", ...data.answer_tokens];
    const limit = limitOf(rows);
    const value = (r, c) => rows[r][c];
    const label = (c) => (c ? `answer token ${names[c]}` : "mean over the answer tokens");
    return [
      data.own && h("p", { class: "note" }, "Note: no answer was given; this is the original model's own."),
      h("div", { class: "scroll" }, h("table", { class: "plain" },
        h("thead", {}, h("tr", {}, headers("model", "greedy answer", "fact given", "p(answer)"))),
        h("tbody", {}, data.rows.map((row) => h("tr", {},
          h("th", { scope: "row" }, ROLE[row.role]), h("td", { dir: "auto" }, row.said || "(nothing)"), fact(row.right),
          h("td", { class: "number" }, chance(row.probability))))))),
      heatMap(stops, {
        title: h("span", {}, "log p of ", h("bdi", {}, `“${data.answer}”`), ", nats"), label: "log p of each answer token, nats", unit: "nats", limit, value,
        rows: data.rows.map((row) => ROLE[row.role]), cols: names,
        rowLabel: (r) => `${ROLE[data.rows[r].role]} model`, colLabel: label,
        onCol: (c) => setColumn(c ? c - 1 : null), onCell: (r, c) => setColumn(c ? c - 1 : null),
        colChosen: (c) => (c ? c - 1 : null) === state.column,
      }),
    ];
  }

  const fact = (right) => h("td", { class: right ? "yes" : "no" }, right ? "✓ yes" : "✗ no");

  // Prompt tokens

  function drawTokens(data) {
    const withMean = (table) => table.map((row) => [mean(row), ...row]);
    const cols = ["mean", ...data.answer_tokens];
    const same = JSON.stringify(data.before) === JSON.stringify(data.after);
    return [
      same && h("p", { class: "note" }, "Note: both models give the same contributions here, so Δ is 0 everywhere."),
      triptych(stops, {
        label: "contribution of each prompt token, nats", unit: data.unit, rows: data.tokens, cols,
        before: withMean(data.before), after: withMean(data.after), hint: "Point at a cell to read it.",
        rowLabel: (r) => `prompt token ${data.tokens[r]}`,
        colLabel: (c) => (c ? `answer token ${cols[c]}` : "mean over the answer tokens"),
        onRow: (r) => setSource(r), onCol: (c) => setColumn(c ? c - 1 : null),
        onCell: (r, c) => { setColumn(c ? c - 1 : null, false); setSource(r, false); },
        rowChosen: (r) => state.source === r + data.offset,
        colChosen: (c) => (c ? c - 1 : null) === state.column,
        chosen: (r, c) => state.source === r + data.offset && (c ? c - 1 : null) === state.column,
      }),
      notes(data.notes),
    ];
  }

  // Heads

  function drawHeads(data) {
    const names = [];
    for (let l = 0; l < data.layers.length; l++) for (let k = 0; k < data.heads.length; k++) names.push([l, k]);
    const delta = ([l, k]) => Math.abs(minus(data.after[l][k], data.before[l][k]) ?? 0);
    const top = names.map((_, i) => i).sort((a, b) => delta(names[b]) - delta(names[a])).slice(0, 6);
    const chosen = (l, k) => state.head?.[0] === l && state.head?.[1] === k;
    const silent = Math.max(...names.map(delta)) === 0;
    return [
      h("p", { class: "chips" }, data.source
        ? [h("span", { class: "chip" }, "what heads read from ", h("bdi", {}, `“${data.source.token}”`), h("button", { type: "button", class: "quiet", "aria-label": "Show all source tokens", onclick: () => setSource(null) }, "✕"))]
        : h("span", { class: "chip" }, "from all source tokens"), h("span", { class: "chip" }, h("bdi", {}, columnName()))),
      silent && h("p", { class: "note" }, "Note: no head changes what it adds here, so Δ is 0 everywhere; unlearning changed other parts."),
      h("div", { class: data.heads.length > 16 ? "" : "beside" },
        h("div", {}, triptych(stops, {
          label: "what each head adds to the logit", unit: data.unit, rows: data.layers, cols: data.heads, before: data.before, after: data.after,
          hint: "Point at a head to read it; click it to see its source tokens.",
          rowLabel: (r) => `layer ${r}`, colLabel: (c) => `head ${c}`,
          onCell: (l, k) => setHead(l, k), chosen,
        })),
        h("div", {}, h("h3", {}, data.source ? "Heads that read it, largest Δ first" : "Largest Δ"), sideTable(stops, {
          label: "heads with the largest change", first: "head", unit: data.unit, order: top,
          names: names.map(([l, k]) => `L${l}H${k}`), before: names.map(([l, k]) => data.before[l][k]), after: names.map(([l, k]) => data.after[l][k]),
          onRow: (i) => setHead(...names[i]), chosen: (i) => chosen(...names[i]),
        }))),
      notes(data.notes),
    ];
  }

  // One head

  const splitPanel = new Panel("Why it changed", "Shares of Δ, which sum to it (Shapley values), logits.");
  const patchPanel = new Panel("Patch this head back", "The unlearned model with this head's output from the original model, at every position.");
  const patchButton = h("button", { type: "button", class: "primary", onclick: () => patchHead() }, "Patch this head back");
  for (const panel of [splitPanel, patchPanel]) panel.node.classList.add("inner");
  patchPanel.hint.after(patchButton);
  panels.split = splitPanel;
  panels.patch = patchPanel;

  function drawHead(data) {
    const order = data.tokens.map((_, i) => i);
    return [
      h("p", { class: "chips" }, h("span", { class: "chip" }, h("bdi", {}, columnName()))),
      h("div", { class: "beside halves" },
        h("div", {}, h("h3", {}, "Source tokens"), sideTable(stops, {
          label: "what the head adds from each source token", first: "source token", unit: data.unit, order, names: data.tokens,
          before: data.before, after: data.after, chosen: (i) => i === state.source,
        })),
        h("div", {}, splitPanel.node, patchPanel.node)),
    ];
  }

  function drawSplit(data) {
    const total = minus(data.after, data.before);
    const rows = data.players.map((name, i) => ({ name: PLAYERS[name]?.[0] ?? name, line: PLAYERS[name]?.[1], value: data.values[i] }));
    return bars([...rows, { name: "Δ", line: `${signed(data.before)} → ${signed(data.after)}`, value: total }], limitOf(data.values, [total]), data.unit);
  }

  function drawPatch() {
    const row = (name, value, extra) => h("tr", { class: extra }, h("th", { scope: "row" }, name), h("td", { class: "number" }, plain(value.log_prob, 3)),
      h("td", { class: "track" }, h("span", { class: "fill left", style: { width: `${100 * Math.exp(value.log_prob ?? -99)}%` } })),
      h("td", { class: "number" }, chance(value.probability)), h("td", { class: "number" }, value.restored === undefined ? "" : value.restored === null ? "–" : `${plain(100 * value.restored, 1)}%`));
    const last = state.patched.at(-1);
    if (!last) return [h("p", { class: "muted" }, "Nothing is patched yet.")];
    const part = Object.fromEntries(last.rows.map((r) => [r.name, r]));
    return [h("div", { class: "scroll" }, h("table", { class: "bars patches" },
      h("thead", {}, h("tr", {}, headers("model", "log p, nats per token", "p per token", "p(answer)", "gap closed"))),
      h("tbody", {}, row("unlearned", part.unlearned),
        state.patched.map((p) => row(`L${p.layer}H${p.head} patched`, { ...p.rows.find((r) => r.name === "patched"), restored: p.restored }, p === last ? "last" : "")),
        row("original", part.original))))];
  }

  // Emphasis and prefill

  const trial = { emphasis: "", words: new Set(), known: [] };
  const template = h("select", { onchange: () => { trial.emphasis = template.value; drawWords(); } });
  const line = h("p", { class: "muted" });
  const words = h("div", { class: "words", role: "group", "aria-label": "Words to emphasise" });
  const prefill = h("input", { type: "text", dir: "auto", placeholder: "none", spellcheck: "false" });
  const prefix = h("button", { type: "button", class: "quiet", onclick: () => { prefill.value = state.answer.prefill + state.answer.prefix; } }, "Start of the asked answer");
  const form = h("form", { onsubmit: (event) => { event.preventDefault(); tryIt(); } },
    h("div", { class: "fields" },
      field("Emphasis", template), field("Prefill (beginning of the answer)", prefill)),
    line, words, h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Ask again"), prefix));

  function drawWords() {
    const chosen = setup.emphasis.find((e) => e.name === trial.emphasis);
    line.textContent = chosen ? `${chosen.name}: ${chosen.line}.` : "No emphasis: the prompt stays as it is.";
    words.hidden = !chosen?.needs_words;
    words.replaceChildren(...trial.known.map((word) => h("button", {
      type: "button", class: "pick word", "aria-pressed": String(trial.words.has(word)),
      onclick: () => { if (!trial.words.delete(word)) trial.words.add(word); drawWords(); },
    }, h("bdi", {}, word))));
  }

  function drawAttempt(data) {
    const head = ["model", "greedy answer", "fact given", "log p, nats per token", "p(scored)"];
    return [
      data.leaks && h("p", { class: "note" }, "Note: the prompt or the prefill holds the fact, so an answer with it is no recovery."),
      !setup.models.some((m) => m.role === "control") && h("p", { class: "note" }, "Note: without a retrained model (control), an answer that comes back may be a guess that any model would make."),
      h("div", { class: "scroll" }, h("table", { class: "plain" },
        h("thead", {}, h("tr", {}, headers(...head))),
        data.rows.map((row) => h("tbody", {},
          h("tr", {}, h("th", { scope: "rowgroup", colspan: head.length, class: "prompt" }, h("bdi", {}, row.prompt),
            row.prefill && [" ", h("small", {}, "prefill ", h("bdi", {}, `“${row.prefill}”`))],
            " ", h("small", {}, "scored ", h("bdi", {}, `“${row.scored}”`)))),
          row.cells.map((cell) => h("tr", {},
            h("th", { scope: "row" }, ROLE[cell.role]), h("td", { dir: "auto" }, cell.said || "(nothing)"), fact(cell.right),
            h("td", { class: "number" }, plain(cell.log_prob, 3)), h("td", { class: "number" }, chance(cell.probability)))))))),
    ];
  }

  const tryIt = () => panels.attempt.load(ask, {
    ...state.question, view: "try", emphasis: trial.emphasis, words: trial.emphasis ? [...trial.words] : [], prefill: prefill.value,
  }, drawAttempt);

  // What is selected

  function setColumn(column, reload = true) {
    state.column = column;
    panels.answer.draw?.();
    panels.tokens.draw?.();
    if (reload) loadHeads();
  }

  function setSource(row, toggles = true) {
    const position = row === null ? null : row + state.tokens.offset;
    state.source = toggles && position === state.source ? null : position;
    panels.tokens.draw?.();
    loadHeads();
  }

  function setHead(layer, head) {
    state.head = [layer, head];
    panels.heads.draw?.();
    return loadHead();
  }

  async function loadHeads() {
    const data = await panels.heads.load(ask, { ...about(), view: "heads", source: state.source }, drawHeads);
    if (!data) return;
    if (!state.head) {
      let best = -1;
      data.before.forEach((row, l) => row.forEach((v, k) => {
        const change = Math.abs(minus(data.after[l][k], v) ?? 0);
        if (change > best) [best, state.head] = [change, [l, k]];
      }));
      panels.heads.draw();
    }
    await loadHead();
  }

  async function loadHead() {
    const [layer, head] = state.head;
    const request = { ...about(), layer, head };
    panels.head.title.textContent = `Head L${layer}H${head}`;
    patchButton.textContent = `Patch L${layer}H${head} back`;
    await panels.head.load(ask, { ...request, view: "head" }, drawHead);
    await splitPanel.load(ask, { ...request, view: "split" }, drawSplit);
  }

  async function patchHead() {
    const [layer, head] = state.head;
    await patchPanel.load(ask, { ...state.question, view: "patch", layer, head }, (data) => {
      if (!state.patched.includes(data)) {
        state.patched = [...state.patched.filter((p) => p.layer !== data.layer || p.head !== data.head), data].slice(-8);
      }
      return drawPatch();
    });
  }

  // Question

  const picker = h("select", { onchange: () => {
    const chosen = setup.facts[Number(picker.value)];
    if (!chosen) return;
    prompt.value = chosen.prompt;
    answer.value = chosen.answer;
    explore();
  } });
  const prompt = h("textarea", { rows: "2", dir: "auto", spellcheck: "false" });
  const answer = h("input", { type: "text", dir: "auto", spellcheck: "false", placeholder: "empty: the original model's own answer" });
  const question = h("form", { class: "question", onsubmit: (event) => { event.preventDefault(); explore(); } },
    field("Fact", picker, "facts"),
    h("div", { class: "fields" }, field("Prompt", prompt), field("Answer (with its leading space)", answer)),
    h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Explore")));
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) question.requestSubmit();
  });
  const results = h("div", { class: "results", hidden: true }, ["answer", "tokens", "heads", "head", "attempt"].map((name) => panels[name].node));
  const first = h("p", { class: "muted" }, "No facts were given to pick from. Type a prompt, and press Explore.");
  const trouble = h("p", { class: "error", role: "alert", hidden: true });
  panels.attempt.hint.after(form);

  async function explore() {
    Object.assign(state, { question: { prompt: prompt.value, answer: answer.value }, column: null, source: null, head: null, tokens: null, patched: [] });
    for (const panel of Object.values(panels)) {
      panel.run++;
      panel.draw = null;
      panel.body.replaceChildren(h("p", { class: "muted" }, "computing …"));
      panel.fail(null);
      panel.copy.disabled = true;
    }
    patchPanel.body.replaceChildren(...drawPatch());
    panels.attempt.body.replaceChildren();
    first.hidden = true;
    results.hidden = false;
    const run = panels.answer.run + 1;
    const found = await panels.answer.load(ask, { ...state.question, view: "answer" }, drawAnswer);
    results.hidden = !found && panels.answer.run === run;
    trouble.hidden = !results.hidden;
    trouble.textContent = results.hidden ? panels.answer.error.textContent : "";
    if (!found) return;
    state.answer = found;
    state.question.answer = found.answer;
    prefix.hidden = !found.prefix.trim();
    prefill.value = found.prefill;
    const request = { ...state.question, view: "tokens" };
    state.tokens = await panels.tokens.load(ask, request, (data) => { state.tokens = data; return drawTokens(data); });
    if (state.tokens) {
      trial.known = state.tokens.words;
      trial.words = new Set(state.tokens.key_words.filter((word) => trial.known.includes(word)));
      drawWords();
      await loadHeads();
    }
  }

  async function start() {
    try {
      setup = await ask({ view: "setup" });
    } catch (error) {
      root.replaceChildren(h("p", { class: "error", role: "alert" }, error.message));
      return;
    }
    stops = setup.colours[root.dataset.theme];
    models.replaceChildren(...setup.models.flatMap((m, i) => [i ? " · " : "", `${m.label} model `, m.name && h("code", {}, m.name)].filter(Boolean)),
      ` · ${setup.layers} layers × ${setup.heads} heads`);
    template.replaceChildren(h("option", { value: "" }, "none"), ...setup.emphasis.map((e) => h("option", { value: e.name }, e.name)));
    drawWords();
    const groups = new Map();
    setup.facts.forEach((f, i) => groups.set(f.group, [...(groups.get(f.group) ?? []), h("option", { value: String(i) }, short(`${f.prompt} →${f.answer}`, 110))]));
    picker.replaceChildren(h("option", { value: "" }, setup.more_facts ? `choose one of ${setup.facts.length} facts (${setup.more_facts} more are not listed)` : `choose one of ${setup.facts.length} facts`),
      ...[...groups].map(([name, options]) => h("optgroup", { label: GROUPS[name] ?? name }, options)));
    picker.parentElement.hidden = !setup.facts.length;
    root.replaceChildren(h("header", { class: "top" }, h("h1", {}, "unpact explorer"), models), question, trouble, first, results);
    if (setup.facts.length) {
      picker.value = "0";
      picker.dispatchEvent(new Event("change"));
    }
  }

  root.classList.add("unpact-explorer");
  restyle();
  const media = matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", restyle);
  const observer = new MutationObserver(restyle);
  observer.observe(document.body, { attributes: true, attributeFilter: ["class", "data-jp-theme-light"] });
  start();
  return () => {
    media.removeEventListener("change", restyle);
    observer.disconnect();
  };
}

// Jupyter: requests travel as custom messages of the widget.

function render({ model, el }) {
  const waiting = new Map();
  const view = Math.random().toString(36).slice(2);
  let count = 0;
  const hear = (message) => {
    waiting.get(message.id)?.(message);
    waiting.delete(message.id);
  };
  model.on("msg:custom", hear);
  const root = h("div", {}, h("p", {}, "Waiting for the kernel; run the cell again if nothing happens."));
  el.append(root);
  const unmount = mount(root, (request) => new Promise((resolve) => {
    const id = `${view}-${count++}`;
    waiting.set(id, resolve);
    model.send({ id, request });
  }));
  return () => {
    model.off("msg:custom", hear);
    unmount();
  };
}

export default { render };

// Local page: requests travel over HTTP to the process that served it.

const page = document.getElementById("unpact-explorer-page");
if (page) {
  mount(page, async (request) => {
    try {
      const reply = await fetch("ask", {
        method: "POST", body: JSON.stringify(request), headers: { "Content-Type": "application/json", "X-Token": page.dataset.token },
      });
      return await reply.json();
    } catch {
      throw new Error("unpact explore has stopped; start it again and open the address that it prints");
    }
  });
}
