//! What is sent and what has come, while a measurement runs.
//!
//! Owns when the next message is due, and every count. It does no reading or writing: `load` hands
//! it what happens on the connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::plan::{Extent, Pace, Plan};
use super::process::Process;
use super::stand_in::{HandedOver, not_allowed, not_sent};
use super::wire::{Arrived, Names};
use crate::commands::send::refusal_text;
use crate::delivery::audit::{Arrival, Audit, MessageNumber, User};
use crate::mqtt::{Client, Delivery, Event, LinkError};
use crate::protocol::publish::Publish;
use crate::protocol::refusal::Refusal;
use crate::protocol::topic::TopicName;

/// Where a sender writes to, and who gets it.
struct Route {
    topic: TopicName,
    recipients: Arc<[User]>,
}

/// A message that was sent.
struct Sent {
    due: Instant,
    /// Copies that have not arrived.
    awaited: u32,
}

/// What is done at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// One message shows whether anybody answers.
    Trying,
    WarmingUp,
    Measuring,
    /// Nothing more is sent.
    Over,
}

/// What is measured in the window.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    pub(super) length: Duration,
    /// Copies that arrived at others than their senders.
    pub(super) delivered: u64,
    /// Messages all of whose copies have arrived.
    pub(super) completed: u64,
    pub(super) cpu: Option<Duration>,
    /// Microseconds from when a message was due to each copy's arrival, also after the window.
    pub(super) latencies: Vec<u32>,
}

/// The state of one measurement.
pub(super) struct Traffic {
    names: Names,
    clients: Vec<Client>,
    routes: Vec<Route>,
    tail: Vec<u8>,
    handed_over: Option<mpsc::UnboundedSender<HandedOver>>,
    process: Option<Process>,
    pace: Pace,
    extent: Extent,
    warm_up: Duration,
    phase: Phase,
    /// When the warm-up began, and then the window.
    began: Instant,
    cpu_before: Option<Duration>,
    first_measured: u32,
    sent: Vec<Sent>,
    under_way: usize,
    unconfirmed: usize,
    pub(super) window: Window,
    pub(super) audit: Audit,
    /// By reason, and what the first of each said.
    pub(super) refusals: BTreeMap<String, (u64, String)>,
    pub(super) failure: Option<LinkError>,
    pub(super) last_arrival: Instant,
}

impl Traffic {
    pub(super) fn new(
        plan: &Plan,
        pace: Pace,
        names: Names,
        clients: Vec<Client>,
        handed_over: Option<mpsc::UnboundedSender<HandedOver>>,
        process: Option<Process>,
    ) -> Self {
        let members: Option<Arc<[User]>> = plan.group_size.map(|size| (0..size).collect());
        let route = |sender: User| match &members {
            Some(members) => Route {
                topic: names.outgoing(sender, &names.group()),
                recipients: members.clone(),
            },
            None => {
                let recipient = plan.senders + sender;
                Route {
                    topic: names.outgoing(sender, &names.user(recipient)),
                    recipients: [sender, recipient].into(),
                }
            }
        };
        let channel = if members.is_some() { "group" } else { "direct" };
        let now = Instant::now();
        Self {
            routes: (0..plan.senders).map(route).collect(),
            tail: names.tail(channel, plan.payload_bytes),
            names,
            clients,
            handed_over,
            process,
            pace,
            extent: plan.extent,
            warm_up: plan.warm_up,
            phase: Phase::Trying,
            began: now,
            cpu_before: None,
            first_measured: u32::MAX,
            sent: vec![],
            under_way: 0,
            unconfirmed: 0,
            window: Window::default(),
            audit: Audit::default(),
            refusals: BTreeMap::new(),
            failure: None,
            last_arrival: now,
        }
    }

    /// Sends one message, before all others.
    pub(super) fn try_one(&mut self) {
        self.publish(Instant::now());
    }

    /// Begins to send.
    pub(super) fn begin(&mut self, now: Instant) {
        self.phase = Phase::WarmingUp;
        (self.began, self.last_arrival) = (now, now);
        self.refill(now);
    }

    /// Sends nothing more.
    pub(super) fn stop(&mut self, now: Instant) {
        if self.phase == Phase::Measuring {
            self.close_window(now);
        }
        self.phase = Phase::Over;
    }

    /// Ends all connections in order.
    pub(super) fn leave(&mut self) {
        for client in &self.clients {
            // One that has ended needs no leave.
            let _ = client.disconnect();
        }
    }

    /// Whether everything that was sent is accounted for, and nothing more will be sent.
    pub(super) fn is_finished(&self) -> bool {
        let all_here = self.under_way == 0 && self.unconfirmed == 0;
        all_here && matches!(self.phase, Phase::Trying | Phase::Over)
    }

    /// Whether nothing more is sent.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Takes what has happened on a connection.
    pub(super) fn handle(&mut self, connection: usize, event: Event) {
        match event {
            Event::Message(delivery) => self.receive(connection, &delivery),
            Event::Confirmed { token, outcome } => {
                self.unconfirmed -= 1;
                match (outcome, u32::try_from(token)) {
                    (Ok(()), Ok(token)) => self.audit.confirmed(MessageNumber::new(token)),
                    (Err(reason), _) => self.fail(not_allowed(reason.as_str())),
                    (Ok(()), Err(_)) => {}
                }
            }
            Event::Subscribed(_) | Event::Disconnected => {}
        }
    }

    pub(super) fn fail(&mut self, error: LinkError) {
        self.failure.get_or_insert(error);
        self.phase = Phase::Over;
    }

