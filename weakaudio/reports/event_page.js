
"use strict";
// Names of files and classes are untrusted: they are inserted as text, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const DAY = 86400;
const PAGE = 50; // rows
const LANES = 12; // classes on the timeline
const LANE = 28; // pixels
const BIN = 2; // pixels
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200,
  DAY, 2 * DAY, 7 * DAY, 14 * DAY, 28 * DAY, 91 * DAY, 182 * DAY, 364 * DAY];

const count = data.start.length;
const whole = (n) => n.toLocaleString("en");
const kept = new Set(data.excerpts);
const anyClock = data.begin.some((begin) => begin !== null);
const byName = new Intl.Collator("en", { numeric: true });

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

/** Rank of each name in sorted order, computed once. */
function ranks(names) {
  const rank = new Array(names.length);
  names.map((_, n) => n).sort((a, b) => byName.compare(names[a], names[b])).forEach((n, at) => { rank[n] = at; });
  return rank;
}

// ---- formatting

const two = (n) => String(n).padStart(2, "0");

/** Seconds as 1:02:03.45; whole seconds have no decimals unless `exact`. */
function duration(seconds, exact) {
  const hundredths = Math.round(seconds * 100);
  const rest = hundredths % 100;
  const all = (hundredths - rest) / 100;
  const hours = Math.floor(all / 3600);
  const minutes = Math.floor(all / 60) % 60;
  const head = hours ? `${hours}:${two(minutes)}` : String(minutes);
  return `${head}:${two(all % 60)}${exact || rest ? "." + two(rest) : ""}`;
}

const clockOf = (row) => (data.begin[data.file[row]] ?? NaN) + data.start[row];
const iso = (epoch) => new Date(Math.floor(epoch) * 1000).toISOString();
const dateText = (epoch) => iso(epoch).slice(0, 10);
const timeText = (epoch) => iso(epoch).slice(11, 19);
const shortTime = (epoch) => { const text = timeText(epoch); return text.endsWith(":00") ? text.slice(0, 5) : text; };

// ---- time axes: positions of recordings and events

function makeAxis(name) {
  const first = [];
  let total = 0;
  data.files.forEach((_, file) => {
    first.push(name === "sequence" ? total : data.begin[file] ?? NaN);
    total += data.seconds[file];
  });
  const known = first.map((begin, file) => [begin, begin + data.seconds[file]]).filter(([begin]) => begin === begin);
  const axis = { name, wraps: name === "day", low: 0, high: name === "day" ? DAY : total };
  if (name === "date") {
    axis.low = known.reduce((low, span) => Math.min(low, span[0]), Infinity);
    axis.high = known.reduce((high, span) => Math.max(high, span[1]), -Infinity);
  }
  axis.high = Math.max(axis.high, axis.low + 0.01);
  const wrap = (at) => (axis.wraps ? ((at % DAY) + DAY) % DAY : at);
  axis.recorded = known.map(([from, to]) => [wrap(from), wrap(from) + to - from]);
  axis.from = new Float64Array(count);
  axis.to = new Float64Array(count);
  for (let row = 0; row < count; row++) {
    axis.from[row] = wrap(first[data.file[row]] + data.start[row]);
    axis.to[row] = axis.from[row] + Math.max(data.end[row] - data.start[row], 0.001);
  }
  return axis;
}

/** Events past midnight wrap around to the start of the day. */
function touches(axis, row, from, to) {
  return (axis.from[row] < to && axis.to[row] > from) || (axis.wraps && axis.to[row] - DAY > from);
}

function axisText(axis, at) {
  if (axis.name === "sequence") return duration(at);
  if (axis.name === "day") return at === DAY ? "24:00" : shortTime(at);
  return axis.step >= DAY || at % DAY === 0 ? dateText(at) : shortTime(at);
}

function intervalText(axis, from, to) {
  const text = (at) => (axis.name === "date" ? `${dateText(at)} ${shortTime(at)}` : axisText(axis, at));
  return `${text(from)} – ${text(to)}`;
}

// ---- state, sorting and filters

const state = {
  text: "", label: -1, score: 0, kept: false, interval: null, sort: "score", descending: true, page: 0, open: -1,
};
const labelCounts = data.labels.map(() => 0);
data.label.forEach((label) => { labelCounts[label]++; });
const frequent = data.labels.map((_, n) => n).sort((a, b) => labelCounts[b] - labelCounts[a] || a - b);
const lanes = frequent.slice(0, LANES);
const laneOf = new Map(lanes.map((label, lane) => [label, lane]));
const fileRanks = ranks(data.files);
const labelRanks = ranks(data.labels);

