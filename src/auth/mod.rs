//! Who may do what at the broker: secrets, keys, tokens, and the broker's access rules.
//!
//! Owns signing and checking JWTs and writing a broker's access rules. Leaves the order in which
//! settings name a credential to [`config`](crate::config). Pure: no I/O, no clock.

pub mod acl;
pub mod secret;
pub mod signing;
pub mod token;
