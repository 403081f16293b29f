// The page of `groupwise watch`: what is shown stands in the address after #, so that a reload or a link shows it again.
// Everything a model or a user wrote reaches the page as text nodes, never as markup.
"use strict";

const LATEST = 999999999999;
const PAGE = 32; // completions asked for at once
const VIEWS = { curves: "Curves", groups: "Groups", heldout: "Held out", problem: "Problem", search: "Search", events: "Events", recipe: "Recipe" };

let runs = [];      // {name, path, changes, history, last_step, state}, in the order of the command
let state = {};     // what the address says
let overview = [];  // of each run, as /api/runs/N has it
let drawing = 0;    // number of the latest render: an answer that comes later than a newer one is dropped
let isOffline = false;

// ---- elements ------------------------------------------------------------------------------------------------------

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") Object.assign(node.style, value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const $ = (id) => document.getElementById(id);
const short = charts.short;
const signed = (value) => (value > 0 ? `+${short(value)}` : short(value));
const isKnown = (value) => value !== null && value !== undefined;
const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(100 * share)} %`);
const mean = (values) => {
  const measured = values.filter((v) => v !== null && v !== undefined);
  return measured.length ? measured.reduce((sum, v) => sum + v, 0) / measured.length : null;
};

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.round(seconds), parts = [Math.floor(s / 3600), Math.floor(s / 60) % 60, s % 60];
  return parts[0] ? `${parts[0]} h ${parts[1]} min` : parts[1] ? `${parts[1]} min ${parts[2]} s` : `${parts[2]} s`;
}

// ---- address and server --------------------------------------------------------------------------------------------

function readAddress() {
  const [view, query] = location.hash.slice(1).split("?");
  state = { view: VIEWS[view] ? view : "curves", run: 0, ...Object.fromEntries(new URLSearchParams(query || "")) };
  state.run = Math.min(Math.max(0, Number(state.run) || 0), Math.max(0, runs.length - 1));
}

function go(changes, isQuiet = false) {
  const next = { ...state, ...changes };
  const view = next.view;
  delete next.view;
  for (const key of Object.keys(next)) if (next[key] === null || next[key] === "" || next[key] === undefined) delete next[key];
  const hash = `#${view}?${new URLSearchParams(next)}`;
  if (isQuiet) { history.replaceState(null, "", hash); readAddress(); }
  else if (location.hash === hash) render();
  else location.hash = hash;
}

async function ask(path, query = {}) {
  const found = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const answer = await fetch(`api/${path}${found.length ? `?${new URLSearchParams(found)}` : ""}`);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error || `The server answered ${answer.status}.`);
  return body;
}

const ofRun = (path) => `runs/${state.run}${path}`;

let source = null;

// Not while the page is in the background: a browser keeps few connections to one server, and another page needs them.
function listen() {
  source?.close();
  source = null;
  if (document.hidden) return;
  source = new EventSource("api/events");
  source.onmessage = (event) => {
    const versions = JSON.parse(event.data);
    const isNews = isOffline || versions.some((version, i) => version.changes !== runs[i].changes);
    isOffline = false;
    runs = runs.map((run, i) => ({ ...run, ...versions[i] }));
    if (isNews) render(true);
    else showHead();
  };
  source.onerror = () => { isOffline = true; showHead(); };
}

// ---- head and tabs -------------------------------------------------------------------------------------------------

const STATES = { training: "training", finished: "finished", ended: "ended early", waiting: "waiting for its start", gone: "the folder is gone" };

function showHead() {
  const found = overview[state.run];
  if (!found) return;
  const run = runs[state.run];
  const chips = runs.length > 1 && h("div", { class: "runs", role: "group", "aria-label": "Runs" }, runs.map((each, i) =>
    h("button", { class: "chip", "aria-pressed": String(i === state.run), onclick: () => go({ run: i, at: null }) },
      h("i", { class: "dot", style: { background: charts.color(i) } }), each.name, h("small", {}, ` ${each.last_step}`))));
  const done = found.num_steps ? Math.min(1, found.last_step / found.num_steps) : null;
  const facts = [
    `step ${found.last_step.toLocaleString("en")}${found.num_steps ? ` of ${found.num_steps.toLocaleString("en")}` : ""}`,
    found.seconds ? `${duration(found.seconds)} in steps` : null,
    found.seconds_left ? `about ${duration(found.seconds_left)} left` : null,
  ].filter(Boolean);
  $("head").replaceChildren(
    ...[
      h("div", { class: "kind" }, "groupwise watch"),
      h("div", { class: "title" }, h("h1", {}, run.name), h("span", { class: `state ${run.state}` }, STATES[run.state])),
      chips,
      h("p", { class: "where" }, facts.join(" · ")),
      done !== null && h("div", { class: "progress", role: "progressbar", "aria-valuenow": Math.round(100 * done), "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": "Steps done" },
        h("i", { style: { width: `${100 * done}%` } })),
      found.verdict && h("p", { class: "verdict" }, found.verdict),
      found.ending && h("p", { class: "note bad" }, found.ending),
      ...found.damage.map((text) => h("p", { class: "note bad" }, text)),
      isOffline && h("p", { class: "note bad" }, "The server does not answer. This is what it sent last."),
      run.state === "gone" && h("p", { class: "note bad" }, `There is no folder ${found.path} any more. This is what was read last.`),
    ].filter(Boolean));
  document.title = `${found.last_step ? `${found.last_step}: ` : ""}${run.name}`;
}

function shownViews() {
  const found = overview[state.run];
  const isMissing = { heldout: !found?.recorded_steps.evaluations.count, problem: state.problem === undefined };
  return Object.keys(VIEWS).filter((view) => !isMissing[view]);
}

