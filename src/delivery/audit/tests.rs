//! Each fault is found, and a correct run has none.

use proptest::prelude::*;

use super::*;

/// Alice, user 0, writes to bob, user 1; both get a copy.
fn one(audit: &mut Audit) -> MessageNumber {
    audit.published(0, [0, 1].into())
}

fn arrive(audit: &mut Audit, number: MessageNumber, id: &[u8]) {
    assert_eq!(audit.received(number, 0, id), Arrival::First);
    assert_eq!(audit.received(number, 1, id), Arrival::First);
}

#[test]
fn a_confirmed_message_has_to_arrive_everywhere() {
    let mut audit = Audit::default();
    let (first, second) = (one(&mut audit), one(&mut audit));
    audit.confirmed(first);
    audit.confirmed(second);
    arrive(&mut audit, first, b"a");
    assert_eq!(audit.received(second, 1, b"b"), Arrival::First);
    let verdict = audit.verdict();
    assert_eq!((verdict.copies, verdict.arrived, verdict.lost), (4, 3, 1));
    assert!(!verdict.is_sound());
    audit.received(second, 0, b"b");
    assert!(audit.verdict().is_sound());
}

#[test]
fn an_unconfirmed_message_may_have_happened_or_not_but_not_by_half() {
    let mut audit = Audit::default();
    let (all, none, half) = (one(&mut audit), one(&mut audit), one(&mut audit));
    arrive(&mut audit, all, b"a");
    let verdict = audit.verdict();
    assert_eq!((verdict.unconfirmed, verdict.never_happened), (3, 2));
    assert!(verdict.is_sound());
    audit.received(half, 1, b"b");
    assert_eq!(audit.verdict().lost, 1);
    audit.confirmed(none);
    assert_eq!(audit.verdict().lost, 3);
}

#[test]
fn a_refused_message_is_not_lost_and_must_not_arrive() {
    let mut audit = Audit::default();
    let number = one(&mut audit);
    audit.refused(number);
    audit.confirmed(number);
    let verdict = audit.verdict();
    assert_eq!((verdict.refused, verdict.lost), (1, 0));
    assert!(verdict.is_sound());
    audit.received(number, 1, b"a");
    assert_eq!(audit.verdict().refused_and_delivered, 1);
}

#[test]
fn a_copy_repeated_under_its_identifier_is_told_from_one_under_another() {
    let mut audit = Audit::default();
    let number = one(&mut audit);
    arrive(&mut audit, number, b"a");
    assert_eq!(audit.received(number, 1, b"a"), Arrival::Again);
    let verdict = audit.verdict();
    assert_eq!((verdict.repeated, verdict.doubled), (1, 0));
    assert!(verdict.is_sound());
    assert_eq!(audit.received(number, 1, b"b"), Arrival::Again);
    assert_eq!(audit.verdict().doubled, 1);
    audit.received(number, 1, b"b");
    let verdict = audit.verdict();
    assert_eq!((verdict.repeated, verdict.doubled), (2, 1));
}

#[test]
fn the_copies_of_one_message_bear_one_identifier() {
    let mut audit = Audit::default();
    let number = one(&mut audit);
    audit.received(number, 0, b"a");
    audit.received(number, 1, b"b");
    assert_eq!(audit.verdict().doubled, 1);
}

#[test]
fn what_the_sender_repeats_may_arrive_twice_under_two_identifiers() {
    let mut audit = Audit::default();
    let number = one(&mut audit);
    audit.published_again(number);
    for id in [b"a", b"b"] {
        for recipient in [0, 1] {
            audit.received(number, recipient, id);
        }
    }
    assert_eq!(audit.verdict().repeated, 0);
    assert!(audit.verdict().is_sound());
    audit.received(number, 1, b"c");
    assert_eq!(audit.verdict().doubled, 1);
}

#[test]
fn order_is_judged_by_sender_and_recipient_and_first_arrival() {
    let mut audit = Audit::default();
    let (first, second) = (one(&mut audit), one(&mut audit));
    let of_bob = audit.published(1, [0, 1].into());
    arrive(&mut audit, of_bob, b"b");
    arrive(&mut audit, first, b"1");
    arrive(&mut audit, second, b"2");
    audit.received(first, 1, b"1");
    assert_eq!(audit.verdict().out_of_order, 0);
    let (third, fourth) = (one(&mut audit), one(&mut audit));
    audit.received(fourth, 1, b"4");
    audit.received(third, 1, b"3");
    assert_eq!(audit.verdict().out_of_order, 1);
}

#[test]
fn what_nobody_sent_there_is_a_stray() {
    let mut audit = Audit::default();
    let number = one(&mut audit);
    assert_eq!(audit.received(number, 7, b"a"), Arrival::Stray);
    let unknown = MessageNumber::new(9);
    assert_eq!(audit.received(unknown, 0, b"a"), Arrival::Stray);
    assert_eq!(audit.verdict().strays, 2);
}

