//! The messages that wait for the decision service, conversation by conversation.
//!
//! Owns whose turn it is, and how many may wait. Leaves asking to the service. A message keeps its
//! place in its conversation from its admission on, though it is asked about only when the delivery
//! log holds it, if that is to hold it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::delivery::ledger::EntryId;
use crate::delivery::pending::{PendingMessage, Question};
use crate::protocol::address::Outgoing;

/// One conversation may take a quarter of the window.
const CONVERSATION_SHARE: usize = 4;
/// Messages that wait, where the delivery log holds them: they take no room in the window.
const MAX_MESSAGES: usize = 10_000;
/// Bytes of all that waits: of the messages and of the questions about them.
const MAX_BYTES: usize = 32 << 20;
/// One sender may take an eighth of the messages, of the bytes and of the questions under way.
const SENDER_SHARE: usize = 8;
/// What the log does not hold may take half of the window: the rest is for others.
const IN_MEMORY_SHARE: usize = 2;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub(super) per_conversation: usize,
    pub(super) per_sender: usize,
    pub(super) sender_bytes: usize,
    /// Which part of the questions under way may be about messages of one sender.
    pub(super) sender_share: usize,
    /// In all.
    pub(super) messages: usize,
    pub(super) bytes: usize,
    /// Of what the delivery log is not to hold, in all, and of one sender.
    pub(super) in_memory: usize,
    pub(super) in_memory_of_sender: usize,
}

impl Bounds {
    /// Where messages are acknowledged when they are decided on: the window bounds what waits.
    pub fn of_window(window: usize) -> Self {
        Self {
            per_conversation: (window / CONVERSATION_SHARE).max(1),
            per_sender: usize::MAX,
            sender_bytes: usize::MAX,
            sender_share: 1,
            messages: usize::MAX,
            bytes: usize::MAX,
            in_memory: usize::MAX,
            in_memory_of_sender: usize::MAX,
        }
    }

    /// No bounds.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self::of_window(usize::MAX)
    }

    /// Where they are acknowledged before, because the delivery log holds them: of at most about
    /// `max_backlog` bytes.
    pub fn of_log(window: usize, max_backlog: u64) -> Self {
        let bytes = MAX_BYTES.min(usize::try_from(max_backlog).unwrap_or(usize::MAX));
        Self {
            per_sender: MAX_MESSAGES / SENDER_SHARE,
            sender_bytes: bytes / SENDER_SHARE,
            sender_share: SENDER_SHARE,
            messages: MAX_MESSAGES,
            bytes,
            in_memory: (window / IN_MEMORY_SHARE).max(1),
            in_memory_of_sender: (window / SENDER_SHARE).max(1),
            ..Self::of_window(window)
        }
    }
}

/// A message that may not wait, and why.
#[derive(Debug)]
pub struct TurnedAway {
    /// The message.
    pub message: PendingMessage,
    /// Of what too many wait.
    pub why: &'static str,
}

/// A message in the queue of its conversation.
#[derive(Debug)]
struct Queued {
    message: PendingMessage,
    sender: Arc<str>,
    bytes: usize,
    /// The body of the question, until it is sent.
    question: Option<Bytes>,
}

impl Queued {
    fn is_due(&self) -> bool {
        self.message.question == Question::Due
    }

    fn is_logged(&self) -> bool {
        self.message.question == Question::Logged
    }

    /// How many messages it is that no log is to hold.
    fn in_memory(&self) -> usize {
        usize::from(self.message.question == Question::None)
    }
}

/// What waits of one sender.
#[derive(Debug, Default)]
struct Share {
    messages: usize,
    bytes: usize,
    /// Those that no log is to hold.
    in_memory: usize,
    /// Questions under way.
    asked: usize,
}

/// What is to be asked.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) conversation: Arc<str>,
    pub(super) question: Bytes,
    pub(super) payload: Bytes,
    /// Whether the delivery log holds the message, so that it may wait.
    pub(super) is_logged: bool,
}

