//! Messages to a group, receipts and history beside the load of a long test, and an account of
//! them: every message arrives at its readers, every receipt at its writer, and what is fetched
//! page by page is what arrived, under the same identifiers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chat21_observer::delivery::audit::{Audit, MessageNumber, Verdict};
use serde_json::{Value, json};

use crate::bed::{Broker, fresh_app, service, wait_for};
use crate::wire::{Message, Wire};

const WRITER: &str = "u20";
/// Gets direct messages, sends receipts for them, and fetches them once more.
const READER: &str = "u21";
/// Is in the group, as they are.
const MEMBER: &str = "u22";
const GROUP: &str = "group-soak";
/// A direct message and one to the group each time.
const EVERY: Duration = Duration::from_millis(200);
/// A fetch each time, unless one is under way.
const FETCH_EVERY: Duration = Duration::from_secs(2);
/// Messages of a page.
const PAGE: usize = 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    Direct(usize),
    Group(usize),
    Other,
}

struct Publish {
    topic: String,
    payload: String,
    tag: Tag,
}

/// What a little while has brought.
#[derive(Default)]
struct Step {
    messages: Vec<Message>,
    confirmed: Vec<Tag>,
    /// What goes out once more: nobody knows whether it has happened.
    again: Vec<Tag>,
}

/// A client that comes back, and publishes again whatever was not confirmed.
struct Client {
    broker: Broker,
    app: String,
    user: &'static str,
    wire: Option<Wire>,
    todo: VecDeque<Publish>,
    under_way: VecDeque<(u16, Publish)>,
}

impl Client {
    fn new(broker: Broker, app: &str, user: &'static str) -> Self {
        Self {
            broker,
            app: app.to_owned(),
            user,
            wire: None,
            todo: VecDeque::new(),
            under_way: VecDeque::new(),
        }
    }

    fn says(&mut self, path: &str, payload: &Value, tag: Tag) {
        self.todo.push_back(Publish {
            topic: format!("apps/{}/{path}", self.app),
            payload: payload.to_string(),
            tag,
        });
    }

    fn connected(&self) -> Option<Wire> {
        let login = self.broker.login(&self.app, self.user);
        let client_id = format!("{}-{}-m", self.app, self.user);
        let wire = Wire::connect(self.broker.port("MQTT"), &client_id, &login, false);
        let mut wire = wire.ok()?;
        let filter = format!("apps/{}/users/{}/#", self.app, self.user);
        wire.subscribe(&[&filter]).ok()?;
        Some(wire)
    }

    /// A little while.
    fn step(&mut self) -> Step {
        if self.wire.is_none() {
            self.wire = self.connected();
        }
        let Some(wire) = &mut self.wire else {
            // The broker is being restarted.
            std::thread::sleep(Duration::from_millis(200));
            return Step::default();
        };
        let mut lost = false;
        let mut again = vec![];
        while self.under_way.len() < 50
            && let Some(publish) = self.todo.pop_front()
        {
            match wire.publish(&publish.topic, publish.payload.as_bytes()) {
                Ok(id) => self.under_way.push_back((id, publish)),
                Err(_) => {
                    again.push(publish.tag);
                    self.todo.push_front(publish);
                    lost = true;
                    break;
                }
            }
        }
        lost |= wire.step(Duration::from_millis(20)).is_err();
        let messages = wire.messages.drain(..).collect();
        let mut confirmed = vec![];
        for id in wire.confirmed.drain(..) {
            if let Some(at) = self.under_way.iter().position(|(of, _)| *of == id) {
                confirmed.extend(self.under_way.remove(at).map(|(_, publish)| publish.tag));
            }
        }
        if lost {
            self.wire = None;
            for (_, publish) in self.under_way.drain(..).rev() {
                again.push(publish.tag);
                self.todo.push_front(publish);
            }
        }
        Step {
            messages,
            confirmed,
            again,
        }
    }

    fn is_idle(&self) -> bool {
        self.todo.is_empty() && self.under_way.is_empty()
    }

