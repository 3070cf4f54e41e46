//! What plans say is written, and where it goes.
//!
//! Owns the store, or without one the outbox in memory. Leaves transactions and their failures to
//! the processor.

use crate::protocol::address::Timeline;
use crate::protocol::publish::Publish;
use crate::protocol::topic_map::TopicMap;
use crate::rules::conversation;
use crate::rules::webhook_event::Event as WebhookEvent;
use crate::rules::write::Write;
use crate::store::{Origin, Outbox, Store, StoreError, Written};

/// Where the writes of plans and the events for webhooks go.
#[derive(Debug, Default)]
pub struct Persistence {
    place: Place,
    /// Events of this batch that were dropped to make room for others, for each endpoint.
    dropped: Vec<u64>,
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
            dropped: vec![],
        }
    }

    /// Nothing is written but events for webhooks, into an outbox that is only in memory.
    pub fn outbox_in_memory(outbox: Box<dyn Outbox>) -> Self {
        Self {
            place: Place::OutboxInMemory(outbox),
            dropped: vec![],
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
        match self.as_store_mut() {
            Some(store) => {
                store.prefetch_copies(writes)?;
                for write in writes {
                    let written = store.apply(write, origin)?;
                    let Write::Copy(copy) = write else {
                        continue;
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
        let Some(store) = self.as_store_mut() else {
            return Ok(vec![]);
        };
        let told = timelines.iter().map(|timeline| {
            let row = store.conversation(timeline)?.unwrap_or_default();
            Ok(conversation::unarchived(layouts, timeline, &row))
        });
        told.collect()
    }
}
