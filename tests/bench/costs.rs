//! What a message to a group and a webhook event cost a store: rows, bytes, CPU. `-- group` and
//! `-- webhook` measure one of the two. SQLite, and PostgreSQL where `scripts/brokers env` names
//! one. The decisions are the router's own, and the batches are those of the observer.

use std::fmt;
use std::hash::RandomState;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use chat21_observer::auth::secret::Secret;
use chat21_observer::protocol::amqp::BrokerKind;
use chat21_observer::protocol::control_topic::Controls;
use chat21_observer::protocol::layout::Layout;
use chat21_observer::protocol::message::Received;
use chat21_observer::protocol::message_id::{MessageId, MessageIds};
use chat21_observer::protocol::time::UnixMillis;
use chat21_observer::protocol::topic_map::TopicMap;
use chat21_observer::rules::fan_out::{FanOut, Found, STEP};
use chat21_observer::rules::plan::{Arrival, Purpose};
use chat21_observer::rules::policy::{Policy, Rules};
use chat21_observer::rules::router::Router;
use chat21_observer::rules::submission::Authority;
use chat21_observer::rules::webhook_event::{Event, EventKind};
use chat21_observer::rules::write::Write;
use chat21_observer::store::postgres::Target;
use chat21_observer::store::{
    self, Access, DeliveryResult, Demand, Disposition, Endpoints, LoggedPublishes, OfflineDelivery,
    Origin, OutboxRequest, Store, StoreLocation, Upkeep,
};

use super::{NOW, Spent, app, written};

/// Copies that the measured messages to a group come to.
const COPIES: usize = 100_000;
/// Direct messages with webhook events.
const DIRECT: usize = 20_000;
/// Direct messages that share a transaction.
const PER_BATCH: usize = 100;
/// Copies that share a transaction: a broker's window of 500.
const ROOM: usize = 500 / STEP;
const GROUP: &str = "group-5f1b2c3d4e6f";
const PASSWORD: &str = "observerpw";
const WEBHOOK: &str = "https://hooks.example.com/chat21/events";
const TEXT: &str = r#"{"text":"shall we meet at the station at half past six, as the last time?",
    "type":"text","sender_fullname":"Ada Lovelace","recipient_fullname":"Charles Babbage",
    "channel_type":"direct","attributes":{"tempUID":"0197a3c4d5e6f708"}}"#;

/// What a message to a group costs, by its members, and what it would without a row a member. Last,
/// where each member's inbox is as long as that of somebody who has been there for a while.
pub(crate) fn group() {
    for place in places() {
        for (members, inbox) in [(100, 0), (1_000, 0), (10_000, 0), (10_000, 200)] {
            for copies in [true, false] {
                let mut scene = Scene::open(&place);
                scene.copies = copies;
                scene.make_group(members);
                let from = name(0);
                let topic =
                    format!("apps/tilechat/outgoing/users/{from}/messages/{GROUP}/outgoing");
                scene.write(&topic, 1);
                place.fill_inboxes(inbox);
                scene.write(&topic, 1);
                let messages = COPIES / members;
                let spent = scene.measure(|scene| {
                    (0..messages).for_each(|_| scene.write(&topic, 1));
                });
                let what = if copies {
                    "a row a member"
                } else {
                    "no such rows"
                };
                println!(
                    "{place}, {members} members who have {inbox} messages, {what}: a message {}",
                    spent.each(messages)
                );
                println!("    a member {}", spent.each(messages * members));
            }
        }
        place.remove();
    }
}

/// What a direct message costs without webhooks, with one, and if its events held no payload.
pub(crate) fn webhook() {
    for place in places() {
        for events in [Events::None, Events::Whole, Events::Empty] {
            let mut scene = Scene::open(&place);
            scene.set_events(events);
            let topic = format!(
                "apps/tilechat/outgoing/users/{}/messages/{}/outgoing",
                name(0),
                name(1)
            );
            scene.write(&topic, PER_BATCH);
            let spent = scene.measure(|scene| {
                (0..DIRECT / PER_BATCH).for_each(|_| scene.write(&topic, PER_BATCH));
            });
            println!(
                "{place}, {events:?} events: a direct message {}",
                spent.each(DIRECT)
            );
        }
        place.remove();
    }
}

fn name(n: usize) -> String {
    format!("5f1b2c3d4e6f{n:012}")
}

