//! The section of the store: where messages are kept, and for how long.
//!
//! Owns reading these settings, and the mistakes of using without a store what needs one. Keeping
//! messages is the business of `store`.

use std::path::PathBuf;
use std::time::Duration;

use super::identity::StateDir;
use super::origin::Origin;
use super::reader::Reader;
use super::values::{ValueError, parse_size};
use crate::auth::secret::Secret;
use crate::store::postgres::{MAX_SLOTS, SharedBy, Target, TargetError};
use crate::store::{OfflineDelivery, Retention, StoreLocation, StoreSettings};

/// The least `--retain`: messages that are not acknowledged yet, and those that a client has just
/// asked for, must not be deleted.
const MIN_AGE: Duration = Duration::from_secs(60);
const MIN_BYTES: u64 = 1 << 20;
/// A shorter lease would be lost to a pause of the network or of the machine.
const MIN_LEASE: Duration = Duration::from_secs(1);
const MAX_LEASE: Duration = Duration::from_secs(600);

/// Where every slot gets every message: with more, the broker does little else.
const MAX_SHARES: u16 = 4;
/// A session is relied upon for no longer, whatever the broker was asked for: RabbitMQ keeps one
/// for a day, unless told otherwise.
const SURE_OF_SESSION: Duration = Duration::from_secs(24 * 3600);

const SLOTS_NEED_POSTGRES: &str = "slots need a PostgreSQL database (--store postgres://…)";
const TOO_MANY_SLOTS: &str = "each slot gets every message: at most 4, unless the broker shares \
    messages out (--sharing hash)";
const ONE_SHARES_NOTHING: &str = "there is one slot, which gets everything: give several (--slots)";
const NO_RESET_OF_SLOTS: &str = "the others acknowledge what waits in the session of a slot: with \
    several slots stop every observer, and delete their sessions at the broker";
const NO_STORE: &str = "there is no store (--store none): stored groups, receipts, changes to \
    conversations, archiving, presence, blocking, fetching and what services inject are off; \
    direct messages and groups written into the message pass";
const NO_STATE_DIR: &str = "there is no state directory ($HOME is not set): give a path, or none \
    to forward only";
const NOTHING_TO_DELETE: &str = "there is nothing to delete without a store (--store none)";
const REDELIVER_NEEDS_STORE: &str = "redeliver needs a store, and there is none (--store none)";

/// Where and how messages are kept; `None` for `--store none`, and after a mistake.
pub(super) fn read(reader: &mut Reader<'_>, name: &str) -> Option<StoreSettings> {
    if !reader.uses("store") {
        return None;
    }
    let choices = [
        ("broker", OfflineDelivery::Broker),
        ("redeliver", OfflineDelivery::Redeliver),
    ];
    let offline = reader.choice("offline", &choices);
    let retention = Retention {
        age: reader.parse("retain", parse_age),
        bytes: reader.parse("retain-size", parse_kept_size),
    };
    let max_backlog = reader.parse("max-backlog", parse_kept_size);
    let presence_ttl = reader.parse("presence-ttl", parse_ttl).flatten();
    let state_dir = StateDir::read(reader);
    state_dir.note(reader);
    let lease = reader.duration("store-lease", MIN_LEASE..=MAX_LEASE);
    let slots = reader.number("slots", 1..=MAX_SLOTS);
    let sharing = [SharedBy::All, SharedBy::Hash].map(|sharing| (sharing.as_str(), sharing));
    let sharing = reader.choice("sharing", &sharing);
    if slots == 1 && sharing == SharedBy::Hash {
        reader.fail("sharing", ONE_SHARES_NOTHING);
    }
    if slots > MAX_SHARES && sharing == SharedBy::All {
        reader.fail("slots", TOO_MANY_SLOTS);
    }
    let expiry = reader.duration("session-expiry", Duration::ZERO..=Duration::MAX);
    // A session that is half gone is not relied upon. Brokers may keep it for a shorter time.
    let session_lasts = expiry.min(SURE_OF_SESSION) / 2;
    let location = match (reader.text("store"), state_dir.path()) {
        (Some(path), _) if path == "none" => {
            for name in ["retain", "retain-size"] {
                if reader.text(name).is_some() {
                    reader.fail(name, NOTHING_TO_DELETE);
                }
            }
            if offline == OfflineDelivery::Redeliver {
                reader.fail("offline", REDELIVER_NEEDS_STORE);
            }
            if slots > 1 {
                reader.fail("slots", SLOTS_NEED_POSTGRES);
            }
            reader.warn(NO_STORE);
            return None;
        }
        (Some(address), _) if is_address(&address) => {
            let target = read_target(reader, &address)?;
            let target = target.with_lease(lease, holder(name));
            let target = target.with_name(name.to_owned());
            let target = target.with_slots(slots, session_lasts);
            StoreLocation::Postgres(Box::new(target.shared_by(sharing)))
        }
        (Some(path), _) => StoreLocation::File(PathBuf::from(path)),
        (None, Some(dir)) => {
            let path = dir.join(format!("{name}.db"));
            reader.note("store", path.display().to_string(), Origin::Default);
            StoreLocation::File(path)
        }
        (None, None) => {
            reader.fail("store", NO_STATE_DIR);
            return None;
        }
    };
    if slots > 1 {
        check_slots(reader, &location);
    }
    Some(StoreSettings {
        presence_ttl,
        location,
        retention,
        offline,
        max_backlog: max_backlog.unwrap_or(u64::MAX),
    })
}

