//! The packet identifiers of what we publish and ask on one connection.
//!
//! Owns which are in use, and for what. Pure: no I/O.

/// The range to begin with. It grows before it is half in use, and goes round: an identifier comes
/// back late as a rule, so that an answer that a broker gives twice meets no other publish.
const FIRST_RANGE: usize = 1_024;
/// The largest range: a packet identifier has 16 bits and is not 0 (MQTT 3.1.1, 2.3.1).
const LARGEST_RANGE: usize = u16::MAX as usize;

/// What a packet identifier stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The publish with this token.
    Publish(u64),
    Subscribe,
    Unsubscribe,
}

/// The packet identifiers in use.
#[derive(Debug)]
pub(super) struct PacketIds {
    /// What each identifier is used for; the first slot is that of identifier 1.
    slots: Vec<Option<Purpose>>,
    /// The slot to look at first.
    next: usize,
    in_use: usize,
}

impl PacketIds {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![None; FIRST_RANGE],
            next: 0,
            in_use: 0,
        }
    }

    /// An identifier that is not in use; `None`, if all are.
    pub(super) fn take(&mut self, purpose: Purpose) -> Option<u16> {
        if self.in_use >= self.slots.len() / 2 && self.slots.len() < LARGEST_RANGE {
            let range = (self.slots.len() * 2).min(LARGEST_RANGE);
            self.slots.resize(range, None);
        }
        if self.in_use == self.slots.len() {
            return None;
        }
        while self.slots[self.next].is_some() {
            self.next = (self.next + 1) % self.slots.len();
        }
        self.slots[self.next] = Some(purpose);
        self.in_use += 1;
        let id = u16::try_from(self.next + 1).expect("the range is that of 16 bits");
        self.next = (self.next + 1) % self.slots.len();
        Some(id)
    }

    /// Ends the use of an identifier, if what it stands for is `expected`.
    pub(super) fn release(
        &mut self,
        id: u16,
        expected: impl Fn(Purpose) -> bool,
    ) -> Option<Purpose> {
        let slot = self.slots.get_mut(usize::from(id).checked_sub(1)?)?;
        let purpose = slot.take_if(|purpose| expected(*purpose))?;
        self.in_use -= 1;
        Some(purpose)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_publish(purpose: Purpose) -> bool {
        matches!(purpose, Purpose::Publish(_))
    }

    #[test]
    fn identifiers_in_use_are_skipped_up_to_the_last_one() {
        let mut ids = PacketIds::new();
        let all: Vec<u16> = (0..LARGEST_RANGE as u64)
            .map(|token| ids.take(Purpose::Publish(token)).unwrap())
            .collect();
        assert!(!all.contains(&0));
        assert_eq!(ids.take(Purpose::Subscribe), None);
        assert_eq!(ids.release(700, is_publish), Some(Purpose::Publish(699)));
        assert_eq!(ids.take(Purpose::Subscribe), Some(700));
    }

    #[test]
    fn what_is_not_in_use_or_stands_for_something_else_is_not_released() {
        let mut ids = PacketIds::new();
        let id = ids.take(Purpose::Subscribe).unwrap();
        assert_eq!(ids.release(id, is_publish), None);
        for unknown in [0, id + 1, u16::MAX] {
            assert_eq!(ids.release(unknown, is_publish), None);
        }
        let is_subscribe = |purpose| purpose == Purpose::Subscribe;
        assert_eq!(ids.release(id, is_subscribe), Some(Purpose::Subscribe));
        assert_eq!(ids.release(id, is_subscribe), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Whatever order answers come in, no identifier is given out twice.
        #[test]
        fn no_identifier_is_used_twice(
            answers in prop::collection::vec(any::<prop::sample::Index>(), 3_000)
        ) {
            let mut ids = PacketIds::new();
            let mut in_use = Vec::new();
            for (token, answered) in answers.into_iter().enumerate() {
                let token = token as u64;
                let id = ids.take(Purpose::Publish(token)).unwrap();
                prop_assert!(in_use.iter().all(|(used, _)| *used != id));
                in_use.push((id, token));
                if !token.is_multiple_of(3) {
                    let (id, token) = in_use.swap_remove(answered.index(in_use.len()));
                    prop_assert_eq!(ids.release(id, is_publish), Some(Purpose::Publish(token)));
                }
            }
        }
    }
}
