//! A whole store, row by row, in a form that all stores share: what `store copy` moves.
//!
//! Owns the order of the parts, how far a copy got, and the comparison at its end. How a part is
//! kept is the business of each store. Neither store may be in use meanwhile.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use self::Kind::{Bytes as B, Integer as I, Text as T};
use super::postgres::PostgresStore;
use super::sqlite::{self, SqliteStore};
use super::{Access, OfflineDelivery, StoreError, StoreLocation};

/// Bytes of a page that is large enough.
const PAGE_BYTES: usize = 1 << 20;
/// The most rows of a page, and how many the first has.
const MAX_ROWS: usize = 4_000;
const FIRST_ROWS: usize = 100;

/// A part of a store. What refers to another part comes behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Messages, each once.
    Messages,
    /// Copies of messages in timelines.
    Copies,
    /// Rows of the users' lists.
    Conversations,
    /// Stored groups.
    Groups,
    /// Who blocks whom.
    Blocks,
    /// Who is banned.
    Bans,
    /// Clients that are connected.
    Clients,
    /// What users have missed.
    Absences,
    /// Devices and browsers to notify.
    Instances,
    /// Publishes in the delivery log.
    Publishes,
    /// What the delivery log holds that goes out in steps.
    FanOuts,
    /// Data of webhook events.
    WebhookData,
    /// Webhook events.
    WebhookEvents,
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole number, or a flag: 0 or 1.
    Integer,
    /// A text.
    Text,
    /// Any bytes.
    Bytes,
}

/// A value in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// Nothing.
    Null,
    /// A whole number, or a flag: 0 or 1.
    Integer(i64),
    /// A text.
    Text(String),
    /// Any bytes.
    Bytes(Vec<u8>),
}

/// A row: its key first.
pub type Row = Vec<Value>;

impl Part {
    /// All, in the order in which they are copied.
    pub const ALL: [Self; 13] = [
        Self::Messages,
        Self::Copies,
        Self::Conversations,
        Self::Groups,
        Self::Blocks,
        Self::Bans,
        Self::Clients,
        Self::Absences,
        Self::Instances,
        Self::Publishes,
        Self::FanOuts,
        Self::WebhookData,
        Self::WebhookEvents,
    ];

    /// What it is called, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Copies => "copies",
            Self::Conversations => "conversations",
            Self::Groups => "groups",
            Self::Blocks => "blocks",
            Self::Bans => "bans",
            Self::Clients => "clients",
            Self::Absences => "absences",
            Self::Instances => "instances",
            Self::Publishes => "publishes to be made",
            Self::FanOuts => "fan-outs to be made",
            Self::WebhookData => "webhook data",
            Self::WebhookEvents => "webhook events",
        }
    }

    /// Its columns, as the statements of a store name them.
    pub(super) fn columns(self) -> &'static [Kind] {
        match self {
            Self::Messages => &[I, T, T, T, T, T, I, I, T],
            Self::Copies => &[T, T, I, T, I],
            Self::Conversations => &[T, T, T, I, I, I, T, I],
            Self::Groups | Self::Blocks => &[T, T, T],
            Self::Bans => &[T, T, I],
            Self::Clients => &[T, T, T, I],
            Self::Absences => &[T, T, I, T],
            Self::Instances => &[T, T, T, T, I],
            Self::Publishes => &[T, I, B, I, T, I, B, T],
            Self::FanOuts => &[T, B, T, I],
            Self::WebhookData => &[I, T, T, T],
            Self::WebhookEvents => &[I, T, T, T, I, I, I, I, I, T, T, I],
        }
    }

    /// How many of its columns are its key.
    pub(super) fn key_columns(self) -> usize {
        match self {
            Self::Messages | Self::FanOuts | Self::WebhookData | Self::WebhookEvents => 1,
            Self::Groups | Self::Bans | Self::Absences | Self::Instances | Self::Publishes => 2,
            Self::Conversations | Self::Blocks | Self::Clients => 3,
            Self::Copies => 4,
        }
    }

    /// What comes before every key.
    pub(super) fn before_all(self) -> Vec<Value> {
        let key = &self.columns()[..self.key_columns()];
        let least = |kind: &Kind| match kind {
            Kind::Integer => Value::Integer(i64::MIN),
            Kind::Text => Value::Text(String::new()),
            Kind::Bytes => Value::Bytes(vec![]),
        };
        key.iter().map(least).collect()
    }

    fn next(self) -> Option<Self> {
        let at = Self::ALL.iter().position(|part| *part == self)?;
        Self::ALL.get(at + 1).copied()
    }
}

impl Value {
    /// The number, if it is one.
    pub(super) fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Null | Self::Text(_) | Self::Bytes(_) => None,
        }
    }

    /// The text, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Integer(_) | Self::Bytes(_) => None,
        }
    }

    /// The bytes, if it is such.
    pub(super) fn blob(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Null | Self::Integer(_) | Self::Text(_) => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Integer(_) => 8,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// The same, as PostgreSQL keeps it, which has no room for NUL.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(one), Self::Text(other)) => {
                one == other || one.replace('\0', "\u{fffd}") == other.replace('\0', "\u{fffd}")
            }
            _ => self == other,
        }
    }
}

