//! One measurement: the connections of the users, the pace, and waiting for what is under way.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::Progress;
use super::logins::Logins;
use super::plan::{Extent, Pace, Plan, Subject};
use super::process::{Memory, Process};
use super::stand_in::{StandIn, subscribe};
use super::traffic::{Traffic, Window};
use super::wire::Names;
use crate::auth::secret::random_id;
use crate::commands::signals::Signals;
use crate::connections::opener::Opener;
use crate::connections::probe_client::ProbeClient;
use crate::delivery::audit::Verdict;
use crate::mqtt::{Client, Connection, Event, LinkError, Opened, Session};

/// Connections that are opened at a time.
const AT_ONCE: usize = 16;
/// How long to wait for copies that come twice.
const LINGER: Duration = Duration::from_millis(200);
/// How long the broker may take for our DISCONNECT.
const GOODBYE: Duration = Duration::from_secs(3);
/// How often the progress is shown.
const TICK: Duration = Duration::from_millis(100);
/// Filters in one SUBSCRIBE.
const FILTERS: usize = 100;

/// What one measurement has brought.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) window: Window,
    pub(super) verdict: Verdict,
    pub(super) memory: Option<Memory>,
    /// By reason, and what the first of each said.
    pub(super) refusals: BTreeMap<String, (u64, String)>,
}

/// What a measurement measures.
pub(super) struct Load<'a> {
    pub(super) plan: &'a Plan,
    pub(super) pace: Pace,
    pub(super) subject: Subject,
    pub(super) logins: &'a Logins,
    /// The observer's.
    pub(super) process: Option<Process>,
}

type Shared = Rc<RefCell<Traffic>>;

