//! What `check` tries of the exchange that shares messages out among slots.
//!
//! Observers that run say which of them got a message that was sent through it: nobody else may
//! read their sessions.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::report::Report;
use super::round_trip::own_app;
use super::{GLIMPSE, PATIENCE, connect};
use crate::config::Config;
use crate::connections::probe_client::ProbeClient;
use crate::connections::settings::LinkSettings;
use crate::mqtt::{LinkError, Session};
use crate::protocol::address::Address;
use crate::protocol::exchange::share_prefix;
use crate::protocol::topic::{TopicFilter, TopicName};
use crate::store::StoreLocation;
use crate::store::postgres::SharedBy;

/// How many messages are sent for each slot, each on a topic of its own: a slot gets none by chance
/// less than once in a million times.
const PER_SLOT: u16 = 32;
/// So many at least.
const MESSAGES: u16 = 64;
/// How many users are written to on the paths of each layout.
const RECIPIENTS: u16 = 8;
const STEP: &str = "slots";
const NO_OBSERVERS: &str = "no slot got a message: start the observers, which answer here";

/// Tries it, if that is how slots share the messages.
pub(super) async fn run(
    config: &Config,
    links: &LinkSettings,
    report: &mut Report,
) -> Result<(), LinkError> {
    let location = config.store.as_ref().map(|settings| &settings.location);
    let Some(StoreLocation::Postgres(target)) = location else {
        return Ok(());
    };
    if target.sharing() != SharedBy::Hash {
        return Ok(());
    }
    let mut client = connect(links.clone(), Session::Clean).await?;
    let read = config.rules.router.layouts.topics_read();
    let share = share_prefix(&config.name, &read, target.slots());
    let sent = messages(target.slots());
    let names = (&*config.name, &*share);
    let got = Got::collect(names, sent, &own_app(links), &mut client).await?;
    match got.verdict(target.slots()) {
        Ok(text) => {
            report.ok(STEP, text);
            paths(config, &own_app(links), &mut client, report).await?;
        }
        Err(text) => report.failed(STEP, text),
    }
    client.leave().await;
    Ok(())
}

/// How many messages tell whether each of the slots gets some.
fn messages(slots: u16) -> u16 {
    slots.saturating_mul(PER_SLOT).max(MESSAGES)
}

/// Which slots got which messages.
#[derive(Debug, Default)]
struct Got {
    sent: u16,
    by_message: BTreeMap<u16, Vec<u16>>,
}

impl Got {
    /// Sends messages through the exchange, on topics that begin so, and collects the answers of
    /// the observers of this name.
    async fn collect(
        (name, share): (&str, &str),
        sent: u16,
        own: &str,
        client: &mut ProbeClient,
    ) -> Result<Self, LinkError> {
        let filter = TopicFilter::parse("observer/+/share/+").expect("made of levels");
        client.subscribe(&[filter]).await?;
        for number in 0..sent {
            let topic = format!("{share}{own}-{number}");
            let topic = TopicName::parse(&topic).expect("made of levels");
            client.publish(topic, Bytes::from_static(b"check")).await?;
        }
        let mut got = Self {
            sent,
            ..Self::default()
        };
        // The observers send such messages, too: there is always something to come.
        let mut until = Instant::now() + PATIENCE;
        while let Ok(received) = client.message(left(until)).await {
            let topic = String::from_utf8_lossy(&received.topic);
            if let Some((slot, number)) = answer(&topic, name, own) {
                got.by_message.entry(number).or_default().push(slot);
            }
            if got.by_message.len() == usize::from(sent) {
                until = until.min(Instant::now() + GLIMPSE);
            }
        }
        Ok(got)
    }

    /// How the slots share them, or what is wrong.
    fn verdict(&self, slots: u16) -> Result<String, String> {
        let sent = self.sent;
        if self.by_message.is_empty() {
            return Err(format!(
                "{NO_OBSERVERS}. If they run: the exchange is not there, or nothing leads to it, \
                 or it is for other settings (rabbitmq-plugins enable \
                 rabbitmq_consistent_hash_exchange; import what `slots rabbitmq` prints with these)"
            ));
        }
        let of_slot = |slot| {
            let all = self.by_message.values().flatten();
            all.filter(|got| **got == slot).count()
        };
        let counts: Vec<usize> = (0..slots).map(of_slot).collect();
        let without: Vec<String> = (0..slots)
            .zip(&counts)
            .filter(|(_, count)| **count == 0)
            .map(|(slot, _)| slot.to_string())
            .collect();
        if !without.is_empty() {
            return Err(format!(
                "slot {} got none of {sent} messages: its queue is not bound (import what \
                 `slots rabbitmq` prints), or nobody serves it",
                without.join(", ")
            ));
        }
        let twice = self.by_message.values().filter(|got| got.len() > 1).count();
        if twice > 0 {
            return Err(format!(
                "{twice} of {sent} messages came to more than one slot: something else than \
                 the exchange leads to their queues"
            ));
        }
        let lost = usize::from(sent) - self.by_message.len();
        if lost > 0 {
            return Err(format!(
                "{lost} of {sent} messages came to no slot: a queue is bound to it that no \
                 observer reads"
            ));
        }
        let counts: Vec<String> = counts.iter().map(ToString::to_string).collect();
        Ok(format!(
            "{sent} messages came to one slot each: {}",
            counts.join(", ")
        ))
    }
}