/// What a store has beside its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The last message that is acknowledged to the broker; empty for none.
    pub acknowledged: String,
    /// The last position of the log that was given.
    pub last_seq: i64,
    /// The last number in the outbox that was given.
    pub last_event: i64,
    /// The random part of the MQTT client identifiers, if the store keeps it.
    pub secret: Option<String>,
}

/// A store that nobody else uses.
pub trait Transfer: Debug {
    /// How far a copy into this store got, as [`Transfer::put`] was told; `None` unless there is
    /// one that is not finished.
    ///
    /// # Errors
    /// [`StoreError`].
    fn progress(&self) -> Result<Option<String>, StoreError>;

    /// Whether nobody else can have used the store since it was opened.
    ///
    /// # Errors
    /// [`StoreError::Fenced`]: somebody may have.
    fn check_is_ours(&self) -> Result<(), StoreError>;

    /// What the store has beside its rows.
    ///
    /// # Errors
    /// [`StoreError`].
    fn counters(&self) -> Result<Counters, StoreError>;

    /// The next rows of a part behind a key, by their keys, at most `most`. Texts are in the order
    /// of their bytes.
    ///
    /// # Errors
    /// [`StoreError`].
    fn rows(&self, part: Part, after: &[Value], most: usize) -> Result<Vec<Row>, StoreError>;

    /// Writes rows that the store does not have, and how far the copy is: both or nothing. No
    /// observer starts on the store from here until [`Transfer::finish`].
    ///
    /// # Errors
    /// [`StoreError`].
    fn put(&mut self, part: Part, rows: &[Row], progress: &str) -> Result<(), StoreError>;

    /// Ends a copy: the store may be used.
    ///
    /// # Errors
    /// [`StoreError`].
    fn finish(&mut self, counters: &Counters) -> Result<(), StoreError>;
}

/// Opens a store that exists, for nobody else meanwhile. An earlier schema is brought up to date.
///
/// # Errors
/// [`StoreError`], if that is not possible, or an observer has it.
pub fn open(location: &StoreLocation) -> Result<Box<dyn Transfer>, StoreError> {
    match location {
        StoreLocation::File(path) if !sqlite::exists(path)? => {
            Err(StoreError::Missing(path.clone()))
        }
        // Nothing is copied of it, and no tables are made in it.
        StoreLocation::File(path) if sqlite::is_empty(path) => Err(StoreError::Empty(path.clone())),
        StoreLocation::Postgres(target) => Ok(Box::new(PostgresStore::open_all_slots(target)?)),
        StoreLocation::File(_) | StoreLocation::Memory => open_or_make(location),
    }
}

/// The same, of a store that is made if there is none.
///
/// # Errors
/// [`StoreError`].
pub fn open_or_make(location: &StoreLocation) -> Result<Box<dyn Transfer>, StoreError> {
    Ok(match location {
        StoreLocation::Postgres(target) => Box::new(PostgresStore::open_to_transfer(target)?),
        StoreLocation::File(_) | StoreLocation::Memory => Box::new(SqliteStore::open_whole(
            location,
            Access::Exclusive,
            OfflineDelivery::Broker,
        )?),
    })
}

/// Why a store is not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is something in the store that is to be filled.
    #[error("it holds {0} already: a copy needs an empty store")]
    NotEmpty(&'static str),
    /// A copy of some other store has begun.
    #[error("a copy of {0} into it is not finished: finish that, or give an empty store")]
    OtherSource(String),
    /// The source is a copy itself, of which a part is missing.
    #[error("{0} is a copy that is not finished: finish that first")]
    Unfinished(String),
    /// What was copied is not what there is.
    #[error(
        "the {part} differ at {key}: the source was in use since the copy began, or somebody has \
         edited a store. Empty the copy, and begin again"
    )]
    Differs {
        /// Of which part.
        part: &'static str,
        /// The key of the first row that differs.
        key: String,
    },
}

/// How far a copy is, as it is kept in the store that is filled.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Progress {
    from: String,
    part: Part,
    after: Vec<Value>,
}

/// A store being copied into another. A step may be followed by others or by none: the copy goes on
/// from there.
#[derive(Debug)]
pub struct Copy<'a> {
    from: &'a dyn Transfer,
    to: &'a mut dyn Transfer,
    progress: Progress,
    pages: Pages,
}

/// What a step has done: rows of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The part.
    pub part: Part,
    /// How many rows of it.
    pub rows: usize,
}

