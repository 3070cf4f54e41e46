//! Many users who write to many others, and an account of what became of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chat21_observer::delivery::audit::{Audit, MessageNumber, User, Verdict};

use crate::bed::{Broker, PATIENCE, wait_for};
use crate::wire::Wire;

/// A layout's topics, from a user's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Path {
    Inbox,
    InboxNoSlash,
    Chat21,
    Chat21V1,
}

impl Path {
    pub(crate) fn outgoing(self, app: &str, sender: &str, recipient: &str) -> String {
        match self {
            Self::Inbox => format!("/apps/{app}/users/{sender}/{recipient}/messages/outgoing"),
            Self::InboxNoSlash => {
                format!("apps/{app}/users/{sender}/{recipient}/messages/outgoing")
            }
            Self::Chat21 => {
                format!("apps/{app}/outgoing/users/{sender}/messages/{recipient}/outgoing")
            }
            Self::Chat21V1 => format!("apps/{app}/users/{sender}/messages/{recipient}/outgoing"),
        }
    }

    pub(crate) fn inbox(self, app: &str, inbox_of: &str, convers_with: &str) -> String {
        match self {
            Self::Inbox => {
                format!("/apps/{app}/users/{inbox_of}/{convers_with}/messages/clientadded")
            }
            Self::InboxNoSlash => {
                format!("apps/{app}/users/{inbox_of}/{convers_with}/messages/clientadded")
            }
            Self::Chat21 | Self::Chat21V1 => {
                format!("apps/{app}/users/{inbox_of}/messages/{convers_with}/clientadded")
            }
        }
    }

    /// A payload that identifies the message; with bytes that are not text where the layout allows
    /// them.
    fn payload(self, sender: &str, recipient: &str, n: usize) -> Vec<u8> {
        let json = format!(
            r#"{{"n":{n},"path":"{self:?}","from":"{sender}","to":"{recipient}","text":"x"}}"#
        );
        match self {
            Self::Inbox | Self::InboxNoSlash => [b"\xff\x00".as_slice(), json.as_bytes()].concat(),
            Self::Chat21 | Self::Chat21V1 => json.into_bytes(),
        }
    }
}

/// A message: path, sender, recipient, and number within those.
type Key = (Path, String, String, usize);

#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) broker: Broker,
    pub(crate) app: String,
    pub(crate) senders: Vec<String>,
    pub(crate) recipients: Vec<String>,
    /// The layouts that each sender writes in, and how many messages to each recipient.
    pub(crate) paths: Vec<Path>,
    pub(crate) per_pair: usize,
    /// Messages that all senders together may send before [`Load::allow`]; `None`: all of them.
    pub(crate) allowed: Option<usize>,
}

pub(crate) fn users(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("u{n:02}")).collect()
}

/// What was published, and what the recipients have seen.
#[derive(Default)]
struct Seen {
    audit: Audit,
    numbers: HashMap<Key, MessageNumber>,
    wrong: Vec<String>,
}

impl Seen {
    /// Notes a message as published: again, if its sender does not know whether it was before.
    fn published(&mut self, key: &Key) -> MessageNumber {
        if let Some(number) = self.numbers.get(key) {
            self.audit.published_again(*number);
            return *number;
        }
        let (path, sender, recipient, _) = key;
        let recipients = [number_of(recipient)].into();
        let number = self.audit.published(writer(*path, sender), recipients);
        self.numbers.insert(key.clone(), number);
        number
    }
}

/// The number in the name of a user.
fn number_of(user: &str) -> User {
    user[1..].parse().unwrap()
}

/// A sender in a layout: order is kept within each.
fn writer(path: Path, sender: &str) -> User {
    path as User * 1_000 + number_of(sender)
}

pub(crate) struct Load {
    plan: Plan,
    seen: Arc<Mutex<Seen>>,
    /// Messages that are sent and confirmed to their senders.
    sent: Arc<AtomicUsize>,
    /// Messages that each sender may send.
    allowed: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    expected: usize,
    /// Says of each recipient, whenever they have subscribed.
    up: Mutex<Receiver<()>>,
}

pub(crate) struct Account {
    pub(crate) verdict: Verdict,
    pub(crate) took: Duration,
}

impl Load {
    /// Connects all recipients, then starts all senders. Lost connections are opened again.
    pub(crate) fn start(plan: Plan) -> Self {
        let expected =
            plan.senders.len() * plan.recipients.len() * plan.paths.len() * plan.per_pair;
        let (up_tx, up) = channel();
        let load = Self {
            seen: Arc::default(),
            sent: Arc::default(),
            allowed: Arc::default(),
            over: Arc::default(),
            threads: vec![],
            expected,
            up: Mutex::new(up),
            plan,
        };
        load.allow(load.plan.allowed.unwrap_or(expected));
        load.run(&up_tx)
    }

