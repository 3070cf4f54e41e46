//! The publishing connections.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{World, connected};
use crate::connections::publisher::PublisherEvent;
use crate::mqtt::far_end::{FarEnd, Packet};
use crate::mqtt::{Cause, LinkError};
use crate::observer::simulation::account::BAD;
use crate::observer::simulation::broker::{Down, Line};
use crate::observer::simulation::process::PUBLISHERS;
use crate::protocol::message::Received;

impl World {
    pub(super) fn broker_reads(&mut self) {
        let publisher = self.rng.usize(0..PUBLISHERS);
        self.broker_reads_of(publisher);
    }

    /// Returns whether there was something to read.
    pub(super) fn broker_reads_of(&mut self, publisher: usize) -> bool {
        let Some((line, _)) = &mut self.lines[publisher] else {
            return false;
        };
        if self.alarm {
            return false;
        }
        match line.up.pop_front() {
            Some(Packet::Publish {
                packet_id,
                topic,
                payload,
            }) => {
                let goes_to = |user: &&&str| topic.split('/').nth(3) == Some(**user);
                match BAD.iter().find(goes_to) {
                    Some(user) if self.bad && *user == BAD[0] => {}
                    Some(_) if self.bad => {
                        line.up.clear();
                        self.publisher_lost(publisher, Cause::Closed);
                    }
                    Some(_) | None => {
                        line.taken.push(packet_id);
                        self.take(&topic, &payload);
                    }
                }
                true
            }
            Some(Packet::Disconnect) => {
                self.publisher_lost(publisher, Cause::Renewed);
                true
            }
            Some(Packet::Ack(_) | Packet::Ping) | None => false,
        }
    }

    pub(super) fn take(&mut self, topic: &str, payload: &Bytes) {
        if *topic == self.probe {
            let topic = topic.to_owned().into();
            let received = Received::new(topic, payload.clone(), false);
            self.session.publish(received, None);
        } else {
            self.account.arrived(topic, payload);
        }
    }

    /// Nearly in order.
    pub(super) fn broker_confirms(&mut self) {
        let publisher = self.rng.usize(0..PUBLISHERS);
        if let Some((line, _)) = &mut self.lines[publisher]
            && !line.taken.is_empty()
        {
            let at = self.rng.usize(0..line.taken.len().min(4));
            let packet_id = line.taken.remove(at);
            line.down.push_back(Down::Confirmed(packet_id));
        }
    }

    pub(super) fn observer_hears(&mut self) {
        let publisher = self.rng.usize(0..PUBLISHERS);
        self.observer_hears_of(publisher);
    }

    /// Returns whether there was something to hear.
    pub(super) fn observer_hears_of(&mut self, publisher: usize) -> bool {
        if let Some((line, _)) = &mut self.lines[publisher]
            && let Some(Down::Confirmed(packet_id)) = line.down.pop_front()
        {
            let token = line.far_end.confirmed(packet_id);
            let confirmed = PublisherEvent::Confirmed {
                publisher,
                token: token.expect("it has published that"),
                outcome: Ok(()),
            };
            self.process().observer.handle_publisher(confirmed);
            return true;
        }
        false
    }

    pub(super) fn publisher_up(&mut self) {
        let publisher = self.rng.usize(0..PUBLISHERS);
        self.publisher_comes_up(publisher);
    }

    pub(super) fn publisher_comes_up(&mut self, publisher: usize) {
        if self.lines[publisher].is_some() {
            return;
        }
        let connected = connected(true);
        let (client, far_end) = FarEnd::new(&connected);
        let recycle = CancellationToken::new();
        self.lines[publisher] = Some((Line::new(far_end), recycle.clone()));
        self.process()
            .observer
            .handle_publisher(PublisherEvent::Up {
                publisher,
                client,
                connected,
                recycle,
            });
    }

    pub(super) fn publisher_lost(&mut self, publisher: usize, cause: Cause) {
        for _ in 0..self.rng.usize(0..4) {
            self.observer_hears_of(publisher);
        }
        let Some((line, _)) = self.lines[publisher].take() else {
            return;
        };
        line.far_end.end();
        let error = LinkError::new(cause, "simulated");
        let down = PublisherEvent::Down { publisher, error };
        self.process().observer.handle_publisher(down);
        // The broker may still read some of what was on the way, and all of it in order.
        if !self.alarm && cause != Cause::Closed {
            let most = self.rng.usize(0..4);
            for packet in line.up.into_iter().take(most) {
                if let Packet::Publish { topic, payload, .. } = packet {
                    let owner = topic.split('/').nth(3).unwrap_or_default();
                    if !(self.bad && BAD.contains(&owner)) {
                        self.take(&topic, &payload);
                    }
                }
            }
        }
    }
}
