//! `chat21-observer` turns an MQTT broker into a Chat21 messaging backend.
//!
//! Users write to their own *outgoing* paths and read their own *inbox*; the observer, a privileged client, sees every
//! outgoing message, decides who may get it, and publishes it into the recipients' inboxes.
//!
//! # The way of a message
//! [`broker`] reads a PUBLISH on the session's connection and hands it to [`daemon`], which asks
//! 1. [`forward`] whether it has come before (a redelivery), and has it keep a place for the message; [`rate`], whether
//!    its sender has said too much; [`consult`], what the operator's decision service says of it, if there is one,
//! 2. [`processor`], with all that came together, for what it leads to: [`routing`] decodes ([`layout`], [`topic`], [`id`];
//!    [`policy`], [`message`], [`control`], [`group`]), the [`store`] looks up the facts, `routing` makes a plan ([`effect`],
//!    [`conversation`], and [`fan_out`] for what goes to many), the store writes it down; one commit for all,
//! 3. [`forward`] to keep the plan's publishes until each is confirmed; `daemon` hands them to the publishing connections,
//! 4. and, when all are, acknowledges the message on the connection it came on.
//!
//! What webhooks are told of ([`event`]) is part of the plan, and written down with it; [`webhook`] posts it. What the observer says of itself
//! is in [`telemetry`] (log, metrics), [`http`], [`status`] (over MQTT; [`watch`] reads it) and [`service`].
//!
//! The core (`acl`, `id`, `time`, `topic`, `template`, `layout`, `message`, `refusal`, `control`, `group`, `conversation`, `policy`, `rate`, `effect`, `event`,
//! `fan_out`, `routing`, `forward`, `backoff`, `token`, `signing`) does no I/O, reads no clock and is not async. The edge (`broker`, `link`,
//! `store`, `processor`, `http`, `consult`, `webhook`, `telemetry`, `status`, `service`, `daemon`, `config`, `cli`, and the commands) does, and decides nothing.

pub mod acl;
pub mod backoff;
pub mod broker;
pub mod check;
pub mod cli;
pub mod config;
pub mod consult;
pub mod control;
pub mod conversation;
pub mod daemon;
#[cfg(feature = "demo")]
pub mod demo;
pub mod effect;
pub mod event;
pub mod explain;
pub mod fan_out;
pub mod forward;
pub mod group;
pub mod http;
pub mod id;
pub mod layout;
pub mod link;
pub mod message;
pub mod policy;
pub mod processor;
pub mod rate;
pub mod refusal;
pub mod routing;
pub mod service;
pub mod signing;
pub mod status;
pub mod store;
pub mod telemetry;
mod template;
pub mod time;
pub mod token;
pub mod topic;
pub mod visitor;
pub mod watch;
pub mod webhook;
