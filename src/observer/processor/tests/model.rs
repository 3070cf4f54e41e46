//! A property: whatever comes, in whatever order, the store holds what a simple model says.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::with_store::Bench;
use crate::protocol::message_id::MessageId;
use crate::store::OfflineDelivery;

#[derive(Clone, Debug)]
enum Event {
    Forward {
        from: u8,
        to: u8,
        listed: bool,
    },
    Receipt {
        by: u8,
        nth: usize,
        seen: bool,
    },
    Archive {
        of: u8,
        with: u8,
    },
    Patch {
        of: u8,
        with: u8,
        is_new: bool,
    },
    /// The broker delivers everything since the `nth` event again: the observer was killed before
    /// it acknowledged that.
    Redelivery {
        nth: usize,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let user = 0..3_u8;
    let forward = (user.clone(), 0..4_u8, prop::bool::weighted(0.8));
    let receipt = (user.clone(), 0..50_usize, any::<bool>());
    let archive = (user.clone(), 0..4_u8);
    let patch = (user, 0..4_u8, any::<bool>());
    prop_oneof![
        4 => forward.prop_map(|(from, to, listed)| Event::Forward { from, to, listed }),
        4 => receipt.prop_map(|(by, nth, seen)| Event::Receipt { by, nth, seen }),
        2 => archive.prop_map(|(of, with)| Event::Archive { of, with }),
        2 => patch.prop_map(|(of, with, is_new)| Event::Patch { of, with, is_new }),
        1 => (0..50_usize).prop_map(|nth| Event::Redelivery { nth }),
    ]
}

/// Three users, and the group that all of them are in.
const NAMES: [&str; 4] = ["u0", "u1", "u2", "group-1"];

type Name = &'static str;

/// A list of copies for each timeline, and a row for each conversation: the obvious way.
#[derive(Default)]
struct Model {
    /// By owner and other side: ids and statuses.
    copies: BTreeMap<(Name, Name), Vec<(String, i64)>>,
    rows: BTreeMap<(Name, Name), Row>,
    /// Id, sender, recipient.
    messages: Vec<(String, Name, Name)>,
}

#[derive(Clone, Default)]
struct Row {
    /// The id of the last message.
    last: Option<String>,
    is_new: bool,
    archived: bool,
}

impl Model {
    fn forward(&mut self, id: &str, from: Name, to: Name, listed: bool) {
        let mut copies = vec![];
        if to == "group-1" {
            copies.extend(
                ["group-1", "u0", "u1", "u2"].map(|of| (of, to, if of == to { 100 } else { 150 })),
            );
        } else {
            if from != to {
                copies.push((from, to, 100));
            }
            copies.push((to, from, 150));
        }
        if !self.messages.iter().any(|(known, ..)| known == id) {
            self.messages.push((id.to_owned(), from, to));
        }
        for (of, with, status) in copies {
            let timeline = self.copies.entry((of, with)).or_default();
            if !timeline.iter().any(|(known, _)| known == id) {
                timeline.push((id.to_owned(), status));
            }
            let row = self.rows.get(&(of, with));
            let last = row.and_then(|row| row.last.as_deref());
            if listed && last.is_none_or(|last| last <= id) {
                let row = Row {
                    last: Some(id.to_owned()),
                    is_new: true,
                    archived: false,
                };
                self.rows.insert((of, with), row);
            }
        }
    }

    fn raise(&mut self, of: Name, with: Name, id: &str, to: i64) {
        for (known, status) in self.copies.entry((of, with)).or_default() {
            if known == id {
                *status = to.max(*status);
            }
        }
    }

    fn receipt(&mut self, by: Name, nth: usize, seen: bool) -> Option<(String, Name)> {
        let readable: Vec<_> = self
            .messages
            .iter()
            .filter(|(_, from, to)| *from != by && (*to == by || *to == "group-1"))
            .cloned()
            .collect();
        let (id, from, to) = readable.get(nth % readable.len().max(1))?.clone();
        let with = if to == "group-1" { to } else { from };
        let (own, peers) = if seen { (300, 300) } else { (200, 250) };
        let mine = self.copies[&(by, with)]
            .iter()
            .find(|(known, _)| *known == id)?
            .1;
        if mine <= own {
            self.raise(by, with, &id, own);
            let (of, with) = if to == "group-1" {
                (to, to)
            } else {
                (from, by)
            };
            self.raise(of, with, &id, peers);
        }
        Some((id, with))
    }