function showTabs() {
  $("tabs").replaceChildren(...shownViews().map((view) =>
    h("a", { href: `#${view}?run=${state.run}${view === "problem" ? `&problem=${state.problem}` : ""}`, "aria-current": view === state.view ? "page" : null }, VIEWS[view])));
}

// ---- curves --------------------------------------------------------------------------------------------------------

const SHARE = [0, 1];
const GIB = 2 ** 30;

function chartSpecs(found) {
  const heldOut = Object.fromEntries(found.held_out.map(({ key, label }) => [key, `held out, ${label}`]));
  const labels = { reward: "training", ...heldOut };
  const functions = found.functions.length > 1 ? found.functions : [];
  const specs = [
    { title: "Reward", keys: ["reward", ...Object.keys(heldOut)], labels, smooth: true, height: 240, isWide: true },
    ...functions.map((name, i) => ({ title: `Reward: ${name}`, keys: [`rewards/${name}/mean`], labels: { [`rewards/${name}/mean`]: "mean" }, smooth: true, color: i + 1 })),
    { title: "KL to the reference, nats a token", keys: ["kl"], labels: { kl: "KL" } },
    { title: "Loss", keys: ["loss"], color: 1 },
    { title: "Entropy, nats a token", keys: ["entropy"], color: 3 },
    { title: "Length, tokens", keys: ["completions/mean_length"], labels: { "completions/mean_length": "mean" }, band: ["completions/min_length", "completions/max_length"], color: 2 },
    { title: "Cut off, and groups without signal", keys: ["completions/clipped_ratio", "frac_reward_zero_std"], labels: { "completions/clipped_ratio": "cut off", frac_reward_zero_std: "no signal" }, range: SHARE, color: 4 },
    { title: "Spread of the reward in a group", keys: ["reward_std"], labels: { reward_std: "standard deviation" } },
    { title: "Seconds of a step", keys: ["time/rollout", "time/reward", "time/learn", "time/other"], stacked: "step_time", labels: { "time/rollout": "rollout", "time/reward": "reward", "time/learn": "learn", "time/other": "other" } },
    { title: "Tokens a second", keys: ["tokens_per_second"], labels: { tokens_per_second: "whole step" } },
    { title: "Memory, GiB", keys: ["memory_peak_bytes"], labels: { memory_peak_bytes: "peak" }, scale: GIB, color: 5 },
    { title: "Gradient norm", keys: ["grad_norm"], color: 5 },
  ];
  const more = (state.more || "").split("\n").filter(Boolean);
  return [...specs, ...more.map((key) => ({ title: key, keys: [key] }))]
    .map((spec) => ({ ...spec, about: spec.keys.map((key) => found.keys[key]?.definition).filter(Boolean).join("\n") }));
}

let drawn = { title: "", list: [] }; // the charts of the view, kept while new data comes

function marks() {
  return overview[state.run].events.filter((e) => e.step && !QUIET_EVENTS.has(e.kind)).map((e) => ({ step: e.step, isBad: BAD_EVENTS.has(e.kind) }));
}

const QUIET_EVENTS = new Set(["start", "checkpoint", "end", "uploaded", "best", "curriculum"]);
const BAD_EVENTS = new Set(["failed", "guard", "rollback", "not_finite", "warning", "interrupted", "update_skipped", "checkpoint_damaged"]);

async function showCurves(isMine) {
  const found = overview[state.run], specs = chartSpecs(found);
  const keys = [...new Set(specs.flatMap((spec) => [...spec.keys, ...(spec.band || []), ...(spec.stacked ? [spec.stacked] : [])]))];
  const shown = runs.map((run, index) => ({ ...run, index })).filter((run) => runs.length === 1 || !(state.hide || "").split(",").includes(String(run.index)));
  const parts = await Promise.all(shown.map(async (run) => {
    const made = await ask(`runs/${run.index}/curves`, { keys: keys.join("\n"), first: state.first, last: state.last, points: innerWidth < 600 ? 200 : 500 });
    return { run, ...made };
  }));
  if (!isMine()) return;
  const title = JSON.stringify(specs.map((spec) => [spec.title, spec.keys]));
  if (drawn.title !== title || !$("charts")) {
    drawn = { title, list: specs.map((spec) => new charts.Chart(spec, { pick: (step) => go({ view: "groups", step, at: null }), zoom: (first, last) => go({ first, last }) }, marks)) };
    drawn.list.forEach((chart, i) => chart.node.classList.toggle("wide", Boolean(specs[i].isWide)));
    $("main").replaceChildren(h("div", { id: "summary" }), h("div", { id: "charts", class: "grid" }, drawn.list.map((chart) => chart.node)), h("div", { id: "more" }));
  }
  $("summary").replaceChildren(...summary(found));
  const anything = drawn.list.map((chart) => chart.update(parts)).some(Boolean);
  const others = Object.keys(found.keys).filter((key) => !keys.includes(key));
  $("more").replaceChildren(
    ...(anything ? [] : [h("p", { class: "muted" }, "No step has finished yet. The curves begin with the first one.")]),
    ...(others.length ? [h("label", {}, "Another curve ", h("select", { onchange: (e) => go({ more: [state.more, e.target.value].filter(Boolean).join("\n") }) },
      h("option", { value: "" }, "choose a metric"), others.map((key) => h("option", { value: key }, key))))] : []),
    ...(state.more ? [h("button", { onclick: () => go({ more: null }) }, "Remove added curves")] : []));
}

