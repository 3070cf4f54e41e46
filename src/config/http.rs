//! The section of the HTTP endpoint for health, metrics and the console.
//!
//! Owns reading its address and who may see what. What it answers is the business of
//! `http/server.rs`.

use std::net::{Ipv4Addr, SocketAddr};

use super::reader::Reader;
use crate::http::console::Access;

/// Where health, metrics and the console are served.
#[derive(Clone, Copy, Debug)]
pub struct HttpSection {
    /// The address to listen on; `None` serves nothing.
    pub listen: Option<SocketAddr>,
    /// Whether the console shows messages and settings.
    pub console: Access,
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is neither an address such as 127.0.0.1:9180, nor a port, nor none")]
pub(super) struct ListenError(String);

impl HttpSection {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let listen = reader.parse("http-listen", parse_listen);
        let console = reader.choice(
            "console",
            &[
                ("auto", Access::Auto),
                ("on", Access::On),
                ("off", Access::Off),
            ],
        );
        Some(Self {
            listen: listen?,
            console,
        })
    }
}

/// An address, a port of 127.0.0.1, or `none`.
pub(super) fn parse_listen(text: &str) -> Result<Option<SocketAddr>, ListenError> {
    if text == "none" {
        return Ok(None);
    }
    let port = || text.parse().ok();
    let address = text
        .parse()
        .ok()
        .or_else(|| Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port()?))));
    address
        .map(Some)
        .ok_or_else(|| ListenError(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_a_port_and_none_are_read() {
        let read = |text| {
            parse_listen(text)
                .unwrap()
                .map(|address| address.to_string())
        };
        assert_eq!(read("none"), None);
        assert_eq!(read("9191").as_deref(), Some("127.0.0.1:9191"));
        assert_eq!(read("[::1]:80").as_deref(), Some("[::1]:80"));
        assert!(parse_listen("nowhere").is_err());
    }
}