/// All that waits.
#[derive(Debug)]
pub(super) struct Queue {
    bounds: Bounds,
    /// Questions of one sender under way: their decisions may take long, and others' need not wait.
    concurrency_of_sender: usize,
    /// The first message of each is asked about, or about to be, or not logged yet.
    conversations: HashMap<Arc<str>, VecDeque<Queued>>,
    /// Conversations whose first message waits to be asked about.
    ready: VecDeque<Arc<str>>,
    /// The conversations of messages that are not logged yet.
    due: HashMap<EntryId, Arc<str>>,
    senders: HashMap<Arc<str>, Share>,
    /// Whether nothing is asked about what the log holds.
    holds_logged: bool,
    messages: usize,
    bytes: usize,
    in_memory: usize,
}

impl Queue {
    pub(super) fn new(bounds: Bounds, concurrency: usize) -> Self {
        Self {
            bounds,
            // Two conversations of one sender go on side by side.
            concurrency_of_sender: concurrency.div_ceil(bounds.sender_share).max(2),
            conversations: HashMap::new(),
            ready: VecDeque::new(),
            due: HashMap::new(),
            senders: HashMap::new(),
            holds_logged: false,
            messages: 0,
            bytes: 0,
            in_memory: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.messages
    }

    /// Whether nothing more is asked, for now, about what the delivery log holds, nor about what
    /// waits behind it.
    pub(super) fn hold_logged(&mut self, holds: bool) {
        self.holds_logged = holds;
    }

    /// Gives a message its place. One that the log holds already has it in any case.
    pub(super) fn push(
        &mut self,
        outgoing: &Outgoing<'_>,
        message: PendingMessage,
        question: Bytes,
    ) -> Option<TurnedAway> {
        let key = conversation_key(outgoing);
        let sender: Arc<str> = format!("{}/{}", outgoing.app, outgoing.sender).into();
        let bytes = message.received.payload.len() + question.len();
        if message.question != Question::Logged
            && let Some(why) = self.speaks_against(&key, &sender, bytes, &message)
        {
            return Some(TurnedAway { message, why });
        }
        let queued = Queued {
            message,
            sender: sender.clone(),
            bytes,
            question: Some(question),
        };
        let share = self.senders.entry(sender).or_default();
        share.messages += 1;
        share.bytes += bytes;
        share.in_memory += queued.in_memory();
        self.messages += 1;
        self.bytes += bytes;
        self.in_memory += queued.in_memory();
        if queued.is_due() {
            self.due.insert(queued.message.entry, key.clone());
        }
        let conversation = self.conversations.entry(key.clone()).or_default();
        conversation.push_back(queued);
        if conversation.len() == 1 {
            self.look_at_first(&key);
        }
        None
    }

    fn speaks_against(
        &self,
        key: &str,
        sender: &str,
        bytes: usize,
        message: &PendingMessage,
    ) -> Option<&'static str> {
        let bounds = &self.bounds;
        let in_memory = message.question == Question::None;
        let of_conversation = self.conversations.get(key).map_or(0, VecDeque::len);
        if of_conversation >= bounds.per_conversation {
            return Some("too many messages of this conversation wait");
        }
        if let Some(share) = self.senders.get(sender)
            && (share.messages >= bounds.per_sender
                || share.bytes.saturating_add(bytes) > bounds.sender_bytes
                || in_memory && share.in_memory >= bounds.in_memory_of_sender)
        {
            return Some("too many messages of this sender wait");
        }
        let is_full = self.messages >= bounds.messages
            || self.bytes >= bounds.bytes
            || in_memory && self.in_memory >= bounds.in_memory;
        is_full.then_some("too many messages wait for the decision service")
    }