let axis;
let order; // all rows, sorted
let timelineRows = []; // rows that pass all filters but those of the timeline
let rows = []; // rows of the table

const COLUMNS = [
  { name: "label", title: "Class", key: (row) => labelRanks[data.label[row]] },
  { name: "score", title: "Score", key: (row) => data.score[row], number: true, descending: true },
  { name: "start", title: "Start", key: (row) => data.start[row], number: true },
  { name: "end", title: "End", key: (row) => data.end[row], number: true },
  ...(anyClock ? [{ name: "clock", title: "Clock", key: clockOf }] : []),
  { name: "file", title: "File", key: (row) => fileRanks[data.file[row]] },
];

function sortRows() {
  const { key } = COLUMNS.find((column) => column.name === state.sort);
  const unknown = state.descending ? -Infinity : Infinity; // sorted last in both directions
  const keys = Float64Array.from({ length: count }, (_, row) => { const k = key(row); return k === k ? k : unknown; });
  const sign = state.descending ? -1 : 1;
  order = Uint32Array.from({ length: count }, (_, row) => row).sort((a, b) =>
    keys[a] < keys[b] ? -sign : keys[a] > keys[b] ? sign : a - b);
}

function filterRows() {
  const needle = state.text.trim().toLowerCase();
  const inFile = data.files.map((name) => name.toLowerCase().includes(needle));
  const inLabel = data.labels.map((name) => name.toLowerCase().includes(needle));
  timelineRows = [];
  rows = [];
  for (const row of order) {
    const passes = data.score[row] >= state.score && (!state.kept || kept.has(row))
      && (inFile[data.file[row]] || inLabel[data.label[row]]);
    if (!passes) continue;
    timelineRows.push(row);
    if (state.label >= 0 && data.label[row] !== state.label) continue;
    if (state.interval && !touches(axis, row, state.interval[0], state.interval[1])) continue;
    rows.push(row);
  }
}

/** Update the state and redraw. */
function change(changes) {
  if (!("page" in changes || "open" in changes)) state.page = 0;
  if (!("open" in changes)) state.open = -1;
  Object.assign(state, changes);
  if ("sort" in changes || "descending" in changes) sortRows();
  if (!("page" in changes || "open" in changes)) filterRows();
  showTable();
  if (!("page" in changes || "open" in changes || "sort" in changes)) showTimeline();
}

// ---- the table

function showTable() {
  const filtered = state.text || state.label >= 0 || state.score > 0 || state.kept || state.interval;
  $("status").textContent = !rows.length ? "No events match the filters."
    : filtered ? `${whole(rows.length)} of ${whole(count)} events` : `${whole(count)} events`;
  $("clear").hidden = !filtered;
  $("interval").hidden = !state.interval;
  if (state.interval) {
    $("interval").textContent = `${intervalText(axis, ...state.interval)} ✕`;
    $("interval").setAttribute("aria-label", `Remove the time filter ${intervalText(axis, ...state.interval)}`);
  }
  $("text").value = state.text === $("text").value ? $("text").value : state.text;
  $("label").value = String(state.label);
  $("score").value = String(state.score);
  $("least").textContent = state.score.toFixed(2);
  $("kept").checked = state.kept;
  for (const head of $("head").children) {
    const sorted = head.dataset.column === state.sort;
    head.setAttribute("aria-sort", sorted ? (state.descending ? "descending" : "ascending") : "none");
  }
  const shown = rows.slice(state.page * PAGE, (state.page + 1) * PAGE);
  $("body").replaceChildren(...shown.flatMap((row) => (row === state.open ? [tableRow(row), panel(row)] : [tableRow(row)])));
  const pages = Math.max(1, Math.ceil(rows.length / PAGE));
  $("page").textContent = `Page ${whole(state.page + 1)} of ${whole(pages)}`;
  $("first").disabled = $("previous").disabled = state.page === 0;
  $("next").disabled = $("last").disabled = state.page === pages - 1;
  document.querySelector(".pager").hidden = pages === 1;
}

function cell(className, text) {
  const node = element("td", className, text);
  node.setAttribute("role", "cell");
  return node;
}

