//! `demo`: a broker, the observer and two users in one process, so that the first command a
//! newcomer types needs nothing installed.
//!
//! The broker is rumqttd: a library, small without its default features, by the authors of the
//! client crate. It keeps nothing on disk, and loses messages that are acknowledged out of order
//! (the observer acknowledges in order). Good enough to try things out, and for no more.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::cli::DemoArgs;
use super::output::Output;
use super::trial;
use crate::auth::secret::{Secret, random_id};
use crate::auth::signing::SigningKey;
use crate::config::{Config, Flags};
use crate::connections::probe_client::ProbeClient;
use crate::mqtt::Session;
use crate::observer::{self, Ready};
use crate::protocol::topic::{TopicFilter, TopicName};
use crate::telemetry;
use crate::telemetry::LogFormat;
use crate::telemetry::clock::Clock;

/// The port MQTT clients look for a broker on.
const MQTT_PORT: u16 = 1883;
/// The port of chat21-http-server.
const API_PORT: u16 = 8004;
/// How long the token that is printed is valid.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long the observer may take to get ready, and a message to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the conversation. Stays up for others to join in, unless it is to run once.
pub(super) async fn run(args: &DemoArgs, out: Output) -> anyhow::Result<ExitCode> {
    telemetry::init(LogFormat::Auto, "warn");
    let port = free_port(args.port, MQTT_PORT)?;
    start_broker(port).context("the embedded broker does not start")?;
    let broker = format!("mqtt://127.0.0.1:{port}");
    out.line(format_args!("broker    {broker}  (embedded, no login)"))?;

    let state = State::make()?;
    let api_port = free_port(None, API_PORT)?;
    let flags = Flags::from([
        ("broker", vec![broker]),
        ("protocol", vec!["3.1.1".to_owned()]),
        ("state-dir", vec![state.0.display().to_string()]),
        ("api-listen", vec![api_port.to_string()]),
        (
            "api-jwt-key-file",
            vec![state.key_file().display().to_string()],
        ),
    ]);
    let config = Config::load(&flags, &|_| None, None)?;
    let mut setup = trial::setup(&config);
    // The API reads from a file.
    setup.store = config.store.clone();
    setup.api = config.api.clone();
    setup.reporting.status = true;
    let stop = CancellationToken::new();
    let (ready_tx, ready_rx) = oneshot::channel();
    let observing = observer::run(setup, stop.clone(), ready_tx);
    let talking = async {
        let stage = Stage {
            config,
            out,
            port,
            api_port,
            token: state.token("bob")?,
        };
        let talked = stage.play(ready_rx, args).await;
        stop.cancel();
        talked
    };
    let (stopped, talked) = tokio::join!(observing, talking);
    talked?;
    stopped?;
    Ok(ExitCode::SUCCESS)
}

/// Where the demo keeps what it stores, until it ends.
struct State(PathBuf);

impl State {
    fn make() -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("chat21-observer-demo-{}", random_id()));
        std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let state = Self(dir);
        std::fs::write(state.key_file(), random_id()).context("cannot write a key")?;
        Ok(state)
    }

    /// The key that tokens are signed with.
    fn key_file(&self) -> PathBuf {
        self.0.join("key")
    }

    /// A user's token for the API.
    fn token(&self, user: &str) -> anyhow::Result<String> {
        let key = Secret::new(std::fs::read_to_string(self.key_file())?);
        let ends = Clock.now().wall.as_millis() / 1_000 + TOKEN_LIFETIME.as_secs();
        // What the API needs, and no more: it is to be pasted.
        let claims = serde_json::json!({"sub": user, "app_id": "tilechat", "exp": ends});
        let token = SigningKey::parse(&key, None)?.sign(&claims, None);
        Ok(token.expose_secret().to_owned())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // It stands among temporary files: if it stays, the system removes it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `wanted`, or else `usual` or any that is free.
fn free_port(wanted: Option<u16>, usual: u16) -> anyhow::Result<u16> {
    let bind = |port| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .and_then(|listener| listener.local_addr())
            .map(|address| address.port())
    };
    match wanted {
        Some(port) => bind(port).with_context(|| format!("port {port} is taken (--port)")),
        None => bind(usual).or_else(|_| bind(0)).context("no free port"),
    }
}

