//! Names for the messages that tell of members: from the operator's directory of users.
//!
//! Owns asking it, and what stands in for a name that is not to be had. It never holds a request up
//! for long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::http::client::service_client;
use crate::protocol::id::UserId;
use crate::rules::group_telling::Name;

/// How long all names of a request may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a name is remembered.
const REMEMBERED: Duration = Duration::from_secs(120);
/// Names that are remembered at most.
const MOST: usize = 10_000;
/// Questions that the directory gets at a time: whoever names a hundred strangers again and again
/// must not flood it.
const AT_A_TIME: usize = 16;

/// What the directory answers.
#[derive(Deserialize)]
struct Contact {
    fullname: Option<String>,
    firstname: Option<String>,
    lastname: Option<String>,
}

impl Contact {
    fn name(self, id: &str) -> Name {
        let (first, last) = (
            self.firstname.unwrap_or_default(),
            self.lastname.unwrap_or_default(),
        );
        let both = format!("{first} {last}");
        let full = self.fullname.filter(|full| !full.is_empty());
        let full = full.unwrap_or_else(|| both.trim().to_owned());
        Name {
            full: if full.is_empty() { id.to_owned() } else { full },
            first,
            last,
        }
    }
}

/// The directory, if there is one.
pub struct Contacts {
    directory: Option<(reqwest::Client, Url)>,
    turns: Arc<Semaphore>,
    known: Mutex<HashMap<String, (Name, Instant)>>,
}

impl Contacts {
    /// `url` is followed by a slash and the identifier.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(url: Option<Url>) -> Result<Self, reqwest::Error> {
        let client = url.map(|url| Ok((service_client(PATIENCE)?, url)));
        Ok(Self {
            directory: client.transpose()?,
            turns: Arc::new(Semaphore::new(AT_A_TIME)),
            known: Mutex::new(HashMap::new()),
        })
    }

    /// The names of users, at `now`. Whoever is not found in time is called by their identifier.
    pub async fn names<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a str>,
        now: Instant,
    ) -> HashMap<String, Name> {
        let mut names = HashMap::new();
        let mut asked = JoinSet::new();
        for id in ids {
            let name = self.remembered(id, now);
            // A directory takes these for steps of a path.
            let is_step = matches!(id, "." | "..");
            if let (None, Some((client, url))) = (&name, &self.directory)
                && !is_step
                && UserId::parse(id).is_ok()
            {
                let (client, place) = (client.clone(), place(url.clone(), id));
                let (turns, id) = (self.turns.clone(), id.to_owned());
                asked.spawn(async move {
                    let _turn = turns.acquire_owned().await;
                    let name = ask(client, place, &id).await;
                    (id, name)
                });
            }
            let name = name.unwrap_or_else(|| Name::unknown(id));
            names.insert(id.to_owned(), name);
        }
        let answers = async {
            while let Some(answer) = asked.join_next().await {
                if let Ok((id, Some(name))) = answer {
                    self.remember(&id, &name, now);
                    names.insert(id, name);
                }
            }
        };
        // Those that have not answered by then are dropped.
        let _ = tokio::time::timeout(PATIENCE, answers).await;
        names
    }

    fn remembered(&self, id: &str, now: Instant) -> Option<Name> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, since) = known.get(id)?;
        (now.saturating_duration_since(*since) < REMEMBERED).then(|| name.clone())
    }

    fn remember(&self, id: &str, name: &Name, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(id.to_owned(), (name.clone(), now));
    }
}

/// Where a user is found: below the path of `url`. What stands behind the path stays.
fn place(mut url: Url, id: &str) -> Url {
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().push(id);
    }
    url
}

/// Asks the directory for one user. `None` if it does not answer.
async fn ask(client: reqwest::Client, place: Url, id: &str) -> Option<Name> {
    let answer = async {
        let response = client.get(place).send().await?;
        // Remembered, too: strangers are not asked for again and again.
        if response.status() == reqwest::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        response.error_for_status()?.bytes().await.map(Some)
    };
    match answer.await {
        Ok(None) => Some(Name::unknown(id)),
        Ok(Some(body)) => serde_json::from_slice::<Contact>(&body)
            .ok()
            .map(|contact| contact.name(id)),
        Err(error) => {
            // Without the URL, which may hold a secret.
            let error = error.without_url();
            tracing::debug!(%error, "the directory of users does not know somebody");
            None
        }
    }
}
