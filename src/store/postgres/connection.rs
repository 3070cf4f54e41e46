//! One connection to the database, made again when it is lost.
//!
//! Owns its thread, which does the network's work, and waiting for answers in the thread of whoever
//! asks. Several statements go out together: they cost one way to the database and back.

use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_executor::block_on;
use tokio::sync::Notify;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};

use super::target::Target;
use super::tls;
use crate::store::reader::GiveUp;
use crate::store::{Cause, StoreError};

/// How long the connection may take to be made, with TLS and login, unless the target says it.
const LIMIT: Duration = Duration::from_secs(10);

/// The key of the groups, as the database has named it.
const GROUPS: &str = "chat_group_pkey";

/// A parameter of a statement.
pub(super) type Param = Box<dyn ToSql + Sync + Send>;

/// The parameters of a statement.
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        vec![$(Box::new($value) as $crate::store::postgres::connection::Param),*]
    };
}
pub(super) use params;

/// A text for the database, which has no room for NUL.
pub(super) fn text(text: &str) -> String {
    match text.contains('\0') {
        true => text.replace('\0', "\u{fffd}"),
        false => text.to_owned(),
    }
}

/// A statement, and what stands for its parameters.
pub(super) struct Command {
    pub(super) sql: &'static str,
    pub(super) params: Vec<Param>,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sql)
    }
}

/// A connection.
pub(super) struct Connection {
    target: Target,
    live: RefCell<Option<Live>>,
}

struct Live {
    client: Client,
    statements: HashMap<&'static str, Statement>,
    end: Arc<End>,
}

/// How a connection is ended from another thread, with what the database does for it.
#[derive(Debug, Default)]
struct End {
    is_asked: AtomicBool,
    asked: Notify,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.target)
    }
}

impl Connection {
    /// Connects.
    pub(super) fn open(target: &Target) -> Result<Self, StoreError> {
        let connection = Self {
            target: target.clone(),
            live: RefCell::new(None),
        };
        connection.ensure()?;
        Ok(connection)
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Connects again if the connection is lost. Whoever has a transaction open must not ask.
    pub(super) fn ensure(&self) -> Result<(), StoreError> {
        let mut live = self.live.borrow_mut();
        let is_over =
            |live: &Live| live.client.is_closed() || live.end.is_asked.load(Ordering::Relaxed);
        if live.as_ref().is_none_or(is_over) {
            *live = None;
            let end = Arc::<End>::default();
            let client = connect(&self.target, end.clone())?;
            // A process that is stopped in the middle of a transaction must not keep its locks
            // until the leases of those who wait for them are over. What is between us and the
            // database may not know the setting.
            let millis = (self.target.lease / 3).as_millis().max(1);
            let limit = format!("SET idle_in_transaction_session_timeout = {millis}");
            if let Err(error) = block_on(client.batch_execute(&limit)) {
                tracing::debug!(%error, "no limit for idle transactions");
            }
            let statements = HashMap::new();
            *live = Some(Live {
                client,
                statements,
                end,
            });
        }
        Ok(())
    }

    /// A read begins. What is returned ends it, and the connection with it: one that is cancelled
    /// late could cancel the next read.
    pub(super) fn begin_read(&self) -> Result<GiveUp, StoreError> {
        self.ensure()?;
        let live = self.live.borrow();
        let end = live.as_ref().ok_or_else(lost)?.end.clone();
        Ok(Box::new(move || {
            end.is_asked.store(true, Ordering::Relaxed);
            end.asked.notify_one();
        }))
    }

    /// Gives the connection up.
    pub(super) fn close(&self) {
        *self.live.borrow_mut() = None;
    }

    /// Runs a text of statements without parameters.
    pub(super) fn batch(&self, sql: &str) -> Result<(), StoreError> {
        let live = self.live.borrow();
        let live = live.as_ref().ok_or_else(lost)?;
        block_on(live.client.batch_execute(sql)).map_err(|error| self.fault(error))
    }

    pub(super) fn query(
        &self,
        sql: &'static str,
        params: Vec<Param>,
    ) -> Result<Vec<Row>, StoreError> {
        self.prepare(sql)?;
        let live = self.live.borrow();
        let live = live.as_ref().ok_or_else(lost)?;
        let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| &**param as _).collect();
        block_on(live.client.query(&live.statements[sql], &params))
            .map_err(|error| self.fault(error))
    }

