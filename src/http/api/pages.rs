//! Pages of lists: what a query asks for, and the cursor that goes on.
//!
//! Owns `limit`, `before` and `since`. Without them a client gets what chat21-http-server gives:
//! the newest 200.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use url::form_urlencoded;
use utoipa::IntoParams;

use super::failure::Failure;
use crate::protocol::time::UnixMillis;
use crate::rules::listing::{From, Place, Window};

/// The most entries of a page.
const MOST: usize = 200;
/// What a cursor begins with: so it is not taken for a time.
const CURSOR: char = 'p';
/// What a page is asked for by.
const PARAMETERS: [&str; 3] = ["limit", "before", "since"];

/// What a query may say, for the description: [`parse`] reads it.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it stands for the parameters")]
pub(super) struct PageQuery {
    /// 1 to 200.
    limit: Option<u16>,
    /// A cursor, or milliseconds since 1970: older entries, newest first.
    before: Option<String>,
    /// The same: newer entries, oldest first.
    since: Option<String>,
}

/// The part of a list that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page(pub(super) Window);

impl<S: Sync> FromRequestParts<S> for Page {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        parse(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// The cursor that goes on at a position.
pub(super) fn cursor(position: i64) -> String {
    format!("{CURSOR}{position}")
}

fn parse(query: &str) -> Result<Window, Failure> {
    let mut window = Window {
        from: From::Newest,
        limit: MOST,
    };
    let mut seen: Vec<&str> = vec![];
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let Some(name) = PARAMETERS.into_iter().find(|known| *known == name) else {
            continue;
        };
        if seen.contains(&name) {
            return Err(Failure::Malformed(format!("{name} must be given once")));
        }
        seen.push(name);
        match name {
            "limit" => {
                let limit = value.parse().ok();
                let limit = limit.filter(|limit| (1..=MOST).contains(limit));
                window.limit = limit.ok_or_else(|| wrong(name, "a number from 1 to 200"))?;
            }
            _ if window.from != From::Newest => {
                let fault = "since must not be given together with before";
                return Err(Failure::Malformed(fault.to_owned()));
            }
            "before" => window.from = From::Before(place(name, &value)?),
            _ => window.from = From::Since(place(name, &value)?),
        }
    }
    Ok(window)
}

fn place(name: &str, value: &str) -> Result<Place, Failure> {
    let place = match value.strip_prefix(CURSOR) {
        Some(position) => position.parse().ok().map(Place::Position),
        None => value.parse().ok().map(UnixMillis::new).map(Place::Time),
    };
    place.ok_or_else(|| wrong(name, "a cursor or a time in milliseconds since 1970"))
}

fn wrong(name: &str, rule: &str) -> Failure {
    Failure::Malformed(format!("{name} must be {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_asked_for_by_a_cursor_or_a_time() {
        let window = |query| parse(query).unwrap();
        assert_eq!(
            window(""),
            Window {
                from: From::Newest,
                limit: 200
            }
        );
        assert_eq!(
            window("jwt=x&before=p17&limit=5"),
            Window {
                from: From::Before(Place::Position(17)),
                limit: 5
            }
        );
        assert_eq!(window("lim%69t=%35").limit, 5);
        let since = From::Since(Place::Time(UnixMillis::new(1_700_000_000_000)));
        assert_eq!(window("since=1700000000000").from, since);
        for bad in [
            "limit=0",
            "limit=201",
            "limit=x",
            "before=",
            "since=p",
            "since=-1",
            "before=1&since=2",
            "before=1&before=2",
            "limit=3&limit=3",
            "limit",
        ] {
            assert!(matches!(parse(bad), Err(Failure::Malformed(_))), "{bad}");
        }
    }
}
