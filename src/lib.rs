//! `chat21-observer` turns an MQTT broker into a Chat21 messaging backend.

pub mod auth;
pub mod commands;
pub mod config;
pub mod connections;
pub mod delivery;
pub mod guide;
pub mod http;
pub mod mqtt;
pub mod observer;
pub mod protocol;
pub mod rules;
pub mod store;
pub mod telemetry;
