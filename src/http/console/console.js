// The console: asks /status every two seconds, and shows what /events tells.

import { Figures } from "/figures.js";

const SHOWN = 300; // Entries of the live list.
const $ = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text; // Never markup: users choose their names.
  return element;
};

// ---- How the observer is ----

const figures = new Figures($("figures"));
let startedAt, listening = false;

function duration(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = Math.max(parts.findIndex(([size]) => seconds >= size), 0);
  const [size, unit] = seconds < 1 ? [1, "s"] : parts[at];
  const next = parts[at + 1], rest = next && Math.floor((seconds % size) / next[0]);
  const whole = `${Math.floor(seconds / size)} ${unit}`;
  return seconds >= 60 && rest ? `${whole} ${rest} ${next[1]}` : whole;
}

function showState(ready, text, faults) {
  $("state").textContent = text;
  $("state").className = `state ${ready ? "good" : "bad"}`;
  $("faults").hidden = faults.length === 0;
  $("faults").replaceChildren(...faults.map((fault) => make("li", "", fault)));
  document.title = `${ready ? "" : "⚠ "}chat21-observer`;
}

function showFacts({ name, version, broker, uptime_seconds }) {
  const facts = {
    Broker: broker.address,
    Connection: broker.protocol ?? "not yet",
    Session: broker.session ?? "–",
    Observer: name,
    Version: version,
    Uptime: duration(uptime_seconds),
  };
  const shown = Object.entries(facts).map(([term, text]) => {
    const fact = make("div");
    fact.append(make("dt", "", term), make("dd", "", text));
    return fact;
  });
  $("facts").replaceChildren(...shown);
}

function table(settings, caption) {
  const shown = make("table"), head = shown.createTHead().insertRow();
  shown.setAttribute("aria-label", caption);
  for (const title of ["setting", "value", "from"]) {
    const cell = head.appendChild(make("th", "", title));
    cell.scope = "col";
  }
  const body = shown.createTBody();
  for (const { name, value, origin, place } of settings) {
    const row = body.insertRow();
    row.insertCell().append(make("code", "", name));
    row.insertCell().append(make("code", "", value ?? "–"));
    row.insertCell().textContent = place ? `${origin}: ${place}` : origin;
  }
  return shown;
}

function showSettings(settings) {
  if (!settings) {
    $("settings-note").textContent = "Shown on a loopback address alone, or with --console on.";
    return $("settings").replaceChildren();
  }
  const given = settings.filter(({ origin }) => origin !== "default");
  const rest = settings.filter(({ origin }) => origin === "default");
  $("settings-note").textContent = given.length ? "" : "Every setting has its default.";
  const more = make("details"), title = make("summary", "", `${rest.length} defaults`);
  more.append(title, table(rest, "Defaults"));
  $("settings").replaceChildren(...(given.length ? [table(given, "Settings given")] : []), more);
}

async function ask() {
  try {
    const answer = await fetch("/status", { cache: "no-store" });
    const status = await answer.json();
    showState(status.ready, status.ready ? "ready" : "not ready", status.faults);
    showFacts(status);
    figures.take(status.figures);
    $("chat").hidden = !status.chat;
    if (status.started_at !== startedAt) {
      startedAt = status.started_at;
      showSettings(status.settings);
    }
    if (status.events && !listening) listen();
    if (!status.events) {
      $("live-state").textContent = "shown on a loopback address alone, or with --console on";
      $("empty").hidden = true;
    }
  } catch {
    showState(false, "does not answer", []);
  }
  setTimeout(ask, 2000);
}

// ---- What becomes of messages ----

let waiting = [], paused = false;

function timeOf(at) {
  const time = new Date(at);
  return `${time.toLocaleTimeString("en-GB")}.${String(time.getMilliseconds()).padStart(3, "0")}`;
}

function entry(told) {
  if (told.lost) {
    const item = make("li");
    item.append(make("span", "note", `${told.lost} more, too quick to be shown`));
    return item;
  }
  const item = make("li", told.outcome);
  const route = make("span", "route");
  if (told.app) {
    route.append(`${told.sender ?? "(service)"}${told.recipient ? ` → ${told.recipient}` : ""} `);
    route.append(make("span", "dim mono", told.app));
  } else {
    route.append(make("code", "", told.topic));
  }
  route.title = told.topic;
  const milliseconds = told.micros / 1000;
  const took = milliseconds >= 100 ? Math.round(milliseconds) : milliseconds.toFixed(1);
  item.append(
    make("span", "time", timeOf(told.at)),
    make("span", "outcome", told.outcome),
    make("span", "kind", told.kind),
    route,
    make("span", "took", `${took} ms`),
  );
  if (told.reason) {
    const why = make("span", "why");
    why.append(make("strong", "", told.reason), told.hint ? `: ${told.hint}` : "");
    item.append(why);
  }
  return item;
}

function draw() {
  const fresh = waiting.slice(-SHOWN).reverse().map(entry);
  waiting = [];
  for (const item of fresh) item.classList.add("new");
  $("entries").prepend(...fresh);
  while ($("entries").childElementCount > SHOWN) $("entries").lastChild.remove();
  $("empty").hidden = $("entries").childElementCount > 0;
}

function take(told) {
  waiting.push(told);
  if (waiting.length > SHOWN) waiting.shift();
  // All that comes in one piece is drawn at once.
  if (!paused && waiting.length === 1) requestAnimationFrame(draw);
}

function listen() {
  listening = true;
  const events = new EventSource("/events");
  events.onopen = () => ($("live-state").textContent = paused ? "paused" : "live");
  events.onmessage = ({ data }) => take(JSON.parse(data));
  events.addEventListener("lost", ({ data }) => take({ lost: Number(data) }));
  events.onerror = () => {
    $("live-state").textContent = "no connection";
    // A browser comes back by itself after the end of a connection, and not after a refusal.
    if (events.readyState === EventSource.CLOSED) listening = false;
  };
}

$("pause").onclick = () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  $("pause").textContent = paused ? "Go on" : "Pause";
  $("live-state").textContent = paused ? "paused" : "live";
  if (!paused) draw();
};
$("clear").onclick = () => {
  $("entries").replaceChildren();
  $("empty").hidden = false;
};
$("only-refused").onchange = ({ target }) =>
  $("entries").classList.toggle("only-refused", target.checked);

ask();