    /// Runs a statement. Returns the number of rows it changed.
    pub(super) fn execute(&self, sql: &'static str, params: Vec<Param>) -> Result<u64, StoreError> {
        self.prepare(sql)?;
        let live = self.live.borrow();
        let live = live.as_ref().ok_or_else(lost)?;
        let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| &**param as _).collect();
        block_on(live.client.execute(&live.statements[sql], &params))
            .map_err(|error| self.fault(error))
    }

    /// Sends all of it together, between `before` and `after`, and waits for all answers. Fails
    /// with the first failure: in a transaction, what comes behind it fails with it.
    pub(super) fn pipeline(
        &self,
        before: &'static str,
        commands: &[Command],
        after: &'static str,
    ) -> Result<Vec<Vec<Row>>, StoreError> {
        for command in commands {
            self.prepare(command.sql)?;
        }
        let live = self.live.borrow();
        let live = live.as_ref().ok_or_else(lost)?;
        let params: Vec<Vec<&(dyn ToSql + Sync)>> = commands
            .iter()
            .map(|command| command.params.iter().map(|param| &**param as _).collect())
            .collect();
        type Answer<'a> = Pin<Box<dyn Future<Output = Result<Vec<Row>, Error>> + 'a>>;
        let simple = |sql: &'static str| -> Option<Answer<'_>> {
            let run = async move { live.client.batch_execute(sql).await.map(|()| vec![]) };
            (!sql.is_empty()).then(|| Box::pin(run) as Answer<'_>)
        };
        let mut answers: Vec<Answer<'_>> = vec![];
        answers.extend(simple(before));
        let first = answers.len();
        for (command, params) in commands.iter().zip(&params) {
            let statement = &live.statements[command.sql];
            answers.push(Box::pin(async move {
                live.client.query(statement, params).await
            }));
        }
        answers.extend(simple(after));
        let rows = block_on(Together::new(answers));
        let mut rows = rows.map_err(|error| self.fault(error))?;
        rows.drain(..first);
        rows.truncate(commands.len());
        Ok(rows)
    }

    /// What the database says, with where it is and what to do about it.
    fn fault(&self, error: Error) -> StoreError {
        let mut told = Told::from(error);
        let remedy = told.code.as_ref().map_or("", |code| advice(code.code()));
        told.text = format!("{}: {}{remedy}", self.target, told.text);
        told.into()
    }

    fn prepare(&self, sql: &'static str) -> Result<(), StoreError> {
        let mut live = self.live.borrow_mut();
        let live = live.as_mut().ok_or_else(lost)?;
        if !live.statements.contains_key(sql) {
            let statement = block_on(live.client.prepare(sql));
            let statement = statement.map_err(|error| self.fault(error))?;
            live.statements.insert(sql, statement);
        }
        Ok(())
    }
}

fn lost() -> StoreError {
    StoreError::Transient("the connection to the database is lost".into())
}

/// Polls futures in their order, so that they send in it.
struct Together<F: Future> {
    futures: Vec<Option<F>>,
    done: Vec<Option<F::Output>>,
}

impl<F: Future> Together<F> {
    fn new(futures: Vec<F>) -> Self {
        let done = futures.iter().map(|_| None).collect();
        let futures = futures.into_iter().map(Some).collect();
        Self { futures, done }
    }
}

impl<T: Unpin, E: Unpin, F: Future<Output = Result<T, E>> + Unpin> Future for Together<F> {
    type Output = Result<Vec<T>, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        for (future, done) in this.futures.iter_mut().zip(&mut this.done) {
            if let Some(waiting) = future
                && let Poll::Ready(output) = Pin::new(waiting).poll(context)
            {
                (*future, *done) = (None, Some(output));
            }
        }
        match this.done.iter().all(Option::is_some) {
            true => Poll::Ready(this.done.drain(..).flatten().collect()),
            false => Poll::Pending,
        }
    }
}