/// What webhooks are told in a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Events {
    None,
    Whole,
    /// The events, but nothing of the message: the least that a reference to it could cost.
    Empty,
}

/// Where a store is.
enum Place {
    File(tempfile::TempDir),
    Postgres(String),
}

fn places() -> Vec<Place> {
    let mut places = vec![Place::File(tempfile::TempDir::new().expect("a directory"))];
    match std::env::var("BED_POSTGRESQL_PORT") {
        Ok(port) => places.push(Place::Postgres(port)),
        Err(_) => println!("without PostgreSQL: scripts/brokers up, scripts/brokers env"),
    }
    places
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File(_) => "SQLite",
            Self::Postgres(_) => "PostgreSQL",
        })
    }
}

impl Place {
    /// An empty store.
    fn open(&self) -> StoreLocation {
        match self {
            Self::File(dir) => {
                let _ = std::fs::remove_dir_all(dir.path().join("state"));
                StoreLocation::File(dir.path().join("state/observer.db"))
            }
            Self::Postgres(port) => {
                self.ask("DROP SCHEMA IF EXISTS bench CASCADE; CREATE SCHEMA bench");
                let url = format!(
                    "postgres://observer@127.0.0.1:{port}/postgres?options=-csearch_path%3Dbench"
                );
                let target: Target = url.parse().expect("a target");
                let password = Secret::new(PASSWORD.to_owned());
                StoreLocation::Postgres(Box::new(target.with_password(&password)))
            }
        }
    }

    /// Gives everybody so many older copies. No message belongs to them: nobody reads them.
    fn fill_inboxes(&self, copies: usize) {
        if copies == 0 {
            return;
        }
        match self {
            Self::File(dir) => {
                let path = dir.path().join("state/observer.db");
                let connection = rusqlite::Connection::open(path).expect("the store");
                let fill = format!(
                    "WITH RECURSIVE older(n) AS
                        (SELECT 1 UNION ALL SELECT n + 1 FROM older WHERE n < {copies})
                     INSERT INTO copy SELECT inbox, peer, -n, 150 FROM conversation_state, older
                     WHERE inbox <> peer"
                );
                connection.execute_batch(&fill).expect("copies");
            }
            Self::Postgres(_) => {
                let fill = format!(
                    "INSERT INTO bench.timeline SELECT app, inbox_of, -n, convers_with, 150
                        FROM bench.conversation, generate_series(1, {copies}) n
                        WHERE inbox_of <> convers_with"
                );
                self.ask(&fill);
                self.ask("ANALYZE");
                self.ask("CHECKPOINT");
            }
        }
    }

    fn remove(&self) {
        if let Self::Postgres(_) = self {
            self.ask("DROP SCHEMA IF EXISTS bench CASCADE");
        }
    }

    /// What the database answers.
    fn ask(&self, sql: &str) -> String {
        let Self::Postgres(port) = self else {
            return String::new();
        };
        let out = Command::new("psql")
            .env("PGPASSWORD", PASSWORD)
            .args([
                "-qAt",
                "-h",
                "127.0.0.1",
                "-U",
                "observer",
                "-d",
                "postgres",
                "-p",
            ])
            .args([port, "-c", sql])
            .output()
            .expect("psql");
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8(out.stdout)
            .expect("text")
            .trim()
            .to_owned()
    }

    /// Bytes that the tables take, and that were written ahead; what the database's own processes
    /// have spent, in nanoseconds. SQLite spends it here.
    fn figures(&self, store: &dyn Store) -> [f64; 3] {
        match self {
            Self::File(_) => {
                let used = store.stats().expect("figures").used_bytes;
                [used as f64, written() as f64, 0.0]
            }
            Self::Postgres(_) => {
                let sizes = self.ask(
                    "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class
                        WHERE relnamespace = 'bench'::regnamespace AND relkind = 'r';
                     SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn;
                     SELECT pid FROM pg_stat_activity
                        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
                );
                let mut lines = sizes.lines();
                let [tables, log] = [(); 2].map(|()| {
                    let line = lines.next().expect("a figure");
                    line.parse().expect("a number")
                });
                [tables, log, lines.map(cpu_of).sum()]
            }
        }
    }
}

/// Nanoseconds that a process has spent.
fn cpu_of(pid: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0.0)
}

/// What a measurement has spent.
struct Sum {
    cpu: f64,
    upkeep: f64,
    database: f64,
    wall: f64,
    kept: f64,
    written: f64,
    rows: usize,
    logged: usize,
}