    /// A conversation has another first message: it is asked about in its turn, if it may be.
    fn look_at_first(&mut self, key: &Arc<str>) {
        match self.conversations.get(key).map(VecDeque::front) {
            Some(Some(first)) if first.is_due() => {}
            Some(Some(_)) => self.ready.push_back(key.clone()),
            Some(None) => {
                self.conversations.remove(key);
            }
            None => {}
        }
    }

    /// The delivery log holds a message.
    pub(super) fn handle_logged(&mut self, entry: EntryId) {
        let Some((key, at)) = self.take_due(entry) else {
            return;
        };
        let queued = self.conversations.get_mut(&key);
        if let Some(queued) = queued.and_then(|queue| queue.get_mut(at)) {
            queued.message.question = Question::Logged;
        }
        if at == 0 {
            self.look_at_first(&key);
        }
    }

    /// A message that was to be logged is decided on without the service.
    pub(super) fn withdraw(&mut self, entry: EntryId) {
        let Some((key, at)) = self.take_due(entry) else {
            return;
        };
        let queue = self.conversations.get_mut(&key);
        if let Some(queued) = queue.and_then(|queue| queue.remove(at)) {
            self.uncount(&queued);
        }
        if at == 0 {
            self.look_at_first(&key);
        }
    }

    /// Where a message is that was not logged.
    fn take_due(&mut self, entry: EntryId) -> Option<(Arc<str>, usize)> {
        let key = self.due.remove(&entry)?;
        let queue = self.conversations.get(&key)?;
        let at = queue.iter().position(|one| one.message.entry == entry)?;
        Some((key, at))
    }

    fn uncount(&mut self, queued: &Queued) {
        self.messages -= 1;
        self.bytes -= queued.bytes;
        self.in_memory -= queued.in_memory();
        if let Some(share) = self.senders.get_mut(&queued.sender) {
            share.messages -= 1;
            share.bytes -= queued.bytes;
            share.in_memory -= queued.in_memory();
            if share.messages == 0 {
                self.senders.remove(&queued.sender);
            }
        }
    }

    /// The next question: of the conversation that waits longest, and whose sender has not got too
    /// many under way.
    pub(super) fn next(&mut self) -> Option<Asked> {
        let at = self.ready.iter().position(|key| {
            let queue = self.conversations.get(key);
            let first = queue.and_then(VecDeque::front);
            let first = first.filter(|first| !(self.holds_logged && first.is_logged()));
            let share = first.and_then(|first| self.senders.get(&first.sender));
            share.is_some_and(|share| share.asked < self.concurrency_of_sender)
        })?;
        let conversation = self.ready.remove(at)?;
        let first = self.conversations.get_mut(&conversation)?.front_mut()?;
        let question = first.question.take()?;
        let share = self.senders.get_mut(&first.sender)?;
        share.asked += 1;
        Some(Asked {
            question,
            payload: first.message.received.payload.clone(),
            is_logged: first.is_logged(),
            conversation,
        })
    }

    /// The first message of a conversation is answered.
    pub(super) fn handle_answer(&mut self, key: &Arc<str>) -> PendingMessage {
        let waiting = self.conversations.get_mut(key);
        let waiting = waiting.expect("a message that is asked about is in its queue");
        let answered = waiting
            .pop_front()
            .expect("a message that is asked about is the first of its queue");
        if let Some(share) = self.senders.get_mut(&answered.sender) {
            share.asked -= 1;
        }
        self.uncount(&answered);
        self.look_at_first(key);
        answered.message
    }
}

/// One key for both directions of a direct conversation, and one for a group.
fn conversation_key(outgoing: &Outgoing<'_>) -> Arc<str> {
    let Outgoing {
        app,
        sender,
        recipient,
        ..
    } = outgoing;
    // No identifier holds a slash.
    if recipient.is_group() {
        return format!("{app}/{recipient}").into();
    }
    let (one, other) = (sender.as_str(), recipient.as_str());
    format!("{app}/{}/{}", one.min(other), one.max(other)).into()
}

#[cfg(test)]
mod tests;
