//! The round trips of `check`: an observer for an app of its own, and a user who writes to another.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::report::{Report, Trial};
use super::{GLIMPSE, PATIENCE, connect};
use crate::commands::trial;
use crate::config::Config;
use crate::connections::probe_client::ProbeClient;
use crate::connections::settings::LinkSettings;
use crate::mqtt::{Cause, LinkError, Session};
use crate::observer::{self, Ready, Setup};
use crate::protocol::address::Address;
use crate::protocol::control_topic::Controls;
use crate::protocol::layout::Layout;
use crate::protocol::topic::{TopicFilter, TopicName};
use crate::protocol::topic_map::TopicMap;
use crate::rules::router::Router;

const NOT_TRIED: &str = "not tried: its paths belong to one app, and its users may be writing";
/// How long TCP holds an acknowledgement back, nearly: 40 ms on Linux.
const DELAYED_ACK: Duration = Duration::from_millis(35);
const RUNNING: &str = "messages of this check came twice: an observer serves this broker already. \
                       Two of them would deliver everything twice. Its store keeps the messages \
                       of this check";
const NAGLE: &str = "the broker waits for TCP's delayed acknowledgements (Mosquitto: \
                     set_tcp_nodelay true)";
const NOT_GRANTED: &str = "no observer gets ready here: the broker does not grant a subscription \
                           that it needs (above)";
const DEAF: &str = "what an observer sends to itself does not come back (a broker may grant a \
                    subscription and deliver nothing): may this user read and write everything, \
                    observer/# too?";

/// `all_granted`: an observer gets the subscriptions it needs.
pub(super) async fn run(
    config: &Config,
    links: &LinkSettings,
    all_granted: bool,
    report: &mut Report,
) -> Result<(), LinkError> {
    let (fixed, layouts): (Vec<Layout>, Vec<Layout>) = config
        .rules
        .router
        .layouts
        .iter()
        .cloned()
        .partition(|layout| layout.fixed_app().is_some());
    for layout in fixed {
        report.note(trip(layout.outgoing()), NOT_TRIED);
    }
    if layouts.is_empty() {
        return Ok(());
    }
    let app = own_app(links);
    let setup = setup(config, &layouts, &app);
    let trips = RoundTrips {
        not_ready: if all_granted { DEAF } else { NOT_GRANTED },
        router: setup.router.clone(),
        layouts,
        app,
        controls: config.rules.controls,
    };
    let stop = CancellationToken::new();
    let (ready_tx, ready_rx) = oneshot::channel();
    let observing = observer::run(setup, stop.clone(), ready_tx);
    let (_, tried) = tokio::join!(observing, async {
        let tried = trips.run(links, ready_rx, report).await;
        stop.cancel();
        tried
    });
    tried
}

fn trip(topic: impl ToString) -> Trial {
    Trial::one_of("round trip", topic, "kinds of message, each answered")
}

/// An app that nobody else uses: named after the random end of the client identifier.
pub(super) fn own_app(links: &LinkSettings) -> String {
    let id = links.client_id.expose_secret();
    let random = id.rsplit('-').next().unwrap_or_default();
    format!("check-{}", random.get(..8).unwrap_or_default())
}

/// An observer that serves `app` alone.
fn setup(config: &Config, layouts: &[Layout], app: &str) -> Setup {
    let layouts = TopicMap::new(
        layouts.to_vec(),
        vec![app.to_owned()],
        &[],
        config.rules.controls,
    );
    let router = Router {
        layouts: layouts.expect("proven for every app when the settings were read"),
        dead_letter_topic: None,
        ..config.rules.router.clone()
    };
    Setup {
        links: LinkSettings {
            session: Session::Clean,
            ..config.visitor_links("check-observer")
        },
        policy: watch::channel(router.policy.clone()).1,
        router,
        ack_timeout: PATIENCE,
        ..trial::setup(config)
    }
}

/// What is sent to the observer, and where.
struct RoundTrips {
    /// Why an observer does not get ready, as far as it is known.
    not_ready: &'static str,
    router: Router,
    layouts: Vec<Layout>,
    app: String,
    controls: Controls,
}

impl RoundTrips {
    async fn run(
        &self,
        links: &LinkSettings,
        ready: oneshot::Receiver<Ready>,
        report: &mut Report,
    ) -> Result<(), LinkError> {
        // The observer itself would try for ever.
        if !matches!(tokio::time::timeout(PATIENCE, ready).await, Ok(Ok(_))) {
            return Err(LinkError::new(Cause::TimedOut, self.not_ready));
        }
        let mut user = connect(links.clone(), Session::Clean).await?;
        let mut seen = Seen::default();
        for layout in &self.layouts {
            self.message(layout, &mut user, &mut seen, report).await?;
        }
        if self.controls != Controls::Off {
            self.receipt_and_fetch(&mut user, report).await?;
        }
        seen.report(report);
        user.leave().await;
        Ok(())
    }