    fn run(mut self, up_tx: &Sender<()>) -> Self {
        for user in self.plan.recipients.clone() {
            let (plan, seen, over, up_tx) = (
                self.plan.clone(),
                self.seen.clone(),
                self.over.clone(),
                up_tx.clone(),
            );
            self.threads.push(std::thread::spawn(move || {
                receive(&plan, &user, &seen, &over, &up_tx)
            }));
        }
        self.wait_recipients();
        for user in self.plan.senders.clone() {
            let (plan, sent, over) = (self.plan.clone(), self.sent.clone(), self.over.clone());
            let (allowed, seen) = (self.allowed.clone(), self.seen.clone());
            self.threads.push(std::thread::spawn(move || {
                send(&plan, &user, &seen, (&sent, &allowed), &over)
            }));
        }
        self
    }

    pub(crate) fn expected(&self) -> usize {
        self.expected
    }

    /// Waits until all recipients have subscribed: for the first time, or after a restart of the
    /// broker once more.
    pub(crate) fn wait_recipients(&self) {
        let up = self.up.lock().unwrap();
        for _ in 0..self.plan.recipients.len() {
            up.recv_timeout(PATIENCE)
                .expect("a recipient does not get connected");
        }
    }

    /// Lets all senders together send up to `count` messages in all.
    pub(crate) fn allow(&self, count: usize) {
        let share = count.div_ceil(self.plan.senders.len());
        self.allowed.store(share, Ordering::SeqCst);
    }

    /// Lets the senders go on until `count` messages are sent that have not arrived. The observer
    /// must be frozen or stopped, so that none arrives meanwhile.
    pub(crate) fn wait_under_way(&self, count: usize) {
        let sent = || self.sent.load(Ordering::SeqCst);
        self.allow(sent().max(self.arrived()) + 2 * count);
        wait_for("messages under way", || {
            (sent() >= self.arrived() + count).then_some(())
        });
    }

    /// Waits until the broker has confirmed all messages to their senders.
    pub(crate) fn wait_sent(&self) {
        let sent = || self.sent.load(Ordering::SeqCst);
        wait_for("messages sent", || (sent() >= self.expected).then_some(()));
    }

    /// How many different messages have arrived.
    pub(crate) fn arrived(&self) -> usize {
        self.seen.lock().unwrap().audit.arrived()
    }

    pub(crate) fn wait_arrived(&self, count: usize) {
        let mut last = (self.arrived(), Instant::now());
        while last.0 < count {
            // Polling threads that have work to do.
            std::thread::sleep(Duration::from_millis(20));
            let arrived = self.arrived();
            if arrived > last.0 {
                last = (arrived, Instant::now());
            }
            assert!(
                last.1.elapsed() < PATIENCE,
                "stuck: {arrived} of {} arrived, {} sent and confirmed",
                self.expected,
                self.sent.load(Ordering::Relaxed)
            );
        }
    }

    /// Waits until everything has arrived, and a little longer for duplicates. Nothing may be lost,
    /// out of order, or there under two identifiers.
    pub(crate) fn finish(self) -> Account {
        let account = self.finish_in_any_order();
        assert_eq!(account.verdict.out_of_order, 0, "{:?}", account.verdict);
        account
    }

    /// The same when no more than `count` messages were allowed.
    pub(crate) fn finish_at(mut self, count: usize) -> Account {
        self.expected = count;
        self.finish()
    }

    /// Nothing is lost so far, out of order, or there under two identifiers. Everything that was
    /// allowed must have arrived.
    pub(crate) fn check(&self, when: &str) {
        let seen = self.seen.lock().unwrap();
        assert_eq!(seen.wrong, Vec::<String>::new(), "{when}");
        let verdict = seen.audit.verdict();
        assert!(verdict.is_sound(), "{when}: {verdict:?}");
    }

    /// The same on a broker that does not keep the order.
    pub(crate) fn finish_in_any_order(self) -> Account {
        self.finish_but_for(|verdict| verdict.out_of_order = 0)
    }

