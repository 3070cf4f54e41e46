//! One connection to a broker, over MQTT 5 or 3.1.1.
//!
//! Owns the MQTT client crate, rumqttc: no other folder names it. Leaves reconnecting to
//! [`connections`](crate::connections), and which publish is under way to the ledger in
//! [`delivery`](crate::delivery).
//!
//! A [`Connection`] is good for one connection: after its first error it is dropped. The crate's
//! codecs read and write the packets; its event loop is not used. It flushes after each packet,
//! gives packet identifiers out that are in use, and replays publishes after a reconnect, which
//! loses some (rumqttc 0.25.1).
//!
//! # What that event loop does, and what is here instead
//!
//! What is known of version 0.25.1; what is here instead; and, in brackets, what would show it.
//!
//! - It delivers events of the old connection on the new one, whose acks then settle other
//!   messages. Here: a connection is dropped with its events and its outbox.
//!   (`an_ack_never_goes_out_on_another_connection_than_its_message_came_on`)
//! - It drops unconfirmed publishes at a reconnect, or replays them past the broker's limit,
//!   without DUP and in another order. Here: nothing is replayed: the ledger publishes again, under
//!   the same message id. (`a_publish_not_confirmed_in_time_goes_out_again_and_the_session_stays`,
//!   the simulation)
//! - It gives out identifiers in use, stops until they are free, and counts past the broker's
//!   limit. Here: [`packet_ids`] skips them, and begins anew with each connection.
//!   (`no_identifier_is_used_twice`,
//!   `confirmations_out_of_order_stall_nothing_and_acks_keep_their_order`)
//! - It takes a PUBACK that refuses for a confirmation; a further one ends the connection.
//!   Here: an outcome with its reason; answers to nothing are ignored.
//!   (`an_answer_counts_for_what_it_answers`,
//!   `a_forward_mosquitto_refuses_with_a_reason_is_set_aside`)
//! - Acks wait behind publishes, both behind events. Here: acks pass publishes that are
//!   held, and both go out however much comes in.
//!   (`a_stalled_publisher_does_not_silence_the_session`,
//!   `a_socket_that_always_has_something_does_not_keep_pings_and_acks_from_going_out`)
//! - It tells nobody which publish has which identifier. Here: each has a token
//!   ([`packet_ids`]). (`an_answer_counts_for_what_it_answers`)
//! - It loses what is under way if a call is cancelled. Here: events and outbox outlive the
//!   call ([`Connection::next`]).
//!   (every fault of `soak` and `campaign`: the observer's task waits in `select!`)
//! - It writes without a limit, and reads nothing meanwhile. Here: reads and writes do not wait
//!   for each other. (`a_broker_that_does_not_read_stops_no_reading_and_holds_few_bytes`)
//! - It pings by a timer alone; PINGRESP behind much else is late; a keep-alive of 0 is a
//!   storm. Here: [`keep_alive`]. (`an_answer_may_stand_behind_much_else_in_either_direction`,
//!   `a_server_keep_alive_of_zero_is_no_ping_storm`)
//! - It ends the connection at 10 KiB, again and again; v5 says nothing of that to the broker.
//!   Here: the largest packet there is may come, and the broker is told so; what is too large for
//!   the broker is refused before.
//!   (`payloads_on_rabbitmq3` and its neighbours,
//!   `a_publish_over_the_brokers_limit_does_not_fit`)
//! - It makes a refused filter a line in the log; SUBSCRIBE shares identifiers with publishes.
//!   Here: without the filters nobody can do without it is not ready; identifiers are kept for it.
//!   (`a_refused_subscription_is_named_and_readiness_never_comes`,
//!   `what_is_not_in_use_or_stands_for_something_else_is_not_released`)
//! - It waits for ever for a PUBACK that RabbitMQ does not send. Here: `--ack-timeout`, then
//!   quarantine. (`a_forward_rabbitmq3_refuses_is_set_aside`,
//!   `a_forward_rabbitmq4_refuses_is_set_aside`)
//! - A persistent session needs two settings in v5; options change with each CONNACK. Here:
//!   `v5.rs` sets both; options are only read.
//!   (`the_session_persists_and_its_identifier_is_secret_and_stays_the_same`)
//! - It delivers without a topic where a topic alias is used. Here: none is offered, so no
//!   broker may use one.
//! - It swallows DISCONNECT and PUBACK in their short forms. Here: `by_hand.rs` reads them.
//!   (`the_reason_of_a_disconnect_counts_in_each_of_its_forms`,
//!   `answers_are_read_in_each_of_their_forms`)
//! - DISCONNECT waits behind publishes, then it connects again; dropped, it leaves the will
//!   behind. Here: DISCONNECT is the last packet, and nobody connects again.
//!   (`sigterm_finishes_what_is_under_way_and_disconnects_last`)
//! - It writes topics that are too long or hold NUL; panics on topics in `matches`. Here:
//!   [`TopicName`](crate::protocol::topic::TopicName) holds valid ones alone; an own matcher.
//!   (`topics_on_rabbitmq3` and its neighbours, the fuzz targets `messages` and `packets`)
//! - Two loops of one identifier take each other over for ever. Here: publishers have
//!   identifiers of their own; a second observer stops.
//!   (`a_takeover_told_by_its_reason_is_reported_loudly_and_waited_out`)
//! - It acknowledges before anybody has the message, if not told otherwise; Nagle's algorithm
//!   is on. Here: there is no such mode; `transport.rs` turns it off.

mod by_hand;
mod client;
mod codec;
mod connection;
mod error;
mod event;
#[cfg(test)]
pub(crate) mod far_end;
#[cfg(fuzzing)]
pub mod fuzzing;
mod keep_alive;
mod options;
mod outbox;
mod packet_ids;
mod pump;
mod socket;
mod transport;
mod v4;
mod v5;

pub use client::Client;
pub use connection::{Connection, Opened, open};
pub use error::{Cause, LinkError, SubmitError, Symptom};
pub use event::{Connected, Delivery, Event, ReasonCode};
pub use options::{ConnectOptions, Protocol, Proxy, Session, Transport, without_query};
pub use outbox::Pings;