    /// Sends the message that is due now, of a load that is paced.
    pub(super) fn send_due(&mut self, due: Instant, now: Instant) {
        match self.phase {
            Phase::WarmingUp if due >= self.began + self.warm_up => self.open_window(due),
            Phase::WarmingUp | Phase::Measuring => {}
            Phase::Trying | Phase::Over => return,
        }
        self.publish(due);
        if self.phase == Phase::Measuring && self.is_enough(due, now) {
            self.stop(now);
        }
    }

    /// Sends as many as may be under way, of a load that is not paced.
    fn refill(&mut self, now: Instant) {
        let Pace::UnderWay(most) = self.pace else {
            return;
        };
        while self.under_way < most as usize {
            match self.phase {
                Phase::WarmingUp if now >= self.began + self.warm_up => self.open_window(now),
                Phase::Measuring if self.is_enough(now, now) => self.stop(now),
                Phase::WarmingUp | Phase::Measuring => {}
                Phase::Trying | Phase::Over => return,
            }
            if self.phase == Phase::Over {
                return;
            }
            self.publish(now);
        }
    }

    fn open_window(&mut self, now: Instant) {
        self.phase = Phase::Measuring;
        self.began = now;
        self.first_measured = u32::try_from(self.sent.len()).unwrap_or(u32::MAX);
        self.cpu_before = self.cpu();
    }

    fn close_window(&mut self, now: Instant) {
        self.window.length = now.saturating_duration_since(self.began);
        let cpu = self.cpu().zip(self.cpu_before);
        self.window.cpu = cpu.map(|(after, before)| after.saturating_sub(before));
    }

    fn cpu(&self) -> Option<Duration> {
        self.process.as_ref()?.cpu().ok()
    }

    /// Whether the window holds what it should.
    fn is_enough(&self, due: Instant, now: Instant) -> bool {
        match (self.extent, self.pace) {
            (Extent::Messages(count), _) => {
                self.sent.len() >= self.first_measured as usize + count as usize
            }
            (Extent::Time(time), Pace::UnderWay(_)) => now >= self.began + time,
            // The last one is due one pause before the end.
            (Extent::Time(time), Pace::Rate(rate)) => {
                due + Duration::from_secs(1) / rate >= self.began + time
            }
        }
    }

    fn publish(&mut self, due: Instant) {
        let sender = self.sent.len() % self.routes.len();
        let route = &self.routes[sender];
        let recipients = route.recipients.clone();
        let awaited = u32::try_from(recipients.len()).unwrap_or(u32::MAX);
        let number = self.audit.published(user(sender), recipients);
        let payload = Bytes::from(self.names.payload(number, &self.tail));
        if let Some(handed_over) = &self.handed_over {
            // Its end ends the measurement elsewhere.
            let _ = handed_over.send((route.topic.clone(), payload.clone()));
        }
        let publish = Publish::new(route.topic.clone(), payload);
        self.sent.push(Sent { due, awaited });
        self.under_way += 1;
        self.unconfirmed += 1;
        let client = &self.clients[sender % self.clients.len()];
        if let Err(error) = client.publish(u64::from(number.get()), &publish) {
            self.fail(not_sent(error));
        }
    }

    fn receive(&mut self, connection: usize, delivery: &Delivery) {
        if let Some(packet_id) = delivery.packet_id
            && let Err(error) = self.clients[connection].acknowledge(packet_id)
        {
            return self.fail(not_sent(error));
        }
        let received = &delivery.received;
        match self.names.read(&received.topic, &received.payload) {
            Arrived::Copy(number, recipient, id) => {
                let arrival = self.audit.received(number, recipient, id);
                if arrival == Arrival::First {
                    self.arrive(number, recipient);
                }
            }
            Arrived::Refusal(number) => self.refuse(number, &received.payload),
            Arrived::Other => {}
        }
    }

    fn arrive(&mut self, number: MessageNumber, recipient: User) {
        let now = Instant::now();
        self.last_arrival = now;
        let Some(sent) = self.sent.get_mut(number.get() as usize) else {
            return;
        };
        if self.audit.sender(number) != Some(recipient) {
            if number.get() >= self.first_measured {
                let latency = now.saturating_duration_since(sent.due).as_micros();
                let latency = u32::try_from(latency).unwrap_or(u32::MAX);
                self.window.latencies.push(latency);
            }
            self.window.delivered += u64::from(self.phase == Phase::Measuring);
        }
        if sent.awaited > 0 {
            sent.awaited -= 1;
            if sent.awaited == 0 {
                self.window.completed += u64::from(self.phase == Phase::Measuring);
                self.under_way -= 1;
                self.refill(now);
            }
        }
    }

    fn refuse(&mut self, number: MessageNumber, notice: &[u8]) {
        let Some(sent) = self.sent.get_mut(number.get() as usize) else {
            return;
        };
        if sent.awaited > 0 {
            sent.awaited = 0;
            self.under_way -= 1;
        }
        self.last_arrival = Instant::now();
        self.audit.refused(number);
        let notice: Value = serde_json::from_slice(notice).unwrap_or_default();
        let reason = notice["reason"].as_str().unwrap_or("unknown").to_owned();
        let is_limit = reason == Refusal::RateLimited.as_str();
        let text = || refusal_text(&notice).unwrap_or_default();
        let (count, _) = self.refusals.entry(reason).or_insert_with(|| (0, text()));
        *count += 1;
        // Beyond the limit nothing is measured, and the sender is not told of each refusal.
        if is_limit && self.phase != Phase::Trying {
            self.stop(self.last_arrival);
        }
        self.refill(self.last_arrival);
    }
}

fn user(index: usize) -> User {
    User::try_from(index).unwrap_or(User::MAX)
}
