//! What stands in for the observer, to show what the broker allows: a null forwarder, or nobody.
//!
//! Owns a thread with two connections, as the observer has them: a persistent session that takes
//! what users write, and a publisher of copies. It reads no payload, and checks and stores nothing.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use super::plan::Subject;
use super::process::Process;
use super::wire::Names;
use crate::auth::secret::random_id;
use crate::connections::opener::Opener;
use crate::connections::settings::LinkSettings;
use crate::delivery::audit::User;
use crate::mqtt::{
    Cause, Client, Connection, Delivery, Event, LinkError, Opened, Session, SubmitError,
};
use crate::protocol::publish::Publish;
use crate::protocol::topic::{Subscription, TopicName};

/// How long the broker keeps the session of a bench that was killed (MQTT 5).
const EXPIRY: Duration = Duration::from_secs(60);
/// What was sent just before an interruption may still make a session at the broker, for so long.
const SETTLES: Duration = Duration::from_secs(1);
/// Publishes under way at a time, as many as the observer may have by default.
const WINDOW: u16 = 1_000;

/// A message that a sender hands over besides publishing it.
pub(super) type HandedOver = (TopicName, Bytes);

/// The thread, and how to speak to it.
pub(super) struct StandIn {
    handed_over: Option<mpsc::UnboundedSender<HandedOver>>,
    ready: Option<oneshot::Receiver<Process>>,
    stop: CancellationToken,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl StandIn {
    /// Starts it. Of a group, `members` get the copies. It has to be stopped, whatever happens.
    pub(super) fn start(
        subject: Subject,
        settings: LinkSettings,
        names: Names,
        members: Option<Vec<User>>,
    ) -> Self {
        let (handed_over, given) = mpsc::unbounded_channel();
        let (ready_tx, ready) = oneshot::channel();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let forwards_itself = subject == Subject::NullForwarder;
        let opener = Opener::new(settings);
        let forwarding = Forwarding {
            subject,
            client_id: format!("bench-stand-in-{}", random_id()),
            names,
            members,
            ready: ready_tx,
            given,
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            LocalSet::new().block_on(&runtime, forwarding.run(&opener, &stopped))
        });
        Self {
            handed_over: (!forwards_itself).then_some(handed_over),
            ready: Some(ready),
            stop,
            thread,
        }
    }

    /// Waits until it is subscribed, and returns what shows its CPU time.
    ///
    /// # Errors
    /// If it has ended; [`StandIn::stop`] says why.
    pub(super) async fn ready(&mut self) -> anyhow::Result<Process> {
        let ready = self.ready.take().context("it was waited for before")?;
        ready.await.context("the stand-in has ended")
    }

    /// Where senders have to hand over their messages, too.
    pub(super) fn handed_over(&self) -> Option<mpsc::UnboundedSender<HandedOver>> {
        self.handed_over.clone()
    }

    /// Stops it, and has the broker delete its session.
    ///
    /// # Errors
    /// What it has ended with.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await?;
        joined.map_err(|_| anyhow::anyhow!("the stand-in panicked"))?
    }
}

/// What the thread does.
struct Forwarding {
    subject: Subject,
    client_id: String,
    names: Names,
    members: Option<Vec<User>>,
    ready: oneshot::Sender<Process>,
    given: mpsc::UnboundedReceiver<HandedOver>,
}

/// What is under way between the two connections.
struct State {
    session: Client,
    publisher: Client,
    names: Names,
    members: Option<Vec<User>>,
    forwards_itself: bool,
    /// Messages in order of arrival: what to acknowledge, and how many copies are unconfirmed.
    waiting: VecDeque<(Option<u16>, usize)>,
    /// How many messages came before the first that waits.
    before: u64,
}

impl Forwarding {
    /// Forwards until it is to stop, then has the broker delete the session.
    async fn run(self, opener: &Opener, stop: &CancellationToken) -> anyhow::Result<()> {
        let client_id = self.client_id.clone();
        let does_not_start = format!("the {} does not start", self.subject);
        let kept = Session::Persistent(EXPIRY);
        let opening = opener.open(client_id.clone(), None, kept, WINDOW);
        let is_ready = Cell::new(false);
        let ended = match stop.run_until_cancelled(opening).await {
            Some(Ok(session)) => {
                let forwards = Box::pin(self.forward(opener, session, &is_ready));
                stop.run_until_cancelled(forwards).await.unwrap_or(Ok(()))
            }
            // The broker may have made the session without our having its answer.
            Some(Err(error)) if matches!(error.cause, Cause::TimedOut | Cause::Closed) => {
                Err(error).context(does_not_start)
            }
            Some(Err(error)) => return Err(error).context(does_not_start),
            None => Ok(()),
        };
        if !is_ready.get() {
            tokio::time::sleep(SETTLES).await;
        }
        // A connection with an empty session has the broker delete what is in this one.
        let deleted = opener.open(client_id, None, Session::Clean, WINDOW).await;
        if let Ok(Opened {
            client, connection, ..
        }) = deleted
        {
            let _ = client.disconnect();
            connection.close().await;
        }
        ended
    }

