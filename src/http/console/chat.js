// The chat of the demo: two people side by side. How a client works stands in chat21-client.js;
// here is only what a page shows of it.

import { Chat21Client } from "/chat21-client.js";

const APP = "tilechat", GROUP = "group-1", PEOPLE = ["alice", "bob"];
const SENT = 100, DELIVERED = 200, SEEN = 300;
const NOT_JSON = "This is no JSON";
const HINTS = {
  "not-json": "a message must be a JSON object",
  "rate-limited": "too many messages at once: wait a little",
  "too-large": "the message is too long",
  banned: "the operator has banned this user",
};

// A window of its own is a device of its own, and one device has one client identifier.
const device = sessionStorage.device ?? Math.random().toString(36).slice(2, 8);
sessionStorage.device = device;

const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text; // Never markup: people write what they like.
  return element;
};
const tickOf = (status) =>
  status >= SEEN ? ["✓✓", "seen"] : status >= DELIVERED ? ["✓✓", "delivered"]
    : status >= SENT ? ["✓", "sent"] : ["…", "on its way"];
const titleOf = (peer) => (peer === GROUP ? "Group" : peer);

class Person {
  #chats = new Map(); // By peer: { button, list, unread, rows by id }.
  #open; #mood = "here";

  constructor(user, other) {
    this.user = user;
    const root = document.getElementById("person").content.cloneNode(true).firstElementChild;
    const part = (selector) => root.querySelector(selector);
    Object.assign(this, { root, tabs: part(".tabs"), list: part(".messages"), input: part("input"),
      state: part(".state") });
    root.id = user;
    root.setAttribute("aria-label", user);
    part("h2").textContent = user;
    part(".avatar").textContent = user[0].toUpperCase();
    part(".mood span").textContent = `${user} is`;
    part("form button").setAttribute("aria-label", `Send as ${user}`);
    part(".refuse").setAttribute("aria-label", `Send something that is refused, as ${user}`);
    this.tabs.setAttribute("aria-label", `Conversations of ${user}`);
    part("select").onchange = ({ target }) => this.#setMood(target.value);
    part("form").onsubmit = (event) => { event.preventDefault(); this.#send(); };
    part(".refuse").onclick = () => this.client.sendRaw(this.#open, NOT_JSON);
    this.#chat(GROUP);
    this.#show(this.#chat(other) && other);
    document.getElementById("people").append(root);

    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.client = new Chat21Client({ url: `${scheme}://${location.host}/mqtt`, app: APP, user,
      clientId: `${user}-${device}` });
    const on = (type, act) => this.client.addEventListener(type, ({ detail }) => act(detail));
    on("state", (state) => this.#setState(state));
    on("message", (told) => this.#take(told));
    on("update", ({ peer, id, status }) => this.#rise(peer, id, status));
    on("refused", (told) => this.#refused(told));
    this.client.connect();
  }

  // ---- What this person does ----

  #send() {
    const text = this.input.value.trim();
    if (!text) return;
    const members = Object.fromEntries(PEOPLE.map((user) => [user, 1]));
    const group = { uid: GROUP, name: "Group", members };
    const message = this.#open === GROUP ? { text, channel_type: "group", group } : { text };
    const id = this.client.send(this.#open, message);
    this.#put(this.#open, { sender: this.user, text, status: 0, timestamp: Date.now() }, id);
    this.input.value = "";
  }

  #setMood(mood) {
    const was = this.#mood;
    this.#mood = mood;
    if (mood === "offline") this.client.close();
    else if (was === "offline") this.client.connect();
    if (mood === "here") this.#look();
  }

  // Says of every message in the open conversation that it was seen.
  #look() {
    const chat = this.#chats.get(this.#open);
    this.#setUnread(chat, 0);
    for (const [id, row] of chat.rows) {
      if (!row.isMine && row.status < SEEN) this.#tell(this.#open, id, row, SEEN);
    }
  }

  // Nobody is told of receipts in a group.
  #tell(peer, id, row, status) {
    row.status = status;
    if (peer !== GROUP) this.client.receipt(peer, id, status);
  }

  // ---- What this person is told ----

  #setState(state) {
    this.state.textContent = state;
    this.state.className = `state ${state === "online" ? "good" : "bad"}`;
    // What was said before this page was opened.
    if (state === "online") this.client.publish("inbox/fetch", { limit: 50 });
  }

  #take({ peer, message }) {
    const { message_id: id, attributes } = message, chat = this.#chat(peer);
    // One's own comes back with the id that the observer has given it.
    const name = attributes?.tempUID, own = chat.rows.get(name);
    if (own) {
      chat.rows.delete(name);
      chat.rows.set(id, own);
      return this.#rise(peer, id, SENT);
    }
    const row = this.#put(peer, message, id);
    if (row.isMine || row.status >= SEEN) return;
    this.#tell(peer, id, row, DELIVERED);
    if (peer === this.#open && this.#mood === "here") setTimeout(() => this.#look(), 700);
    else if (!message.__history) this.#setUnread(chat, chat.unread + 1);
  }

  #rise(peer, id, status) {
    const row = this.#chats.get(peer)?.rows.get(id);
    if (!row || row.status >= status) return;
    row.status = status;
    if (row.tick) this.#setTick(row);
  }

  #refused({ peer, reason, detail, id }) {
    const chat = this.#chat(peer);
    chat.rows.get(id)?.item.remove();
    const item = make("li", "refused"), why = [HINTS[reason], detail].filter(Boolean);
    item.append("Refused: ", make("strong", "", reason), ...why.map((text) => `; ${text}`));
    this.#append(chat, item);
  }

