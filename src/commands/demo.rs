//! `demo`: a broker, the observer and two users in one process, so that the first command needs nothing installed.
//!
//! The broker is rumqttd. It keeps nothing on disk and loses messages to acknowledgements out of order (the observer sends them in
//! order), which is good enough to try things out and no more; but it is a library, small without its default features, and
//! from the hands that make the client crate.

#![expect(clippy::print_stdout, reason = "the conversation is the result")]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Flags};
use crate::connections::probe_client::ProbeClient;
use crate::mqtt::Session;
use crate::observer::{self, Reporting, Setup};
use crate::protocol::topic::{TopicFilter, TopicName};
use crate::store::{StoreLocation, StoreSettings};
use crate::telemetry;
use crate::telemetry::LogFormat;

/// The port MQTT clients look for a broker on.
const MQTT_PORT: u16 = 1883;
/// How long the observer or a message may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the conversation; stays up for others to join in, unless `once`.
///
/// # Errors
/// A port that is taken, or a conversation that did not come off.
pub async fn run(once: bool, port: Option<u16>) -> anyhow::Result<ExitCode> {
    telemetry::init(LogFormat::Auto, "warn");
    let port = free_port(port)?;
    start_broker(port).context("the embedded broker does not start")?;
    let broker = format!("mqtt://127.0.0.1:{port}");
    println!("broker    {broker}  (embedded, no login)");

    let flags = Flags::from([
        ("broker", vec![broker]),
        ("protocol", vec!["3.1.1".to_owned()]),
        // Nothing is kept there: the store lives in memory.
        ("state-dir", vec![".".to_owned()]),
    ]);
    let config = Config::load(&flags, &|_| None, None)?;
    let setup = Setup {
        name: config.name.clone(),
        links: config.visitor_links("demo"),
        router: config.router.clone(),
        policy: watch::channel(config.router.policy.clone()).1,
        consult: None,
        store: config.store.clone().map(|settings| StoreSettings {
            place: StoreLocation::Memory,
            ..settings
        }),
        publishers: 1,
        ack_timeout: config.ack_timeout,
        drain_timeout: Duration::from_secs(1),
        reset_session: false,
        http_listen: None,
        webhooks: None,
        reporting: Reporting {
            status: true,
            ..Reporting::default()
        },
    };
    let stop = CancellationToken::new();
    let (ready_tx, ready_rx) = oneshot::channel();
    let observing = observer::run(setup, stop.clone(), ready_tx);
    let talking = async {
        let talked = async {
            tokio::time::timeout(PATIENCE, ready_rx)
                .await
                .context("the observer did not get ready")??;
            println!("observer  ready, layouts inbox, chat21, chat21-v1\n");
            converse(&config).await?;
            if !once {
                invite(port);
                tokio::signal::ctrl_c().await?;
            }
            anyhow::Ok(())
        };
        let talked = talked.await;
        stop.cancel();
        talked
    };
    let (stopped, talked) = tokio::join!(observing, talking);
    talked?;
    stopped?;
    Ok(ExitCode::SUCCESS)
}

fn free_port(wanted: Option<u16>) -> anyhow::Result<u16> {
    let bind = |port| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .and_then(|listener| listener.local_addr())
            .map(|address| address.port())
    };
    match wanted {
        Some(port) => bind(port).with_context(|| format!("port {port} is taken (--port)")),
        None => bind(MQTT_PORT).or_else(|_| bind(0)).context("no free port"),
    }
}