function summary(found) {
  const tile = (label, value, title) => value !== "–" && h("div", { class: "card tile", title }, h("b", {}, value), h("span", {}, label));
  const last = found.last;
  const heldOut = found.held_out.map(({ key, label }) => tile(`held-out reward, ${label}`, [short(last[key]), last[`${key}_stderr`] && h("small", {}, ` ± ${+last[`${key}_stderr`].toPrecision(2)}`)]));
  return [
    h("div", { class: "tiles" }, tile("reward, last step", short(last.reward)), heldOut.slice(0, 2), tile("KL", short(last.kl)), tile("mean length", short(last["completions/mean_length"])),
      tile("cut off", percent(last["completions/clipped_ratio"])), tile("groups without signal", percent(last.frac_reward_zero_std)), tile("tokens a second", short(last.tokens_per_second))),
    compute(found.compute),
    findings(found.findings),
    timeline(found),
    (state.first || state.last) && h("p", {}, `Steps ${state.first} to ${state.last}. `, h("button", { onclick: () => go({ first: null, last: null }) }, "Show all")),
    runs.length > 1 && h("p", { class: "runs" }, "Shown: ", runs.map((run, i) => h("label", { class: "chip" },
      h("input", { type: "checkbox", checked: !(state.hide || "").split(",").includes(String(i)), onchange: (e) => hide(i, !e.target.checked) }), h("i", { class: "dot", style: { background: charts.color(i) } }), run.name))),
  ].filter(Boolean);
}

function hide(index, isHidden) {
  const now = new Set((state.hide || "").split(",").filter(Boolean));
  if (isHidden) now.add(String(index)); else now.delete(String(index));
  go({ hide: [...now].join(",") });
}

// What became of the sampled tokens, when the reward came to its levels, the plan against what it took.
function compute(found) {
  if (!found?.lines?.length) return null;
  const causes = Object.entries(found.num_by_cause || {}).filter(([, count]) => count > 0);
  const total = causes.reduce((sum, [, count]) => sum + count, 0);
  return h("details", { class: "card compute", open: true }, h("summary", {}, h("b", {}, "What the compute bought"), ` ${found.lines[0]}`),
    causes.length > 1 && h("div", { class: "shares", "aria-hidden": "true" }, causes.map(([cause, count], i) => h("i", { title: `${cause}: ${percent(count / total)}`, style: { width: `${(100 * count) / total}%`, background: charts.color(i ? i + 1 : 2) } }))),
    found.lines.slice(1).map((line) => h("p", {}, line)),
    found.rewards_reached?.length > 0 && h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["reward", "step", "after", "tokens"].map((text) => h("th", {}, text)))),
      h("tbody", {}, found.rewards_reached.map((each) => h("tr", {}, h("td", {}, short(each.reward)), h("td", {}, stepLink(each.step)), h("td", {}, duration(each.seconds)), h("td", {}, short(each.num_tokens))))))));
}

function findings(found) {
  if (!found?.length) return null;
  return h("section", { "aria-label": "Findings" }, h("h2", {}, "Findings"), found.map((one) => h("details", { class: `card finding ${one.certainty}` },
    h("summary", {}, h("b", {}, one.symptom), " ", stepLink(one.first_step), one.last_step !== one.first_step && [" to ", stepLink(one.last_step)], h("small", { class: "muted" }, ` ${one.certainty}`)),
    h("ul", {}, (one.evidence || []).map((text) => h("li", {}, text))),
    (one.causes || []).length > 0 && [h("h4", {}, "Likely causes"), h("ol", {}, one.causes.map((text) => h("li", {}, text)))],
    one.first_change && h("p", {}, h("b", {}, "First change: "), one.first_change),
    (one.examples || []).map((example) => h("figure", {}, h("figcaption", {}, stepLink(example.step), `, completion ${example.completion + 1}`), h("pre", {}, example.text))))));
}

function stepLink(step) {
  if (step === null || step === undefined) return null;
  return h("a", { href: `#groups?run=${state.run}&step=${step}` }, `step ${step}`);
}

// Events above, findings below a line of all steps.
function timeline(found) {
  const events = found.events.filter((e) => e.step && !QUIET_EVENTS.has(e.kind)), spans = found.findings || [];
  const first = Number(state.first) || 1, last = Number(state.last) || found.last_step;
  if ((!events.length && !spans.length) || last <= first) return null;
  const at = (step) => `${Math.min(100, Math.max(0, (100 * (step - first)) / (last - first)))}%`;
  const isIn = (a, b) => b >= first && a <= last;
  return h("div", { class: "timeline", "aria-label": "Events and findings over the steps" },
    events.filter((e) => isIn(e.step, e.step)).slice(-80).map((e) => h("a", { class: `mark ${BAD_EVENTS.has(e.kind) ? "bad" : ""}`, style: { left: at(e.step) }, title: `step ${e.step}, ${e.kind}: ${e.message || e.guard || ""}`, href: `#groups?run=${state.run}&step=${e.step}` }, h("span", { class: "unseen" }, `${e.kind} at step ${e.step}`))),
    spans.filter((f) => isIn(f.first_step, f.last_step ?? last)).map((f, i) => h("i", { class: "span", title: f.symptom, style: { left: at(f.first_step), right: `calc(100% - ${at(f.last_step ?? last)})`, top: `${18 + 6 * (i % 3)}px` } })));
}

// ---- groups --------------------------------------------------------------------------------------------------------

const SORTS = { drawn: "as drawn", best: "best first", worst: "worst first", spread: "widest spread first", kl: "highest KL first", cut: "most cut off first", conflict: "functions differ most first" };
const highest = (values) => Math.max(...values.filter((v) => v !== null && v !== undefined), -Infinity);
const spreadOf = (values) => highest(values) - -highest(values.map((v) => (v === null ? null : -v)));
const isCut = (stop) => stop === "length" || stop === "turns";
const numCut = (row) => row.stops.filter(isCut).length;

const RANKS = {
  best: (row) => mean(row.rewards) ?? -Infinity,
  worst: (row) => -(mean(row.rewards) ?? Infinity),
  spread: (row) => spreadOf(row.rewards),
  kl: (row) => highest(row.kl),
  cut: numCut,
  conflict: (row) => highest(row.conflict),
};

