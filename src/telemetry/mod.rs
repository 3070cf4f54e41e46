//! What the observer says of itself: log, metrics, health, status and trace over MQTT, systemd.
//!
//! Owns the words and figures, with one function for each thing that happens. Leaves serving them
//! over HTTP to [`http`](crate::http) and publishing them to [`observer`](crate::observer).

pub mod clock;
pub mod crash_point;
mod families;
pub mod feed;
pub mod figures;
pub mod health;
pub mod hello;
pub mod labels;
pub mod log;
pub mod metrics;
pub mod operator_command;
pub mod outage;
pub mod service_topics;
pub mod stats;
pub mod status;
pub mod systemd;
pub mod trace;

pub use self::crash_point::CrashPoint;
pub use self::labels::{LinkRole, WebhookOutcome};
pub use self::log::{LogFormat, LogLevel, filter, init};
pub use self::metrics::Metrics;
pub use self::stats::{Load, Stats};