/// What does not go together with several slots.
fn check_slots(reader: &mut Reader<'_>, location: &StoreLocation) {
    if !matches!(location, StoreLocation::Postgres(_)) {
        reader.fail("slots", SLOTS_NEED_POSTGRES);
    }
    if reader.switch("reset-session") {
        reader.fail("reset-session", NO_RESET_OF_SLOTS);
    }
}

/// What a process that has the lease is called.
fn holder(name: &str) -> String {
    format!("{name} on {}", host())
}

/// A store as an argument of a command names it: an address, or the path of a file.
///
/// # Errors
/// [`TargetError`]: it is an address that cannot be used.
pub fn parse_location(
    text: &str,
    password: Option<&Secret>,
    name: &str,
) -> Result<StoreLocation, TargetError> {
    if !is_address(text) {
        return Ok(StoreLocation::File(PathBuf::from(text)));
    }
    let target = text.parse::<Target>()?.named(holder(name));
    let target = match password {
        Some(password) => target.with_password(password),
        None => target,
    };
    Ok(StoreLocation::Postgres(Box::new(target)))
}

fn is_address(text: &str) -> bool {
    text.contains("://")
}

/// The database of an address, and the password for it.
fn read_target(reader: &mut Reader<'_>, address: &str) -> Option<Target> {
    let target = address.parse::<Target>();
    let target = target.map_err(|error| reader.fail("store", error)).ok()?;
    let Some(file) = reader.text("store-password-file") else {
        return Some(target);
    };
    match std::fs::read_to_string(&file) {
        Ok(text) => Some(target.with_password(&Secret::new(text.trim_end().to_owned()))),
        Err(error) => {
            reader.fail(
                "store-password-file",
                format!("cannot read {file}: {error}"),
            );
            None
        }
    }
}

/// This machine, for people.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = name.map(|name| name.trim().to_owned()).unwrap_or_default();
    match name.is_empty() {
        true => format!("process {}", std::process::id()),
        false => format!("{name} (process {})", std::process::id()),
    }
}

fn parse_age(text: &str) -> Result<Duration, ValueError> {
    match humantime::parse_duration(text) {
        Ok(age) if age >= MIN_AGE => Ok(age),
        Ok(_) => Err(ValueError::TooSmall {
            text: text.to_owned(),
            least: "1m",
        }),
        Err(error) => Err(ValueError::Duration {
            text: text.to_owned(),
            example: "90d",
            error,
        }),
    }
}

/// The least is for tests and trials: clients speak again when they connect, and not before.
fn parse_ttl(text: &str) -> Result<Option<Duration>, ValueError> {
    if text == "none" {
        return Ok(None);
    }
    match humantime::parse_duration(text) {
        Ok(ttl) if ttl >= Duration::from_secs(1) => Ok(Some(ttl)),
        Ok(_) => Err(ValueError::TooSmall {
            text: text.to_owned(),
            least: "1s",
        }),
        Err(error) => Err(ValueError::Duration {
            text: text.to_owned(),
            example: "7days",
            error,
        }),
    }
}