let step = null; // the answer that the groups on the page came from

async function showGroups(isMine, kind = "completions") {
  const wanted = state.step === undefined || state.step === "latest" ? LATEST : Number(state.step) || LATEST;
  const found = await ask(ofRun(`/${kind}/${wanted}`));
  if (!isMine()) return;
  step = { ...found, kind };
  if (found.step === null) {
    $("main").replaceChildren(h("p", { class: "muted" }, "No completions are recorded yet."));
    return;
  }
  const rows = sorted(found.groups);
  const place = Math.max(0, rows.findIndex((row) => String(row.at) === state.at));
  const shown = rows[place];
  const detail = h("section", { id: "group", "aria-label": "Group" });
  const isKept = $("group")?.dataset.key === `${found.step}/${shown?.at}/${state.run}/${kind}`;
  const list = h("ol", { class: "grouplist", "aria-label": "Groups of the step" }, rows.map((row, i) => groupButton(row, i === place)));
  $("main").replaceChildren(stepBar(found, rows), ...found.confusions.map(confusionTable), h("div", { class: "split" }, list, isKept ? $("group") : detail));
  list.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  if (shown && !isKept) await showGroup(detail, kind, found.step, shown, isMine);
  if (isKept) paintAll();
}

// Which answers were given where which were right; right ones stand on the diagonal.
function confusionTable({ set, kind, given, rows }) {
  const cell = (count, isRight) => h("td", { class: isRight ? "right" : count ? "wrong" : null }, count);
  return h("details", { class: "confusion", open: true },
    h("summary", {}, `Answers given (${kind}) by the data's own${set ? `, ${set}` : ""}`),
    h("div", { class: "scroll" }, h("table", {},
      h("tr", {}, h("th", {}, "answer of the data"), given.map((label) => h("th", {}, label))),
      rows.map(([label, counts], i) => h("tr", {}, h("th", {}, label), counts.map((count, j) => cell(count, i === j)))))));
}

function sorted(rows) {
  const rank = RANKS[state.sort];
  return rank ? [...rows].sort((a, b) => rank(b) - rank(a)) : rows;
}

function stepBar(found, rows) {
  const ends = overview[state.run].recorded_steps[found.step && step.kind] || {};
  const to = (target) => go({ step: target, at: null });
  const isLatest = state.step === undefined || state.step === "latest";
  const can = { kl: rows.some((row) => row.kl.length), conflict: rows.some((row) => row.conflict.some((v) => v !== null)) };
  const options = Object.entries(SORTS).filter(([key]) => can[key] !== false);
  return h("div", { class: "bar", role: "toolbar", "aria-label": "Step" },
    h("button", { onclick: () => to(found.before), disabled: found.before === null, title: "previous step (←)", "aria-label": "previous step" }, "←"),
    h("label", {}, "step ", h("input", { id: "step", type: "number", min: ends.first, max: ends.last, value: found.step, onchange: (e) => to(e.target.value) })),
    h("button", { onclick: () => to(found.after), disabled: found.after === null, title: "next step (→)", "aria-label": "next step" }, "→"),
    h("input", { type: "range", "aria-label": "step", min: ends.first, max: ends.last, value: found.step, onchange: (e) => to(e.target.value) }),
    h("button", { "aria-pressed": String(isLatest), onclick: () => to("latest"), title: "follow the latest step (f)" }, "latest"),
    h("label", {}, "groups ", h("select", { onchange: (e) => go({ sort: e.target.value }) }, options.map(([key, label]) => h("option", { value: key, selected: state.sort === key }, label)))),
    h("span", { class: "muted" }, `${found.num_groups} group${found.num_groups === 1 ? "" : "s"}${found.num_groups > rows.length ? `, the first ${rows.length}` : ""}`));
}

function groupButton(row, isOpen) {
  const cut = numCut(row);
  const flags = [
    row.kind, !row.is_used && "not used",
    !row.kind && spreadOf(row.rewards) <= 1e-8 && row.rewards.length > 1 && "no signal", cut > 0 && `${cut} cut off`,
    row.turns.some((n) => n > 1) && `${Math.max(...row.turns)} turns`,
  ].filter(Boolean);
  return h("li", {}, h("button", { class: "row", "aria-current": isOpen ? "true" : null, onclick: () => go({ at: row.at }) },
    h("span", { class: "line" }, h("b", {}, short(mean(row.rewards))), rewardDots(row.rewards), h("small", { class: "muted" }, row.place)),
    h("span", { class: "excerpt" }, row.prompt), flags.length > 0 && h("span", { class: "flags" }, flags.map((flag) => h("small", {}, flag)))));
}

// The rewards of a group between its lowest and its highest.
function rewardDots(values) {
  const measured = values.filter((v) => v !== null), low = Math.min(...measured), high = Math.max(...measured);
  return h("span", { class: "dots", "aria-hidden": "true" }, measured.slice(0, 64).map((v) => h("i", { style: { left: `${high > low ? (100 * (v - low)) / (high - low) : 50}%` } })));
}

const ORDERS = { sampled: "as sampled", best: "best first", worst: "worst first", longest: "longest first", kl: "highest KL first", conflict: "functions differ most first" };
const COLORS = { none: "no colour", logprob: "log-prob", ref_log_ratio: "ratio to the reference", advantage: "advantage" };

