// The figures: what is computed of two answers of /status, and the lines that are drawn of them.

const SAMPLES = 150; // Five minutes, at one every two seconds.
const FEWEST = 30; // The line begins a minute wide.
const SVG = "http://www.w3.org/2000/svg";

const whole = (n) => Math.round(n).toLocaleString("en");
const short = (n) => {
  if (n >= 100 || Number.isInteger(n)) return whole(n);
  return n < 0.01 ? "<0.01" : n.toFixed(n >= 10 ? 1 : 2);
};
const total = (counts) => Object.values(counts).reduce((sum, n) => sum + n, 0);
const listed = (counts) => {
  const sorted = Object.entries(counts).sort((a, b) => b[1] - a[1]);
  return sorted.map(([name, n]) => `${name} ${whole(n)}`).join(" · ");
};
const mean = ({ count, total_seconds }) => short((1000 * total_seconds) / count);
const webhook = ({ endpoint, delivered, lost }) =>
  `${endpoint}: ${whole(delivered)} delivered, ${whole(lost)} lost`;
const bytes = (n) => (n < 1e6 ? `${whole(n / 1000)} kB` : `${short(n / 1e6)} MB`);

// The time, in milliseconds, within which this share of what came since `before` was done. Within a
// bucket it is taken to be spread evenly.
export function quantile(share, now, before) {
  const count = now.count - before.count;
  if (count <= 0) return null;
  const wanted = share * count;
  let [from, below] = [0, 0];
  for (const [at, [bound, upTo]] of now.at_most.entries()) {
    const within = upTo - before.at_most[at][1];
    if (within >= wanted) {
      return 1000 * (from + ((bound - from) * (wanted - below)) / Math.max(within - below, 1));
    }
    [from, below] = [bound, within];
  }
  return 1000 * from;
}

// Each figure: its value in two answers that are `seconds` apart; null where there is none.
const KINDS = [
  { name: "Forwarded", unit: "/s", more: (f) => `${whole(f.forwarded)} since the start`,
    value: (now, before, seconds) => (now.forwarded - before.forwarded) / seconds },
  { name: "Refused", unit: "", alarms: true, more: (f) => listed(f.refused) || "none",
    value: (now, before) => total(now.refused) - total(before.refused),
    shown: (f) => total(f.refused) },
  { name: "Latency, p99", unit: "ms", idle: "–",
    more: ({ latency }) => (latency.count ? `mean ${mean(latency)} ms since the start` : ""),
    value: (now, before) => quantile(0.99, now.latency, before.latency) },
  { name: "Under way", unit: "", value: (now) => now.inflight_messages,
    more: (f) => `${whole(f.inflight_publishes)} publishes not confirmed` },
  { name: "Oldest", unit: "s", value: (now) => now.oldest_seconds,
    more: (f) => `${f.backlog_bytes ? bytes(f.backlog_bytes) : "nothing"} kept for the broker` },
  { name: "Store commits", unit: "/s",
    more: ({ commits }) => (commits.count ? `${mean(commits)} ms each` : "none yet"),
    value: (now, before, seconds) => (now.commits.count - before.commits.count) / seconds },
  { name: "Reconnects", unit: "", alarms: true, more: (f) => listed(f.reconnects) || "none",
    value: (now, before) => total(now.reconnects) - total(before.reconnects),
    shown: (f) => total(f.reconnects) },
  { name: "Webhook queue", unit: "",
    more: ({ webhooks }) => webhooks.map(webhook).join(" · ") || "no webhooks",
    value: (now) => now.webhooks.reduce((sum, { waiting }) => sum + waiting, 0) },
];

function card({ name }) {
  const root = document.createElement("article");
  root.className = "card figure";
  const part = (tag, className) => {
    const element = root.appendChild(document.createElement(tag));
    element.className = className;
    return element;
  };
  part("h3", "").textContent = name;
  const parts = { root, now: part("div", "now"), more: part("div", "more") };
  const svg = root.appendChild(document.createElementNS(SVG, "svg"));
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  for (const line of ["area", "line"]) {
    parts[line] = svg.appendChild(document.createElementNS(SVG, "path"));
    parts[line].setAttribute("class", line);
  }
  return { ...parts, svg };
}

// The newest sample stands at the right edge. A gap is where there was nothing to measure.
function draw({ svg, area, line }, name, unit, samples) {
  const known = samples.filter((n) => n !== null), most = Math.max(...known, 0);
  const width = Math.max(samples.length, FEWEST) - 1;
  svg.setAttribute("viewBox", `0 0 ${width} 40`);
  const x = (at) => width - (samples.length - 1 - at), y = (n) => 38 - (36 * n) / (most || 1);
  let path = "", filled = "", from = null;
  for (const [at, n] of [...samples, null].entries()) {
    if (n !== null) {
      path += `${from === null ? "M" : "L"}${x(at)} ${y(n).toFixed(1)}`;
      from ??= at;
    } else if (from !== null) {
      const points = path.slice(path.lastIndexOf("M") + 1);
      filled += `M${x(from)} 39L${points}L${x(at - 1)} 39Z`;
      if (at - from === 1) path += "h.5"; // One point alone would not show.
      from = null;
    }
  }
  line.setAttribute("d", path);
  area.setAttribute("d", filled);
  svg.setAttribute("aria-label", `${name}, at most ${short(most)} ${unit} in the last minutes`);
}

export class Figures {
  #cards = []; #before = null; #at = 0;

  constructor(place) {
    for (const kind of KINDS) {
      const shown = { kind, samples: [], ...card(kind) };
      place.append(shown.root);
      this.#cards.push(shown);
    }
  }

  // Takes the figures of an answer of /status.
  take(figures) {
    const at = performance.now(), seconds = (at - this.#at) / 1000;
    // After a restart everything counts from zero.
    const restarted = this.#before && figures.forwarded < this.#before.forwarded;
    const before = restarted ? figures : this.#before ?? figures;
    for (const shown of this.#cards) {
      const { kind, samples } = shown;
      const value = kind.value(figures, before, this.#before ? seconds : 1);
      samples.push(value);
      if (samples.length > SAMPLES) samples.shift();
      const now = kind.shown ? kind.shown(figures) : value;
      shown.now.textContent = now === null ? kind.idle : short(now);
      if (kind.unit && now !== null) {
        const unit = shown.now.appendChild(document.createElement("small"));
        unit.textContent = ` ${kind.unit}`;
      }
      shown.more.textContent = kind.more(figures);
      shown.root.classList.toggle("bad", Boolean(kind.alarms) && samples.some((n) => n > 0));
      draw(shown, kind.name, kind.unit, samples);
    }
    [this.#before, this.#at] = [figures, at];
  }
}