    /// The same on a broker that breaks some of it: `forgive` takes that out of the verdict.
    pub(crate) fn finish_but_for(mut self, forgive: fn(&mut Verdict)) -> Account {
        let start = Instant::now();
        self.wait_arrived(self.expected);
        let took = start.elapsed();
        // Nothing signals that no duplicate will come.
        std::thread::sleep(Duration::from_millis(500));
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        let seen = self.seen.lock().unwrap();
        assert_eq!(seen.wrong, Vec::<String>::new());
        let verdict = seen.audit.verdict();
        let mut rest = verdict;
        forgive(&mut rest);
        assert!(rest.is_sound(), "{verdict:?}");
        assert_eq!(verdict.arrived, self.expected, "{verdict:?}");
        Account { verdict, took }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn receive(plan: &Plan, user: &str, seen: &Mutex<Seen>, over: &AtomicBool, up: &Sender<()>) {
    let login = plan.broker.login(&plan.app, user);
    let client_id = format!("{}-{user}-r", plan.app);
    while !over.load(Ordering::Relaxed) {
        let Ok(mut wire) = Wire::connect(plan.broker.port("MQTT"), &client_id, &login, false)
        else {
            // The broker is being restarted.
            std::thread::sleep(Duration::from_millis(200));
            continue;
        };
        let filters = [
            format!("apps/{}/users/{user}/#", plan.app),
            format!("/apps/{}/users/{user}/#", plan.app),
        ];
        if wire
            .subscribe(&filters.each_ref().map(String::as_str))
            .is_err()
        {
            std::thread::sleep(Duration::from_millis(200));
            continue;
        }
        let _ = up.send(());
        while !over.load(Ordering::Relaxed) && wire.step(Duration::from_millis(100)).is_ok() {
            if !wire.messages.is_empty() {
                let mut seen = seen.lock().unwrap();
                for message in wire.messages.drain(..) {
                    note(plan, user, &message.topic, &message.payload, &mut seen);
                }
            }
        }
        if over.load(Ordering::Relaxed) {
            wire.disconnect();
            // Deletes the session at the broker.
            if let Ok(wire) = Wire::connect(plan.broker.port("MQTT"), &client_id, &login, true) {
                wire.disconnect();
            }
        }
    }
}

fn note(plan: &Plan, user: &str, topic: &[u8], payload: &[u8], seen: &mut Seen) {
    let text = String::from_utf8_lossy(payload);
    let json = text.trim_start_matches(['\u{fffd}', '\0']);
    let Ok(body) = serde_json::from_str::<serde_json::Value>(json) else {
        seen.wrong.push(format!("no JSON: {text}"));
        return;
    };
    let (sender, n) = (
        body["from"].as_str().unwrap().to_owned(),
        usize::try_from(body["n"].as_u64().unwrap()).unwrap(),
    );
    let path = *plan
        .paths
        .iter()
        .find(|path| format!("{path:?}") == body["path"].as_str().unwrap())
        .unwrap();
    let sent = path.payload(&sender, user, n);
    let right = topic == path.inbox(&plan.app, user, &sender).as_bytes()
        && body["to"] == user
        && match path {
            Path::Inbox | Path::InboxNoSlash => payload == sent,
            // The client's members unchanged, then the observer's.
            Path::Chat21 | Path::Chat21V1 => {
                payload.starts_with(&sent[..sent.len() - 1])
                    && body["status"] == 150
                    && body["sender"] == sender
                    && body["recipient"] == user
            }
        };
    if !right {
        seen.wrong
            .push(format!("{}: {text}", String::from_utf8_lossy(topic)));
    }
    let key = (path, sender, user.to_owned(), n);
    let Some(number) = seen.numbers.get(&key).copied() else {
        seen.wrong.push(format!("nobody wrote this: {text}"));
        return;
    };
    let id = body["message_id"].as_str().unwrap_or_default();
    seen.audit.received(number, number_of(user), id.as_bytes());
}

/// Messages a sender has on the way to the broker at a time.
const SEND_WINDOW: usize = 50;

fn send(
    plan: &Plan,
    user: &str,
    seen: &Mutex<Seen>,
    (sent, allowed): (&AtomicUsize, &AtomicUsize),
    over: &AtomicBool,
) {
    let login = plan.broker.login(&plan.app, user);
    let client_id = format!("{}-{user}-s", plan.app);
    let all: Vec<(Key, String, Vec<u8>)> = (0..plan.per_pair)
        .flat_map(|n| {
            plan.recipients
                .iter()
                .flat_map(move |recipient| plan.paths.iter().map(move |path| (n, recipient, *path)))
        })
        .map(|(n, recipient, path)| {
            (
                (path, user.to_owned(), recipient.clone(), n),
                path.outgoing(&plan.app, user, recipient),
                path.payload(user, recipient, n),
            )
        })
        .collect();
    let mut done = vec![false; all.len()];
    while !over.load(Ordering::Relaxed) && done.contains(&false) {
        let Ok(mut wire) = Wire::connect(plan.broker.port("MQTT"), &client_id, &login, true) else {
            // The broker is being restarted.
            std::thread::sleep(Duration::from_millis(200));
            continue;
        };
        let mut under_way: HashMap<u16, (usize, MessageNumber)> = HashMap::new();
        let mut todo: std::collections::VecDeque<usize> =
            (0..all.len()).filter(|n| !done[*n]).collect();
        while !over.load(Ordering::Relaxed) && (!todo.is_empty() || !under_way.is_empty()) {
            let due = allowed.load(Ordering::SeqCst);
            while under_way.len() < SEND_WINDOW && todo.front().is_some_and(|n| *n < due) {
                let n = todo.pop_front().unwrap();
                let (key, topic, payload) = &all[n];
                let number = seen.lock().unwrap().published(key);
                match wire.publish(topic, payload) {
                    Ok(id) => drop(under_way.insert(id, (n, number))),
                    Err(_) => break,
                }
            }
            if wire.step(Duration::from_millis(5)).is_err() {
                break;
            }
            for id in wire.confirmed.drain(..) {
                if let Some((n, number)) = under_way.remove(&id) {
                    seen.lock().unwrap().audit.confirmed(number);
                    done[n] = true;
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}