async function showGroup(node, kind, atStep, row, isMine, first = 0) {
  const path = ofRun(`/${kind}/${atStep}/${row.at}`);
  const found = await ask(path, { first, count: PAGE });
  if (!isMine()) return;
  node.dataset.key = `${atStep}/${row.at}/${state.run}/${kind}`;
  const columns = Object.entries(found.columns || {}).concat(isKnown(found.answer) && !("answer" in (found.columns || {})) ? [["answer", found.answer]] : []);
  const bar = h("div", { class: "bar", role: "toolbar", "aria-label": "Completions" },
    h("label", {}, "completions ", h("select", { id: "order", onchange: (e) => { go({ order: e.target.value }, true); reorder(); } },
      Object.entries(ORDERS).filter(([key]) => hasOrder(row, key)).map(([key, label]) => h("option", { value: key, selected: state.order === key }, label)))),
    h("label", {}, h("input", { type: "checkbox", checked: state.cut === "1", onchange: (e) => { go({ cut: e.target.checked ? "1" : null }, true); reorder(); } }), " cut off only"),
    kind === "completions" && h("label", {}, "tokens ", h("select", { id: "colour", title: "colour of the tokens (c)", onchange: (e) => { go({ colour: e.target.value }, true); paintAll(); } },
      Object.entries(COLORS).map(([key, label]) => h("option", { value: key, selected: state.colour === key }, label)))),
    h("span", { id: "scale", class: "scale" }));
  node.replaceChildren(
    h("div", { class: "card prompt" },
      h("p", { class: "line" }, h("b", {}, found.place), h("span", { class: "muted" }, [isKnown(found.draw) && `draw ${found.draw}`, isKnown(found.policy_version) && `weights of step ${found.policy_version}`].filter(Boolean).join(", ")),
        found.environment && h("span", { class: "muted" }, `environment ${found.environment.name}`),
        kind === "completions" && h("a", { href: `#problem?run=${state.run}&problem=${found.problem}` }, "this problem over the steps")),
      messages(found.prompt),
      columns.length > 0 && h("dl", { class: "facts" }, columns.map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, typeof value === "string" ? value : JSON.stringify(value)))))),
    bar,
    h("div", { id: "completions", class: "completions", "data-path": path }, found.completions.map((c) => completionCard(c, row))),
    found.num_completions > first + PAGE ? moreButton(path, row, found.num_completions, first + PAGE) : "");
  reorder();
  await paintAll();
  $("main").dataset.shown = `${atStep}/${row.at}`;
}

const hasOrder = (row, key) => (key === "kl" ? row.kl.length > 0 : key === "conflict" ? row.conflict.some((v) => v !== null) : true);

function moreButton(path, row, total, first) {
  return h("button", { onclick: async (event) => {
    const found = await ask(path, { first, count: PAGE });
    $("completions").append(...found.completions.map((c) => completionCard(c, row)));
    event.target.replaceWith(total > first + PAGE ? moreButton(path, row, total, first + PAGE) : "");
    reorder();
    await paintAll();
  } }, `Show ${Math.min(PAGE, total - first)} more of ${total}`);
}

function messages(list) {
  return list.map((m) => h("div", { class: `message ${m.role}` }, m.role && h("small", { class: "muted" }, m.role), longText(m.content)));
}

// Long texts open on a click.
function longText(text, limit = 700) {
  const node = h("pre", {}, text.length > limit ? `${text.slice(0, limit)} …` : text || "(empty)");
  if (text.length <= limit) return node;
  return h("div", {}, node, h("button", { class: "link", onclick: (e) => { node.textContent = text; e.target.remove(); } }, `all ${text.length.toLocaleString("en")} characters`));
}

const STOPS = { stop: "ended", stop_string: "stop string", length: "cut off", turns: "out of turns", failed: "environment failed" };

function completionCard(c, row) {
  const names = Object.keys(c.rewards), i = c.number, extra = Object.entries(c.extra || {});
  const card = h("article", { class: `card completion ${isCut(c.stop_reason) ? "cut" : ""}`, "data-number": i, tabindex: "-1" },
    h("header", {}, h("span", { class: "muted" }, `#${i + 1}`), h("b", { class: c.advantage > 0 ? "good" : c.advantage < 0 ? "bad" : "" }, short(c.reward)),
      c.advantage !== null && c.advantage !== undefined && h("span", { title: "advantage" }, `A ${signed(c.advantage)}`), advantageBar(c.advantage),
      h("span", { class: "muted" }, `${c.length} tokens, ${STOPS[c.stop_reason] || c.stop_reason || ""}`),
      (row.kl[i] ?? null) !== null && h("span", { class: "muted", title: "mean log-ratio to the reference" }, `KL ${short(row.kl[i])}`)),
    names.length > 1 && h("p", { class: "functions" }, names.map((name) => h("span", {}, `${name} `, h("b", {}, short(c.rewards[name])), c.counted && c.counted[name] !== undefined && c.counted[name] !== c.rewards[name] ? ` counts ${short(c.counted[name])}` : ""))),
    c.turns && c.messages ? conversation(c) : h("pre", { class: "text" }, c.text || "(empty)"),
    h("div", { class: "tokens", hidden: true }),
    extra.length > 0 && h("dl", { class: "facts" }, extra.map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, typeof value === "string" ? value : JSON.stringify(value))))));
  Object.assign(card, { completion: c, rank: { sampled: -i, best: c.reward ?? -Infinity, worst: -(c.reward ?? Infinity), longest: c.length, kl: row.kl[i] ?? -Infinity, conflict: row.conflict[i] ?? -Infinity } });
  return card;
}

function advantageBar(value) {
  if (!value) return null;
  const width = Math.min(50, 20 * Math.abs(value));
  return h("span", { class: "abar", "aria-hidden": "true" }, h("i", { class: value > 0 ? "good" : "bad", style: { width: `${width}%`, left: value > 0 ? "50%" : `${50 - width}%` } }));
}

