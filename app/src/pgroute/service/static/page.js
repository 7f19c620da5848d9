// Shows what /live tells: one whole picture a second. What is not known is never shown as known:
// when no picture has come for STALE seconds, everything on the page is marked as what it was.

const STALE_SECONDS = 3;
const RECONNECT_SECONDS = 10; // a stream that is silent for so long is opened anew
const CHART_SECONDS = 120;
const CHANGES_KEPT = 100;

const REASONS = {
  write: "writes belong on the primary",
  read: "any healthy replica will do",
  after_token: "a replica that has the caller’s write",
  max_lag: "a replica within the lag asked for",
  monotonic: "not behind what the session has seen",
  strong: "the caller asked for the primary",
  statement: "the statement is not known to be a read",
  named: "the caller named the node",
  retry: "an earlier attempt failed elsewhere",
  hedge: "the second of two equal reads",
  no_healthy_replica: "no healthy replica",
  token_not_reached: "no replica has the caller’s write yet",
  lag_exceeded: "no replica within the lag asked for",
};

// What may be either is said to be: these reasons do not tell.
const KINDS = { write: "write", statement: "read or write", retry: "read or write" };

const byId = (id) => document.getElementById(id);
const clock = (moment) => moment.toLocaleTimeString([], { hour12: false });
const count = (number) => number.toLocaleString("en");

const state = {
  picture: null,
  before: null, // the picture before it, for rates
  heard: null, // performance.now() of the last picture
  heardAt: null, // the same, for people
  opened: performance.now(),
  stale: false,
  history: new Map(), // node -> [{seconds, lag, rate}]
};

// Small tools

function make(tag, properties = {}, ...children) {
  const { data, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  Object.assign(element.dataset, data);
  element.append(...children);
  return element;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text; // a selection survives
}

// One child of `parent` per item, made once and then updated, in the items' order.
function keyed(parent, items, keyOf, create, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, place) => {
    const key = keyOf(item);
    let child = old.get(key);
    if (!child) {
      child = create(item);
      child.dataset.key = key;
    }
    old.delete(key);
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
    update(child, item);
  });
  for (const gone of old.values()) gone.remove();
}