function tableRow(row) {
  const open = row === state.open;
  const tr = element("tr", open ? "open" : "");
  tr.dataset.row = row;
  tr.setAttribute("role", "row");
  const button = element("button", kept.has(row) ? "open-row kept" : "open-row", data.labels[data.label[row]]);
  button.type = "button";
  button.setAttribute("aria-expanded", open);
  const name = cell("label");
  name.append(button);
  const meter = element("span", "meter");
  const bar = element("span");
  bar.style.width = `${100 * data.score[row]}%`;
  meter.append(bar);
  const score = cell("score number");
  score.append(meter, data.score[row].toFixed(3));
  tr.append(name, score, cell("start number", duration(data.start[row], true)),
    cell("end number", duration(data.end[row], true)));
  if (anyClock) {
    const clock = clockOf(row);
    tr.append(cell("clock", clock === clock ? `${dateText(clock)} ${timeText(clock)}` : "–"));
  }
  tr.append(cell("file", data.files[data.file[row]]));
  return tr;
}

function toggle(row) {
  const button = () => $("body").querySelector(`[data-row="${row}"] button`);
  const focused = document.activeElement === button();
  change({ open: row === state.open ? -1 : row });
  if (focused) button().focus({ preventScroll: true });
}

// ---- the panel of an event

function panel(row) {
  const tr = element("tr", "panel");
  tr.setAttribute("role", "row");
  const td = cell("");
  td.colSpan = COLUMNS.length;
  tr.append(td);
  const name = data.labels[data.label[row]];
  const file = data.files[data.file[row]];
  if (!kept.has(row)) {
    td.append(element("p", "quiet",
      `This page has no excerpt of this event; it starts at ${duration(data.start[row], true)} in ${file}.`));
    return tr;
  }
  const excerpt = JSON.parse($(`excerpt-${row}`).textContent);
  const { start, seconds } = excerpt;
  td.append($("panel").content.cloneNode(true));

  const image = td.querySelector("img");
  image.src = `data:image/png;base64,${excerpt.picture}`;
  image.alt = "Log-mel spectrogram of the excerpt";

  const x = (at) => Math.min(Math.max((at - start) / seconds, 0), 1);
  const steps = excerpt.scores.map((score, n) =>
    `${n ? "L" : "M"}${1000 * x(excerpt.edges[n])} ${98 - 96 * score}H${1000 * x(excerpt.edges[n + 1])}`);
  for (const path of td.querySelectorAll(".halo, .curve")) path.setAttribute("d", steps.join(""));
  const bounds = [data.start[row], data.end[row]].map((at) => `M${1000 * x(at)} 0V100`);
  td.querySelector(".bounds").setAttribute("d", bounds.join(""));

  const step = STEPS.find((s) => seconds / s <= 6) ?? seconds;
  for (let at = Math.ceil(start / step - 1e-6) * step; at < start + seconds * 0.97; at += step) {
    const mark = element("span", "", duration(at));
    mark.style.left = `${100 * x(at)}%`;
    td.querySelector(".seconds").append(mark);
  }
  td.querySelector("figcaption").textContent =
    `Log-mel of ${file}, ${duration(start, true)} – ${duration(start + seconds, true)}, low frequencies at the bottom. `
    + `White line: score of ${name}. Dashed lines: start and end of the event.`;

  const audio = td.querySelector("audio");
  audio.src = `data:${excerpt.type};base64,${excerpt.audio}`;
  const playhead = td.querySelector(".playhead");
  const follow = () => {
    playhead.hidden = audio.paused && audio.currentTime === 0;
    playhead.style.left = `${100 * Math.min(audio.currentTime / seconds, 1)}%`;
    if (!audio.paused && audio.isConnected) requestAnimationFrame(follow);
  };
  for (const event of ["play", "pause", "seeked", "ended"]) audio.addEventListener(event, follow);
  const picture = td.querySelector(".picture");
  picture.addEventListener("click", (event) => {
    const box = picture.getBoundingClientRect();
    audio.currentTime = (seconds * (event.clientX - box.left)) / box.width;
    audio.play();
  });
  return tr;
}

// ---- the timeline