// What the policy and the environment said, turn by turn.
function conversation(c) {
  let turn = -1;
  return h("div", { class: "conversation" }, c.messages.map((m) => {
    const isPolicy = m.role === "assistant", facts = isPolicy ? c.turns[++turn] : null;
    const calls = (facts?.calls || []).map((call) => h("small", { class: call.error ? "bad" : "" }, `call of ${call.name || "no name"}${call.error ? `: ${call.error}` : ""}`));
    const text = typeof m.content === "string" ? m.content : JSON.stringify(m.content ?? "");
    return h("div", { class: `message ${m.role}` }, h("small", { class: "muted" }, isPolicy ? `policy, turn ${turn + 1}` : m.name ? `${m.role} ${m.name}` : m.role), calls,
      (facts?.reward ?? null) !== null && h("small", {}, `reward ${short(facts.reward)}`), facts?.is_cut && h("small", {}, "answer shortened"), h("pre", {}, text || "(empty)"));
  }));
}

function reorder() {
  const box = $("completions");
  if (!box) return;
  const key = state.order in ORDERS ? state.order : "sampled";
  const cards = [...box.children].sort((a, b) => b.rank[key] - a.rank[key] || a.completion.number - b.completion.number);
  box.append(...cards);
  for (const card of cards) card.hidden = state.cut === "1" && !isCut(card.completion.stop_reason);
}

// ---- tokens --------------------------------------------------------------------------------------------------------

const DIVERGING = { ref_log_ratio: 1, advantage: 2 };

// A colour that is readable under text in both themes: from nothing to red for low log-probs, red and green by sign.
function tint(kind, value) {
  if (value === null || value === undefined) return "transparent";
  const hue = kind === "logprob" || value < 0 ? "--bad" : "--good";
  const share = kind === "logprob" ? Math.min(1, -value / 5) : Math.min(1, Math.abs(value) / DIVERGING[kind]);
  return `color-mix(in srgb, ${charts.css(hue)} ${Math.round(70 * share)}%, transparent)`;
}

const TOKEN_WORDS = {
  logprob: (v) => `log-prob ${v.toFixed(2)}, probability ${Math.exp(v).toPrecision(2)}`,
  ref_log_ratio: (v) => `log-ratio to the reference ${v.toFixed(3)}`,
  advantage: (v) => `advantage ${v.toFixed(3)}`,
};

const SCALES = { logprob: "plain: certain; red: log-prob −5 and below", ref_log_ratio: "red: less likely than under the reference; green: more", advantage: "red: pushed away from; green: pushed towards" };

async function paintAll() {
  const box = $("completions"), kind = state.colour;
  if (!box) return;
  const cards = [...box.children], isOn = kind && kind !== "none" && COLORS[kind];
  if ($("scale")) $("scale").textContent = isOn ? SCALES[kind] : "";
  if (!isOn) return cards.forEach((card) => showTokens(card, null));
  const missing = cards.filter((card) => !card.tokens).map((card) => card.completion.number);
  for (let first = Math.min(...missing); missing.length && first <= Math.max(...missing); first += PAGE) {
    const found = await ask(`${box.dataset.path}/tokens`, { first, count: PAGE });
    found.forEach((tokens, i) => { const card = cards.find((c) => c.completion.number === first + i); if (card) card.tokens = tokens; });
  }
  if (box.isConnected) cards.forEach((card) => showTokens(card, kind));
  const isBare = cards.every((card) => !card.tokens?.[kind]) && kind !== "advantage";
  if ($("scale") && isBare) $("scale").textContent = `The ${COLORS[kind]} of each token is not recorded for this step.`;
}

function showTokens(card, kind) {
  const body = card.querySelector(".text, .conversation"), box = card.querySelector(".tokens");
  const tokens = card.tokens, advantage = card.completion.advantage;
  const values = kind && tokens && (tokens[kind] || (kind === "advantage" && advantage !== null && tokens.is_sampled.map((is) => (is ? advantage : null))));
  box.hidden = !values;
  body.hidden = Boolean(values);
  if (!values) return;
  const hasTexts = tokens.texts.length === values.length;
  box.classList.toggle("cells", !hasTexts);
  box.replaceChildren(...values.map((value, i) => {
    const words = value === null ? "given, not sampled" : TOKEN_WORDS[kind](value);
    return h("span", { class: tokens.is_sampled[i] ? "t" : "t given", title: `token ${i + 1}: ${words}`, style: { background: tint(kind, value) } }, hasTexts ? tokens.texts[i] : "");
  }));
  body.hidden = hasTexts;
}

// ---- a problem, a search -------------------------------------------------------------------------------------------

// Asks until the whole run is searched, or enough is found; `take` gets each part.
async function gather(path, query, take, isMine, isEnough = () => false) {
  let next = query.before ?? LATEST, searched = 0;
  const status = h("p", { class: "muted", role: "status" }, "Searching …");
  const stop = h("button", { onclick: () => { stop.remove(); next = null; } }, "Stop");
  $("results").before(status);
  status.after(stop);
  while (next !== null) {
    const found = await ask(path, { ...query, before: next });
    if (!isMine()) return;
    searched += found.num_steps;
    take(found.hits);
    isReady();
    next = next === null ? null : found.next;
    status.textContent = next === null ? `${searched.toLocaleString("en")} steps searched.` : `${searched.toLocaleString("en")} steps searched, down to step ${next.toLocaleString("en")} …`;
    if (next !== null && isEnough()) {
      stop.textContent = "Go on with earlier steps";
      await new Promise((resolve) => stop.addEventListener("click", resolve, { once: true }));
      return gather(path, { ...query, before: next }, take, isMine);
    }
  }
  stop.remove();
}