fn start_broker(port: u16) -> anyhow::Result<()> {
    let connections = rumqttd::ConnectionSettings {
        connection_timeout_ms: 60_000,
        max_payload_size: 8 << 20,
        max_inflight_count: 500,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let server = rumqttd::ServerSettings {
        name: "demo".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    let router = rumqttd::RouterConfig {
        max_connections: 1_000,
        max_outgoing_packet_count: 500,
        max_segment_size: 16 << 20,
        max_segment_count: 4,
        ..rumqttd::RouterConfig::default()
    };
    let config = rumqttd::Config {
        router,
        v4: Some(HashMap::from([("demo".to_owned(), server)])),
        ..rumqttd::Config::default()
    };
    let mut broker = rumqttd::Broker::new(config);
    // It runs to the end of the process.
    std::thread::Builder::new()
        .name("broker".to_owned())
        .spawn(move || {
            if let Err(error) = broker.start() {
                tracing::error!(%error, "the embedded broker has ended");
            }
        })?;
    Ok(())
}

/// Alice and Bob, in the layout of today's clients and in the seed's.
async fn converse(config: &Config) -> anyhow::Result<()> {
    let mut alice = enter(config, "alice").await?;
    let mut bob = enter(config, "bob").await?;
    let chat21 = |sender: &str, recipient: &str| {
        format!("apps/tilechat/outgoing/users/{sender}/messages/{recipient}/outgoing")
    };
    say(
        &mut alice,
        "alice",
        &chat21("alice", "bob"),
        r#"{"text":"Hi Bob, is this thing on?","type":"text"}"#,
    )
    .await?;
    hear(&mut alice, "alice").await?;
    let first = hear(&mut bob, "bob").await?;
    say(
        &mut bob,
        "bob",
        &chat21("bob", "alice"),
        r#"{"text":"Loud and clear.","type":"text"}"#,
    )
    .await?;
    hear(&mut bob, "bob").await?;
    hear(&mut alice, "alice").await?;
    // Bob has seen it: Alice is told.
    let seen = format!(
        "apps/tilechat/users/bob/messages/alice/{}/update",
        id_of(&first)?
    );
    say(&mut bob, "bob", &seen, r#"{"status":300}"#).await?;
    hear(&mut alice, "alice").await?;
    let group = r#"{"text":"Both of you!","group":{"members":{"bob":1}}}"#;
    say(&mut alice, "alice", &chat21("alice", "group-1"), group).await?;
    hear(&mut alice, "alice").await?;
    hear(&mut bob, "bob").await?;
    // What Bob would see on a new phone.
    let fetch = "apps/tilechat/users/bob/inbox/fetch";
    say(&mut bob, "bob", fetch, r#"{"convers_with":"alice"}"#).await?;
    for _ in 0..3 {
        hear(&mut bob, "bob").await?;
    }
    say(
        &mut alice,
        "alice",
        "/apps/tilechat/users/alice/bob/messages/outgoing",
        "any bytes, in the inbox layout",
    )
    .await?;
    hear(&mut bob, "bob").await?;
    say(
        &mut alice,
        "alice",
        &chat21("alice", "bob"),
        "this is no JSON",
    )
    .await?;
    hear(&mut alice, "alice").await?;
    alice.leave().await;
    bob.leave().await;
    Ok(())
}

async fn enter(config: &Config, name: &str) -> anyhow::Result<ProbeClient> {
    let mut visitor = ProbeClient::connect(config.visitor_links(name), Session::Clean).await?;
    let filters = [
        format!("apps/tilechat/users/{name}/#"),
        format!("/apps/tilechat/users/{name}/#"),
    ];
    visitor
        .subscribe(&filters.map(|filter| TopicFilter::parse(&filter).expect("a filter")))
        .await?;
    Ok(visitor)
}

async fn say(user: &mut ProbeClient, name: &str, topic: &str, text: &str) -> anyhow::Result<()> {
    println!("{name:<5} ->  {topic}\n          {text}");
    user.publish(
        TopicName::parse(topic)?,
        Bytes::copy_from_slice(text.as_bytes()),
    )
    .await?;
    Ok(())
}

/// What he is told next. A user who subscribes to all of his own paths sees what he writes to some of them: that is passed over.
async fn hear(user: &mut ProbeClient, name: &str) -> anyhow::Result<Bytes> {
    loop {
        let received = user
            .message(PATIENCE)
            .await
            .with_context(|| format!("{name} heard nothing"))?;
        let topic = String::from_utf8_lossy(&received.topic);
        let own = ["/outgoing", "/update", "/fetch"];
        if !own.iter().any(|last| topic.ends_with(last)) {
            println!(
                "{name:<5} <-  {topic}\n          {}",
                String::from_utf8_lossy(&received.payload)
            );
            return Ok(received.payload);
        }
    }
}

fn id_of(message: &[u8]) -> anyhow::Result<String> {
    let message: serde_json::Value = serde_json::from_slice(message)?;
    let id = message["message_id"].as_str();
    Ok(id.context("a message without an id")?.to_owned())
}

fn invite(port: u16) {
    let at = format!("-h 127.0.0.1 -p {port}");
    println!(
        "\nJoin in from other terminals (Ctrl-C here ends it):\n  \
         mosquitto_sub {at} -v -q 1 -t 'apps/tilechat/users/bob/#'\n  \
         mosquitto_pub {at} -q 1 -t apps/tilechat/outgoing/users/you/messages/bob/outgoing -m '{{\"text\":\"hello\"}}'"
    );
}
