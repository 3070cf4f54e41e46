//! What becomes of a request: the checks, and one plan for each kind of request.
//!
//! Owns every decision about a message. Leaves reading the wire to [`protocol`](crate::protocol)
//! and answering questions about facts to [`store`](crate::store). Pure: no I/O, no clock, no SQL,
//! no MQTT client.
//!
//! Start with [`router`]: it reads a request ([`checks`]), looks up the facts of its kind
//! ([`facts`]), and makes its plan ([`plan`]). Each kind of request has a file:
//!
//! | request | file |
//! |---|---|
//! | a message to a user, verbatim or enveloped | `direct.rs` |
//! | a message to a group | `group_message.rs` |
//! | a receipt, in a conversation or a group | `receipt.rs` |
//! | a patch of a conversation, archiving it | `conversation.rs` |
//! | a client connects or disconnects | `presence.rs` |
//! | a block | `block.rs` |
//! | a fetch of stored messages | `fetch.rs` |
//! | a fetch of conversations | `conversation_list.rs` |
//! | a message that a service injects | `inject.rs` |
//! | a group that a service stores | `group_update.rs` |
//! | a change of a group | `group_change.rs`, `group_request.rs`, `group_telling.rs` |
//! | what a group said before, for new members | `group_history.rs` |
//! | a refusal: the notice and the dead letter | `refusal_notice.rs` |

pub(crate) mod block;
pub(crate) mod checks;
pub(crate) mod conversation;
mod conversation_list;
pub mod conversation_row;
mod copies;
mod direct;
pub mod facts;
pub mod fan_out;
mod fetch;
pub mod group_change;
pub(crate) mod group_history;
pub(crate) mod group_message;
pub mod group_request;
pub mod group_telling;
mod group_update;
pub mod history;
mod inject;
pub mod listing;
pub mod plan;
pub mod policy;
pub(crate) mod presence;
pub mod rate_limit;
mod receipt;
mod refusal_notice;
pub mod router;
pub mod submission;
#[cfg(test)]
pub(crate) mod test_support;
pub mod token_bucket;
pub mod webhook_event;
pub mod write;
