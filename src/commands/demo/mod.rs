//! `demo`: a broker, the observer and two users in one process, so that the first command a
//! newcomer types needs nothing installed.
//!
//! Owns the addresses, the observer's settings and what is printed around the play.

mod acts;
mod broker;
mod passing;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anstyle::Style;
use anyhow::Context;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::acts::{Stage, outgoing};
use super::cli::DemoArgs;
use super::output::Output;
use super::trial;
use crate::auth::secret::{Secret, random_id};
use crate::auth::signing::SigningKey;
use crate::config::{Config, Flags};
use crate::http::console::Access;
use crate::observer::{self, Ready, Setup};
use crate::telemetry;
use crate::telemetry::LogFormat;
use crate::telemetry::clock::Clock;

/// The port MQTT clients look for a broker on.
const MQTT_PORT: u16 = 1883;
/// The port of chat21-http-server.
const API_PORT: u16 = 8004;
/// The port of the page, and of the chat's WebSocket.
const PAGE_PORT: u16 = 8080;
/// How long the token that is printed is valid.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long the observer may take to get ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// Plays the four acts. Stays up for others to join in, unless it is to run once.
pub(super) async fn run(args: &DemoArgs, out: Output) -> anyhow::Result<ExitCode> {
    telemetry::init(LogFormat::Auto, "warn");
    let places = Places::choose(args)?;
    let state = State::make()?;
    out.coloured_line(&places.text(args.once))?;
    broker::start(places.broker.address)?;
    let config = config(&places, &state)?;
    let mut setup = trial::setup(&config);
    // The API reads from a file.
    setup.store = config.store.clone();
    setup.api = config.api.clone();
    setup.reporting.status = true;
    places.serve_page(&mut setup);
    let stop = CancellationToken::new();
    let (ready_tx, ready_rx) = oneshot::channel();
    let observing = observer::run(setup, stop.clone(), ready_tx);
    let talking = async {
        let played = async {
            let stage = enter(&config, ready_rx, out).await?;
            play(stage, args, &places, &state.token("bob")?, out).await
        };
        let played = played.await;
        stop.cancel();
        played
    };
    let (stopped, played) = tokio::join!(observing, talking);
    // The observer's end explains the other's.
    stopped?;
    played?;
    if !args.once {
        out.coloured_line(next())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn config(places: &Places, state: &State) -> anyhow::Result<Config> {
    let flags = Flags::from([
        ("broker", vec![places.broker.url("mqtt")]),
        ("protocol", vec!["3.1.1".to_owned()]),
        ("state-dir", vec![state.0.display().to_string()]),
        ("api-listen", vec![places.api.address.to_string()]),
        (
            "api-jwt-key-file",
            vec![state.key_file().display().to_string()],
        ),
    ]);
    Ok(Config::load(&flags, &|_| None, None)?)
}

async fn enter(
    config: &Config,
    ready: oneshot::Receiver<Ready>,
    out: Output,
) -> anyhow::Result<Stage> {
    tokio::time::timeout(PATIENCE, ready)
        .await
        .context("the observer did not get ready")??;
    Stage::enter(config, out).await
}

async fn play(
    mut stage: Stage,
    args: &DemoArgs,
    places: &Places,
    token: &str,
    out: Output,
) -> anyhow::Result<()> {
    stage.play().await?;
    if !args.once {
        out.coloured_line(&places.invitation(token))?;
        tokio::select! {
            ended = stage.look_on() => ended?,
            interrupted = interrupted() => interrupted?,
        }
    }
    stage.leave().await;
    Ok(())
}

/// Ends when the operator presses Ctrl-C, or a container engine stops the demo.
async fn interrupted() -> std::io::Result<()> {
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminated.recv() => Ok(()),
    }
}

/// What to do after the demo.
fn next() -> &'static str {
    "\nNext, with a broker of your own:\n  \
     chat21-observer guide mosquitto     from nothing to a message from alice to bob\n  \
     chat21-observer guide rabbitmq      the same\n  \
     chat21-observer check --help        prove that a broker is set up right"
}