/// Starts the broker on a thread of its own, where it runs to the end of the process.
fn start_broker(port: u16) -> anyhow::Result<()> {
    let connections = rumqttd::ConnectionSettings {
        connection_timeout_ms: 60_000,
        max_payload_size: 8 << 20,
        max_inflight_count: 500,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = rumqttd::ServerSettings {
        name: "demo".to_owned(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
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
    let mut broker = rumqttd::Broker::new(rumqttd::Config {
        router,
        v4: Some(HashMap::from([("demo".to_owned(), server)])),
        ..rumqttd::Config::default()
    });
    let serve = move || {
        if let Err(error) = broker.start() {
            tracing::error!(%error, "the embedded broker has ended");
        }
    };
    std::thread::Builder::new()
        .name("broker".to_owned())
        .spawn(serve)?;
    Ok(())
}

/// The path that `sender` writes to `recipient` on, in the layout of today's clients.
fn chat21(sender: &str, recipient: &str) -> String {
    format!("apps/tilechat/outgoing/users/{sender}/messages/{recipient}/outgoing")
}

/// What the two users share.
struct Stage {
    config: Config,
    out: Output,
    port: u16,
    api_port: u16,
    /// Bob's token for the API.
    token: String,
}

impl Stage {
    async fn play(&self, ready: oneshot::Receiver<Ready>, args: &DemoArgs) -> anyhow::Result<()> {
        tokio::time::timeout(PATIENCE, ready)
            .await
            .context("the observer did not get ready")??;
        self.out
            .line("observer  ready, layouts inbox, chat21, chat21-v1")?;
        let api_port = self.api_port;
        self.out
            .line(format_args!("API       http://127.0.0.1:{api_port}/api\n"))?;
        let mut alice = User::enter(self, "alice").await?;
        let mut bob = User::enter(self, "bob").await?;
        converse(&mut alice, &mut bob).await?;
        alice.client.leave().await;
        bob.client.leave().await;
        if !args.once {
            self.out.line(self.invitation())?;
            tokio::signal::ctrl_c().await?;
        }
        Ok(())
    }
}

impl Stage {
    /// How to join in, as lines to be pasted.
    fn invitation(&self) -> String {
        let Self {
            port,
            api_port,
            token,
            ..
        } = self;
        let at = format!("-h 127.0.0.1 -p {port}");
        let to_bob = chat21("you", "bob");
        let history = "tilechat/bob/conversations/alice/messages";
        format!(
            "\nJoin in from other terminals (Ctrl-C here ends it):\n  \
             mosquitto_sub {at} -v -q 1 -t 'apps/tilechat/users/bob/#'\n  \
             mosquitto_pub {at} -q 1 -t {to_bob} -m '{{\"text\":\"hello\"}}'\n\
             What a stock client would read, with a token of Bob's:\n  \
             curl http://127.0.0.1:{api_port}/api/{history} -H 'Authorization: {token}'"
        )
    }
}

/// Alice and Bob, in the layout of today's clients and at last in the inbox layout.
async fn converse(alice: &mut User, bob: &mut User) -> anyhow::Result<()> {
    let question = r#"{"text":"Hi Bob, is this thing on?","type":"text"}"#;
    alice.say(&chat21("alice", "bob"), question).await?;
    alice.hear().await?;
    let first = bob.hear().await?;
    let answer = r#"{"text":"Loud and clear.","type":"text"}"#;
    bob.say(&chat21("bob", "alice"), answer).await?;
    bob.hear().await?;
    alice.hear().await?;
    // Bob has read it: Alice gets the receipt.
    let id = id_of(&first)?;
    let receipt = format!("apps/tilechat/users/bob/messages/alice/{id}/update");
    bob.say(&receipt, r#"{"status":300}"#).await?;
    alice.hear().await?;
    let group = r#"{"text":"Both of you!","group":{"members":{"bob":1}}}"#;
    alice.say(&chat21("alice", "group-1"), group).await?;
    alice.hear().await?;
    bob.hear().await?;
    // What Bob would see on a new phone.
    let fetch = "apps/tilechat/users/bob/inbox/fetch";
    bob.say(fetch, r#"{"convers_with":"alice"}"#).await?;
    for _ in 0..3 {
        bob.hear().await?;
    }
    let inbox = "/apps/tilechat/users/alice/bob/messages/outgoing";
    alice.say(inbox, "any bytes, in the inbox layout").await?;
    bob.hear().await?;
    alice
        .say(&chat21("alice", "bob"), "this is no JSON")
        .await?;
    alice.hear().await?;
    Ok(())
}

/// A user, and the client they are connected with.
struct User {
    name: &'static str,
    client: ProbeClient,
    out: Output,
}

impl User {
    /// Connects, and subscribes to all of the user's own paths, as clients do.
    async fn enter(stage: &Stage, name: &'static str) -> anyhow::Result<Self> {
        let links = stage.config.visitor_links(name);
        let mut client = ProbeClient::connect(links, Session::Clean).await?;
        let filters = [
            format!("apps/tilechat/users/{name}/#"),
            format!("/apps/tilechat/users/{name}/#"),
        ];
        let filters = filters.map(|filter| TopicFilter::parse(&filter).expect("a filter"));
        client.subscribe(&filters).await?;
        let out = stage.out;
        Ok(Self { name, client, out })
    }

    async fn say(&mut self, topic: &str, text: &str) -> anyhow::Result<()> {
        let name = self.name;
        self.out
            .line(format_args!("{name:<5} ->  {topic}\n          {text}"))?;
        let payload = Bytes::copy_from_slice(text.as_bytes());
        self.client
            .publish(TopicName::parse(topic)?, payload)
            .await?;
        Ok(())
    }

    /// The payload of the next message from the observer. What the user writes under their own
    /// paths comes back to them, too, and is passed over.
    async fn hear(&mut self) -> anyhow::Result<Bytes> {
        let name = self.name;
        loop {
            let received = self
                .client
                .message(PATIENCE)
                .await
                .with_context(|| format!("{name} heard nothing"))?;
            let topic = String::from_utf8_lossy(&received.topic);
            let own = ["/outgoing", "/update", "/fetch"];
            if own.iter().any(|last| topic.ends_with(last)) {
                continue;
            }
            let text = String::from_utf8_lossy(&received.payload);
            self.out
                .line(format_args!("{name:<5} <-  {topic}\n          {text}"))?;
            return Ok(received.payload);
        }
    }
}

fn id_of(message: &[u8]) -> anyhow::Result<String> {
    let message: serde_json::Value = serde_json::from_slice(message)?;
    let id = message["message_id"].as_str();
    Ok(id.context("a message without an id")?.to_owned())
}
