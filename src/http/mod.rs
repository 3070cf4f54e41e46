//! HTTP: the API for chat clients, the endpoint for health, metrics and the console, and the
//! clients of operators' services.
//!
//! Owns requests and their limits. Leaves what an event says to [`rules`](crate::rules) and where
//! it waits to [`store`](crate::store).

pub mod api;
#[cfg(feature = "demo")]
pub mod bridge;
pub mod client;
pub mod console;
pub mod decision_service;
pub mod server;
pub mod webhook;
