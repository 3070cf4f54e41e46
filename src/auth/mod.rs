//! Who may do what at the broker: secrets, keys, tokens, and the broker's access rules.
//!
//! Owns credentials, signing and checking JWTs, and writing a broker's access rules. Leaves which
//! setting gives a credential to [`config`](crate::config). Reads no clock, and no file but those
//! that hold a secret.

pub mod acl;
pub mod credentials;
pub mod secret;
pub mod signing;
pub mod token;
pub mod verify;
