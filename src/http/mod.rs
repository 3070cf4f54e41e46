//! HTTP: the API for chat clients, the endpoint for health and metrics, and the clients of
//! operators' services.
//!
//! Owns requests and their limits. Leaves what an event says to [`rules`](crate::rules) and where
//! it waits to [`store`](crate::store).

pub mod api;
pub mod client;
pub mod decision_service;
pub mod server;
pub mod webhook;
