//! The settings of the checks: limits, groups, bans, rates.
//!
//! Owns reading one set of them, whether from the settings or for one app from a policy file.
//! Applying them is the business of `rules`.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use super::reader::Reader;
use super::values::{ValueError, parse_number, parse_payload_size};
use crate::rules::policy::{GroupSenders, Rules};
use crate::rules::token_bucket::Rate;

/// The largest value of a limit on depth, values or recipients.
const MAX_LIMIT: u32 = 1_000_000;
/// The largest rate, in messages a minute: a million a second.
const MAX_RATE: u32 = 60_000_000;
/// The longest time a timestamp may be off: a hundred years.
const MAX_DRIFT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub(super) fn read_rules(reader: &mut Reader<'_>) -> Rules {
    Rules {
        max_payload_bytes: reader.parse("max-payload", parse_payload_size).unwrap_or(1),
        max_depth: read_limit(reader, "max-depth"),
        max_values: read_limit(reader, "max-values"),
        max_recipients: read_limit(reader, "max-recipients"),
        max_inline_recipients: read_limit(reader, "max-inline-recipients"),
        max_groups: read_limit(reader, "max-groups"),
        max_instances: read_limit(reader, "max-instances"),
        group_senders: reader.choice(
            "groups-membership",
            &[
                ("members", GroupSenders::Members),
                ("open", GroupSenders::Anybody),
            ],
        ),
        privileged_senders: read_users(reader, "privileged-senders"),
        banned: read_users(reader, "banned"),
        rate: read_rate(reader),
        believed: (
            reader.duration("timestamp-past", Duration::ZERO..=MAX_DRIFT),
            reader.duration("timestamp-future", Duration::ZERO..=MAX_DRIFT),
        ),
    }
}

fn read_limit(reader: &mut Reader<'_>, name: &str) -> usize {
    let limit = reader.parse(name, |text| parse_number(text, &(1..=MAX_LIMIT)));
    limit.map_or(1, |limit| limit as usize)
}

fn read_users(reader: &Reader<'_>, name: &str) -> BTreeSet<Box<str>> {
    let users = reader.texts(name).into_iter();
    users.map(String::into_boxed_str).collect()
}

/// A rate, or none. With no burst given, as many may come at once as in a minute.
fn read_rate(reader: &mut Reader<'_>) -> Option<Rate> {
    let burst = reader.parse("rate-burst", parse_rate).flatten();
    let per_minute = reader.parse("rate-per-minute", parse_rate).flatten()?;
    Some(Rate {
        burst: burst.unwrap_or(per_minute),
        per_minute,
    })
}

/// A number of messages, or `none`.
fn parse_rate(text: &str) -> Result<Option<NonZeroU32>, ValueError> {
    match (text, text.parse::<NonZeroU32>()) {
        ("none", _) => Ok(None),
        (_, Ok(number)) if number.get() <= MAX_RATE => Ok(Some(number)),
        (_, Ok(_) | Err(_)) => Err(ValueError::NumberOrNone {
            text: text.to_owned(),
            least: 1,
            most: MAX_RATE,
        }),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::testing::load;

    #[test]
    fn there_is_a_rate_unless_it_is_switched_off() {
        for (env, want) in [
            (&[][..], Some((600, 600))),
            (&[("BUCKET_MSG_CAPACITY", "5")], Some((5, 600))),
            (&[("BUCKET_MSG_REFILL_RATE_PER_MIN", "7")], Some((7, 7))),
            (
                &[
                    ("OBSERVER_RATE_PER_MINUTE", "none"),
                    ("BUCKET_MSG_CAPACITY", "5"),
                ],
                None,
            ),
        ] {
            let config = load(&[], env, None).unwrap();
            let rate = config.rules.router.policy.rules.rate;
            assert_eq!(
                rate.map(|rate| (rate.burst.get(), rate.per_minute.get())),
                want
            );
        }
        let errors = load(&[("rate-burst", "0")], &[], None).unwrap_err();
        assert!(
            errors[0].starts_with("--rate-burst: \"0\" is neither"),
            "{errors:?}"
        );
    }
}