impl Sum {
    fn each(&self, of: usize) -> String {
        let each = |sum: f64| sum / of as f64;
        format!(
            "{:.2} us of CPU, {:.2} of upkeep, {:.2} of the database, {:.2} us of wall clock, \
             {:.1} rows, {:.0} bytes kept, {:.0} written, {:.0} logged",
            each(self.cpu - self.upkeep) / 1e3,
            each(self.upkeep) / 1e3,
            each(self.database) / 1e3,
            each(self.wall) * 1e6,
            each(self.rows as f64),
            each(self.kept),
            each(self.written),
            each(self.logged as f64),
        )
    }
}

/// An observer without connections.
struct Scene<'p> {
    place: &'p Place,
    router: Router,
    store: Box<dyn Store>,
    upkeep: Option<Box<dyn Upkeep>>,
    ids: MessageIds,
    sent: u64,
    published: Vec<MessageId>,
    /// Whether members get rows.
    copies: bool,
    events: Events,
    results: Vec<DeliveryResult>,
    since_upkeep: usize,
    rows: usize,
    logged: usize,
    /// Nanoseconds.
    upkept: u64,
}

impl<'p> Scene<'p> {
    fn open(place: &'p Place) -> Self {
        let location = place.open();
        let store = store::open(&location, Access::Exclusive, OfflineDelivery::Broker);
        let store = store.expect("a store");
        let layouts = Layout::BUILT_IN
            .iter()
            .flat_map(|name| Layout::built_in(name).expect("built in"))
            .collect();
        Self {
            place,
            router: Router {
                layouts: TopicMap::new(layouts, vec![], &[], Controls::Served).expect("sound"),
                policy: Arc::new(Policy::new(BrokerKind::Any, Rules::default())),
                dead_letter_topic: None,
                events: [].into_iter().collect(),
            },
            upkeep: store.upkeep().expect("a connection"),
            store,
            ids: MessageIds::new(RandomState::new()),
            sent: 0,
            published: vec![],
            copies: true,
            events: Events::None,
            results: vec![],
            since_upkeep: 0,
            rows: 0,
            logged: 0,
            upkept: 0,
        }
    }

    fn set_events(&mut self, events: Events) {
        self.events = events;
        if events != Events::None {
            let kinds = [EventKind::MessageSent, EventKind::MessageDelivered];
            self.router.events = kinds.into_iter().collect();
            self.store.set_endpoints(Endpoints {
                names: vec![WEBHOOK.to_owned()],
                max_bytes: 64 << 20,
            });
        }
    }

    fn make_group(&mut self, members: usize) {
        let members: Vec<String> = (0..members).map(|n| format!("\"{}\":1", name(n))).collect();
        let members = members.join(",");
        let body = format!(
            "{{\"uid\":\"{GROUP}\",\"owner\":\"{}\",\"members\":{{{members}}}}}",
            name(0)
        );
        let group = Write::Group {
            app: app(),
            id: GROUP,
            body: body.into(),
        };
        let origin = self.origin();
        self.store.begin().expect("a transaction");
        self.store.apply(&group, &origin).expect("a group");
        self.store.commit().expect("a commit");
    }

    fn origin(&mut self) -> Origin {
        self.sent += 1;
        let now = UnixMillis::new(NOW + self.sent);
        Origin {
            promised: true,
            id: self.ids.next(now),
            fingerprint: Some(self.sent),
            repeated: false,
            now,
        }
    }

    fn measure(&mut self, work: impl FnOnce(&mut Self)) -> Sum {
        (self.rows, self.logged, self.upkept) = (0, 0, 0);
        let before = self.place.figures(self.store.as_ref());
        let (cpu, began) = (Spent::now().cpu, Instant::now());
        work(self);
        let (cpu, wall) = (Spent::now().cpu - cpu, began.elapsed().as_secs_f64());
        let after = self.place.figures(self.store.as_ref());
        Sum {
            cpu: cpu as f64,
            upkeep: self.upkept as f64,
            wall,
            kept: after[0] - before[0],
            written: after[1] - before[1],
            database: after[2] - before[2],
            rows: self.rows,
            logged: self.logged,
        }
    }

