//! The connections to the store that requests share.
//!
//! Owns that nothing is read on the thread that writes, and that nothing is read for a client who
//! has left: neither is to keep a connection from others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use super::Api;
use super::failure::Failure;
use crate::store::StoreError;
use crate::store::reader::{GiveUp, Reader};

/// Reads at a time. More would wait for the processor, not for the disk.
const AT_A_TIME: usize = 4;

/// The connections.
pub(super) struct Readers {
    idle: Mutex<Vec<Box<dyn Reader>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    /// Opens the connections with `open`.
    pub(super) fn open(
        mut open: impl FnMut() -> Result<Box<dyn Reader>, StoreError>,
    ) -> Result<Self, StoreError> {
        let idle: Result<Vec<_>, _> = (0..AT_A_TIME).map(|_| open()).collect();
        Ok(Self {
            idle: Mutex::new(idle?),
            permits: Arc::new(Semaphore::new(AT_A_TIME)),
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Box<dyn Reader>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads in a thread for that. Safe to cancel: the read ends early then, and the connection
    /// serves others.
    async fn read<T: Send + 'static>(
        self: Arc<Self>,
        query: impl FnOnce(&mut dyn Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| Failure::Unavailable)?;
        let stage = Arc::<Mutex<Stage>>::default();
        let _awaited = Awaited(stage.clone());
        let work = move || {
            let mut reader = self.idle().pop()?;
            let result = read_unless_given_up(reader.as_mut(), query, &stage);
            self.idle().push(reader);
            // Here: a read that is given up has the connection until it ends.
            drop(permit);
            result
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Some(result)) => Ok(result?),
            Ok(None) | Err(_) => Err(Failure::Unavailable),
        }
    }
}

/// Reads from the store, and makes the answer in the same thread: the observer's own thread carries
/// messages.
pub(super) async fn read<T: Send + 'static>(
    api: &Api,
    query: impl FnOnce(&mut dyn Reader) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Failure> {
    api.readers.clone().read(query).await
}

/// How far a read has come.
#[derive(Default)]
enum Stage {
    #[default]
    Waits,
    Reads(GiveUp),
    /// It is done, or given up.
    Over,
}

fn lock(stage: &Mutex<Stage>) -> MutexGuard<'_, Stage> {
    stage.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whoever awaits a result. When it is dropped, because the client has left or time is up, the read
/// is given up.
struct Awaited(Arc<Mutex<Stage>>);

impl Drop for Awaited {
    fn drop(&mut self) {
        // The lock is held, so that this cannot meet the next read of the connection.
        let mut stage = lock(&self.0);
        if let Stage::Reads(give_up) = &*stage {
            give_up();
        }
        *stage = Stage::Over;
    }
}

/// There is no result if the read was given up before it began.
fn read_unless_given_up<T>(
    reader: &mut dyn Reader,
    query: impl FnOnce(&mut dyn Reader) -> Result<T, StoreError>,
    stage: &Mutex<Stage>,
) -> Option<Result<T, StoreError>> {
    let give_up = match reader.begin_read() {
        Ok(give_up) => give_up,
        Err(error) => return Some(Err(error)),
    };
    {
        let mut stage = lock(stage);
        if matches!(*stage, Stage::Over) {
            return None;
        }
        *stage = Stage::Reads(give_up);
    }
    let result = query(reader);
    *lock(stage) = Stage::Over;
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::address::Timeline;
    use crate::protocol::id::{AppId, UserId};
    use crate::protocol::time::UnixMillis;
    use crate::rules::conversation_row::Row;
    use crate::rules::listing::{ListedConversation, ListedMessage, Slice, Window};
    use crate::store::reader::KnownClient;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// A reader whose queries end when they are given up, and not before.
    struct Slow {
        given_up: Sender<()>,
        ends: Receiver<()>,
    }

    impl Slow {
        fn boxed() -> Result<Box<dyn Reader>, StoreError> {
            let (given_up, ends) = channel();
            Ok(Box::new(Self { given_up, ends }))
        }
    }

    impl Reader for Slow {
        fn begin_read(&mut self) -> Result<GiveUp, StoreError> {
            let given_up = self.given_up.clone();
            Ok(Box::new(move || given_up.send(()).unwrap()))
        }

        fn group_body(
            &mut self,
            _: AppId<'_>,
            _: UserId<'_>,
        ) -> Result<Option<String>, StoreError> {
            self.ends.recv().unwrap();
            Err(StoreError::Transient("given up".into()))
        }

        fn conversations(
            &mut self,
            _: AppId<'_>,
            _: UserId<'_>,
            _: bool,
            _: Window,
        ) -> Result<Slice<ListedConversation>, StoreError> {
            unreachable!("the test does not ask")
        }

        fn listed_conversation(&mut self, _: &Timeline<'_>) -> Result<Option<Row>, StoreError> {
            Ok(None)
        }

        fn messages(
            &mut self,
            _: &Timeline<'_>,
            _: Window,
        ) -> Result<Slice<ListedMessage>, StoreError> {
            unreachable!("the test does not ask")
        }

        fn clients_since(
            &mut self,
            _: UnixMillis,
            _: UnixMillis,
            _: usize,
        ) -> Result<Vec<KnownClient>, StoreError> {
            unreachable!("the test does not ask")
        }

        fn instances(
            &mut self,
            _: AppId<'_>,
            _: UserId<'_>,
        ) -> Result<Vec<(String, String)>, StoreError> {
            unreachable!("the test does not ask")
        }
    }

    #[tokio::test]
    async fn a_read_is_given_up_with_its_client_and_the_connection_serves_others() {
        let readers = Arc::new(Readers::open(Slow::boxed).unwrap());
        let (began, mut all_began) = tokio::sync::mpsc::channel(AT_A_TIME);
        let slow = || {
            let (readers, began) = (readers.clone(), began.clone());
            tokio::spawn(readers.read(move |reader| {
                began.blocking_send(()).unwrap();
                let (app, id) = (AppId::parse("a").unwrap(), UserId::parse("g").unwrap());
                reader.group_body(app, id)
            }))
        };
        for _ in 0..2 {
            let clients: Vec<_> = (0..AT_A_TIME).map(|_| slow()).collect();
            for _ in 0..AT_A_TIME {
                all_began.recv().await.unwrap();
            }
            // They leave.
            for client in &clients {
                client.abort();
            }
            let quick = readers.clone().read(|_| Ok(7)).await;
            assert!(matches!(quick, Ok(7)), "{quick:?}");
        }
    }

    #[tokio::test]
    async fn what_is_given_up_before_it_begins_is_not_read() {
        let mut reader = Slow::boxed().unwrap();
        let stage = Arc::<Mutex<Stage>>::default();
        drop(Awaited(stage.clone()));
        let read = read_unless_given_up(reader.as_mut(), |_| Ok(()), &stage);
        assert!(read.is_none());
    }
}