    /// A message from one user to another.
    async fn message(
        &self,
        layout: &Layout,
        user: &mut ProbeClient,
        seen: &mut Seen,
        report: &mut Report,
    ) -> Result<(), LinkError> {
        let outgoing = layout
            .outgoing()
            .as_str()
            .replace("{app}", &self.app)
            .replace("{sender}", "check-a")
            .replace("{recipient}", "check-b");
        let name = trip(&outgoing);
        let address = match self.router.layouts.parse(&outgoing) {
            Ok(Address::Outgoing(address)) => address,
            other => {
                report.failed(name, format!("read as {other:?}"));
                return Ok(());
            }
        };
        let inbox = layout.inbox_topic(address.app, address.recipient, address.sender);
        let filter = TopicFilter::parse(inbox.as_str()).expect("a topic name is a filter");
        let asked = Instant::now();
        user.subscribe(&[filter]).await?;
        seen.answers.push(asked.elapsed());
        let sent = Instant::now();
        let topic = TopicName::parse(&outgoing).expect("it was parsed as a topic");
        user.publish(topic, Bytes::from_static(br#"{"text":"check"}"#))
            .await?;
        let arrived = user.message(PATIENCE).await;
        let took = sent.elapsed();
        match arrived {
            Ok(received) if received.topic == inbox.as_str() => {
                report.ok(name, format!("arrived in {inbox} after {took:.1?}"));
                seen.trips.push(took);
                seen.twice |= user.message(GLIMPSE).await.is_ok();
            }
            Ok(received) => {
                let topic = String::from_utf8_lossy(&received.topic);
                report.failed(name, format!("arrived on {topic:?} instead of {inbox}"));
            }
            Err(error) => report.failed(name, format!("did not arrive in {inbox}: {error}")),
        }
        Ok(())
    }

    /// What the store is for: a receipt for a message that a service has put into an inbox, and a
    /// fetch of it.
    async fn receipt_and_fetch(
        &self,
        user: &mut ProbeClient,
        report: &mut Report,
    ) -> Result<(), LinkError> {
        let app = &self.app;
        let own = |path: &str| format!("apps/{app}/users/{path}");
        let inject = format!("apps/observer/{app}/users/check-c/messages/check-d/delivered");
        let message = r#"{"message_id":"check","sender":"check-d","text":"check","status":150}"#;
        for (publish, payload, answer) in [
            (inject, message, own("check-c/messages/check-d/clientadded")),
            (
                own("check-c/messages/check-d/check/update"),
                r#"{"status":200}"#,
                own("check-d/messages/check-c/check/clientupdated"),
            ),
            (
                own("check-c/inbox/fetch"),
                "{}",
                own("check-c/inbox/clientupdated"),
            ),
        ] {
            let name = trip(&publish);
            match ask(user, &publish, payload, &answer).await? {
                Ok(()) => report.ok(name, format!("answered on {answer}")),
                Err(error) => report.failed(name, format!("not answered on {answer}: {error}")),
            }
        }
        Ok(())
    }
}

/// What the round trips of messages have shown beside that they arrive.
#[derive(Debug, Default)]
struct Seen {
    /// How long messages took there and back.
    trips: Vec<Duration>,
    /// How long the broker took to answer a request.
    answers: Vec<Duration>,
    /// Whether a message came more than once.
    twice: bool,
}

impl Seen {
    fn report(&self, report: &mut Report) {
        if self.twice {
            report.note("observers", RUNNING);
        }
        let (Some(&trip), Some(&answer)) = (self.trips.iter().min(), self.answers.iter().min())
        else {
            return;
        };
        if trip > DELAYED_ACK && trip > 4 * answer {
            report.note(
                "latency",
                format!("a message takes {trip:.1?}, an answer {answer:.1?}: {NAGLE}"),
            );
        } else {
            report.ok("latency", format!("{trip:.1?} there and back"));
        }
    }
}

/// Publishes, and waits for the answer. The inner error says why none came.
async fn ask(
    user: &mut ProbeClient,
    topic: &str,
    payload: &'static str,
    answer: &str,
) -> Result<Result<(), LinkError>, LinkError> {
    let filter = TopicFilter::parse(answer).expect("a topic name is a filter");
    user.subscribe(&[filter]).await?;
    let topic = TopicName::parse(topic).expect("made of levels");
    user.publish(topic, Bytes::from_static(payload.as_bytes()))
        .await?;
    // A fetch brings the message itself first.
    loop {
        match user.message(PATIENCE).await {
            Ok(received) if received.topic == answer => return Ok(Ok(())),
            Ok(_) => {}
            Err(error) => return Ok(Err(error)),
        }
    }
}