/// Connects in a thread of the connection's own, which lasts as long as the client does.
fn connect(target: &Target, end: Arc<End>) -> Result<Client, StoreError> {
    let failed = |cause: Cause| StoreError::Connect {
        target: target.to_string(),
        remedy: remedy(&cause),
        cause,
    };
    let tls = tls::connector(target).map_err(failed)?;
    let config = target.config.clone();
    let (client_tx, client_rx) = mpsc::sync_channel(1);
    let serve = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = client_tx.send(Err(Cause::from(error)));
                return;
            }
        };
        runtime.block_on(async {
            // The crate limits the way to the server alone, not what it says then.
            let limit = config
                .get_connect_timeout()
                .map_or(LIMIT, |limit| 2 * *limit);
            let connected = tokio::time::timeout(limit, config.connect(tls.clone())).await;
            let Ok(connected) = connected else {
                let _ = client_tx.send(Err("the database does not answer".into()));
                return;
            };
            match connected {
                Ok((client, connection)) => {
                    let cancel = client.cancel_token();
                    let _ = client_tx.send(Ok(client));
                    // Whoever waits for an answer gets the error, too.
                    tokio::select! {
                        _ = connection => {}
                        () = end.asked.notified() => {
                            let _ = tokio::time::timeout(limit, cancel.cancel_query(tls)).await;
                        }
                    }
                }
                Err(error) => {
                    let _ = client_tx.send(Err(Cause::from(error)));
                }
            }
        });
    };
    std::thread::Builder::new()
        .name("postgres".to_owned())
        .spawn(serve)
        .map_err(|error| failed(error.into()))?;
    let connected = client_rx
        .recv()
        .unwrap_or_else(|_| Err("the thread of the connection has ended".into()));
    connected.map_err(|source| failed(told(source)))
}

/// The cause in one line: the crate says "db error" where the database has said more.
fn told(cause: Cause) -> Cause {
    match cause.downcast::<Error>() {
        Ok(error) => Box::new(Told::from(*error)),
        Err(other) => other,
    }
}

/// What the database or the network says.
#[derive(Debug)]
pub(super) struct Told {
    text: String,
    code: Option<SqlState>,
    /// Whether a row is there that was not when it was looked for.
    is_taken: bool,
}

impl From<Error> for Told {
    fn from(error: Error) -> Self {
        let code = error.code().cloned();
        let text = match (error.as_db_error(), error.source()) {
            (Some(said), _) => format!("{} ({})", said.message(), said.code().code()),
            (None, Some(source)) => format!("{error}: {source}"),
            (None, None) => error.to_string(),
        };
        let constraint = error.as_db_error().and_then(|said| said.constraint());
        Self {
            text,
            code,
            is_taken: constraint == Some(GROUPS),
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Told {}

/// What to do about a connection that cannot be made.
fn remedy(cause: &Cause) -> &'static str {
    let Some(told) = cause.downcast_ref::<Told>() else {
        return "see that the database runs, and that its address is right (--store)";
    };
    match told.code.as_ref() {
        Some(code) if *code == SqlState::INVALID_PASSWORD => {
            "give the password of this user (--store-password-file)"
        }
        Some(code) if *code == SqlState::INVALID_CATALOG_NAME => {
            "make the database: createdb --owner USER DATABASE"
        }
        Some(code) if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "make the user, and let them in (pg_hba.conf); with TLS, if that asks for it \
             (sslmode=require)"
        }
        Some(code) if *code == SqlState::TOO_MANY_CONNECTIONS => {
            "let it take more connections: max_connections, or CONNECTION LIMIT of the user or the \
             database"
        }
        Some(_) => "see the log of the database",
        None if told.text.contains("password missing") => {
            "give the password of this user (--store-password-file)"
        }
        None if told.text.contains("TLS") || told.text.contains("ertificate") => {
            "see the certificates of the database (sslrootcert=FILE), or ask for less \
             (sslmode=require, prefer, disable)"
        }
        None => "see that the database runs, and that its address is right (--store)",
    }
}

/// What to do about a statement that fails.
fn advice(code: &str) -> &'static str {
    match code {
        "25006" => "; connect to the server that writes (--store)",
        "42501" => "; the user of --store must own the tables, or the schema to make them in",
        "53100" => "; make room on its disk",
        _ => "",
    }
}

impl From<Told> for StoreError {
    fn from(told: Told) -> Self {
        let Some(code) = told.code.as_ref().map(SqlState::code) else {
            // No answer of the database: the network, or a restart.
            return Self::Transient(told.into());
        };
        match code {
            // The fence divides by the number of leases that this process has.
            "22012" => Self::Fenced,
            "40001" | "40P01" => Self::Conflict(told.into()),
            "23505" if told.is_taken => Self::Conflict(told.into()),
            // Connections, resources, limits, an operator, the system; a database that only reads
            // now; a transaction that took too long.
            _ if ["08", "53", "55", "57", "58"].contains(&&code[..2])
                || ["25006", "25P03", "25P02", "42501"].contains(&code) =>
            {
                Self::Transient(told.into())
            }
            _ => Self::Permanent(told.into()),
        }
    }
}
