//! `health`: asks the running observer's health endpoint whether it is ready.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use super::output::Output;
use super::scope::Endpoint;
use super::settings::SettingsArgs;
use crate::http::client;

pub(super) async fn run(
    settings: &SettingsArgs<Endpoint>,
    out: Output,
) -> anyhow::Result<ExitCode> {
    let config = settings.load()?;
    let Some(mut address) = config.http.listen else {
        anyhow::bail!("health is switched off (--http-listen none)")
    };
    if address.ip().is_unspecified() {
        address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
    }
    client::probe(address).await?;
    out.line("ready")?;
    Ok(ExitCode::SUCCESS)
}
