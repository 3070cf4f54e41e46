//! The checks every message passes, in the order they apply.

use crate::control::{self, Fetch, Receipt};
use crate::conversation::Patch;
use crate::group::{GroupUpdate, Users};
use crate::id::UserId;
use crate::layout::{Inbound, ParseError, PayloadMode};
use crate::message::{Envelope, Injected, Received, Status};
use crate::refusal::Refusal;
use crate::topic::BrokerKind;

impl From<&ParseError<'_>> for Refusal {
    fn from(error: &ParseError<'_>) -> Self {
        match error {
            ParseError::BadId { error, .. } => Self::from(*error),
            ParseError::SplitId => Self::Unroutable,
            ParseError::NoLayout | ParseError::OtherApp(_) => Self::MalformedTopic,
        }
    }
}

/// What the checks go by.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The largest payload served, in bytes.
    pub max_payload_bytes: usize,
    /// What the broker does to topics.
    pub broker_kind: BrokerKind,
    /// The most members a message may go to.
    pub max_recipients: usize,
    /// Who may write to a group without being a member.
    pub group_senders: GroupSenders,
}

/// Who may write to a known group (`protocol.md`, section 3).
#[derive(Clone, Debug)]
pub enum GroupSenders {
    /// Its members, and these.
    MembersAnd(Vec<String>),
    /// Everybody.
    Anybody,
}

/// What a payload says, once every check that needs no look into the store is passed.
#[derive(Clone, Debug)]
pub enum Content<'p> {
    /// Whatever it is: the same bytes are forwarded.
    Verbatim,
    /// A message: the client's object, with the observer's fields to be set.
    Envelope(Envelope<'p>),
    /// A receipt.
    Receipt(Receipt),
    /// A patch of a conversation.
    Patch(Patch),
    /// Nothing that matters: the topic says it all.
    Ignored,
    /// A client is there, or not.
    Presence(bool),
    /// Another user is blocked, or not.
    Block(bool),
    /// Which stored messages are asked for.
    Fetch(Fetch),
    /// A message as a service made it.
    Injected(Injected),
    /// A group as a service made it.
    Group(GroupUpdate),
}

impl Policy {
    /// The checks, in the order they apply; the cheap ones first. The topic has been parsed by then. What needs the store comes
    /// after ([`Policy::check_group`]); whether the broker can carry what is published is asked of the topics themselves
    /// (`routing.rs`).
    ///
    /// # Errors
    /// The reason for which the message is refused.
    pub fn check<'p>(
        &self,
        inbound: &Inbound<'_>,
        received: &'p Received,
    ) -> Result<Content<'p>, Refusal> {
        // A will is kept by the broker, and says the truth; anything else would come again with every connection.
        if received.retain && !matches!(inbound, Inbound::Presence { .. }) {
            return Err(Refusal::Retained);
        }
        if received.payload_bytes > self.max_payload_bytes {
            return Err(Refusal::TooLarge);
        }
        let payload = &received.payload;
        Ok(match inbound {
            Inbound::Outgoing(outgoing) => match outgoing.layout.payload() {
                PayloadMode::Verbatim => Content::Verbatim,
                PayloadMode::Envelope => Content::Envelope(Envelope::parse(payload)?),
            },
            Inbound::Receipt(..) => Content::Receipt(Receipt::parse(payload)?),
            Inbound::Conversation(_) => Content::Patch(Patch::parse(payload)?),
            Inbound::Archive(_) => Content::Ignored,
            Inbound::Presence { .. } => Content::Presence(control::parse_presence(payload)?),
            Inbound::Block(_) => Content::Block(control::parse_block(payload)?),
            Inbound::Fetch { .. } => Content::Fetch(Fetch::parse(payload)?),
            Inbound::Delivered(_) => {
                let injected = Injected::parse(payload)?;
                if injected.status != Some(Status::Delivered) {
                    return Err(Refusal::BadStatus);
                }
                Content::Injected(injected)
            }
            Inbound::Groups { .. } => {
                let update = GroupUpdate::parse(payload)?;
                self.check_recipients(&update.members)?;
                self.check_recipients(&update.notify)?;
                Content::Group(update)
            }
        })
    }

    /// Whether `sender` may write to a group with these `members`.
    ///
    /// # Errors
    /// [`Refusal::NotAMember`], if not.
    pub fn check_group(&self, sender: UserId<'_>, members: &Users) -> Result<(), Refusal> {
        let sender = sender.as_str();
        let permitted = match &self.group_senders {
            GroupSenders::Anybody => true,
            GroupSenders::MembersAnd(others) => {
                members.contains(sender) || others.iter().any(|other| other == sender)
            }
        };
        if permitted {
            Ok(())
        } else {
            Err(Refusal::NotAMember)
        }
    }

    /// Whether a message may go to so many, and the broker can carry it to each.
    ///
    /// # Errors
    /// [`Refusal::TooManyRecipients`] or [`Refusal::Unroutable`].
    pub fn check_recipients(&self, users: &Users) -> Result<(), Refusal> {
        if users.len() > self.max_recipients {
            return Err(Refusal::TooManyRecipients);
        }
        let carried = |user: &str| self.broker_kind.carries(user).is_ok();
        if users.as_slice().iter().all(|user| carried(user)) {
            Ok(())
        } else {
            Err(Refusal::Unroutable)
        }
    }
}
