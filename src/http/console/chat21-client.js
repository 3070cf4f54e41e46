// A Chat21 client in plain JavaScript: MQTT 3.1.1 over a WebSocket, no dependencies. MIT licence:
// take it over into your own app.
//
//   const me = new Chat21Client({
//     url: "wss://chat.example.com/mqtt", app: "tilechat", user: "alice",
//     clientId: "alice-phone", username: "JWT", password: token,
//   });
//   me.addEventListener("message", ({ detail: { peer, message } }) => show(peer, message));
//   me.connect();
//   me.send("bob", { text: "hello" });
//
// Nothing is lost, because of four things that belong together: everything is published and
// subscribed to at QoS 1; the client identifier is the same each time (keep one for each device);
// the session is not clean, so the broker keeps what comes while the client is away; and what the
// broker has not confirmed is published again. (To survive a reload of the page, keep #unconfirmed
// in IndexedDB.)
//
// Events, each with a `detail`:
//   state    "connecting", "online" or "offline"
//   sent     { id }: the broker has taken the message that send() gave this id
//   message  { peer, message }: a message, received or your own; its status is 100 or 150
//   update   { peer, id, status }: 200, 250 received, 300 seen
//   refused  { peer, reason, detail, id }: a message was not forwarded; id if the reason tells it
//   other    { path, body }: conversations, groups, blocks, history
//   failed   a text: the broker refuses the login

const CONNECT = 1, CONNACK = 2, PUBLISH = 3, PUBACK = 4, SUBSCRIBE = 8;
const PING = 12, PONG = 13, DISCONNECT = 14;
const KEEP_ALIVE = 30; // seconds
const text = new TextEncoder(), bytes = new TextDecoder();

const number = (n) => [n >> 8, n & 255];
const string = (s) => { const b = text.encode(s); return [...number(b.length), ...b]; };

// A packet: its kind and flags, the length in groups of seven bits, the rest.
function packet(kind, flags, ...parts) {
  const body = parts.flat(), head = [(kind << 4) | flags];
  let length = body.length;
  do {
    head.push((length & 127) | (length > 127 ? 128 : 0));
    length >>= 7;
  } while (length);
  return Uint8Array.from([...head, ...body]);
}

export class Chat21Client extends EventTarget {
  #options; #socket; #buffer; #timer; #answered; #attempts = 0; #closed = true; #nextId = 0;
  #unconfirmed = new Map(); // By packet identifier, in the order of sending.
  #heard = new Set(); // Identifiers of messages: at QoS 1 one may come twice.