impl Load<'_> {
    /// Measures, with users of its own, until a signal interrupts it. Has to run in a `LocalSet`.
    pub(super) async fn run(
        &self,
        progress: &Progress,
        signals: &mut Signals,
    ) -> anyhow::Result<Outcome> {
        let run = random_id()[..6].to_owned();
        let names = Names::new(self.subject.root(), &self.plan.app, &run);
        progress.show("connecting");
        let members = self.plan.group_size.map(|size| (0..size).collect());
        let mut stand_in = match self.subject {
            Subject::Observer => None,
            Subject::NullForwarder | Subject::BrokerAlone => {
                let links = self.logins.links().clone();
                let names = names.clone();
                Some(StandIn::start(self.subject, links, names, members))
            }
        };
        let measured = tokio::select! {
            measured = self.measure(&names, stand_in.as_mut(), progress) => measured,
            () = signals.next() => Err(anyhow::anyhow!("interrupted")),
        };
        let stopped = match stand_in {
            Some(stand_in) => tokio::select! {
                stopped = stand_in.stop() => stopped,
                // The second one: whoever sends two does not want to wait for the broker.
                () = signals.next(), if measured.is_err() => Ok(()),
            },
            None => Ok(()),
        };
        // If the stand-in has failed, that is why nothing arrives.
        stopped.and(measured)
    }

    async fn measure(
        &self,
        names: &Names,
        mut stand_in: Option<&mut StandIn>,
        progress: &Progress,
    ) -> anyhow::Result<Outcome> {
        let process = match &mut stand_in {
            None => self.process.clone(),
            Some(stand_in) => {
                let process = stand_in.ready().await?;
                (self.subject == Subject::NullForwarder).then_some(process)
            }
        };
        let (clients, connections) = self.connect(names).await?;
        if self.plan.group_size.is_some() && self.subject == Subject::Observer {
            self.make_group(names).await?;
        }
        let handed_over = stand_in.and_then(|stand_in| stand_in.handed_over());
        let memory_of = self.process.as_ref();
        let memory_of = memory_of.filter(|_| self.subject == Subject::Observer);
        let traffic = Traffic::new(
            self.plan,
            self.pace,
            names.clone(),
            clients,
            handed_over,
            process,
        );
        let shared = Rc::new(RefCell::new(traffic));
        let changed = Rc::new(Notify::new());
        let mut pumps = JoinSet::new();
        for (at, connection) in connections.into_iter().enumerate() {
            pumps.spawn_local(pump(at, connection, shared.clone(), changed.clone()));
        }
        shared.borrow_mut().try_one();
        self.wait(&shared, &changed, None).await?;
        self.judge_first(&shared)?;
        let now = Instant::now();
        shared.borrow_mut().begin(now);
        if let Pace::Rate(rate) = self.pace {
            pumps.spawn_local(send_paced(now, rate, shared.clone(), changed.clone()));
        }
        self.wait(&shared, &changed, Some(progress)).await?;
        tokio::time::sleep(LINGER).await;
        shared.borrow_mut().leave();
        let all_gone = async { while pumps.join_next().await.is_some() {} };
        // A broker that does not take our leave is left all the same.
        let _ = timeout(GOODBYE, all_gone).await;
        let mut traffic = shared.borrow_mut();
        Ok(Outcome {
            window: std::mem::take(&mut traffic.window),
            verdict: traffic.audit.verdict(),
            memory: memory_of.and_then(Process::memory),
            refusals: std::mem::take(&mut traffic.refusals),
        })
    }

    /// Opens the connections, and subscribes each to what its users get.
    async fn connect(&self, names: &Names) -> anyhow::Result<(Vec<Client>, Vec<Connection>)> {
        let opener = Rc::new(Opener::new(self.logins.links().clone()));
        let count = self.plan.connections;
        let mut opened: Vec<Option<(Client, Connection)>> = (0..count).map(|_| None).collect();
        let mut opening = JoinSet::new();
        for at in 0..count {
            // The first one alone: it finds out which version of MQTT the broker speaks.
            while opening.len() >= AT_ONCE || (at == 1 && !opening.is_empty()) {
                take(opening.join_next().await, &mut opened)?;
            }
            let users = (at..self.plan.users()).step_by(count as usize);
            let filters: Vec<_> = users.map(|user| names.inbox(user)).collect();
            let login = match self.subject {
                Subject::Observer => self.logins.of_user(&names.user(at))?,
                Subject::NullForwarder | Subject::BrokerAlone => None,
            };
            let (opener, client_id) = (opener.clone(), format!("{}.bench", names.user(at)));
            let window = self.window();
            opening.spawn_local(async move {
                let opens = opener.open(client_id, login, Session::Clean, window);
                let Opened {
                    client,
                    mut connection,
                    ..
                } = opens.await?;
                for some in filters.chunks(FILTERS) {
                    subscribe(&client, &mut connection, some.to_vec()).await?;
                }
                Ok((at, client, connection))
            });
        }
        while !opening.is_empty() {
            take(opening.join_next().await, &mut opened)?;
        }
        Ok(opened.into_iter().flatten().unzip())
    }

    /// Messages under way on one connection: as many as any might have, in memory's bounds.
    fn window(&self) -> u16 {
        let share = 8_000 / self.plan.connections;
        u16::try_from(share.clamp(50, 2_000)).unwrap_or(u16::MAX)
    }

    /// Has the observer store the group.
    async fn make_group(&self, names: &Names) -> anyhow::Result<()> {
        let mut links = self.logins.links().clone();
        links.client_id = crate::auth::secret::Secret::new(format!("bench-{}", random_id()));
        let mut client = ProbeClient::connect(links, Session::Clean).await?;
        let payload = names.group_payload(0..self.plan.users());
        client.publish(names.group_update(), payload.into()).await?;
        client.leave().await;
        Ok(())
    }

    /// Waits until everything is accounted for, or nothing has come for too long.
    async fn wait(
        &self,
        shared: &Shared,
        changed: &Notify,
        progress: Option<&Progress>,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        let length = self.plan.length(self.pace);
        loop {
            // Cut short: what has changed is looked at below.
            let _ = timeout(TICK, changed.notified()).await;
            let now = Instant::now();
            let mut traffic = shared.borrow_mut();
            if let Some(error) = &traffic.failure {
                return Err(error.clone().into());
            }
            if traffic.is_finished() {
                return Ok(());
            }
            if now > traffic.last_arrival + self.plan.patience {
                traffic.stop(now);
                return Ok(());
            }
            let Some(progress) = progress else { continue };
            let seconds = began.elapsed().as_secs_f64();
            let arrived = traffic.audit.arrived();
            progress.show(match (length, traffic.is_over()) {
                (_, true) => "waiting for what is under way".to_owned(),
                (Some(length), false) => {
                    let length = length.as_secs_f64();
                    format!("{seconds:.0} of {length:.0} s, {arrived} copies")
                }
                (None, false) => match self.plan.extent {
                    Extent::Messages(count) => format!("{arrived} copies of {count} messages"),
                    Extent::Time(_) => format!("{arrived} copies"),
                },
            });
        }
    }

    /// Ends the measurement if the first message was not delivered.
    fn judge_first(&self, shared: &Shared) -> anyhow::Result<()> {
        let traffic = shared.borrow();
        let verdict = traffic.audit.verdict();
        if let Some((reason, (_, text))) = traffic.refusals.first_key_value() {
            let group = match (self.plan.group_size, reason.as_str()) {
                (Some(_), "not-a-group") => " (groups need an observer with a store)",
                _ => "",
            };
            anyhow::bail!("the first message is refused: {text}{group}");
        }
        let app = &self.plan.app;
        if verdict.arrived == 0 && self.subject == Subject::Observer {
            anyhow::bail!(
                "the broker has taken a message, but no observer delivers it within {}. Does one \
                 run, and does it serve app {app:?}? With --app given, it serves no other: add \
                 --app {app} to it",
                humantime::format_duration(self.plan.patience)
            );
        }
        anyhow::ensure!(
            verdict.arrived == verdict.copies,
            "of the first message, {} of {} copies arrive within {}. Is this login allowed to \
             read and write {}/{app}/#?",
            verdict.arrived,
            verdict.copies,
            humantime::format_duration(self.plan.patience),
            self.subject.root()
        );
        Ok(())
    }
}