/// Where something listens.
struct Place {
    address: SocketAddr,
    /// The usual port, if another program has it.
    taken: Option<u16>,
}

impl Place {
    /// `wanted`, or else `usual` or any port that is free.
    fn choose(host: IpAddr, wanted: Option<u16>, usual: u16) -> anyhow::Result<Self> {
        let bind = |port| TcpListener::bind((host, port)).and_then(|bound| bound.local_addr());
        if let Some(port) = wanted {
            let address =
                bind(port).with_context(|| format!("cannot listen on {host}:{port} (--port)"))?;
            return Ok(Self {
                address,
                taken: None,
            });
        }
        if let Ok(address) = bind(usual) {
            return Ok(Self {
                address,
                taken: None,
            });
        }
        let address = bind(0).with_context(|| format!("no free port on {host} (--listen)"))?;
        Ok(Self {
            address,
            taken: Some(usual),
        })
    }

    /// The address that a client on this machine uses.
    fn host(&self) -> IpAddr {
        match self.address.ip() {
            ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            ip => ip,
        }
    }

    fn url(&self, scheme: &str) -> String {
        format!(
            "{scheme}://{}",
            SocketAddr::new(self.host(), self.address.port())
        )
    }

    fn note(&self) -> String {
        match self.taken {
            Some(port) => format!("  (port {port} is taken)"),
            None => String::new(),
        }
    }
}

/// Where the demo listens.
struct Places {
    page: Place,
    broker: Place,
    api: Place,
}

impl Places {
    fn choose(args: &DemoArgs) -> anyhow::Result<Self> {
        let any = args.port.filter(|port| *port == 0);
        Ok(Self {
            page: Place::choose(args.listen, any, PAGE_PORT)?,
            broker: Place::choose(args.listen, args.port, MQTT_PORT)?,
            api: Place::choose(args.listen, any, API_PORT)?,
        })
    }

    /// The console and the chat, also for whoever reaches this machine: all that they show is the
    /// demo's.
    fn serve_page(&self, setup: &mut Setup) {
        setup.http_listen = Some(self.page.address);
        setup.console.access = Access::On;
        let broker = SocketAddr::new(self.broker.host(), self.broker.address.port());
        setup.console.chat = Some(broker);
    }

    /// The first lines of the demo. What runs once is over before anybody has opened a page.
    fn text(&self, is_once: bool) -> String {
        let topics = format!("Topics below are under {}.", passing::PREFIX);
        if is_once {
            return topics;
        }
        let bold = Style::new().bold();
        let Self { page, broker, api } = self;
        format!(
            "page    {bold}{}/{bold:#}  and a chat: {bold}{}/chat{bold:#}{}\n\
             broker  {bold}{}{bold:#}  no login{}\n\
             API     {bold}{}/api{bold:#}{}\n\
             {topics}",
            page.url("http"),
            page.url("http"),
            page.note(),
            broker.url("mqtt"),
            broker.note(),
            api.url("http"),
            api.note(),
        )
    }

    /// How to join in, as lines to be pasted.
    fn invitation(&self, token: &str) -> String {
        let bold = Style::new().bold();
        let broker = self.broker.url("mqtt");
        let at = format!(
            "-h {} -p {}",
            self.broker.host(),
            self.broker.address.port()
        );
        let to_bob = outgoing("you", "bob");
        let history = "tilechat/bob/conversations/alice/messages";
        let api = self.api.url("http");
        format!(
            "\n{bold}Now you{bold:#}, from another terminal. What passes is shown here; Ctrl-C \
             ends it.\n  \
             chat21-observer send --broker {broker} --as you bob \"hello\"\n  \
             chat21-observer inbox --broker {broker} bob\n\
             The same with Mosquitto's clients:\n  \
             mosquitto_sub {at} -v -q 1 -t 'apps/tilechat/users/bob/#'\n  \
             mosquitto_pub {at} -q 1 -t {to_bob} -m '{{\"text\":\"hello\"}}'\n\
             What stock clients read over HTTP, with a token of bob's:\n  \
             curl {api}/api/{history} -H 'Authorization: {token}'\n"
        )
    }
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