  constructor(options) { super(); this.#options = options; }

  get user() { return this.#options.user; }
  get online() { return this.#answered !== undefined; }
  get #own() { return `apps/${this.#options.app}/users/${this.user}`; }
  get #presence() { return `${this.#own}/presence/${this.#options.clientId}`; }

  connect() { this.#closed = false; this.#open(); }

  // Leaves. The broker keeps what comes until the client is back.
  close() {
    this.#closed = true;
    if (this.online) {
      this.#publish(this.#presence, { disconnected: true });
      this.#write(packet(DISCONNECT, 0));
    }
    this.#socket?.close();
  }

  // Sends a message, now or once there is a connection. Returns the id that its events have.
  send(to, message) {
    const id = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
    const attributes = { ...message.attributes, tempUID: id };
    const names = { sender_fullname: this.user, recipient_fullname: to };
    this.sendRaw(to, JSON.stringify({ type: "text", ...names, ...message, attributes }), id);
    return id;
  }

  // The same with a payload that is made elsewhere.
  sendRaw(to, payload, id) {
    const topic = `apps/${this.#options.app}/outgoing/users/${this.user}/messages/${to}/outgoing`;
    this.#publish(topic, payload, id);
  }

  // Tells the sender that their message has arrived (200) or was seen (300).
  receipt(peer, id, status) { this.publish(`messages/${peer}/${id}/update`, { status }); }

  // Publishes below `apps/{app}/users/{me}/`.
  publish(path, body) { this.#publish(`${this.#own}/${path}`, body); }

  #open() {
    clearInterval(this.#timer); // Of a connection that is not closed yet.
    this.#answered = undefined;
    this.#emit("state", "connecting");
    this.#buffer = new Uint8Array();
    const socket = (this.#socket = new WebSocket(this.#options.url, "mqtt"));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#write(this.#hello());
    socket.onmessage = ({ data }) => socket === this.#socket && this.#read(new Uint8Array(data));
    socket.onclose = () => {
      if (socket !== this.#socket) return;
      clearInterval(this.#timer);
      this.#answered = undefined;
      this.#emit("state", "offline");
      if (this.#closed) return;
      // Each attempt waits longer, and no two clients equally long.
      const wait = Math.min(30000, 500 * 2 ** this.#attempts++) * (0.5 + Math.random() / 2);
      setTimeout(() => this.#closed || socket !== this.#socket || this.#open(), wait);
    };
  }

  // CONNECT: not clean (bit 1 is 0), with a will at QoS 1 that says that this client is gone.
  #hello() {
    const { clientId, username, password } = this.#options;
    const flags = 0b1100 | (username ? 128 : 0) | (password ? 64 : 0);
    return packet(CONNECT, 0, string("MQTT"), 4, flags, number(KEEP_ALIVE), string(clientId),
      string(this.#presence), string(JSON.stringify({ disconnected: true })),
      username ? string(username) : [], password ? string(password) : []);
  }

  #read(data) {
    const all = new Uint8Array(this.#buffer.length + data.length);
    all.set(this.#buffer);
    all.set(data, this.#buffer.length);
    this.#buffer = all;
    for (;;) {
      const buffer = this.#buffer;
      let length = 0, at = 1;
      do {
        if (at >= buffer.length) return; // The rest is still on its way.
        length |= (buffer[at] & 127) << (7 * (at - 1));
      } while (buffer[at++] & 128);
      if (buffer.length < at + length) return;
      this.#buffer = buffer.subarray(at + length);
      this.#handle(buffer[0] >> 4, buffer[0] & 15, buffer.subarray(at, at + length));
    }
  }

  #handle(kind, flags, body) {
    if (kind === CONNACK && body[1] !== 0) {
      this.#closed = true; // Trying again with the same password helps nobody.
      this.#emit("failed", body[1] > 3 ? "wrong user or password" : `refused (${body[1]})`);
    } else if (kind === CONNACK) {
      this.#attempts = 0;
      this.#answered = true;
      this.#timer = setInterval(() => this.#ping(), (KEEP_ALIVE * 1000) / 2);
      this.#write(packet(SUBSCRIBE, 2, number(this.#packetId()), string(`${this.#own}/#`), 1));
      for (const waiting of this.#unconfirmed.values()) this.#writePublish(waiting);
      this.#publish(this.#presence, { connected: true });
      this.#emit("state", "online");
    } else if (kind === PUBACK) {
      const packetId = (body[0] << 8) | body[1], { id } = this.#unconfirmed.get(packetId) ?? {};
      this.#unconfirmed.delete(packetId);
      if (id) this.#emit("sent", { id });
    } else if (kind === PUBLISH) {
      const topicEnd = 2 + ((body[0] << 8) | body[1]), qos = (flags >> 1) & 3;
      const topic = bytes.decode(body.subarray(2, topicEnd));
      this.#take(topic, bytes.decode(body.subarray(topicEnd + (qos ? 2 : 0))));
      // Confirmed once it is taken: until then the broker keeps it.
      if (qos) this.#write(packet(PUBACK, 0, body[topicEnd], body[topicEnd + 1]));
    } else if (kind === PONG) this.#answered = true;
  }

  // What came on one of the user's own topics.
  #take(topic, payload) {
    const path = topic.slice(this.#own.length + 1), levels = path.split("/");
    let body;
    try { body = JSON.parse(payload); } catch { return; }
    if (typeof body !== "object" || body === null) return;
    const [kind, peer] = levels, last = levels.at(-1);
    if (kind === "messages" && last === "clientadded") {
      const key = `${peer}/${body.message_id}`;
      if (this.#heard.has(key)) return;
      this.#heard.add(key);
      this.#emit("message", { peer, message: body });
    } else if (kind === "messages" && last === "clientupdated") {
      this.#emit("update", { peer, id: levels[2], status: body.status });
    } else if (kind === "messages" && last === "clientrejected") {
      const { reason, detail } = body, id = body.tempUID ?? body.attributes?.tempUID;
      this.#emit("refused", { peer, reason, detail, id });
    } else if (last.startsWith("client")) this.#emit("other", { path, body });
  }

  #publish(topic, body, id) {
    const payload = typeof body === "string" ? body : JSON.stringify(body);
    const packetId = this.#packetId();
    const parts = [string(topic), number(packetId), [...text.encode(payload)]];
    const waiting = { id, parts, again: 0 };
    this.#unconfirmed.set(packetId, waiting);
    if (this.online) this.#writePublish(waiting);
  }

  // QoS 1 is 2 among the flags; 8 says that it may have come before.
  #writePublish(waiting) {
    this.#write(packet(PUBLISH, 2 | waiting.again, ...waiting.parts));
    waiting.again = 8;
  }

  #packetId() {
    do this.#nextId = (this.#nextId % 65535) + 1; while (this.#unconfirmed.has(this.#nextId));
    return this.#nextId;
  }

  // No answer since the last ping: the connection is dead, even if nobody has said so.
  #ping() {
    if (!this.#answered) return this.#socket.close();
    this.#answered = false;
    this.#write(packet(PING, 0));
  }

  #write(packet) { if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(packet); }
  #emit(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }
}
