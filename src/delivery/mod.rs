//! Which publish waits for what, and which message may be acknowledged.
//!
//! Owns the ledger of messages under way, the publish queues, and the pace of retries. Leaves
//! connections to [`connections`](crate::connections). Pure: no I/O, no clock; time is an argument.

pub mod audit;
pub mod backlog;
pub mod backoff;
mod canary;
mod entry;
pub mod ledger;
pub mod left;
pub mod pending;
pub mod publish_queue;
pub mod publish_queues;
mod quarantine;
mod redelivery;
mod unpublished;
pub mod watermark;