/// How long there is until this moment; a little, if it is over: that ends the wait.
fn left(until: Instant) -> Duration {
    let left = until.saturating_duration_since(Instant::now());
    left.max(Duration::from_millis(1))
}

/// The slot that answers, and the number of the message it got.
fn answer(topic: &str, name: &str, own: &str) -> Option<(u16, u16)> {
    let rest = topic.strip_prefix("observer/")?.strip_prefix(name)?;
    let (slot, level) = rest.strip_prefix('-')?.split_once("/share/")?;
    let number = level.strip_prefix(own)?.strip_prefix('-')?;
    Some((slot.parse().ok()?, number.parse().ok()?))
}

/// Has the observers that run serve messages to several users on the paths of each layout: each
/// must arrive once.
async fn paths(
    config: &Config,
    app: &str,
    client: &mut ProbeClient,
    report: &mut Report,
) -> Result<(), LinkError> {
    let layouts = &config.rules.router.layouts;
    if !layouts.apps().is_empty() {
        report.note(
            STEP,
            "their paths were not tried: users of these apps may be writing",
        );
        return Ok(());
    }
    for layout in layouts.iter().filter(|layout| layout.fixed_app().is_none()) {
        let outgoing = layout.outgoing().as_str().replace("{app}", app);
        let mut wanted = BTreeMap::new();
        for number in 0..RECIPIENTS {
            let topic = outgoing
                .replace("{sender}", "check-s")
                .replace("{recipient}", &format!("check-r{number}"));
            let Ok(Address::Outgoing(address)) = layouts.parse(&topic) else {
                continue;
            };
            let inbox = layout.inbox_topic(address.app, address.recipient, address.sender);
            let filter = TopicFilter::parse(inbox.as_str()).expect("a topic name is a filter");
            client.subscribe(&[filter]).await?;
            wanted.insert(inbox.as_str().as_bytes().to_vec(), 0_usize);
            let topic = TopicName::parse(&topic).expect("it was parsed as a topic");
            client
                .publish(topic, Bytes::from_static(br#"{"text":"check"}"#))
                .await?;
        }
        let mut until = Instant::now() + PATIENCE;
        while let Ok(received) = client.message(left(until)).await {
            if let Some(count) = wanted.get_mut(&received.topic[..]) {
                *count += 1;
            }
            if wanted.values().all(|count| *count > 0) {
                until = until.min(Instant::now() + GLIMPSE);
            }
        }
        report_path(layout.name(), &wanted, report);
    }
    Ok(())
}

fn report_path(layout: &str, arrived: &BTreeMap<Vec<u8>, usize>, report: &mut Report) {
    let lost = arrived.values().filter(|count| **count == 0).count();
    let twice = arrived.values().filter(|count| **count > 1).count();
    let all = arrived.len();
    match (lost, twice) {
        (0, 0) => report.ok(
            STEP,
            format!("layout {layout}: {all} messages arrived once each"),
        ),
        (0, _) => report.failed(
            STEP,
            format!("layout {layout}: {twice} of {all} messages arrived more than once"),
        ),
        (..) => report.failed(
            STEP,
            format!(
                "layout {layout}: {lost} of {all} messages did not arrive: the exchange does not \
                 get them (import what `slots rabbitmq` prints again after a change of the layouts)"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn got(slots_of: impl Fn(u16) -> Vec<u16>) -> Got {
        got_of(messages(2), slots_of)
    }

    fn got_of(sent: u16, slots_of: impl Fn(u16) -> Vec<u16>) -> Got {
        let by_message = (0..sent).map(|number| (number, slots_of(number)));
        Got {
            sent,
            by_message: by_message.filter(|(_, slots)| !slots.is_empty()).collect(),
        }
    }

    #[test]
    fn what_is_wrong_is_told_from_who_got_what() {
        let fair = got(|number| vec![number % 2]);
        assert_eq!(
            fair.verdict(2),
            Ok("64 messages came to one slot each: 32, 32".to_owned())
        );
        let says = |got: &Got, slots, text: &str| {
            let told = got.verdict(slots).unwrap_err();
            assert!(told.contains(text), "{told}");
        };
        says(&Got::default(), 2, "no slot got a message");
        says(&fair, 3, "slot 2 got none of 64");
        says(&got(|_| vec![0, 1]), 2, "64 of 64 messages came to more");
        let left_over = got(|number| match number % 3 {
            2 => vec![],
            slot => vec![slot],
        });
        says(&left_over, 2, "21 of 64 messages came to no slot");
    }

    #[test]
    fn sixteen_slots_get_as_many_each_as_two() {
        let sent = messages(16);
        let fair = got_of(sent, |number| vec![number % 16]);
        let each = ["32"; 16].join(", ");
        let told = format!("512 messages came to one slot each: {each}");
        assert_eq!(fair.verdict(16), Ok(told));
        let without = got_of(sent, |number| vec![number % 15]);
        let told = without.verdict(16).unwrap_err();
        assert!(told.starts_with("slot 15 got none of 512"), "{told}");
    }

    #[test]
    fn an_answer_names_the_slot_and_the_message() {
        let of = |topic| answer(topic, "observer", "check-ab");
        assert_eq!(of("observer/observer-3/share/check-ab-17"), Some((3, 17)));
        assert_eq!(of("observer/observer/share/check-ab-17"), None);
        assert_eq!(of("observer/observer-3/share/check-cd-17"), None);
        assert_eq!(of("observer/other-3/share/check-ab-17"), None);
    }
}