    fn dump(&self) -> Vec<String> {
        let copies = self.copies.iter().flat_map(|((of, with), copies)| {
            copies
                .iter()
                .map(move |(id, status)| format!("copy a {of} {with} {id} {status}"))
        });
        let mut rows: Vec<_> = self
            .rows
            .iter()
            .map(|((of, with), row)| {
                let id = row.last.as_deref().unwrap_or("-");
                let (new, archived) = (i32::from(row.is_new), i32::from(row.archived));
                format!("row a {of} {with} {id} new={new} archived={archived} 0")
            })
            .collect();
        rows.sort();
        copies.chain(rows).collect()
    }
}

/// A message as the broker would deliver it again.
struct Taken {
    topic: String,
    payload: String,
    id: MessageId,
}

/// The store and the model, side by side.
struct Pair {
    bench: Bench,
    model: Model,
    log: Vec<Taken>,
}

impl Pair {
    fn new() -> Self {
        let mut bench = Bench::in_memory(OfflineDelivery::Broker);
        let members = json!({"u0": 1, "u1": 1, "u2": 1});
        let group = json!({"group": {"uid": "group-1", "members": members}});
        bench.take("observer/a/groups/update", &group.to_string());
        Self {
            bench,
            model: Model::default(),
            log: vec![],
        }
    }

    /// The store takes a message. Returns its id.
    fn take(&mut self, topic: String, payload: String) -> MessageId {
        let id = self.bench.take(&topic, &payload);
        self.log.push(Taken { topic, payload, id });
        id
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Forward { from, to, listed } => {
                let (from, to) = (NAMES[usize::from(from)], NAMES[usize::from(to)]);
                let payload = match listed {
                    true => json!({}),
                    false => json!({"attributes": {"updateconversation": false}}),
                };
                let topic = format!("a/users/{from}/messages/{to}/outgoing");
                let id = self.take(topic, payload.to_string());
                self.model.forward(&id.to_string(), from, to, listed);
            }
            Event::Receipt { by, nth, seen } => {
                let by = NAMES[usize::from(by)];
                if let Some((id, with)) = self.model.receipt(by, nth, seen) {
                    let topic = format!("a/users/{by}/messages/{with}/{id}/update");
                    let status = if seen { 300 } else { 200 };
                    self.take(topic, json!({ "status": status }).to_string());
                }
            }
            Event::Archive { of, with } => {
                let (of, with) = (NAMES[usize::from(of)], NAMES[usize::from(with)]);
                let topic = format!("a/users/{of}/conversations/{with}/archive");
                self.take(topic, String::new());
                self.model.rows.entry((of, with)).or_default().archived = true;
            }
            Event::Patch { of, with, is_new } => {
                let (of, with) = (NAMES[usize::from(of)], NAMES[usize::from(with)]);
                let topic = format!("a/users/{of}/conversations/{with}/update");
                self.take(topic, json!({ "is_new": is_new }).to_string());
                self.model.rows.entry((of, with)).or_default().is_new = is_new;
            }
            Event::Redelivery { nth } => {
                // In the order it came before, each under its id: the model does not change.
                for taken in &self.log[nth % (self.log.len() + 1)..] {
                    let Taken { topic, payload, id } = taken;
                    self.bench.take_as(topic, payload, *id, true);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn the_store_equals_a_simple_model_whatever_comes_in_whatever_order(
        events in prop::collection::vec(event(), 0..40)
    ) {
        let mut pair = Pair::new();
        for event in &events {
            pair.happen(event);
        }
        let (mut stored, mut expected) = (pair.bench.contents(&NAMES), pair.model.dump());
        stored.sort();
        expected.sort();
        prop_assert_eq!(stored, expected);
        prop_assert!(pair.bench.store().check().unwrap().is_empty());
    }
}
