//! The status of one copy of a message (`protocol.md`, section 3).
//!
//! Owns the numbers on the wire and their order. `rules` decides which copy gets which status.

use strum::VariantArray;

/// How far a copy of a message got. A stored status only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, VariantArray)]
pub enum Status {
    /// Sending failed. Clients use it; the observer never writes it.
    Failed = -100,
    /// The client is about to send the message.
    Sending = 0,
    /// The sender's copy: the observer has the message.
    Sent = 100,
    /// A recipient's copy: the message is in their inbox.
    Delivered = 150,
    /// A recipient's copy: one of their clients has the message.
    Received = 200,
    /// The sender's copy: a client of the recipient has the message.
    ReturnReceipt = 250,
    /// The recipient has seen the message.
    Seen = 300,
}

impl Status {
    /// Every status, lowest first.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The number on the wire.
    pub fn code(self) -> i64 {
        self as i64
    }

    /// The status of a number on the wire, or `None` if no status has it.
    pub fn from_code(code: i64) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|status| status.code() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_found_by_its_number_and_the_numbers_rise() {
        for status in Status::ALL {
            assert_eq!(Status::from_code(status.code()), Some(*status));
        }
        assert_eq!(Status::from_code(151), None);
        assert!(Status::ALL.is_sorted_by_key(|status| status.code()));
        assert!(Status::ALL.is_sorted());
    }
}
