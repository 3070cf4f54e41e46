//! What plans say is written, and where it goes.
//!
//! Owns the store, or without one the outbox in memory. Leaves transactions and their failures to
//! the processor.

use super::batch::BacklogRead;
use crate::delivery::left::LeftRead;
use crate::protocol::address::Timeline;
use crate::protocol::publish::Publish;
use crate::protocol::topic_map::TopicMap;
use crate::rules::conversation;
use crate::rules::webhook_event::Event as WebhookEvent;
use crate::rules::write::Write;
use crate::store::{LogPage, Origin, Outbox, Store, StoreError, Written};

/// Where the writes of plans and the events for webhooks go.
#[derive(Debug, Default)]
pub struct Persistence {
    place: Place,
    /// Events of this batch that were dropped to make room for others, for each endpoint.
    dropped: Vec<u64>,
    /// In whose timeline the last call of [`Persistence::apply`] or
    /// [`Persistence::told_unarchived`] failed, if that is known.
    failed_at: Option<Box<str>>,
}

#[derive(Debug, Default)]
enum Place {
    /// Nothing is kept.
    #[default]
    Nowhere,
    /// No store, but webhooks: their events wait in memory.
    OutboxInMemory(Box<dyn Outbox>),
    Store(Box<dyn Store>),
}

impl Persistence {
    /// Writes go to a store.
    pub fn store(store: Box<dyn Store>) -> Self {
        Self {
            place: Place::Store(store),
            ..Self::default()
        }
    }

    /// Nothing is written but events for webhooks, into an outbox that is only in memory.
    pub fn outbox_in_memory(outbox: Box<dyn Outbox>) -> Self {
        Self {
            place: Place::OutboxInMemory(outbox),
            ..Self::default()
        }
    }

    pub(super) fn as_store(&self) -> Option<&dyn Store> {
        match &self.place {
            Place::Store(store) => Some(store.as_ref()),
            Place::Nowhere | Place::OutboxInMemory(_) => None,
        }
    }

    pub(super) fn as_store_mut(&mut self) -> Option<&mut dyn Store> {
        match &mut self.place {
            Place::Store(store) => Some(store.as_mut()),
            Place::Nowhere | Place::OutboxInMemory(_) => None,
        }
    }

    #[cfg(test)]
    pub(super) fn into_store(self) -> Option<Box<dyn Store>> {
        match self.place {
            Place::Store(store) => Some(store),
            Place::Nowhere | Place::OutboxInMemory(_) => None,
        }
    }

    /// Where events for webhooks wait, if there may be any.
    pub(super) fn outbox(&mut self) -> Option<&mut dyn Outbox> {
        match &mut self.place {
            Place::Store(store) => Some(store.as_mut()),
            Place::OutboxInMemory(outbox) => Some(outbox.as_mut()),
            Place::Nowhere => None,
        }
    }

    /// What [`Persistence::apply`] has dropped since the last call, for each endpoint.
    pub(super) fn take_dropped(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.dropped)
    }

    /// Applies a plan's writes and queues its webhook events in one transaction. Drops the event of
    /// a copy that already existed, so a redelivered message raises nothing twice. Returns the
    /// conversations that have come back from the archive.
    pub(super) fn apply<'w>(
        &mut self,
        writes: &[Write<'w>],
        mut events: Vec<WebhookEvent>,
        origin: &Origin,
    ) -> Result<Vec<Timeline<'w>>, StoreError> {
        let mut unarchived = vec![];
        self.failed_at = None;
        match self.as_store_mut() {
            Some(store) => {
                store.prefetch_copies(writes)?;
                for write in writes {
                    let written = store.apply(write, origin);
                    let Write::Copy(copy) = write else {
                        written?;
                        continue;
                    };
                    let written = match written {
                        Ok(written) => written,
                        Err(error) => {
                            self.failed_at = Some(copy.timeline.inbox_of.as_str().into());
                            return Err(error);
                        }
                    };
                    match written {
                        Written::New => {}
                        Written::Unarchived => unarchived.push(copy.timeline),
                        Written::Known => {
                            let inbox_of = copy.timeline.inbox_of.as_str();
                            events.retain(|event| event.copy_of.as_deref() != Some(inbox_of));
                        }
                    }
                }
            }
            // Without a store nothing tells which copies existed: the events were raised before.
            None if origin.repeated => return Ok(unarchived),
            None => {}
        }
        for event in &events {
            let Some(outbox) = self.outbox() else {
                return Ok(unarchived);
            };
            let dropped = outbox.enqueue(event, origin.now)?;
            self.dropped.resize(dropped.len(), 0);
            for (sum, dropped) in self.dropped.iter_mut().zip(dropped) {
                *sum += dropped;
            }
        }
        Ok(unarchived)
    }

    /// What the owners of conversations are told that have come back from the archive.
    pub(super) fn told_unarchived(
        &mut self,
        timelines: &[Timeline<'_>],
        layouts: &TopicMap,
    ) -> Result<Vec<Publish>, StoreError> {
        let mut told = vec![];
        self.failed_at = None;
        let Some(store) = self.as_store_mut() else {
            return Ok(told);
        };
        for timeline in timelines {
            let row = match store.conversation(timeline) {
                Ok(row) => row.unwrap_or_default(),
                Err(error) => {
                    self.failed_at = Some(timeline.inbox_of.as_str().into());
                    return Err(error);
                }
            };
            told.push(conversation::unarchived(layouts, timeline, &row));
        }
        Ok(told)
    }

    /// In whose timeline the last call of the two above failed, if that is known.
    pub(super) fn take_failed(&mut self) -> Option<Box<str>> {
        self.failed_at.take()
    }

    /// The next messages of those that wait in the delivery log alone.
    pub(super) fn read_backlog(&self, backlog: Option<BacklogRead>) -> Result<LogPage, StoreError> {
        match (backlog, self.as_store()) {
            (Some(BacklogRead { after, most }), Some(store)) if most > 0 => {
                store.unpublished(after, most)
            }
            _ => Ok(LogPage::default()),
        }
    }

    /// The next messages with something that goes to a topic and waits in the delivery log alone.
    pub(super) fn read_left(
        &self,
        left: Option<&(LeftRead, usize)>,
    ) -> Result<Option<(LeftRead, LogPage)>, StoreError> {
        match (left, self.as_store()) {
            (Some((read, most)), Some(store)) => {
                let page = store.unpublished(Some(read.after), *most)?;
                Ok(Some((read.clone(), page)))
            }
            _ => Ok(None),
        }
    }
}
