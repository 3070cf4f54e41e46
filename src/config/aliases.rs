//! The variables of chat21-server and chat21-http-server that mean the same as settings here.

/// Environment variables that other programs of this family use for the same setting.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("app", "APP_ID"),
    ("log-level", "LOG_LEVEL"),
    ("contacts-url", "CONTACTS_LOOKUP_ENDPOINT"),
    ("http-listen", "METRICS_PORT"),
    ("presence-enabled", "PRESENCE_ENABLED"),
    ("webhook-enabled", "WEBHOOK_ENABLED"),
    ("webhook-endpoints", "WEBHOOK_ENDPOINTS"),
    ("webhook-endpoints", "WEBHOOK_ENDPOINT"),
    ("webhook-events", "WEBHOOK_EVENTS"),
    ("rate-burst", "BUCKET_MSG_CAPACITY"),
    ("rate-per-minute", "BUCKET_MSG_REFILL_RATE_PER_MIN"),
];