/// What a model of a messenger does wrong, and to which arrival.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Lost,
    Repeated,
    Doubled,
    /// It comes after all others.
    Late,
    /// It goes to somebody else.
    Astray,
}

const FAULTS: [Fault; 5] = [
    Fault::Lost,
    Fault::Repeated,
    Fault::Doubled,
    Fault::Late,
    Fault::Astray,
];

/// What may happen to a message on its way to the broker.
#[derive(Clone, Copy, Debug)]
enum Way {
    Confirmed,
    Refused,
    /// The connection was lost, and the broker had it.
    Unknown,
    /// The broker had not.
    Gone,
    /// The broker had it, and the sender published it again.
    Twice,
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![
        6 => Just(Way::Confirmed),
        1 => Just(Way::Refused),
        1 => Just(Way::Unknown),
        1 => Just(Way::Gone),
        1 => Just(Way::Twice),
    ]
}

/// Senders 0 to 3 write to themselves and to somebody of 4 to 7.
fn messages() -> impl Strategy<Value = Vec<(User, User, Way)>> {
    prop::collection::vec((0..4_u32, 4..8_u32, way()), 1..60)
}

/// Messages published in order, and the arrivals that a correct messenger makes of them.
fn correct(messages: &[(User, User, Way)]) -> (Audit, Vec<(MessageNumber, User, String)>) {
    let mut audit = Audit::default();
    let mut arrivals = vec![];
    for (sender, recipient, way) in messages {
        let number = audit.published(*sender, [*sender, *recipient].into());
        let ids: &[&str] = match way {
            Way::Confirmed | Way::Unknown => &["a"],
            Way::Refused | Way::Gone => &[],
            Way::Twice => &["a", "b"],
        };
        for id in ids {
            for user in [*sender, *recipient] {
                arrivals.push((number, user, format!("{}{id}", number.get())));
            }
        }
        match way {
            Way::Confirmed => audit.confirmed(number),
            Way::Refused => audit.refused(number),
            Way::Unknown | Way::Gone => {}
            Way::Twice => {
                audit.published_again(number);
                audit.confirmed(number);
            }
        }
    }
    (audit, arrivals)
}

fn judge(mut audit: Audit, arrivals: &[(MessageNumber, User, String)]) -> Verdict {
    for (number, user, id) in arrivals {
        audit.received(*number, *user, id.as_bytes());
    }
    audit.verdict()
}

proptest! {
    #[test]
    fn a_correct_messenger_is_sound_in_any_interleaving(
        messages in messages(),
        shuffle in prop::collection::vec(any::<u8>(), 240),
    ) {
        let (audit, mut arrivals) = correct(&messages);
        // Arrivals at different recipients, or from different senders, overtake each other.
        let ways = |audit: &Audit, a: &(MessageNumber, User, String)| (audit.sender(a.0), a.1);
        for (at, swap) in shuffle.iter().enumerate() {
            let at = at % arrivals.len().max(1);
            let Some(pair) = arrivals.get_mut(at..at + 2) else { continue };
            if swap % 2 == 0 && ways(&audit, &pair[0]) != ways(&audit, &pair[1]) {
                pair.swap(0, 1);
            }
        }
        let verdict = judge(audit, &arrivals);
        prop_assert!(verdict.is_sound(), "{verdict:?}");
        prop_assert_eq!(verdict.repeated, 0);
    }

    #[test]
    fn a_messenger_with_one_fault_is_found(
        messages in messages(),
        fault in prop::sample::select(&FAULTS[..]),
        at in any::<prop::sample::Index>(),
    ) {
        let (audit, mut arrivals) = correct(&messages);
        // One that its sender repeated has a second chance.
        let once: Vec<usize> = (0..arrivals.len())
            .filter(|n| !matches!(messages[arrivals[*n].0.get() as usize].2, Way::Twice))
            .collect();
        prop_assume!(!once.is_empty());
        let at = once[at.index(once.len())];
        let (number, user, id) = arrivals[at].clone();
        let sound = judge(correct(&messages).0, &arrivals);
        let mut expected = sound;
        match fault {
            Fault::Lost => {
                arrivals.remove(at);
                (expected.lost, expected.arrived) = (1, sound.arrived - 1);
            }
            Fault::Repeated => {
                arrivals.push((number, user, id));
                expected.repeated = 1;
            }
            Fault::Doubled => {
                arrivals.push((number, user, "other".to_owned()));
                expected.doubled = 1;
            }
            Fault::Late => {
                let moved = arrivals.remove(at);
                let is_later = |a: &&(MessageNumber, User, String)| {
                    a.1 == user && a.0 > number && audit.sender(a.0) == audit.sender(number)
                };
                let later = arrivals.iter().filter(is_later).count();
                arrivals.push(moved);
                expected.out_of_order = usize::from(later > 0);
            }
            Fault::Astray => {
                arrivals[at].1 = 99;
                (expected.lost, expected.arrived) = (1, sound.arrived - 1);
                expected.strays = 1;
            }
        }
        prop_assert_eq!(judge(audit, &arrivals), expected);
    }
}
