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
    sender_share: 8,
    messages: usize::MAX,
    bytes: usize::MAX,
    in_memory: usize::MAX,
    in_memory_of_sender: usize::MAX,
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
            in_memory,
            ..
        } = &self.queue;
        conversations.is_empty()
            && ready.is_empty()
            && due.is_empty()
            && senders.is_empty()
            && (*messages, *bytes, *in_memory) == (0, 0, 0)
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
        ..NOBODY
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
    // The first of a sender waits, however large.
    bench.push(("w", "z"), 120, none).unwrap();
    assert_eq!(bench.push(("w", "y"), 1, none), of_sender);
    let of_all = Err("too many messages wait for the decision service");
    assert_eq!(bench.push(("v", "z"), 1, none), of_all, "bytes");
    // What the log holds waits in any case.
    bench.push(("x", "y"), 10, Question::Logged).unwrap();
    assert_eq!(bench.asked().len(), 3);
    bench.answer("a/w/z");
    bench.push(("v", "z"), 1, none).unwrap();
    assert_eq!(bench.push(("v", "y"), 1, none), of_all, "messages");
}

#[test]
fn what_no_log_holds_leaves_room_in_the_window() {
    let bounds = Bounds {
        per_conversation: usize::MAX,
        ..Bounds::of_log(16, u64::MAX)
    };
    let mut bench = Bench::new(bounds, 8);
    for sender in ["a", "b", "c", "d"] {
        for _ in 0..2 {
            bench.push((sender, "y"), 1, Question::None).unwrap();
        }
        let of_sender = Err("too many messages of this sender wait");
        assert_eq!(bench.push((sender, "y"), 1, Question::None), of_sender);
        bench.due((sender, "y"));
    }
    let of_all = Err("too many messages wait for the decision service");
    assert_eq!(bench.push(("e", "y"), 1, Question::None), of_all);
    bench.due(("e", "y"));
}

/// A few senders with slow decisions leave room for others.
#[test]
fn seven_senders_do_not_fill_the_queue() {
    let mut bench = Bench::new(Bounds::of_log(500, u64::MAX), 32);
    for sender in 0..7 {
        for n in 0..2_000 {
            let _ = bench.push(
                (&format!("s{sender}"), &format!("p{n}")),
                4_000,
                Question::Logged,
            );
            if bench.queue.senders[&*format!("a/s{sender}")].messages >= 1_000 {
                break;
            }
        }
    }
    assert_eq!(bench.asked().len(), 7 * 4);
    bench.due(("x", "y"));
}

#[test]
fn without_a_log_no_share_of_a_sender_applies() {
    let mut bench = Bench::new(Bounds::of_window(400), 32);
    for peer in 0..400 {
        let way = ("x", &*format!("p{peer}"));
        bench.push(way, 1 << 20, Question::None).unwrap();
    }
    assert_eq!(bench.asked().len(), 32);
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

#[test]
fn what_the_log_holds_waits_while_it_is_held() {
    let mut bench = Bench::new(NOBODY, 8);
    bench.queue.hold_logged(true);
    let logged = bench.push(("x", "y"), 1, Question::Logged).unwrap();
    let behind = bench.push(("x", "y"), 1, Question::None).unwrap();
    bench.push(("x", "z"), 1, Question::None).unwrap();
    assert_eq!(bench.asked(), ["a/x/z"]);
    bench.queue.hold_logged(false);
    for entry in [logged, behind] {
        assert_eq!(bench.asked(), ["a/x/y"]);
        assert_eq!(bench.answer("a/x/y"), entry);
    }
}