impl<'a> Copy<'a> {
    /// Begins a copy, or goes on with one. `name` is what the source is called in both cases.
    ///
    /// # Errors
    /// [`CopyError::NotEmpty`], [`CopyError::OtherSource`], [`CopyError::Unfinished`],
    /// [`CopyError::Store`].
    pub fn begin(
        from: &'a dyn Transfer,
        to: &'a mut dyn Transfer,
        name: &str,
    ) -> Result<Self, CopyError> {
        if from.progress()?.is_some() {
            return Err(CopyError::Unfinished(name.to_owned()));
        }
        let begun = to.progress()?;
        let progress = match begun.map(|text| (serde_json::from_str::<Progress>(&text), text)) {
            Some((Ok(progress), _)) if progress.from == name => progress,
            Some((Ok(other), _)) => return Err(CopyError::OtherSource(other.from)),
            Some((Err(_), text)) => return Err(CopyError::OtherSource(text)),
            None => {
                for part in Part::ALL {
                    if !to.rows(part, &part.before_all(), 1)?.is_empty() {
                        return Err(CopyError::NotEmpty(part.name()));
                    }
                }
                let part = Part::Messages;
                let progress = Progress {
                    from: name.to_owned(),
                    part,
                    after: part.before_all(),
                };
                to.put(part, &[], &text_of(&progress))?;
                progress
            }
        };
        let pages = Pages::default();
        Ok(Self {
            from,
            to,
            progress,
            pages,
        })
    }

    /// Copies a page. `None` when all is copied.
    ///
    /// # Errors
    /// [`CopyError::Store`].
    pub fn step(&mut self) -> Result<Option<Step>, CopyError> {
        loop {
            let Progress { part, after, .. } = &self.progress;
            let part = *part;
            let rows = self.from.rows(part, after, self.pages.most)?;
            let Some(last) = rows.last() else {
                let Some(next) = part.next() else {
                    return Ok(None);
                };
                self.progress.part = next;
                self.progress.after = next.before_all();
                continue;
            };
            self.progress.after = last[..part.key_columns()].to_vec();
            self.to.put(part, &rows, &text_of(&self.progress))?;
            self.pages.adapt(&rows);
            let rows = rows.len();
            return Ok(Some(Step { part, rows }));
        }
    }

    /// The random part of the MQTT client identifiers, if the source keeps it.
    ///
    /// # Errors
    /// [`CopyError::Store`].
    pub fn secret(&self) -> Result<Option<String>, CopyError> {
        Ok(self.from.counters()?.secret)
    }

    /// Compares both stores. `compared` is told of each page.
    ///
    /// # Errors
    /// [`CopyError::Differs`]; the copy cannot be used. [`CopyError::Store`].
    pub fn compare(&self, compared: &mut dyn FnMut(Step)) -> Result<(), CopyError> {
        for part in Part::ALL {
            let (mut after, mut pages) = (part.before_all(), Pages::default());
            loop {
                let rows = self.from.rows(part, &after, pages.most)?;
                // One more than there may be: nothing may be too many.
                let copied = self.to.rows(part, &after, rows.len().max(1))?;
                if let Some(key) = first_difference(part, &rows, &copied) {
                    let part = part.name();
                    return Err(CopyError::Differs { part, key });
                }
                let Some(last) = rows.last() else {
                    break;
                };
                after = last[..part.key_columns()].to_vec();
                pages.adapt(&rows);
                let rows = rows.len();
                compared(Step { part, rows });
            }
        }
        Ok(())
    }

    /// Ends the copy: the store may be used. `secret` is the random part of the MQTT client
    /// identifiers, where the source does not keep it.
    ///
    /// # Errors
    /// [`CopyError::Store`]; also where the source may have been used meanwhile.
    pub fn finish(self, secret: Option<String>) -> Result<(), CopyError> {
        let mut counters = self.from.counters()?;
        counters.secret = counters.secret.or(secret);
        self.from.check_is_ours()?;
        Ok(self.to.finish(&counters)?)
    }
}

fn text_of(progress: &Progress) -> String {
    serde_json::to_string(progress).expect("keys hold no bytes")
}

/// The key of the first row that is not in both.
fn first_difference(part: Part, rows: &[Row], copied: &[Row]) -> Option<String> {
    let is_same = |(one, other): (&Row, &Row)| {
        one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.is(other))
    };
    let same = rows.iter().zip(copied).take_while(|rows| is_same(*rows));
    let at = same.count();
    let differs = rows.get(at).or_else(|| copied.get(at))?;
    let key = differs[..part.key_columns()]
        .iter()
        .map(|value| match value {
            Value::Text(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Null | Value::Bytes(_) => "-".to_owned(),
        });
    Some(key.collect::<Vec<_>>().join(" / "))
}

/// How many rows make a page: by what the last ones were like.
#[derive(Debug)]
struct Pages {
    most: usize,
}

impl Default for Pages {
    fn default() -> Self {
        Self { most: FIRST_ROWS }
    }
}

impl Pages {
    fn adapt(&mut self, rows: &[Row]) {
        let bytes: usize = rows.iter().flatten().map(Value::bytes).sum();
        let of_that_size = rows.len() * PAGE_BYTES / bytes.max(1);
        self.most = of_that_size.clamp(1, MAX_ROWS.min(2 * self.most));
    }
}