    /// Deletes the session at the broker.
    fn leave(self) {
        drop(self.wire);
        let login = self.broker.login(&self.app, self.user);
        let client_id = format!("{}-{}-m", self.app, self.user);
        if let Ok(wire) = Wire::connect(self.broker.port("MQTT"), &client_id, &login, true) {
            wire.disconnect();
        }
    }
}

/// What is known of all of it.
#[derive(Default)]
struct Seen {
    direct: Audit,
    group: Audit,
    /// The direct messages that have arrived, and which pages have, by their identifiers.
    arrived: HashMap<String, usize>,
    fetched: HashMap<String, usize>,
    /// The identifiers of those whose receipt has come.
    receipted: HashSet<String>,
    pages: usize,
    wrong: Vec<String>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    /// Messages that are written so far, of each kind.
    written: AtomicUsize,
    /// Nothing more is written.
    enough: AtomicBool,
    over: AtomicBool,
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }
}

pub(crate) struct Mixed {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What has become of it.
#[derive(Debug)]
pub(crate) struct MixedAccount {
    pub(crate) direct: Verdict,
    pub(crate) group: Verdict,
    pub(crate) pages: usize,
}

impl Mixed {
    /// Tells the observer of the group, and starts.
    pub(crate) fn start(broker: Broker, app: &str) -> Self {
        let shared = Arc::<Shared>::default();
        let mut writer = Client::new(broker, app, WRITER);
        while writer.wire.is_none() {
            writer.step();
        }
        let members = json!({ WRITER: 1, READER: 1, MEMBER: 1 });
        let group = json!({
            "group": {"uid": GROUP, "name": "soak", "owner": WRITER, "members": members},
            "notify_to": {WRITER: 1},
        });
        let mut of_service =
            Wire::connect(broker.port("MQTT"), &fresh_app(), &service(), true).unwrap();
        let topic = format!("apps/observer/{app}/groups/update");
        of_service
            .publish_confirmed(&topic, group.to_string().as_bytes())
            .unwrap();
        wait_for("the group is stored", || {
            let told = |message: &Message| message.topic().contains("/groups/");
            writer.step().messages.iter().any(told).then_some(())
        });
        let readers = [READER, MEMBER].map(|user| {
            let mut client = Client::new(broker, app, user);
            while client.wire.is_none() {
                client.step();
            }
            client
        });
        let mut threads = vec![std::thread::spawn({
            let shared = shared.clone();
            move || write(writer, &shared)
        })];
        for client in readers {
            let shared = shared.clone();
            threads.push(std::thread::spawn(move || read(client, &shared)));
        }
        Self { shared, threads }
    }

    /// So far nothing has come that nobody wrote, in another order, or under two identifiers.
    pub(crate) fn check(&self, when: &str) {
        let seen = self.shared.seen();
        assert_eq!(seen.wrong, Vec::<String>::new(), "{when}");
        for verdict in [seen.direct.verdict(), seen.group.verdict()] {
            let so_far = Verdict { lost: 0, ..verdict };
            assert!(so_far.is_sound(), "{when}: {verdict:?}");
        }
    }

    /// Writes nothing more, and waits until all has arrived.
    pub(crate) fn finish(mut self) -> MixedAccount {
        self.shared.enough.store(true, Ordering::SeqCst);
        wait_for("everything beside the load", || {
            let written = self.shared.written.load(Ordering::SeqCst);
            let seen = self.shared.seen();
            let all = seen.direct.arrived() == written && seen.group.arrived() == 2 * written;
            let with_receipts = seen.receipted.len() == seen.arrived.len();
            (all && with_receipts && seen.fetched == seen.arrived).then_some(())
        });
        self.check("in the end");
        self.shared.over.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        let seen = self.shared.seen();
        let account = MixedAccount {
            direct: seen.direct.verdict(),
            group: seen.group.verdict(),
            pages: seen.pages,
        };
        assert!(
            account.direct.is_sound() && account.group.is_sound(),
            "{account:?}"
        );
        assert!(account.pages > 0, "{account:?}");
        account
    }
}

impl Drop for Mixed {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
    }
}

