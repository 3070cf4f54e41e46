//! `store import`: brings what chat21-server has stored into a store, from files of `mongoexport`.
//!
//! Owns reading the files line by line, the transactions, and what the operator is told. A line
//! that cannot be imported is named and left out; the others are imported. Killed in between, the
//! same command goes on: what is stored is recognized.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::cli::ImportArgs;
use super::output::Output;
use super::scope::NewStore;
use super::settings::SettingsArgs;
use super::store::{location, open_store};
use crate::protocol::mongo_export::{
    ImportedConversation, ImportedGroup, ImportedMessage, LineError,
};
use crate::store::{self, Administration, Imported, Landing, StoreError};
use crate::telemetry::clock::Clock;

/// Documents of a transaction: many, so that the disk is waited for seldom; few, so that an
/// observer that runs gets its turn.
const BATCH: usize = 500;
/// Bytes of their lines, give or take one.
const BATCH_BYTES: usize = 1 << 20;
/// The least pause between two transactions. It is as long as the transaction was: an observer that
/// runs gets half of the time.
const PAUSE: Duration = Duration::from_millis(2);
/// How often a store that is busy is tried again, a second apart.
const TRIES: usize = 60;
/// The longest line: twice MongoDB's largest document.
const MAX_LINE: u64 = 32 << 20;
/// Between two lines about how far it is.
const REPORT: Duration = Duration::from_secs(5);

type Parse = fn(&[u8]) -> Result<Imported, LineError>;

/// The collections, in the order in which they are imported: a row of a list refers to a message.
const COLLECTIONS: [Parse; 3] = [
    |line| ImportedGroup::parse(line).map(Imported::Group),
    |line| ImportedMessage::parse(line).map(Imported::Message),
    |line| ImportedConversation::parse(line).map(Imported::Conversation),
];

/// What the leftovers are, for the operator.
const LEFTOVERS: &str = "A leftover is what chat21-server made of a receipt or a patch for a \
    message that it did not know.\nNo client has ever seen one: they are left out.\n";

/// What became of the lines of a file.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    lines: u64,
    new: u64,
    known: u64,
    leftovers: u64,
    bad: u64,
}