function showTimeline() {
  const width = $("lanes").clientWidth;
  if (!width) return;
  const height = lanes.length * LANE;
  const ratio = window.devicePixelRatio || 1;
  const canvas = $("canvas");
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const bins = Math.ceil(width / BIN);
  const perSecond = width / BIN / (axis.high - axis.low);
  const recorded = new Float64Array(bins);
  const covered = lanes.map(() => new Float64Array(bins));
  const add = (sums, from, to) => {
    const last = Math.min((to - axis.low) * perSecond, bins);
    for (let at = Math.max((from - axis.low) * perSecond, 0); at < last; at = Math.floor(at) + 1) {
      sums[Math.floor(at)] += Math.min(Math.floor(at) + 1, last) - at;
    }
    if (axis.wraps && to > DAY) add(sums, 0, Math.min(to - DAY, DAY));
  };
  axis.recorded.forEach(([from, to]) => add(recorded, from, to));
  const counts = data.labels.map(() => 0);
  for (const row of timelineRows) {
    counts[data.label[row]]++;
    const lane = laneOf.get(data.label[row]);
    if (lane !== undefined && axis.from[row] === axis.from[row]) add(covered[lane], axis.from[row], axis.to[row]);
  }
  lanes.forEach((_, lane) => {
    const top = lane * LANE + 3;
    pen.fillStyle = colour("--recorded");
    for (let bin = 0; bin < bins; bin++) if (recorded[bin] > 0) pen.fillRect(bin * BIN, top, BIN, LANE - 6);
    pen.fillStyle = colour("--detected");
    const part = covered[lane].map((sum, bin) => Math.min(sum / Math.max(recorded[bin], sum), 1) || 0);
    const most = part.reduce((a, b) => Math.max(a, b), 0);
    for (let bin = 0; bin < bins; bin++) {
      if (part[bin] <= 0) continue;
      pen.globalAlpha = 0.2 + 0.8 * (part[bin] / most);
      pen.fillRect(bin * BIN, top, BIN, LANE - 6);
    }
    pen.globalAlpha = 1;
  });
  [...$("names").children].forEach((button, lane) => {
    button.setAttribute("aria-pressed", state.label === lanes[lane]);
    button.lastChild.textContent = whole(counts[lanes[lane]]);
  });
  showTicks(width);
  showCell(null);
}

function showTicks(width) {
  const length = axis.high - axis.low;
  axis.step = STEPS.find((step) => length / step <= Math.max(width / 78, 1)) ?? length;
  const buttons = [];
  for (let n = Math.floor(axis.low / axis.step); n * axis.step < axis.high; n++) {
    const from = Math.max(n * axis.step, axis.low);
    const to = Math.min((n + 1) * axis.step, axis.high);
    if ((to - from) / length < 1e-6) continue;
    const button = element("button");
    button.type = "button";
    const pixels = (width * (to - from)) / length;
    button.textContent = pixels > 50 ? axisText(axis, from) : "";
    button.setAttribute("aria-label", intervalText(axis, from, to));
    button.title = intervalText(axis, from, to);
    button.style.left = `${(width * (from - axis.low)) / length}px`;
    button.style.width = `${pixels}px`;
    const chosen = Boolean(state.interval) && state.interval[0] === from && state.interval[1] === to;
    button.setAttribute("aria-pressed", chosen);
    button.addEventListener("click", () => change({ interval: chosen ? null : [from, to] }));
    buttons.push(button);
  }
  const focused = [...$("ticks").children].indexOf(document.activeElement);
  $("ticks").replaceChildren(...buttons);
  buttons[focused]?.focus();
}

/** The lane and the interval under the pointer. */
function pointed(event) {
  const box = $("canvas").getBoundingClientRect();
  const lane = Math.min(Math.max(Math.floor((event.clientY - box.top) / LANE), 0), lanes.length - 1);
  const at = axis.low + ((event.clientX - box.left) / box.width) * (axis.high - axis.low);
  const n = Math.floor(at / axis.step);
  return { lane, from: Math.max(n * axis.step, axis.low), to: Math.min((n + 1) * axis.step, axis.high) };
}

function showCell(place) {
  const mark = $("cell");
  mark.hidden = !place;
  if (!place) {
    $("readout").textContent = 
      "Colour: share of the recorded time with the class, relative to its maximum. Grey: recorded. Click to filter.";
    return;
  }
  const scale = $("canvas").clientWidth / (axis.high - axis.low);
  mark.style.left = `${(place.from - axis.low) * scale}px`;
  mark.style.width = `${(place.to - place.from) * scale}px`;
  mark.style.top = `${place.lane * LANE}px`;
  mark.style.height = `${LANE}px`;
  const label = lanes[place.lane];
  const n = timelineRows.reduce((sum, row) =>
    sum + (data.label[row] === label && touches(axis, row, place.from, place.to) ? 1 : 0), 0);
  $("readout").textContent =
    `${data.labels[label]}, ${intervalText(axis, place.from, place.to)}: ${whole(n)} ${n === 1 ? "event" : "events"}`;
}

