//! The table `[[custom-layout]]` of the configuration file.
//!
//! Owns its keys. What they mean together is checked in `layouts.rs`.

use serde::Deserialize;

/// A `[[custom-layout]]` table of the configuration file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct CustomLayout {
    pub(super) name: String,
    pub(super) outgoing: String,
    pub(super) inbox: String,
    pub(super) payload: CustomPayload,
    #[serde(default)]
    pub(super) sender_copy: bool,
    pub(super) app: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CustomPayload {
    Verbatim,
    Envelope,
}
