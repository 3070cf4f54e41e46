//! `acl`: prints the broker's configuration that keeps each user to their own paths.
//!
//! Leaves what that configuration says to `auth::acl`.

use std::process::ExitCode;

use anyhow::Context;

use super::cli::{AclArgs, AclBroker};
use super::output::Output;
use crate::auth::acl::{self, Part, RabbitMq, RabbitMqVersion};
use crate::config::Config;

const NO_APPS: &str = "warning: without --app users may write in any app, and each app has its \
                       own rates, bans and groups: name your apps with --app";

pub(super) fn run(args: &AclArgs, out: Output) -> anyhow::Result<ExitCode> {
    let config = args.settings.load()?;
    let parts = parts(args, &config);
    if config.rules.router.layouts.apps().is_empty() {
        out.message(NO_APPS);
    }
    if let Some(name) = &args.part {
        let part = parts.iter().find(|part| part.name == name);
        let part = part.with_context(|| {
            let names: Vec<&str> = parts.iter().map(|part| part.name).collect();
            format!("--part {name:?} is none of {}", names.join(", "))
        })?;
        out.text(&part.text)?;
        return Ok(ExitCode::SUCCESS);
    }
    for (at, part) in parts.iter().enumerate() {
        let gap = if at > 0 { "\n" } else { "" };
        out.text(&format!(
            "{gap}===== {} (--part {})\n\n{}",
            part.place, part.name, part.text
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn parts(args: &AclArgs, config: &Config) -> Vec<Part> {
    let layouts = &config.rules.router.layouts;
    let observer = config.broker.credentials.username().unwrap_or("observer");
    match args.broker {
        AclBroker::RabbitMq => {
            let minter = config.broker.minter.as_ref();
            let about = RabbitMq {
                observer,
                audience: minter.map_or("rabbitmq", |minter| &minter.audience),
                key_id: minter
                    .and_then(|minter| minter.key_id.as_deref())
                    .unwrap_or("tiledesk-key"),
                window: config.broker.window,
                session_expiry: config.broker.session_expiry.as_secs(),
                version: match args.before_3_13 {
                    true => RabbitMqVersion::Before3_13,
                    false => RabbitMqVersion::Since3_13,
                },
            };
            acl::rabbitmq(layouts, &about)
        }
        AclBroker::Mosquitto => acl::mosquitto(layouts, observer),
        AclBroker::Emqx => acl::emqx(layouts, observer),
        AclBroker::Nats => acl::nats(layouts, observer, config.broker.window),
        AclBroker::Ejabberd => acl::ejabberd(layouts, observer),
    }
}
