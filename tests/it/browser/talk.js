// What a person does with a stock client, from the login to a group. It ends with a report to the
// server of the page: what was done, or why it went no further.

const steps = [];

function same(what, got, wanted) {
  if (JSON.stringify(got) !== JSON.stringify(wanted)) {
    throw new Error(`${what}: ${JSON.stringify(got)}, not ${JSON.stringify(wanted)}`);
  }
}

async function step(name, act) {
  try {
    await act();
  } catch (error) {
    throw new Error(`${name}: ${error.message}`);
  }
  steps.push(name);
}

async function talk(scene) {
  const alice = new Client(scene, scene.alice);
  const bob = new Client(scene, scene.bob);
  const texts = (rows) => rows.map((row) => row.text);

  await step("login", () => Promise.all([alice.connect(), bob.connect()]));

  await step("empty lists", async () => {
    same("list", await alice.reads(`${alice.id}/conversations`), []);
    same("archived", await alice.reads(`${alice.id}/conversations/archived`), []);
    same("detail", await alice.reads(`${alice.id}/conversations/${bob.id}`), []);
    same("messages", await alice.reads(`${alice.id}/conversations/${bob.id}/messages`), []);
  });

  let sent;
  await step("send and receive", async () => {
    const bubble = alice.writes(bob.id, "hello", "direct");
    const mine = await alice.hears(`messages/${bob.id}/clientadded`);
    same("bubble", mine.attributes.tempUID, bubble);
    same("status of mine", mine.status, 100);
    sent = await bob.hears(`messages/${alice.id}/clientadded`);
    same("text", [sent.text, sent.status, sent.sender], ["hello", 150, alice.id]);
  });

  await step("receipt under the bubble's name", async () => {
    bob.says(`messages/${alice.id}/${sent.attributes.tempUID}/update`, { status: 200 });
    const told = await alice.hears(`messages/${bob.id}/${sent.message_id}/clientupdated`);
    same("status", told.status, 250);
  });

  await step("list, detail and history", async () => {
    const [row, ...more] = await bob.reads(`${bob.id}/conversations`);
    same("one row", more, []);
    same(
      "row",
      [row.conversWith, row.is_new, row.archived, row.last_message_text],
      [alice.id, true, false, "hello"],
    );
    same("detail", (await bob.reads(`${bob.id}/conversations/${alice.id}`)).length, 1);
    const [message] = await bob.reads(`${bob.id}/conversations/${alice.id}/messages`);
    same("message", [message.message_id, message.status], [sent.message_id, 200]);
  });

  await step("opening", async () => {
    bob.says(`conversations/${alice.id}/update`, { is_new: false });
    const told = await bob.hears(`conversations/${alice.id}/clientupdated`);
    same("is_new", told.is_new, false);
  });

  await step("archiving", async () => {
    bob.says(`conversations/${alice.id}/archive`, {});
    await bob.hears(`conversations/${alice.id}/clientdeleted`);
    await bob.hears(`archived_conversations/${alice.id}/clientadded`);
    same("list", await bob.reads(`${bob.id}/conversations`), []);
    same("archived", texts(await bob.reads(`${bob.id}/conversations/archived`)), ["hello"]);
  });

  await step("archiving over HTTP", async () => {
    const answer = await alice.asks("DELETE", `conversations/${bob.id}`, {});
    same("answer", answer, { status: 201, text: '{"success":true}' });
    await alice.hears(`archived_conversations/${bob.id}/clientadded`);
  });

  await step("back from the archive", async () => {
    bob.writes(alice.id, "are you there?", "direct");
    const gone = await bob.hears(`archived_conversations/${alice.id}/clientdeleted`);
    same("key", [gone.key, gone.archived], [alice.id, false]);
    await alice.hears(
      `messages/${bob.id}/clientadded`,
      (told) => told.text === "are you there?",
    );
    same("list", texts(await alice.reads(`${alice.id}/conversations`)), ["are you there?"]);
    const history = await alice.reads(`${alice.id}/conversations/${bob.id}/messages`);
    same("newest first", texts(history), ["are you there?", "hello"]);
  });

  const group = `group-${crypto.randomUUID()}`;
  await step("a group", async () => {
    const made = await alice.asks("POST", "groups", {
      group_id: group,
      group_name: "two",
      group_members: { [alice.id]: 1 },
    });
    same("made", made.status, 201);
    await alice.hears(`messages/${group}/clientadded`, (told) => told.text === "Group created");
    alice.writes(group, "before bob", "group");
    await alice.hears(`messages/${group}/clientadded`, (told) => told.text === "before bob");
    const added = await alice.asks("POST", `groups/${group}/members`, { member_id: bob.id });
    same("added", added, { status: 200, text: '{"success":true}' });
    await bob.hears(`groups/${group}/clientupdated`);
    const old = await bob.hears(
      `messages/${group}/clientadded`,
      (told) => told.text === "before bob",
    );
    same("history", old.__history, "true");
    bob.writes(group, "hello all", "group");
    await alice.hears(`messages/${group}/clientadded`, (told) => told.text === "hello all");
    const stored = await bob.reads(`groups/${group}`);
    same("members", Object.keys(stored.members).sort(), [alice.id, bob.id].sort());
    const renamed = await alice.asks("PUT", `groups/${group}`, { group_name: "pair" });
    same("renamed", renamed.status, 200);
    await bob.hears(`groups/${group}/clientupdated`, (told) => told.name === "pair");
  });

  // Without the headers of CORS a page could not even read the status.
  await step("errors can be read from another origin", async () => {
    const list = `${alice.id}/conversations`;
    same("no token", (await alice.asks("GET", list, undefined, "nonsense")).status, 403);
    same("another's", (await alice.asks("GET", `${bob.id}/conversations`)).status, 401);
    same("no group", (await alice.asks("GET", "groups/group-none")).status, 404);
    same("no route", (await alice.asks("PUT", "contacts/me", {})).status, 404);
    const bad = await alice.asks("PUT", `groups/${group}/members`, { members: 5 });
    same("malformed", bad.status, 400);
    const foreign = await bob.asks("PUT", `groups/${group}`, { group_name: "mine" });
    same("not the owner", foreign.status, 405);
  });

  alice.mqtt.end();
  bob.mqtt.end();
}

function report(failure) {
  return fetch("/report", { method: "POST", body: JSON.stringify({ steps, failure }) });
}

talk(window.scene).then(
  () => report(null),
  (error) => report(String(error)),
);