type Opening = Result<(u32, Client, Connection), LinkError>;

/// Puts a connection in its place.
fn take(
    joined: Option<Result<Opening, tokio::task::JoinError>>,
    opened: &mut [Option<(Client, Connection)>],
) -> anyhow::Result<()> {
    if let Some(joined) = joined {
        let (at, client, connection) = joined??;
        opened[at as usize] = Some((client, connection));
    }
    Ok(())
}

/// Hands on what happens on a connection.
async fn pump(at: usize, mut connection: Connection, shared: Shared, changed: Rc<Notify>) {
    loop {
        let event = connection.next().await;
        if event == Ok(Event::Disconnected) {
            return;
        }
        let mut traffic = shared.borrow_mut();
        match event {
            Ok(event) => traffic.handle(at, event),
            Err(error) => traffic.fail(error),
        }
        if traffic.is_finished() || traffic.failure.is_some() {
            changed.notify_one();
        }
        if traffic.failure.is_some() {
            return;
        }
    }
}

/// Sends each message when it is due. A thread tells the time: the runtime's own is a millisecond
/// coarse.
async fn send_paced(began: Instant, rate: u32, shared: Shared, changed: Rc<Notify>) {
    let (due_tx, mut due_rx) = mpsc::unbounded_channel();
    let pause = Duration::from_secs(1) / rate;
    std::thread::spawn(move || {
        for n in 0_u32.. {
            let due = began + pause.mul_f64(f64::from(n));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if due_tx.send(due).is_err() {
                return;
            }
        }
    });
    while let Some(due) = due_rx.recv().await {
        let mut traffic = shared.borrow_mut();
        traffic.send_due(due, Instant::now());
        if traffic.is_over() {
            changed.notify_one();
            return;
        }
    }
}