fn parse_kept_size(text: &str) -> Result<u64, ValueError> {
    match parse_size(text)? {
        bytes if bytes >= MIN_BYTES => Ok(bytes),
        _ => Err(ValueError::TooSmall {
            text: text.to_owned(),
            least: "1MiB",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::load;
    use crate::rules::policy::GroupSenders;

    #[test]
    fn the_store_is_where_it_is_said_to_be_or_in_the_state_directory() {
        let place = |flags: &[(&'static str, &str)], env: &[(&str, &str)]| {
            load(flags, env, None)
                .unwrap()
                .store
                .map(|store| store.location)
        };
        let file = |path: &str| Some(StoreLocation::File(path.into()));
        assert_eq!(place(&[("store", "/x/y.db")], &[]), file("/x/y.db"));
        assert_eq!(
            place(&[("state-dir", "/s"), ("name", "second")], &[]),
            file("/s/second.db")
        );
        assert_eq!(
            place(&[], &[("STATE_DIRECTORY", "/var/lib/o")]),
            file("/var/lib/o/observer.db")
        );
        assert_eq!(place(&[("store", "none")], &[]), None);
        assert_eq!(
            load(&[], &[("HOME", "")], None).unwrap_err(),
            [
                "--store: there is no state directory ($HOME is not set): give a path, or none \
                 to forward only"
            ]
        );
        let none = load(&[("store", "none")], &[], None).unwrap();
        assert!(
            none.warnings[0].contains("fetching and what services inject are off"),
            "{:?}",
            none.warnings
        );
        assert!(
            !none
                .rules
                .router
                .layouts
                .filters()
                .iter()
                .any(|asked| asked.filter.as_str().contains("presence"))
        );
    }

    #[test]
    fn only_a_database_that_is_shared_has_slots() {
        let database = ("store", "postgres://o@db.example/chat");
        let refused = |flags: &[(&'static str, &str)], file| load(flags, &[], file).unwrap_err();
        assert_eq!(
            refused(&[("slots", "2"), ("store", "/x/y.db")], None),
            ["--slots: slots need a PostgreSQL database (--store postgres://…)"]
        );
        assert_eq!(
            refused(&[("slots", "5"), database], None),
            [
                "--slots: each slot gets every message: at most 4, unless the broker shares \
                 messages out (--sharing hash)"
            ]
        );
        let reset = refused(&[("slots", "2"), database], Some("reset-session = true"));
        assert!(
            reset[0].contains("delete their sessions at the broker"),
            "{reset:?}"
        );
        let config = load(&[("slots", "3"), database], &[], None).unwrap();
        let StoreLocation::Postgres(target) = config.store.unwrap().location else {
            panic!("it is a database");
        };
        assert_eq!((target.slots(), target.sharing()), (3, SharedBy::All));
        let config = load(&[("slots", "8"), ("sharing", "hash"), database], &[], None).unwrap();
        let StoreLocation::Postgres(target) = config.store.unwrap().location else {
            panic!("it is a database");
        };
        assert_eq!((target.slots(), target.sharing()), (8, SharedBy::Hash));
        assert_eq!(
            refused(&[("sharing", "hash"), database], None),
            ["--sharing: there is one slot, which gets everything: give several (--slots)"]
        );
    }

    #[test]
    fn what_needs_a_store_is_refused_without_one() {
        let flags = [
            ("store", "none"),
            ("retain", "90d"),
            ("retain-size", "1GiB"),
            ("offline", "redeliver"),
        ];
        assert_eq!(
            load(&flags, &[], None).unwrap_err(),
            [
                "--retain: there is nothing to delete without a store (--store none)",
                "--retain-size: there is nothing to delete without a store (--store none)",
                "--offline: redeliver needs a store, and there is none (--store none)",
            ]
        );
        assert_eq!(
            load(
                &[
                    ("retain", "5s"),
                    ("retain-size", "7"),
                    ("max-recipients", "0")
                ],
                &[],
                None
            )
            .unwrap_err(),
            [
                "--retain: \"5s\" is less than 1m",
                "--retain-size: \"7\" is less than 1MiB",
                "--max-recipients: \"0\" is not a whole number from 1 to 1000000",
            ]
        );
        let file = "retain = \"90d\"\n[groups]\nmembership = \"open\"\n";
        let config = load(&[], &[], Some(file)).unwrap();
        assert_eq!(
            config.store.unwrap().retention.age,
            Some(Duration::from_secs(90 * 86_400))
        );
        assert!(matches!(
            config.rules.router.policy.rules.group_senders,
            GroupSenders::Anybody
        ));
    }
}
