use std::hash::RandomState;

use super::*;
use crate::delivery::pending::Via;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::layout::Layout;
use crate::protocol::message::Received;
use crate::protocol::message_id::MessageIds;
use crate::protocol::time::UnixMillis;

const NOBODY: Bounds = Bounds {
    per_conversation: usize::MAX,
    per_sender: usize::MAX,
    sender_bytes: usize::MAX,
    messages: usize::MAX,
    bytes: usize::MAX,
};

struct Bench {
    queue: Queue,
    ids: MessageIds,
    layouts: Vec<Layout>,
    entries: usize,
}

impl Bench {
    fn new(bounds: Bounds, concurrency: usize) -> Self {
        Self {
            queue: Queue::new(bounds, concurrency),
            ids: MessageIds::new(RandomState::new()),
            layouts: Layout::built_in("chat21").unwrap(),
            entries: 0,
        }
    }

    /// A message of so many bytes, with its question. Returns its entry, or why it may not wait.
    fn push(
        &mut self,
        (from, to): (&str, &str),
        bytes: usize,
        question: Question,
    ) -> Result<EntryId, &'static str> {
        self.entries += 1;
        let entry = EntryId::for_tests(self.entries);
        let outgoing = Outgoing {
            layout: &self.layouts[0],
            app: AppId::parse("a").unwrap(),
            sender: UserId::parse(from).unwrap(),
            recipient: UserId::parse(to).unwrap(),
        };
        let message = PendingMessage {
            entry,
            received: Received::new(Bytes::new(), Bytes::new(), false),
            id: self.ids.next(UnixMillis::new(1)),
            fingerprint: Some(1),
            repeated: false,
            via: Via::Broker,
            question,
            refused: None,
        };
        let body = vec![b'x'; bytes].into();
        match self.queue.push(&outgoing, message, body) {
            Some(turned_away) => Err(turned_away.why),
            None => Ok(entry),
        }
    }

    fn due(&mut self, way: (&str, &str)) -> EntryId {
        self.push(way, 1, Question::Due).unwrap()
    }

    /// The conversations that are asked about now.
    fn asked(&mut self) -> Vec<String> {
        let asked = std::iter::from_fn(|| self.queue.next());
        asked.map(|asked| asked.conversation.to_string()).collect()
    }

    fn answer(&mut self, conversation: &str) -> EntryId {
        self.queue.handle_answer(&conversation.into()).entry
    }

    fn is_empty(&self) -> bool {
        let Queue {
            conversations,
            ready,
            due,
            senders,
            messages,
            bytes,
            ..
        } = &self.queue;
        conversations.is_empty()
            && ready.is_empty()
            && due.is_empty()
            && senders.is_empty()
            && (*messages, *bytes) == (0, 0)
    }
}

#[test]
fn a_message_is_asked_about_when_it_is_logged_and_first() {
    let mut bench = Bench::new(NOBODY, 8);
    let first = bench.due(("x", "y"));
    let second = bench.push(("y", "x"), 1, Question::None).unwrap();
    let third = bench.due(("x", "y"));
    let other = bench.due(("x", "z"));
    assert_eq!(bench.asked(), [""; 0]);
    bench.queue.handle_logged(third);
    bench.queue.handle_logged(other);
    assert_eq!(bench.asked(), ["a/x/z"], "the first is not logged");
    bench.queue.handle_logged(first);
    assert_eq!(bench.asked(), ["a/x/y"]);
    assert_eq!(bench.asked(), [""; 0], "one at a time");
    for expected in [first, second, third] {
        assert_eq!(bench.answer("a/x/y"), expected);
        bench.asked();
    }
    assert_eq!(bench.answer("a/x/z"), other);
    assert!(bench.is_empty());
}

#[test]
fn one_that_is_known_leaves_its_place() {
    let mut bench = Bench::new(NOBODY, 8);
    let known = bench.due(("x", "y"));
    let next = bench.due(("x", "y"));
    let last = bench.due(("x", "y"));
    bench.queue.handle_logged(next);
    bench.queue.withdraw(last);
    assert_eq!(bench.asked(), [""; 0]);
    bench.queue.withdraw(known);
    assert_eq!(bench.asked(), ["a/x/y"]);
    // What is logged stays.
    bench.queue.withdraw(next);
    assert_eq!(bench.answer("a/x/y"), next);
    assert!(bench.is_empty());
}

#[test]
fn conversations_senders_and_all_together_are_bounded() {
    let bounds = Bounds {
        per_conversation: 2,
        per_sender: 3,
        sender_bytes: 100,
        messages: 5,
        bytes: 150,
    };
    let mut bench = Bench::new(bounds, 8);
    let none = Question::None;
    for _ in 0..2 {
        bench.push(("x", "y"), 10, none).unwrap();
    }
    let of_conversation = Err("too many messages of this conversation wait");
    let of_sender = Err("too many messages of this sender wait");
    assert_eq!(bench.push(("y", "x"), 10, none), of_conversation);
    bench.push(("x", "z"), 10, none).unwrap();
    assert_eq!(bench.push(("x", "w"), 10, none), of_sender);
    assert!(bench.queue.has_room());
    // The first of a sender waits, however large.
    bench.push(("w", "z"), 120, none).unwrap();
    assert_eq!(bench.push(("w", "y"), 1, none), of_sender);
    assert!(!bench.queue.has_room(), "bytes");
    // What the log holds waits in any case.
    bench.push(("x", "y"), 10, Question::Logged).unwrap();
    assert_eq!(bench.asked().len(), 3);
    bench.answer("a/w/z");
    assert!(bench.queue.has_room());
    bench.push(("v", "z"), 1, none).unwrap();
    assert!(!bench.queue.has_room(), "messages");
}

#[test]
fn a_sender_does_not_take_all_questions_under_way() {
    let mut bench = Bench::new(NOBODY, 4);
    for peer in ["p1", "p2", "p3"] {
        bench.push(("slow", peer), 1, Question::None).unwrap();
    }
    bench.push(("x", "y"), 1, Question::None).unwrap();
    assert_eq!(bench.asked(), ["a/p1/slow", "a/p2/slow", "a/x/y"]);
    bench.answer("a/p2/slow");
    assert_eq!(bench.asked(), ["a/p3/slow"]);
}
