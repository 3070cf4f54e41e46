//! `token mint`: makes a token and prints it.
//!
//! Refuses weak keys and identifiers that would reach too far, unless forced. Leaves the claims and
//! scopes to `auth::token`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::auth::credentials::Minter;
use crate::auth::secret::Secret;
use crate::auth::signing::{SigningKey, Weakness};
use crate::auth::token::{Grant, Scopes, Sessions, Stamp};
use crate::commands::cli::{MintArgs, MintCommand, MintUserArgs};
use crate::commands::input::{app_id, user_id};
use crate::commands::output::Output;
use crate::config::Config;
use crate::telemetry::clock::Clock;

const NO_KEY: &str = "there is no key to sign with: give --jwt-key-file \
                      (the secret, or a private key in PEM or as a JWK)";
const FORCE: &str = "(--force mints the token anyway)";

pub(super) fn run(command: &MintCommand, out: Output) -> anyhow::Result<ExitCode> {
    let token = match command {
        MintCommand::User(args) => {
            let config = args.settings.load()?;
            let minting = Minting::new(&config, &args.mint, out)?;
            check_reach(args, out)?;
            let paths = config.rules.router.layouts.user_paths_of(&args.app);
            let scopes = if args.deployed_scopes {
                Scopes::Deployed
            } else {
                Scopes::Narrow {
                    paths: &paths,
                    vhost: &args.vhost,
                    sessions: match args.any_session {
                        true => Sessions::Any,
                        false => Sessions::Of(session(args)),
                    },
                }
            };
            minting.mint(|stamp| Grant::user(&args.app, &args.user, scopes, stamp))
        }
        MintCommand::Service {
            name,
            mint,
            settings,
        } => {
            let config = settings.load()?;
            let minting = Minting::new(&config, mint, out)?;
            minting.mint(|stamp| Grant::service(name, stamp))
        }
    };
    out.line(token.expose_secret())?;
    Ok(ExitCode::SUCCESS)
}

/// What every kind of token is made with.
struct Minting<'c> {
    minter: &'c Minter,
    key: SigningKey,
    ttl: Duration,
}

impl<'c> Minting<'c> {
    /// Refuses a key that is public, unless forced; warns of one that is weak.
    fn new(config: &'c Config, args: &MintArgs, out: Output) -> anyhow::Result<Self> {
        let minter = config.broker.minter.as_ref().context(NO_KEY)?;
        let key = minter.key()?;
        if let Some(weakness) = key.weakness() {
            if weakness == Weakness::Published && !args.force {
                anyhow::bail!("{weakness} {FORCE}");
            }
            out.message(format_args!("warning: {weakness}"));
        }
        let ttl = &args.ttl;
        let ttl = humantime::parse_duration(ttl)
            .ok()
            .filter(|ttl| ttl.as_secs() > 0)
            .with_context(|| format!("--ttl {ttl:?} is not a time such as 30d"))?;
        Ok(Self { minter, key, ttl })
    }

    fn mint(&self, grant: impl FnOnce(&Stamp<'_>) -> Grant) -> Secret {
        let now = Clock.now().wall;
        self.minter.mint(&self.key, now, self.ttl, grant)
    }
}

/// The MQTT client identifier that the user may connect with.
fn session(args: &MintUserArgs) -> &str {
    args.session.as_ref().unwrap_or(&args.user)
}

/// Refuses identifiers with which the scopes would reach other users' paths, unless forced.
fn check_reach(args: &MintUserArgs, out: Output) -> anyhow::Result<()> {
    for (what, id) in [
        ("app", args.app.as_str()),
        ("user", &args.user),
        ("--session", session(args)),
    ] {
        let Err(fault) = check_id(what, id) else {
            continue;
        };
        if !args.mint.force {
            anyhow::bail!("{fault} {FORCE}");
        }
        out.message(format_args!("warning: {fault}"));
    }
    Ok(())
}

fn check_id(what: &str, id: &str) -> anyhow::Result<()> {
    match what {
        "app" => app_id(id).map(drop)?,
        _ => user_id(what, id).map(drop)?,
    }
    if let Some((first, _)) = id.split_once('.') {
        anyhow::bail!(
            "{what} {id:?} holds a \".\": RabbitMQ takes it for a level break, \
             and the token of \"{first}\" reaches its paths"
        );
    }
    Ok(())
}