function useAxis(name) {
  axis = makeAxis(name);
  const missing = name === "sequence" ? 0 : data.begin.filter((begin) => begin === null).length;
  const classes = data.labels.length > LANES ? `The ${LANES} most frequent of ${whole(data.labels.length)} classes. ` : "";
  $("which").textContent = classes
    + (missing ? `Not shown: ${whole(missing)} ${missing === 1 ? "recording" : "recordings"} without a start time.` : "");
  showTimeline(); // sets the step of the axis, which labels depend on
}

// ---- start

function makeTimeline() {
  const names = { sequence: data.files.length > 1 ? "recordings in sequence" : "position in the recording" };
  if (anyClock) Object.assign(names, { date: "date and time", day: "time of day" });
  for (const [name, text] of Object.entries(names)) {
    const option = element("option", "", text);
    option.value = name;
    $("axis").append(option);
  }
  $("axis").parentNode.hidden = Object.keys(names).length === 1;
  for (const label of lanes) {
    const button = element("button");
    button.type = "button";
    button.title = data.labels[label];
    button.append(element("span", "", data.labels[label]), element("span"));
    button.addEventListener("click", () => change({ label: state.label === label ? -1 : label }));
    $("names").append(button);
  }
  let first = "sequence";
  if (anyClock) {
    const dates = makeAxis("date");
    first = dates.high - dates.low > 1.5 * DAY ? "day" : "date";
  }
  $("axis").value = first;
  $("axis").addEventListener("change", () => { useAxis($("axis").value); change({ interval: null }); });
  $("lanes").addEventListener("pointermove", (event) => showCell(pointed(event)));
  $("lanes").addEventListener("pointerleave", () => showCell(null));
  $("lanes").addEventListener("click", (event) => {
    const { lane, from, to } = pointed(event);
    change({ label: lanes[lane], interval: [from, to] });
  });
  new ResizeObserver(showTimeline).observe($("lanes"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTimeline);
  useAxis(first);
}

function makeTable() {
  for (const node of [$("table"), $("table").tHead, $("body"), $("head")]) {
    const roles = { TABLE: "table", THEAD: "rowgroup", TBODY: "rowgroup", TR: "row" };
    node.setAttribute("role", roles[node.tagName]);
  }
  for (const column of COLUMNS) {
    const head = element("th", column.number ? "number" : "");
    head.scope = "col";
    head.setAttribute("role", "columnheader");
    head.dataset.column = column.name;
    const button = element("button", "", column.title);
    button.type = "button";
    button.addEventListener("click", () => change({
      sort: column.name,
      descending: state.sort === column.name ? !state.descending : Boolean(column.descending),
    }));
    head.append(button);
    $("head").append(head);
  }
  const option = (value, text) => {
    const node = element("option", "", text);
    node.value = value;
    $("label").append(node);
  };
  option(-1, "all classes");
  for (const label of frequent) option(label, `${data.labels[label]} (${whole(labelCounts[label])})`);
  $("kept-only").hidden = !kept.size;

  let typing;
  $("text").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => change({ text: $("text").value }), 120);
  });
  $("label").addEventListener("change", () => change({ label: Number($("label").value) }));
  $("score").addEventListener("input", () => change({ score: Number($("score").value) }));
  $("kept").addEventListener("change", () => change({ kept: $("kept").checked }));
  $("interval").addEventListener("click", () => change({ interval: null }));
  $("clear").addEventListener("click", () =>
    change({ text: "", label: -1, score: 0, kept: false, interval: null }));
  const turn = (page) => change({ page: Math.min(Math.max(page, 0), Math.ceil(rows.length / PAGE) - 1) });
  $("first").addEventListener("click", () => turn(0));
  $("previous").addEventListener("click", () => turn(state.page - 1));
  $("next").addEventListener("click", () => turn(state.page + 1));
  $("last").addEventListener("click", () => turn(Infinity));
  $("body").addEventListener("click", (event) => {
    const row = event.target.closest("[data-row]");
    const selecting = !getSelection().isCollapsed && !event.target.closest("button");
    if (row && !selecting) toggle(Number(row.dataset.row));
  });
}

if (count) {
  $("timeline").hidden = $("events").hidden = false;
  makeTimeline();
  makeTable();
  change({ sort: "score", descending: true });
  showTimeline();
} else {
  $("events").hidden = false;
  $("events").replaceChildren(element("h2", "", "Events"), element("p", "", "No events were detected."));
}