function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? number : number.toFixed(1)} ${units[unit]}`;
}

const sentence = (words) => `${words[0].toUpperCase()}${words.slice(1)}.`;

function perSecond(rate) {
  if (rate === null) return "–";
  return rate >= 100 ? rate.toFixed(0) : rate.toFixed(1);
}

// From pictures to numbers

const routeKey = (route) => `${route.node} ${route.role} ${route.reason}`;

// Per second since the picture before; null when that is not known.
function ratesOf(picture, before) {
  const none = () => null;
  if (!before || before.started_at !== picture.started_at) return none;
  const seconds = picture.seconds - before.seconds;
  if (!(seconds > 0) || seconds > 2 * STALE_SECONDS) return none;
  const old = new Map(before.routed.map((route) => [routeKey(route), route.count]));
  return (route) => Math.max(0, route.count - (old.get(routeKey(route)) ?? 0)) / seconds;
}

function rateOfNode(picture, rate, node) {
  const routes = picture.routed.filter((route) => route.node === node);
  const rates = routes.map(rate);
  return rates.includes(null) ? null : rates.reduce((sum, one) => sum + one, 0);
}

function remember(picture, rate) {
  for (const node of picture.topology.nodes) {
    const points = state.history.get(node.name) ?? [];
    points.push({
      seconds: picture.seconds,
      lag: node.role === "replica" ? node.lag_bytes : null,
      rate: rateOfNode(picture, rate, node.name),
    });
    while (points[0].seconds < picture.seconds - CHART_SECONDS) points.shift();
    state.history.set(node.name, points);
  }
}

function changesBetween(before, picture) {
  if (!before) return [];
  if (before.started_at !== picture.started_at) return ["The service was started again."];
  const found = [];
  const was = before.topology;
  const is = picture.topology;
  if (was.primary !== is.primary) {
    found.push(is.primary ? `Writes go to ${is.primary} now.` : `Writes go nowhere: ${is.problem}.`);
  }
  if (was.timeline !== is.timeline && was.timeline) {
    found.push(`The cluster is on timeline ${is.timeline} now, before on ${was.timeline}.`);
  }
  for (const node of is.nodes) {
    const old = was.nodes.find((one) => one.name === node.name);
    if (!old) continue;
    if (old.role !== node.role) {
      found.push(`${node.name}: ${node.role} now, before ${old.role} (${node.state}).`);
    } else if (old.in_use !== node.in_use) {
      found.push(`${node.name}: ${node.in_use ? "in use again" : "not in use"} (${stateOf(node)}).`);
    }
  }
  return found;
}

function tellChanges(texts, moment) {
  if (!texts.length) return;
  byId("no-changes").hidden = true;
  const list = byId("changes");
  for (const text of texts) {
    list.prepend(
      make("li", {}, make("time", { dateTime: moment.toISOString() }, clock(moment)), make("span", {}, text)),
    );
  }
  while (list.children.length > CHANGES_KEPT) list.lastChild.remove();
}

// From numbers to the page

function lookOf(node) {
  if (!node.in_use) return "trouble";
  return node.role === "primary" ? "primary" : "replica";
}

function stateOf(node) {
  if (node.in_use || !node.healthy) return node.state;
  return `${node.state}, left out for now (breaker ${node.breaker.replace("_", " ")})`;
}

function chart(name, of) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true"); // the caption tells the number
  svg.append(document.createElementNS(svg.namespaceURI, "path"));
  return make(
    "figure",
    { className: "chart", data: { of } },
    svg,
    make("figcaption", {}, make("span", {}, name), make("strong", {})),
  );
}

// A line that is broken where a value is not known, over the last CHART_SECONDS.
function line(points, valueOf, now, least) {
  const values = points.map(valueOf);
  const top = Math.max(least, ...values.filter((value) => value !== null));
  let path = "";
  let pen = "M";
  points.forEach((point, place) => {
    if (place && point.seconds - points[place - 1].seconds > STALE_SECONDS) pen = "M";
    if (values[place] === null) {
      pen = "M";
      return;
    }
    const x = 100 - ((now - point.seconds) / CHART_SECONDS) * 100;
    const y = 97 - (values[place] / top) * 94;
    path += `${pen}${x.toFixed(2)} ${y.toFixed(2)}`;
    pen = "L";
  });
  return path;
}

function nodeCard(node) {
  const facts = (name, word) => [make("dt", {}, word), make("dd", { className: name })];
  return make(
    "article",
    { className: "card" },
    make("div", { className: "title" }, make("h3", {}, node.name), make("span", { className: "role" })),
    make("p", { className: "state" }),
    make(
      "dl",
      {},
      ...facts("address", "Address"),
      ...facts("timeline", "Timeline"),
      ...facts("lag", "Behind the primary"),
      ...facts("data-age", "Its data"),
      ...facts("pools", "Connections in use"),
    ),
    make("div", { className: "charts" }, chart("per second", "rate"), chart("lag", "lag")),
  );
}

function lagOf(node) {
  if (node.role === "primary") return "–";
  return node.lag_bytes === null ? "unknown" : bytes(node.lag_bytes);
}

function ageOf(node) {
  if (node.role === "primary") return "–";
  if (node.lag_seconds === null) return "unknown age";
  const seconds = node.lag_seconds;
  return `at most ${seconds < 1 ? `${Math.ceil(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`} old`;
}

function poolsOf(node) {
  const pools = state.picture.pools.filter((pool) => pool.node === node.name);
  const size = pools.reduce((sum, pool) => sum + pool.size, 0);
  const idle = pools.reduce((sum, pool) => sum + pool.idle, 0);
  const waiting = pools.reduce((sum, pool) => sum + pool.waiting, 0);
  if (!size) return "none open";
  return `${size - idle} of ${size}${waiting ? `, ${waiting} waiting` : ""}`;
}

function showNode(card, node) {
  const part = (name) => card.querySelector(`.${name}`);
  const points = state.history.get(node.name) ?? [];
  const now = state.picture.seconds;
  card.dataset.look = lookOf(node);
  card.dataset.node = node.name;
  say(part("role"), state.stale ? `was ${node.role}` : node.role);
  say(part("state"), stateOf(node));
  say(part("address"), node.address);
  say(part("timeline"), node.timeline === null ? "unknown" : String(node.timeline));
  say(part("lag"), lagOf(node));
  say(part("data-age"), ageOf(node));
  say(part("pools"), poolsOf(node));
  const [rate, lag] = card.querySelectorAll(".chart");
  rate.querySelector("path").setAttribute("d", line(points, (point) => point.rate, now, 1));
  say(rate.querySelector("strong"), state.stale ? "–" : perSecond(points.at(-1)?.rate ?? null));
  lag.hidden = node.role === "primary";
  lag.querySelector("path").setAttribute("d", line(points, (point) => point.lag, now, 1024));
  say(lag.querySelector("strong"), state.stale ? "–" : lagOf(node));
}

function routeRow(route) {
  const cell = (properties, ...children) => make("td", properties, ...children);
  return make(
    "tr",
    {},
    make("th", { scope: "row" }, route.node),
    cell({}, KINDS[route.reason] ?? "read"),
    cell({}, REASONS[route.reason] ?? route.reason.replaceAll("_", " ")),
    cell({ className: "number rate" }),
    cell({ className: "number all" }),
    cell({}, make("meter", { min: 0, max: 1 })),
  );
}

function showRoutes(picture, rate) {
  const all = picture.routed.reduce((sum, route) => sum + route.count, 0);
  const sorted = [...picture.routed].sort(
    (one, other) => one.node.localeCompare(other.node) || other.count - one.count,
  );
  byId("no-routes").hidden = sorted.length > 0;
  keyed(byId("routes"), sorted, routeKey, routeRow, (row, route) => {
    say(row.querySelector(".rate"), state.stale ? "–" : perSecond(rate(route)));
    say(row.querySelector(".all"), count(route.count));
    const meter = row.querySelector("meter");
    meter.value = all ? route.count / all : 0;
    meter.ariaLabel = `${(meter.value * 100).toFixed(0)} % of all`;
    meter.title = meter.ariaLabel;
  });
}

function leafRow() {
  return make(
    "div",
    { className: "leaf" },
    make("span", { className: "leaf-name" }),
    make("span", { className: "leaf-rows" }),
    make("meter", { min: 0, max: 1 }),
    make("span", { className: "bound quiet" }),
  );
}

// PostgreSQL's own words in lower case; literals and names stand as they are
function quieter(bound) {
  const words = bound.replace(/^FOR VALUES /, "");
  return words.replace(/('(?:[^']|'')*'|"(?:[^"]|"")*")|[^'"]+/g, (part, kept) => kept ?? part.toLowerCase());
}

function showLeaf(element, leaf, rows) {
  const share = rows ? leaf.rows / rows : null;
  say(element.querySelector(".leaf-name"), leaf.name);
  const percent = share === null ? "–" : `${(share * 100).toFixed(1)} %`;
  const known = leaf.rows === null ? "rows not estimated yet" : `≈ ${count(leaf.rows)} rows, ${percent}`;
  say(element.querySelector(".leaf-rows"), `${known} · ${bytes(leaf.bytes)}`);
  say(element.querySelector(".bound"), quieter(leaf.bound));
  const meter = element.querySelector("meter");
  meter.value = share ?? 0;
  meter.ariaLabel = share === null ? "share not known" : `${percent} of the table`;
  meter.title = meter.ariaLabel;
}

function showPartitions(partitions) {
  const asked = partitions.asked_at ? clock(new Date(partitions.asked_at)) : null;
  const source = asked ? `The planner’s estimates, as ${partitions.node} told them at ${asked}.` : "";
  say(
    byId("partitions-source"),
    partitions.problem ? `${source} Not known now: ${partitions.problem}.`.trim() : source,
  );
  const tables = Map.groupBy(partitions.leaves, (leaf) => leaf.table);
  keyed(
    byId("partitions"),
    [...tables],
    ([table]) => table,
    ([table]) =>
      make("article", { className: "card plain" }, make("h3", {}, table), make("div", { className: "leaves" })),
    (card, [, leaves]) => {
      // null: of a sum that is not known no leaf has a share
      const rows = leaves.reduce((sum, { rows }) => (sum === null || rows === null ? null : sum + rows), 0);
      keyed(card.querySelector(".leaves"), leaves, (leaf) => leaf.name, leafRow, (element, leaf) =>
        showLeaf(element, leaf, rows),
      );
    },
  );
}

function show() {
  const { picture, before } = state;
  if (!picture) return;
  const topology = picture.topology;
  const rate = ratesOf(picture, before);
  say(
    byId("cluster"),
    topology.system_identifier === null
      ? "cluster unknown"
      : `cluster ${topology.system_identifier}, timeline ${topology.timeline}`,
  );
  const problem = byId("problem");
  problem.hidden = state.stale || topology.problem === null;
  say(problem, topology.problem ? sentence(topology.problem) : "");
  keyed(byId("nodes"), topology.nodes, (node) => node.name, nodeCard, showNode);
  showRoutes(picture, rate);
  showPartitions(picture.partitions);
}

// The stream, and what is said of it

function setStream(word, text) {
  if (document.body.dataset.stream !== word) document.body.dataset.stream = word;
  say(byId("stream-word"), text);
  const where = state.picture?.topology.primary ?? (state.picture ? "no primary" : "pgroute");
  document.title = word === "live" ? `${where} · pgroute` : `${text} · pgroute`;
}

function hear(picture) {
  const moment = new Date(picture.at);
  tellChanges(changesBetween(state.picture, picture), moment);
  if (state.stale) tellChanges(["The stream is back."], moment);
  state.before = state.picture;
  state.picture = picture;
  state.heard = performance.now();
  state.heardAt = new Date();
  state.stale = false;
  remember(picture, ratesOf(picture, state.before));
  byId("stale").hidden = true;
  setStream("live", "Live");
  show();
}

function becomeStale() {
  state.stale = true;
  const since = state.heardAt ? `since ${clock(state.heardAt)}` : "yet";
  setStream("stale", "Stale");
  const banner = byId("stale");
  banner.hidden = false;
  say(
    banner,
    `Nothing was heard from the service ${since}.` +
      (state.picture ? " What you see is from then and may be wrong by now." : ""),
  );
  if (state.picture) tellChanges(["The stream broke."], new Date());
  show();
}

function watch() {
  const silent = (performance.now() - (state.heard ?? state.opened)) / 1000;
  say(byId("age"), state.heard === null ? "" : `last heard ${silent.toFixed(0)} s ago`);
  if (!state.stale && silent > STALE_SECONDS) becomeStale();
  if (silent > RECONNECT_SECONDS && performance.now() - openedAt > RECONNECT_SECONDS * 1000) open();
}

let source = null;
let openedAt = 0;

function open() {
  source?.close();
  openedAt = performance.now();
  source = new EventSource("/live");
  source.onmessage = (event) => hear(JSON.parse(event.data));
}

open();
setInterval(watch, 250);