async function showProblem(isMine) {
  const rows = [], chart = new charts.Chart({ title: "Reward of its completions", keys: ["best", "mean", "worst"], height: 200 }, { pick: (s) => open(s), zoom: () => {} }, () => []);
  const open = (atStep) => { const row = rows.find((r) => r.step === atStep); if (row) go({ view: "groups", step: row.step, at: row.at }); };
  const list = h("ol", { class: "grouplist wide", id: "results" });
  const name = h("h2", {}, `Problem ${Number(state.problem)}`);
  $("main").replaceChildren(name, h("p", { class: "muted", id: "prompt" }), chart.node, list);
  await gather(ofRun(`/problems/${Number(state.problem)}`), {}, (hits) => {
    rows.push(...hits);
    if (hits.length) { name.textContent = `The draws of ${rows[0].place}`; $("prompt").textContent = rows[0].prompt; }
    list.append(...hits.map((row) => h("li", {}, h("a", { class: "row", href: `#groups?run=${state.run}&step=${row.step}&at=${row.at}` },
      h("span", { class: "line" }, h("b", {}, `step ${row.step}`), h("span", {}, short(mean(row.rewards))), rewardDots(row.rewards), h("small", { class: "muted" }, `${short(mean(row.lengths))} tokens${numCut(row) ? `, ${numCut(row)} cut off` : ""}${row.is_used ? "" : ", not used"}`))))));
    const ascending = [...rows].reverse(), of = (take) => ({ mean: ascending.map((row) => take(row.rewards)) });
    const worst = (values) => -highest(values.map((v) => (v === null ? null : -v)));
    const finite = (f) => (values) => { const v = f(values); return Number.isFinite(v) ? v : null; };
    chart.update([{ run: { index: 0, name: "" }, steps: ascending.map((row) => row.step), curves: { best: of(finite(highest)), mean: of(mean), worst: of(finite(worst)) } }]);
  }, isMine);
  if (isMine() && !rows.length) name.textContent = "This problem was not drawn in the recorded steps.";
}

const SEARCH_ORDERS = { latest: "latest first", best: "best first", worst: "worst first", longest: "longest first", kl: "highest KL first", conflict: "functions differ most first" };
const SEARCH_RANKS = { best: (hit) => hit.rewards, worst: (hit) => -hit.rewards, longest: (hit) => hit.lengths, kl: (hit) => hit.kl, conflict: (hit) => hit.conflict };
const SHOWN_HITS = 60;

async function showSearch(isMine) {
  const ends = overview[state.run].recorded_steps.completions;
  const from = state.least ?? Math.max(ends.first || 1, (ends.last || 1) - 200);
  const submit = (event) => { event.preventDefault(); const form = new FormData(event.target); go({ text: form.get("text"), by: form.get("by"), least: form.get("least"), before: form.get("before"), cutoff: form.get("cutoff"), asked: Date.now() }); };
  const results = h("ol", { class: "grouplist wide", id: "results" });
  $("main").replaceChildren(h("form", { class: "bar", role: "search", onsubmit: submit },
    h("input", { id: "text", name: "text", type: "search", placeholder: "words in a completion", "aria-label": "words in a completion", value: state.text || "" }),
    h("select", { name: "by", "aria-label": "order" }, Object.entries(SEARCH_ORDERS).map(([key, label]) => h("option", { value: key, selected: state.by === key }, label))),
    h("label", {}, h("input", { type: "checkbox", name: "cutoff", value: "1", checked: state.cutoff === "1" }), " cut off only"),
    h("label", {}, "steps ", h("input", { name: "least", type: "number", min: 0, value: from }), " to ", h("input", { name: "before", type: "number", min: 0, value: state.before ?? ends.last ?? 0 })),
    h("button", {}, "Search")), results);
  if (!state.asked) { $("text").focus(); return; }
  const rank = SEARCH_RANKS[state.by];
  let hits = [];
  await gather(ofRun("/search"), { text: state.text, order: state.by, cut_off: state.cutoff, least: from, before: state.before }, (more) => {
    hits = rank ? [...hits, ...more].sort((a, b) => rank(b) - rank(a)).slice(0, SHOWN_HITS) : [...hits, ...more];
    results.replaceChildren(...hits.map(hitRow));
  }, isMine, () => !rank && hits.length >= SHOWN_HITS);
  if (isMine() && !hits.length) results.replaceChildren(h("li", { class: "muted" }, "Nothing found."));
}

function hitRow(hit) {
  const words = state.text || "", at = hit.excerpt.toLowerCase().indexOf(words.toLowerCase());
  const text = words && at >= 0 ? [hit.excerpt.slice(0, at), h("mark", {}, hit.excerpt.slice(at, at + words.length)), hit.excerpt.slice(at + words.length)] : hit.excerpt;
  const facts = [`${hit.lengths} tokens`, isCut(hit.stops) && "cut off", hit.kl !== null && `KL ${short(hit.kl)}`, hit.conflict !== null && `differ by ${short(hit.conflict)}`, hit.place].filter(Boolean);
  return h("li", {}, h("a", { class: "row", href: `#groups?run=${state.run}&step=${hit.step}&at=${hit.at}` },
    h("span", { class: "line" }, h("b", {}, `step ${hit.step}`), h("span", {}, `reward ${short(hit.rewards)}`), h("small", { class: "muted" }, facts.join(", "))), h("span", { class: "excerpt" }, text)));
}

// ---- events, recipe ------------------------------------------------------------------------------------------------

function showEvents() {
  const found = overview[state.run];
  const details = (e) => Object.entries(e).filter(([key]) => !["schema_version", "time", "kind", "step", "message", "closing"].includes(key)).map(([key, value]) => `${key}: ${typeof value === "string" ? value : JSON.stringify(value)}`).join(", ");
  $("main").replaceChildren(
    ...(found.num_events > found.events.length ? [h("p", { class: "muted" }, `The latest ${found.events.length} of ${found.num_events}.`)] : []),
    h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["time, UTC", "step", "what", ""].map((text) => h("th", {}, text)))),
      h("tbody", {}, [...found.events].reverse().map((e) => h("tr", { class: BAD_EVENTS.has(e.kind) ? "bad" : "" },
        h("td", {}, String(e.time).replace("T", " ").replace("+00:00", "")), h("td", {}, e.step ? h("a", { href: `#groups?run=${state.run}&step=${e.step}` }, e.step) : ""), h("td", {}, e.kind), h("td", {}, [e.message, details(e)].filter(Boolean).join(" "))))))));
}

