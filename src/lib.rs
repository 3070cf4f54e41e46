//! `chat21-observer` turns an MQTT broker into a Chat21 messaging backend.
//!
//! # The walk of one message
//!
//! The observer's task ([`Observer::run`]) takes what comes in and then acts ([`Observer::act`]).
//!
//! 1. **Session.** The session's connection reports a PUBLISH as a [`SessionEvent::Message`].
//! 2. **Admit.** [`Observer::handle_message`] asks [`Ledger::admit`] whether a QoS 1 message has
//!    come before. [`Inbound::admit`] gives it an id, or the id it had, charges it to its sender's
//!    limits ([`SenderLimits::charge`]), and enters it into the ledger. A message over the limits
//!    is refused here. If there is a decision service, it is asked ([`DecisionService::ask`]). With
//!    a store, a batch logs the message first ([`DeliveryLog::log_question`]), and it is
//!    acknowledged.
//! 3. **Batch.** [`Processing::begin`] takes the [`PendingMessage`]s that wait and hands them to
//!    [`Processor::process`]: in the store's thread ([`store::thread`]), or, with no store, at
//!    once.
//! 4. **Request.** [`Router::read`] turns topic and payload into a [`Request`], or a refusal.
//! 5. **Facts and plan.** [`Router::plan`] looks up the facts of that kind of request in a
//!    [`FactSource`], and makes its [`Plan`]: publishes, writes, events, and a [`FanOut`] for what
//!    goes out in steps.
//! 6. **Store.** [`Persistence::apply`] writes what the plan says, and queues its webhook events;
//!    [`DeliveryLog::log`] writes down what is to be published; [`Store::commit`] makes the batch
//!    durable. Nothing is published or acknowledged before that.
//! 7. **Ack.** [`Observer::handle_decided`] adds the publishes to the ledger ([`Ledger::add`]). A
//!    message whose publishes are logged is acknowledged in its turn ([`Ledger::logged`],
//!    [`Session::acknowledge`]); without a store it waits for step 9.
//! 8. **Publish queues.** [`Publishers::publish`] hands the publishes to the publishing
//!    connections, in order.
//! 9. **Confirmation.** The broker's PUBACK comes back through [`Publishers::handle`] to
//!    [`Ledger::handle_confirmed`]. The log forgets a message of which everything is confirmed with
//!    the next batch ([`Ledger::take_published`], [`DeliveryLog::published`]).
//!
//! What a client of the HTTP API writes ([`http::api`]) takes the same way: [`Inbound::submit`]
//! admits it, and [`Submissions::handle_decided`] answers the client when its batch is committed.
//! What such a client reads, it reads beside all this ([`store::reader`]).
//!
//! While the broker takes no publishes, step 7 leaves them to the log ([`Backlog`]). They are read
//! from there when there is room again ([`Processing::handle_read`]), and so is what an earlier
//! process has left.
//!
//! # The layers
//!
//! Each folder is a layer. An import points to a lower layer, or stays in its folder; a test
//! (`tests/it/layers.rs`) enforces that.
//!
//! | layer | folder | what it owns |
//! |---|---|---|
//! | 1 | [`protocol`] | what travels on the wire |
//! | 1 | [`guide`] | the chapters for operators |
//! | 2 | [`rules`] | what becomes of a request |
//! | 2 | [`auth`] | secrets, tokens, credentials |
//! | 3 | [`delivery`] | which publish waits for what, and what may be acknowledged |
//! | 3 | [`store`] | what is remembered, and the thread that writes it |
//! | 3 | [`mqtt`] | one connection to a broker; the only folder that names the MQTT client |
//! | 4 | [`telemetry`] | log, metrics, health, status, trace; the clock |
//! | 5 | [`connections`] | connections that come back by themselves |
//! | 5 | [`http`] | the API, the console and health, the decision service, webhooks |
//! | 6 | [`config`] | settings |
//! | 7 | [`observer`] | the task that ties these together |
//! | 8 | [`commands`] | the command line |
//!
//! `protocol`, `rules` and `delivery` are pure: no I/O, no clock, no SQL. `auth` reads no clock
//! either, but reads the files that hold secrets.
//!
//! [`SessionEvent::Message`]: connections::session::SessionEvent::Message
//! [`Observer::run`]: observer::event_loop::Observer::run
//! [`Observer::act`]: observer::event_loop::Observer::act
//! [`Observer::handle_message`]: observer::event_loop::Observer::handle_message
//! [`Observer::handle_decided`]: observer::event_loop::Observer::handle_decided
//! [`Backlog`]: delivery::backlog::Backlog
//! [`Processing::handle_read`]: observer::processing::Processing::handle_read
//! [`Ledger::admit`]: delivery::ledger::Ledger::admit
//! [`Ledger::add`]: delivery::ledger::Ledger::add
//! [`Ledger::handle_confirmed`]: delivery::ledger::Ledger::handle_confirmed
//! [`Inbound::admit`]: observer::inbound::Inbound::admit
//! [`SenderLimits::charge`]: rules::rate_limit::SenderLimits::charge
//! [`Inbound::submit`]: observer::inbound::Inbound::submit
//! [`Submissions::handle_decided`]: observer::submissions::Submissions::handle_decided
//! [`DecisionService::ask`]: http::decision_service::DecisionService::ask
//! [`Processing::begin`]: observer::processing::Processing::begin
//! [`PendingMessage`]: delivery::pending::PendingMessage
//! [`Processor::process`]: observer::processor::Processor::process
//! [`Router::read`]: rules::router::Router::read
//! [`Router::plan`]: rules::router::Router::plan
//! [`Request`]: protocol::request::Request
//! [`FactSource`]: rules::facts::FactSource
//! [`Plan`]: rules::plan::Plan
//! [`FanOut`]: rules::fan_out::FanOut
//! [`Persistence::apply`]: observer::processor::Persistence::apply
//! [`DeliveryLog::log`]: store::DeliveryLog::log
//! [`DeliveryLog::log_question`]: store::DeliveryLog::log_question
//! [`DeliveryLog::published`]: store::DeliveryLog::published
//! [`Store::commit`]: store::Store::commit
//! [`Ledger::logged`]: delivery::ledger::Ledger::logged
//! [`Ledger::take_published`]: delivery::ledger::Ledger::take_published
//! [`Publishers::publish`]: observer::publishers::Publishers::publish
//! [`Publishers::handle`]: observer::publishers::Publishers::handle
//! [`Session::acknowledge`]: observer::session::Session::acknowledge

#![allow(
    rustdoc::private_intra_doc_links,
    reason = "the documentation is for developers: it is built with private items"
)]

pub mod auth;
pub mod commands;
pub mod config;
pub mod connections;
pub mod delivery;
pub mod guide;
pub mod http;
pub mod mqtt;
pub mod observer;
pub mod protocol;
pub mod rules;
pub mod store;
pub mod telemetry;