fn write(mut client: Client, shared: &Shared) {
    let mut next = Instant::now();
    while !shared.over.load(Ordering::SeqCst) {
        if Instant::now() >= next && !shared.enough.load(Ordering::SeqCst) {
            next = Instant::now() + EVERY;
            let mut seen = shared.seen();
            let n = shared.written.fetch_add(1, Ordering::SeqCst);
            seen.direct.published(20, [21].into());
            seen.group.published(20, [21, 22].into());
            let payload = json!({"n": n, "text": "x"});
            let path = |to| format!("outgoing/users/{WRITER}/messages/{to}/outgoing");
            client.says(&path(READER), &payload, Tag::Direct(n));
            client.says(&path(GROUP), &payload, Tag::Group(n));
        }
        let step = client.step();
        let mut seen = shared.seen();
        for tag in step.again {
            match tag {
                Tag::Direct(n) => seen.direct.published_again(number(n)),
                Tag::Group(n) => seen.group.published_again(number(n)),
                Tag::Other => {}
            }
        }
        for tag in step.confirmed {
            match tag {
                Tag::Direct(n) => seen.direct.confirmed(number(n)),
                Tag::Group(n) => seen.group.confirmed(number(n)),
                Tag::Other => {}
            }
        }
        for message in step.messages {
            let topic = message.topic();
            let begins = format!("/messages/{READER}/");
            let id = topic
                .split_once(&begins)
                .and_then(|(_, rest)| rest.strip_suffix("/clientupdated"));
            if let Some(id) = id.filter(|_| message.json()["status"] == 250) {
                if !seen.arrived.contains_key(id) {
                    seen.wrong.push(format!("a receipt for nothing: {topic}"));
                }
                seen.receipted.insert(id.to_owned());
            }
        }
    }
    client.leave();
}

fn number(n: usize) -> MessageNumber {
    MessageNumber::new(u32::try_from(n).unwrap())
}

/// Where the next page begins, and when to ask for it; `None`: it is under way.
struct Pages {
    since: u64,
    due: Option<Instant>,
}

fn read(mut client: Client, shared: &Shared) {
    let me = client.user[1..].parse().unwrap();
    let mut pages = Pages {
        since: 0,
        due: (client.user == READER).then(Instant::now),
    };
    while !shared.over.load(Ordering::SeqCst) {
        if pages.due.is_some_and(|due| Instant::now() >= due) && client.is_idle() {
            pages.due = None;
            let wish = json!({"since": pages.since, "convers_with": WRITER, "limit": PAGE});
            let path = format!("users/{READER}/inbox/fetch");
            client.says(&path, &wish, Tag::Other);
        }
        for message in client.step().messages {
            let mut seen = shared.seen();
            note(&mut client, me, &message, &mut seen, &mut pages);
        }
    }
    client.leave();
}

fn note(client: &mut Client, me: u32, message: &Message, seen: &mut Seen, pages: &mut Pages) {
    let (topic, body) = (message.topic(), message.json());
    if topic.ends_with("/inbox/clientupdated") {
        seen.pages += 1;
        // A page that was asked for before a crash may come twice: the later answer counts as well.
        pages.since = body["next"]
            .as_u64()
            .unwrap_or(pages.since)
            .max(pages.since);
        let wait = match body["more"] == true {
            true => Duration::ZERO,
            false => FETCH_EVERY,
        };
        pages.due = Some(Instant::now() + wait);
        return;
    }
    let (Some(n), Some(id)) = (body["n"].as_u64(), body["message_id"].as_str()) else {
        return;
    };
    let n = usize::try_from(n).unwrap();
    if topic.contains(GROUP) {
        seen.group.received(number(n), me, id.as_bytes());
    } else if body["__history"] == true {
        seen.fetched.insert(id.to_owned(), n);
    } else {
        seen.direct.received(number(n), me, id.as_bytes());
        seen.arrived.insert(id.to_owned(), n);
        let path = format!("users/{READER}/messages/{WRITER}/{id}/update");
        client.says(&path, &json!({"status": 200}), Tag::Other);
    }
}