async function showRecipe(isMine) {
  const found = await ask(ofRun("/recipe")), differ = runs.length > 1 ? await ask("differences") : null;
  if (!isMine()) return;
  const rows = found.settings.map(([key, value]) => h("tr", {}, h("th", {}, key), h("td", {}, h("code", {}, value))));
  const narrow = (event) => rows.forEach((row) => { row.hidden = !row.textContent.toLowerCase().includes(event.target.value.toLowerCase()); });
  $("main").replaceChildren(
    ...(differ ? [h("h2", {}, "What differs"), differ.rows.length ? h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "setting"), differ.names.map((name) => h("th", {}, name)))),
      h("tbody", {}, differ.rows.map(([key, ...values]) => h("tr", {}, h("th", {}, key), values.map((value) => h("td", {}, value === null ? "–" : h("code", {}, value)))))))) : h("p", { class: "muted" }, "Nothing but names and places."), h("h2", {}, runs[state.run].name)] : []),
    h("dl", { class: "facts" }, overview[state.run].about.map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, value)))),
    h("p", {}, h("input", { type: "search", id: "text", placeholder: "part of a setting", "aria-label": "part of a setting", oninput: narrow })),
    rows.length ? h("div", { class: "scroll" }, h("table", { class: "settings" }, h("tbody", {}, rows))) : h("p", { class: "muted" }, "The run has not recorded its recipe yet."));
}

// ---- keys ----------------------------------------------------------------------------------------------------------

const KEYS = [["1 … 7", "views"], ["← →", "previous, next step"], ["j k", "next, previous group"], ["f", "follow the latest step"], ["c", "colour the tokens: log-prob, ratio, advantage"], ["r", "next run"], ["/", "search"], ["?", "these keys"]];

function showHelp() {
  const dialog = $("help");
  dialog.replaceChildren(h("h2", {}, "Keys"), h("dl", { class: "facts" }, KEYS.map(([key, what]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)))), h("button", { onclick: () => dialog.close() }, "Close"));
  dialog.showModal();
}

function otherGroup(by) {
  const rows = sorted(step?.groups || []), now = Math.max(0, rows.findIndex((row) => String(row.at) === state.at));
  const next = rows[now + by];
  if (next) go({ at: next.at });
}

function nextColour() {
  const names = Object.keys(COLORS), next = names[(Math.max(0, names.indexOf(state.colour)) + 1) % names.length];
  go({ colour: next === "none" ? null : next }, true);
  if ($("colour")) $("colour").value = next;
  paintAll();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const inGroups = ["groups", "heldout"].includes(state.view);
  const actions = {
    "?": showHelp,
    "/": () => (state.view === "recipe" || state.view === "search" ? $("text")?.focus() : go({ view: "search" })),
    r: () => runs.length > 1 && go({ run: (state.run + 1) % runs.length, at: null }),
    f: () => go({ view: inGroups ? state.view : "groups", step: "latest", at: null }),
    ...(inGroups && step ? { ArrowLeft: () => step.before !== null && go({ step: step.before, at: null }), ArrowRight: () => step.after !== null && go({ step: step.after, at: null }), j: () => otherGroup(1), k: () => otherGroup(-1), c: nextColour } : {}),
  };
  const view = shownViews()[Number(event.key) - 1];
  const act = actions[event.key] || (view && (() => go({ view })));
  if (!act) return;
  event.preventDefault();
  act();
}

// ---- the whole page ------------------------------------------------------------------------------------------------

const SHOW = { curves: showCurves, groups: showGroups, heldout: (isMine) => showGroups(isMine, "evaluations"), problem: showProblem, search: showSearch, events: showEvents, recipe: showRecipe };

// What is known of the run already, where nothing has happened since; the curves show findings, which come later.
async function freshOverview(isNews) {
  const known = overview[state.run];
  if (known && !isNews && state.view !== "curves" && known.changes === runs[state.run].changes) return known;
  const found = await ask(`runs/${state.run}`);
  clearTimeout(lookingAgain);
  if (found.is_looking) lookingAgain = setTimeout(() => render(true), LOOK_AGAIN_MS);
  return found;
}

let lookingAgain = 0;
const LOOK_AGAIN_MS = 3000;

// Views that new steps change; in the others a reader is left in peace.
const LIVE = new Set(["curves", "groups", "heldout", "events"]);

async function render(isNews = false) {
  const mine = ++drawing, isMine = () => mine === drawing;
  readAddress();
  try {
    const found = await freshOverview(isNews);
    if (!isMine()) return;
    overview[state.run] = found;
    if (runs.length === 1) runs[0].name = found.name; // the run may have begun since
    showHead();
    showTabs();
    const isStill = isNews && (!LIVE.has(state.view) || (["groups", "heldout"].includes(state.view) && isReading()));
    if (!isStill) await SHOW[state.view](isMine);
    isReady();
  } catch (error) {
    if (!isMine()) return;
    isOffline = error instanceof TypeError;
    if (isOffline) showHead();
    else $("main").replaceChildren(h("p", { class: "note bad" }, error.message));
  }
}

// For whoever waits for the page: a test, a script that takes pictures.
function isReady() {
  $("main").dataset.ready = `${state.view}/${overview[state.run].last_step}`;
}

// A step that was chosen stays; only who follows the latest one is moved on.
const isReading = () => state.step !== undefined && state.step !== "latest" && $("group") !== null;

async function start() {
  runs = await ask("runs");
  addEventListener("hashchange", () => render());
  addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", listen);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawn.list.forEach((chart) => chart.redraw()); render(); });
  await render();
  listen();
}

start();
