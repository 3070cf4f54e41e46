//! A change of a group that a client of the HTTP API, or a service, asks for.
//!
//! Owns what may be changed. Who may change it, and what follows, is decided in `rules`.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What is to become of a group. All identifiers in it are texts of a client, not checked yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupChange {
    /// It comes into being.
    Create {
        /// Its name, for people.
        name: Box<str>,
        /// Who may change it.
        owner: Box<str>,
        /// Its members, in the order they were given.
        members: Vec<Box<str>>,
        /// An object that clients know the meaning of.
        attributes: Option<Box<RawValue>>,
    },
    /// It gets another name.
    Rename(Box<str>),
    /// Its attributes are replaced.
    SetAttributes(Box<RawValue>),
    /// A user becomes a member.
    Add(Box<str>),
    /// These and no others are members from now on.
    SetMembers(Vec<Box<str>>),
    /// The group is this object from now on, whether it was there before or not.
    Replace(Box<RawValue>),
    /// A member leaves, or is removed.
    Remove(Box<str>),
}
