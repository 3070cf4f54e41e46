//! Whether a process that has no session at the broker could have one.
//!
//! Owns the proof: one that cannot reach the broker must not take over from one that can.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::auth::secret::Secret;
use crate::connections::links::Links;
use crate::connections::settings::LinkSettings;
use crate::mqtt::LinkError;
use crate::telemetry::Metrics;
use crate::telemetry::health::Health;

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_secs(2);
/// For how long a way that was proved is not proved again.
const PROVED_FOR: Duration = Duration::from_secs(15);
/// What has no session is kept for so many times as long as a connection may take.
const PATIENCE: u32 = 3;

/// How long a process without a session may keep what others could serve.
pub(super) fn patience(settings: &LinkSettings) -> Duration {
    PATIENCE * settings.connect_timeout
}

/// What is known of the way to the broker.
pub(super) struct Reach {
    settings: LinkSettings,
    metrics: Metrics,
    is_proved: bool,
    proving: Option<oneshot::Receiver<Result<(), LinkError>>>,
    prove_at: Instant,
    /// When a session was up, or there was none to be had.
    up_at: Instant,
    fault: Option<String>,
}

impl Reach {
    /// Nothing is known. `process` sets its connections apart from those of others.
    pub(super) fn new(
        settings: &LinkSettings,
        process: &str,
        metrics: Metrics,
        now: Instant,
    ) -> Self {
        let base = settings.client_id.expose_secret();
        Self {
            settings: LinkSettings {
                client_id: Secret::new(format!("{base}-reach-{process}")),
                ..settings.clone()
            },
            metrics,
            is_proved: false,
            proving: None,
            prove_at: now,
            up_at: now,
            fault: None,
        }
    }

    /// Whether this process may take slots.
    pub(super) fn is_proved(&self) -> bool {
        self.is_proved
    }

    /// Notes whether a session is up; `None`: there is none to be had. Proves the way if it is not
    /// proved, and now and then while there is no session. Returns whether the slots are to be
    /// given up, if others could serve them.
    pub(super) fn tick(&mut self, is_up: Option<bool>, health: &Health, now: Instant) -> bool {
        if is_up != Some(false) {
            self.up_at = now;
        }
        if is_up == Some(true) {
            self.note(Ok(()), health);
        }
        if let Some(proved) = &mut self.proving
            && let Ok(proved) = proved.try_recv()
        {
            self.proving = None;
            self.prove_at = now + if proved.is_ok() { PROVED_FOR } else { PAUSE };
            self.note(proved.map_err(|error| error.to_string()), health);
        }
        // Where a session is up, that proves it.
        let is_open = !self.is_proved || is_up.is_none();
        if is_open && self.proving.is_none() && now >= self.prove_at {
            self.proving = Some(self.prove());
        }
        now >= self.up_at + patience(&self.settings)
    }

    /// The slots are given up: no more are taken before the way is proved again.
    pub(super) fn give_up(&mut self, now: Instant) {
        (self.is_proved, self.up_at, self.prove_at) = (false, now, now);
    }

    fn note(&mut self, proved: Result<(), String>, health: &Health) {
        self.is_proved = proved.is_ok();
        let fault = proved.err();
        health.set_session(fault.clone());
        match &fault {
            Some(fault) if self.fault.is_none() => {
                warn!("takes over from nobody before the broker can be reached: {fault}");
            }
            None if self.fault.is_some() => info!("the broker can be reached"),
            Some(_) | None => {}
        }
        self.fault = fault;
    }

    /// Connects once.
    fn prove(&self) -> oneshot::Receiver<Result<(), LinkError>> {
        let (settings, metrics) = (self.settings.clone(), self.metrics.clone());
        let links = Links::new(
            settings,
            Health::default(),
            metrics,
            CancellationToken::new(),
        );
        let (proved, proving) = oneshot::channel();
        tokio::spawn(async move {
            // Nobody has a session of this name.
            let _ = proved.send(links.reset_session().await);
        });
        proving
    }
}