pub(super) fn run(
    args: &ImportArgs,
    settings: &SettingsArgs<NewStore>,
    out: Output,
) -> anyhow::Result<ExitCode> {
    let files = [&args.groups, &args.messages, &args.conversations];
    let config = settings.load()?;
    let place = location(&config)?;
    // Nothing is changed before every file is there.
    let mut sources = vec![];
    for (name, parse) in files.into_iter().zip(COLLECTIONS) {
        if let Some(name) = name {
            sources.push((Source::open(name)?, parse));
        }
    }
    if store::make(place)? {
        out.message(format_args!("a new store is made: {place}"));
    }
    let mut store = open_store(&config)?;
    let mut text = format!(
        "{:>10} {:>10} {:>10} {:>10} {:>6}\n",
        "lines", "new", "known", "leftover", "bad"
    );
    let (mut bad, mut leftovers) = (0, 0);
    for (mut source, parse) in sources {
        let count = source.import(&mut *store, parse, out)?;
        bad += count.bad;
        leftovers += count.leftovers;
        let _ = writeln!(
            text,
            "{:>10} {:>10} {:>10} {:>10} {:>6}  {}",
            count.lines, count.new, count.known, count.leftovers, count.bad, source.name
        );
    }
    if leftovers > 0 {
        text.push_str(LEFTOVERS);
    }
    if bad == 0 {
        out.text(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let _ = writeln!(
        text,
        "{bad} lines are not imported: see above. Put them right and run the same command again;"
    );
    let _ = writeln!(text, "what is imported is not imported twice.");
    Ok(out.verdict(&text, ExitCode::FAILURE)?)
}

/// One transaction. A store that another process is busy with is tried again.
fn import_batch(
    store: &mut dyn Administration,
    batch: &[Imported],
    out: Output,
) -> Result<Vec<Landing>, StoreError> {
    let mut tries = 0;
    loop {
        let now = Clock.now();
        match store.import(batch, now.wall) {
            Ok(landed) => {
                let took = Clock.now().instant.duration_since(now.instant);
                std::thread::sleep(took.max(PAUSE));
                return Ok(landed);
            }
            Err(error @ (StoreError::Transient(_) | StoreError::Conflict(_))) if tries < TRIES => {
                tries += 1;
                out.message(format_args!("{error}: tried again in a second"));
                std::thread::sleep(Duration::from_secs(1));
            }
            Err(error) => return Err(error),
        }
    }
}

/// A file that is being read.
struct Source<'a> {
    name: &'a str,
    file: BufReader<File>,
    bytes: u64,
    read: u64,
    count: Count,
    reported: Instant,
    lines_reported: u64,
}

impl<'a> Source<'a> {
    fn open(name: &'a str) -> anyhow::Result<Self> {
        let file = File::open(Path::new(name)).with_context(|| format!("cannot open {name}"))?;
        let bytes = file.metadata().map_or(0, |file| file.len());
        let mut file = BufReader::with_capacity(1 << 16, file);
        let start = file
            .fill_buf()
            .with_context(|| format!("cannot read {name}"))?;
        if start.starts_with(&[0x1f, 0x8b]) {
            bail!("{name} is compressed: gunzip it first");
        }
        if start.starts_with(b"[") {
            bail!("{name} is one JSON array: export it again without --jsonArray");
        }
        // The length of a document, and then the type of its _id.
        if start.get(4) == Some(&0x07) {
            bail!("{name} is BSON, as mongodump writes it: use mongoexport");
        }
        Ok(Self {
            name,
            file,
            bytes,
            read: 0,
            count: Count::default(),
            reported: Clock.now().instant,
            lines_reported: 0,
        })
    }

    fn import(
        &mut self,
        store: &mut dyn Administration,
        parse: Parse,
        out: Output,
    ) -> anyhow::Result<Count> {
        let (mut batch, mut bytes) = (vec![], 0);
        let mut line = vec![];
        loop {
            line.clear();
            let mut limited = (&mut self.file).take(MAX_LINE);
            let read = limited.read_until(b'\n', &mut line);
            let read = read.with_context(|| format!("cannot read {}", self.name))?;
            let at_end = read == 0;
            if at_end || batch.len() == BATCH || bytes >= BATCH_BYTES {
                for landing in import_batch(store, &batch, out)? {
                    match landing {
                        Landing::New => self.count.new += 1,
                        Landing::Known => self.count.known += 1,
                    }
                }
                batch.clear();
                bytes = 0;
                self.report(out);
            }
            if at_end {
                return Ok(self.count);
            }
            self.read += line.len() as u64;
            self.count.lines += 1;
            bytes += line.len();
            if line.len() as u64 == MAX_LINE && !line.ends_with(b"\n") {
                bail!(
                    "{}, line {}: longer than 32 MiB, which no document of MongoDB is",
                    self.name,
                    self.count.lines
                );
            }
            match parse(line.trim_ascii()) {
                Ok(document) => batch.push(document),
                Err(_) if line.trim_ascii().is_empty() => {}
                Err(LineError::Leftover) => self.count.leftovers += 1,
                Err(error) => {
                    self.count.bad += 1;
                    let line = self.count.lines;
                    out.message(format_args!("{}, line {line}: {error}", self.name));
                }
            }
        }
    }

    /// Says how far it is, from time to time.
    fn report(&mut self, out: Output) {
        let now = Clock.now().instant;
        let passed = now.duration_since(self.reported);
        if passed < REPORT {
            return;
        }
        let lines = self.count.lines - self.lines_reported;
        let rate = u128::from(lines) * 1_000 / passed.as_millis().max(1);
        let (name, lines) = (self.name, self.count.lines);
        match (self.read * 100).checked_div(self.bytes) {
            Some(percent) => {
                out.message(format_args!(
                    "{name}: {lines} lines, {percent} %, {rate} a second"
                ));
            }
            // A pipe.
            None => out.message(format_args!("{name}: {lines} lines, {rate} a second")),
        }
        (self.reported, self.lines_reported) = (now, self.count.lines);
    }
}