  // ---- What is shown ----

  #chat(peer) {
    if (this.#chats.has(peer)) return this.#chats.get(peer);
    const button = make("button", "", titleOf(peer)), items = [];
    const chat = { button, items, unread: 0, rows: new Map() };
    button.type = "button";
    button.onclick = () => this.#show(peer);
    this.#chats.set(peer, chat);
    // The group stands last.
    this.tabs.insertBefore(button, this.#chats.get(GROUP).button.parentNode
      ? this.#chats.get(GROUP).button : null);
    return chat;
  }

  #show(peer) {
    this.#open = peer;
    for (const [name, { button }] of this.#chats) {
      button.setAttribute("aria-pressed", name === peer);
    }
    const title = titleOf(peer) === peer ? `${this.user} to ${peer}` : `${this.user} to the group`;
    this.list.setAttribute("aria-label", `Messages, ${title}`);
    this.input.setAttribute("aria-label", `Message from ${title}`);
    this.list.replaceChildren(...this.#chats.get(peer).items);
    this.list.scrollTop = this.list.scrollHeight;
    if (this.client && this.#mood === "here") this.#look();
  }

  #put(peer, { sender, text, status, timestamp }, id) {
    const isMine = sender === this.user, item = make("li", isMine ? "mine" : "theirs");
    const row = { item, isMine, status };
    if (peer === GROUP && !isMine) item.append(make("span", "author", sender));
    item.append(make("span", "text", text));
    const meta = make("span", "meta");
    if (isMine) {
      row.tick = meta.appendChild(make("span", "tick"));
      row.tick.setAttribute("role", "img");
      this.#setTick(row);
    }
    const time = new Date(timestamp ?? Date.now());
    meta.append(time.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" }));
    item.append(meta);
    const chat = this.#chat(peer);
    chat.rows.set(id, row);
    this.#append(chat, item);
    return row;
  }

  #append(chat, item) {
    chat.items.push(item);
    if (chat !== this.#chats.get(this.#open)) return;
    this.list.append(item);
    this.list.scrollTop = this.list.scrollHeight;
  }

  #setTick({ tick, status }) {
    const [text, label] = tickOf(status);
    tick.textContent = text;
    tick.setAttribute("aria-label", label);
    tick.classList.toggle("seen", status >= SEEN);
  }

  #setUnread(chat, unread) {
    chat.unread = unread;
    chat.button.querySelector(".unread")?.remove();
    if (unread > 0) chat.button.append(make("span", "unread", unread));
  }
}

for (const user of PEOPLE) new Person(user, PEOPLE.find((other) => other !== user));
