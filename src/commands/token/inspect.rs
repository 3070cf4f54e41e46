//! `token inspect`: shows what a token holds, whether it is still good, and who signed it.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use jsonwebtoken::dangerous::insecure_decode;
use jsonwebtoken::{Header, TokenData};
use serde_json::{Map, Value};

use crate::auth::token::{self, Validity};
use crate::commands::cli::Format;
use crate::commands::input::read_input;
use crate::commands::output::Output;
use crate::config::Config;
use crate::telemetry::clock::Clock;

/// Width of the longest row name that is no claim.
const LONGEST_NAME: usize = "signature".len();
/// Latest time of a claim that is printed as a date: humantime cannot print later ones.
const LAST_DATE: u64 = 1 << 37;

pub(super) fn run(
    file: &str,
    format: &Format,
    config: &Config,
    out: Output,
) -> anyhow::Result<ExitCode> {
    let token = read_input(file)?;
    let decoded = insecure_decode::<Value>(token.trim())
        .map_err(|_| anyhow::anyhow!("{file}: not a JSON Web Token"))?;
    let signed = signed(config, &token)?;
    let validity = match token::peek(&token) {
        Some(claims) => claims.validity(Clock.now().wall),
        None => Validity::Unlimited,
    };
    let validity_text = match validity {
        Validity::Unlimited => "it never ends".to_owned(),
        Validity::Remaining(left) => {
            format!("good for another {}", humantime::format_duration(left))
        }
        Validity::Expired(ago) => format!("ended {} ago", humantime::format_duration(ago)),
    };
    let text = if format.json {
        let report = serde_json::json!({
            "header": decoded.header,
            "claims": decoded.claims,
            "validity": validity_text,
            "signed_with_this_key": signed.as_bool(),
        });
        format!("{}\n", serde_json::to_string_pretty(&report)?)
    } else {
        table(&decoded, &validity_text, signed)?
    };
    let bad = signed == Signed::WithAnother || matches!(validity, Validity::Expired(_));
    let code = if bad {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    };
    Ok(out.verdict(&text, code)?)
}

/// Whether the key of `--jwt-key-file` has signed the token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signed {
    WithThis,
    WithAnother,
    /// There is no key to check with.
    Unknown,
}

impl Signed {
    fn as_bool(self) -> Option<bool> {
        match self {
            Self::WithThis => Some(true),
            Self::WithAnother => Some(false),
            Self::Unknown => None,
        }
    }
}

fn signed(config: &Config, token: &str) -> anyhow::Result<Signed> {
    let Some(minter) = config.broker.minter.as_ref() else {
        return Ok(Signed::Unknown);
    };
    let key = minter.key()?;
    Ok(match key.has_signed(token) {
        true => Signed::WithThis,
        false => Signed::WithAnother,
    })
}

/// One row a claim, one more for each further value of a list.
fn table(decoded: &TokenData<Value>, validity: &str, signed: Signed) -> anyhow::Result<String> {
    let none = Map::new();
    let claims = decoded.claims.as_object().unwrap_or(&none);
    let longest = claims.keys().map(String::len).max().unwrap_or(0);
    let width = longest.max(LONGEST_NAME) + 1;
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        let row = format!("{name:<width$}{value}");
        let _ = writeln!(text, "{}", row.trim_end());
    };
    row("header", &header(&decoded.header)?);
    for (name, value) in claims {
        for (at, line) in values(value).iter().enumerate() {
            let shown = if at == 0 { name } else { "" };
            row(shown, &format!("{line} {}", date(name, value)));
        }
    }
    row("validity", validity);
    row(
        "signature",
        match signed {
            Signed::WithThis => "made with this key (--jwt-key-file)",
            Signed::WithAnother => "NOT made with this key (--jwt-key-file)",
            Signed::Unknown => "not checked (give --jwt-key-file)",
        },
    );
    Ok(text)
}

fn header(header: &Header) -> anyhow::Result<String> {
    serde_json::to_string(header).context("cannot print the header")
}

/// A claim's values as text, each for a row of its own.
fn values(value: &Value) -> Vec<String> {
    let plain = |value: &Value| match value.as_str() {
        Some(text) => text.to_owned(),
        None => value.to_string(),
    };
    match value.as_array() {
        Some(values) => values.iter().map(plain).collect(),
        None => vec![plain(value)],
    }
}

/// The date of a claim that is a time in seconds; empty for any other.
fn date(name: &str, value: &Value) -> String {
    match (name, value.as_u64()) {
        ("iat" | "exp" | "nbf", Some(seconds)) => {
            let time = UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_DATE));
            humantime::format_rfc3339_seconds(time).to_string()
        }
        _ => String::new(),
    }
}