    /// Messages that come together. One to a group goes on in further batches.
    fn write(&mut self, topic: &str, messages: usize) {
        self.begin();
        let mut fan_outs = vec![];
        for _ in 0..messages {
            let origin = self.origin();
            fan_outs.extend(self.decide(topic, &origin).map(|fan_out| (origin, fan_out)));
        }
        self.commit();
        for (origin, mut fan_out) in fan_outs {
            let mut is_over = false;
            while !is_over {
                self.begin();
                for _ in 0..ROOM {
                    match self.step(&fan_out, &origin) {
                        Some(rest) => fan_out = rest,
                        None => {
                            is_over = true;
                            break;
                        }
                    }
                }
                self.commit();
            }
        }
    }

    fn begin(&mut self) {
        self.store.begin().expect("a transaction");
    }

    fn decide(&mut self, topic: &str, origin: &Origin) -> Option<FanOut> {
        let received = Received::new(topic.to_owned().into(), TEXT.into(), false);
        let mut addresses = self.router.address(&received).into_iter();
        self.store.prefetch(&mut addresses).expect("facts");
        let request = self.router.read(&received).expect("served");
        let arrival = Arrival {
            authority: Authority::default(),
            received: &received,
            id: origin.id,
            time: origin.now,
        };
        let plan = self
            .router
            .plan(&request, &arrival, self.store.as_mut())
            .expect("a plan");
        assert_eq!(plan.refusal, None);
        self.store.prefetch_copies(&plan.writes).expect("facts");
        for write in &plan.writes {
            self.store.apply(write, origin).expect("a write");
        }
        self.rows += plan.writes.len();
        let logged = LoggedPublishes {
            id: origin.id,
            came_on: topic.as_bytes(),
            first: 0,
            purpose: Purpose::Copy,
            publishes: &plan.publishes,
        };
        self.store.log(&logged).expect("a write");
        if let Some(text) = plan.fan_out.as_ref().map(FanOut::to_log) {
            self.store
                .log_fan_out(origin.id, topic.as_bytes(), &text)
                .expect("a write");
            self.logged += text.len();
        }
        let fan_out = plan.fan_out;
        let events = plan.events;
        self.enqueue(events, origin);
        self.published.push(origin.id);
        fan_out
    }

    fn step(&mut self, fan_out: &FanOut, origin: &Origin) -> Option<FanOut> {
        let step = fan_out.step(&self.router.layouts, Found::Nothing);
        if self.copies {
            self.store.prefetch_copies(&step.writes).expect("facts");
            for write in &step.writes {
                self.store.apply(write, origin).expect("a write");
            }
            self.rows += step.writes.len();
        }
        let events = step.events;
        self.store
            .log_position(origin.id, fan_out.position())
            .expect("a write");
        self.enqueue(events, origin);
        step.rest
    }

    fn enqueue(&mut self, events: Vec<Event>, origin: &Origin) {
        for mut event in events {
            if self.events == Events::Empty {
                event.data = Bytes::from_static(b"null");
            }
            self.store.enqueue(&event, origin.now).expect("a write");
            self.rows += 2;
        }
    }

    /// Ends a batch. What it has published is confirmed with the next one.
    fn commit(&mut self) {
        if self.events != Events::None {
            self.post();
        }
        self.store.commit().expect("a commit");
        self.begin();
        for id in std::mem::take(&mut self.published) {
            self.store.acknowledge(id).expect("a write");
            self.store.published(id).expect("a write");
        }
        self.store.commit().expect("a commit");
        self.since_upkeep += PER_BATCH * 3;
        if self.since_upkeep >= store::UPKEEP_DUE {
            self.since_upkeep = 0;
            let before = Spent::now().cpu;
            if let Some(upkeep) = &mut self.upkeep {
                upkeep.run().expect("upkeep");
            }
            self.upkept += Spent::now().cpu - before;
        }
    }

    /// The endpoint takes what is due.
    fn post(&mut self) {
        let request = OutboxRequest {
            results: std::mem::take(&mut self.results),
            demands: vec![Demand {
                endpoint: 0,
                deliveries: 2 * PER_BATCH,
                in_flight: vec![],
            }],
            ..OutboxRequest::default()
        };
        let now = UnixMillis::new(NOW + self.sent);
        let reply = self.store.serve_outbox(&request, now).expect("an answer");
        self.results = reply
            .deliveries
            .iter()
            .map(|delivery| DeliveryResult {
                endpoint: 0,
                seq: delivery.seq,
                disposition: Disposition::Delivered,
            })
            .collect();
    }
}
