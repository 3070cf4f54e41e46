//! What another server has stored, brought into a store.
//!
//! What is imported stands before all that the observer takes in itself, in the order of the
//! source's times: whenever it is imported, and in however many parts.

use crate::protocol::mongo_export::{ImportedConversation, ImportedGroup, ImportedMessage};

/// A document of the source. Import messages before conversations: a row of a list refers to its
/// last message.
#[derive(Clone, Debug)]
pub enum Imported {
    /// A copy of a message in one timeline.
    Message(ImportedMessage),
    /// A row of a user's list.
    Conversation(ImportedConversation),
    /// A group.
    Group(ImportedGroup),
}

/// What became of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    /// It is stored now, or it has changed what was.
    New,
    /// It, or something newer, was there.
    Known,
}