    /// Forwards what comes in this session, until a connection ends.
    async fn forward(
        self,
        opener: &Opener,
        session: Opened,
        is_ready: &Cell<bool>,
    ) -> anyhow::Result<()> {
        let does_not_start = || format!("the {} does not start", self.subject);
        let Opened {
            client: session,
            connection: mut receiving,
            ..
        } = session;
        let publisher = format!("{}-pub", self.client_id);
        let opening = opener.open(publisher, None, Session::Clean, WINDOW);
        let Opened {
            client: publisher,
            connection: confirming,
            ..
        } = opening.await.with_context(does_not_start)?;
        let filter = self.names.all_outgoing();
        let subscribed = subscribe(&session, &mut receiving, [filter].into()).await;
        subscribed.with_context(does_not_start)?;
        is_ready.set(true);
        let _ = self.ready.send(Process::of_this_thread()?);
        let state = Rc::new(RefCell::new(State {
            session,
            publisher,
            names: self.names,
            members: self.members,
            forwards_itself: self.subject == Subject::NullForwarder,
            waiting: VecDeque::new(),
            before: 0,
        }));
        let mut given = self.given;
        let takes_over = async {
            while let Some((topic, payload)) = given.recv().await {
                let forwarded = state.borrow_mut().forward(topic.as_str(), &payload, None);
                if let Err(error) = forwarded {
                    return not_sent(error);
                }
            }
            std::future::pending().await
        };
        let error = tokio::select! {
            error = pump(receiving, state.clone()) => error,
            error = pump(confirming, state.clone()) => error,
            error = takes_over => error,
        };
        Err(error).context("the stand-in for the observer")
    }
}

/// Hands on what happens, until the connection ends: why it has.
async fn pump(mut connection: Connection, state: Rc<RefCell<State>>) -> LinkError {
    loop {
        let handled = match connection.next().await {
            Ok(event) => state.borrow_mut().handle(event),
            Err(error) => return error,
        };
        if let Err(error) = handled {
            return error;
        }
    }
}

impl State {
    fn handle(&mut self, event: Event) -> Result<(), LinkError> {
        match event {
            Event::Message(delivery) => self.deliver(&delivery),
            Event::Confirmed { token, outcome } => {
                outcome.map_err(|reason| not_allowed(&reason.to_string()))?;
                self.confirm(token)
            }
            Event::Subscribed(_) | Event::Disconnected => {
                return Ok(());
            }
        }
        .map_err(not_sent)
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<(), SubmitError> {
        let received = &delivery.received;
        if self.forwards_itself {
            let topic = String::from_utf8_lossy(&received.topic);
            return self.forward(&topic, &received.payload, delivery.packet_id);
        }
        match delivery.packet_id {
            Some(packet_id) => self.session.acknowledge(packet_id),
            None => Ok(()),
        }
    }

    /// Publishes the copies of a message: the recipient's and the sender's, or the members' and the
    /// group's own.
    fn forward(
        &mut self,
        topic: &str,
        payload: &Bytes,
        packet_id: Option<u16>,
    ) -> Result<(), SubmitError> {
        let levels: Vec<&str> = topic.split('/').collect();
        let (Some(sender), Some(recipient)) = (levels.get(4), levels.get(6)) else {
            return Ok(());
        };
        let token = self.before + self.waiting.len() as u64;
        let copies = match &self.members {
            None => 2,
            Some(members) => members.len() + 1,
        };
        self.waiting.push_back((packet_id, copies));
        let publish = |inbox_of: &str, convers_with: &str| {
            let topic = self.names.copy(inbox_of, convers_with);
            let copy = Publish::new(topic, payload.clone());
            self.publisher.publish(token, &copy)
        };
        match &self.members {
            None => {
                publish(sender, recipient)?;
                publish(recipient, sender)
            }
            Some(members) => {
                publish(recipient, recipient)?;
                for member in members {
                    publish(&self.names.user(*member), recipient)?;
                }
                Ok(())
            }
        }
    }

    /// A copy of the message with this number is confirmed. Messages are acknowledged in their
    /// order, as the observer does.
    fn confirm(&mut self, token: u64) -> Result<(), SubmitError> {
        let at = usize::try_from(token - self.before).unwrap_or(usize::MAX);
        if let Some((_, left)) = self.waiting.get_mut(at) {
            *left -= 1;
        }
        while let Some((packet_id, 0)) = self.waiting.front() {
            if let Some(packet_id) = packet_id {
                self.session.acknowledge(*packet_id)?;
            }
            self.waiting.pop_front();
            self.before += 1;
        }
        Ok(())
    }
}

/// Subscribes at QoS 1, and waits for the answer. No message may come before it.
pub(super) async fn subscribe(
    client: &Client,
    connection: &mut Connection,
    filters: Vec<crate::protocol::topic::TopicFilter>,
) -> Result<(), LinkError> {
    let filters: Vec<Subscription> = filters
        .into_iter()
        .map(|filter| Subscription {
            filter,
            retained: false,
            is_optional: false,
        })
        .collect();
    client.subscribe(&filters).map_err(not_sent)?;
    loop {
        let Event::Subscribed(answers) = connection.next().await? else {
            continue;
        };
        return match answers.into_iter().find_map(Result::err) {
            Some(reason) => Err(not_allowed(&reason.to_string())),
            None => Ok(()),
        };
    }
}

pub(super) fn not_allowed(reason: &str) -> LinkError {
    let text = format!("the broker does not allow this login what bench needs: {reason}");
    LinkError::new(Cause::NotAuthorized, text)
}

pub(super) fn not_sent(error: SubmitError) -> LinkError {
    let cause = match error {
        SubmitError::Gone => Cause::Closed,
        SubmitError::TooLarge => Cause::Other,
    };
    LinkError::new(cause, error.to_string())
}
