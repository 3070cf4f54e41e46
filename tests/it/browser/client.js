// A client as the stock ones are: MQTT over WebSocket at QoS 0 with a clean session, one
// subscription for all that is theirs, and HTTP with the raw token.

class Client {
  constructor(scene, user) {
    this.scene = scene;
    this.id = user.id;
    this.token = user.token;
    this.password = user.password;
    this.name = user.name;
    this.heard = [];
    this.waiting = [];
  }

  connect() {
    const own = `apps/${this.scene.app}/users/${this.id}`;
    const client = crypto.randomUUID();
    this.mqtt = mqtt.connect(this.scene.ws, {
      clientId: client,
      username: this.name,
      password: this.password,
      clean: true,
      keepalive: 10,
      reconnectPeriod: 1000,
      will: {
        topic: `${own}/presence/${client}`,
        payload: '{"disconnected":true}',
        qos: 1,
        retain: false,
      },
    });
    this.mqtt.on("message", (topic, payload) => {
      this.heard.push({ place: topic.slice(own.length + 1), body: JSON.parse(payload) });
      this.waiting.forEach((look) => look());
    });
    return new Promise((done, fail) => {
      this.mqtt.on("error", fail);
      this.mqtt.on("connect", () => {
        this.mqtt.subscribe(`${own}/#`, { qos: 0 }, (error) => {
          if (error) return fail(error);
          this.says(`presence/${client}`, { connected: true });
          done();
        });
      });
    });
  }

  // Publishes under what is theirs.
  says(place, body) {
    const topic = `apps/${this.scene.app}/users/${this.id}/${place}`;
    this.mqtt.publish(topic, JSON.stringify(body), { qos: 0 });
  }

  // Writes a message. Returns the name that they give the bubble.
  writes(to, text, channel) {
    const tempUID = crypto.randomUUID();
    const topic = `apps/${this.scene.app}/outgoing/users/${this.id}/messages/${to}/outgoing`;
    const message = {
      text,
      type: "text",
      recipient_fullname: to,
      sender_fullname: this.id,
      attributes: { tempUID, lang: "en" },
      metadata: "",
      channel_type: channel,
    };
    this.mqtt.publish(topic, JSON.stringify(message), { qos: 0 });
    return tempUID;
  }

  // The first thing told on a place, taken off what was heard. `fits` looks at what it says.
  hears(place, fits = () => true) {
    return new Promise((done, fail) => {
      const late = setTimeout(() => {
        const heard = this.heard.map((one) => one.place).join(", ");
        fail(new Error(`${this.id} hears nothing on ${place}, but: ${heard}`));
      }, 20000);
      const look = () => {
        const at = this.heard.findIndex((one) => one.place === place && fits(one.body));
        if (at < 0) return;
        clearTimeout(late);
        this.waiting = this.waiting.filter((one) => one !== look);
        done(this.heard.splice(at, 1)[0].body);
      };
      this.waiting.push(look);
      look();
    });
  }

  async asks(method, path, body, token = this.token) {
    const headers = { Authorization: token };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const answer = await fetch(`${this.scene.api}/${this.scene.app}/${path}`, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    return { status: answer.status, text: await answer.text() };
  }

  // What stock clients make of an answer: anything but 200 with a body never reaches them.
  async reads(path) {
    const answer = await this.asks("GET", path);
    if (answer.status !== 200 || answer.text === "") {
      throw new Error(`${path} is answered by ${answer.status} ${answer.text}`);
    }
    return JSON.parse(answer.text).result;
  }
}
