//! `slots`: prints what a broker's operator sets up for the sessions of an observer.
//!
//! Owns the step from the settings and the store, which keeps the secret that client identifiers
//! are made of, to the definitions. Leaves these to `protocol::exchange`.

use std::process::ExitCode;

use super::cli::{QueueArg, SlotsCommand, SlotsRabbitMqArgs};
use super::output::Output;
use crate::config::Config;
use crate::protocol::exchange::{Plan, QueueKind, session_queue};
use crate::store::StoreLocation;
use crate::store::postgres::{Candidate, SharedBy, Target};

const NO_DATABASE: &str = "there is no PostgreSQL database (--store postgres://…): it keeps the \
                           secret that the sessions' names are made of";

const BY_ALL: &str = "slots by --sharing all make their sessions themselves: the others would \
                      leave messages to a session that is declared here, which does not get any \
                      yet. In a cluster let one observer serve (--slots 1), or share by \
                      --sharing hash";

pub(super) fn run(command: &SlotsCommand, out: Output) -> anyhow::Result<ExitCode> {
    match command {
        SlotsCommand::Rabbitmq(args) => rabbitmq(args, out),
    }
}

fn rabbitmq(args: &SlotsRabbitMqArgs, out: Output) -> anyhow::Result<ExitCode> {
    let config = args.settings.load()?;
    let target = database(&config)?;
    let by_hash = target.sharing() == SharedBy::Hash;
    if target.slots() > 1 && !by_hash {
        anyhow::bail!(BY_ALL);
    }
    // It makes the tables if there are none: the observers that come later find the secret there.
    let secret = Candidate::open(target)?.secret()?;
    let client_ids = client_ids(&config, target, &secret);
    let filters = config.rules.router.layouts.topics_read();
    let expires = u64::try_from(config.broker.session_expiry.as_millis()).ok();
    let plan = Plan {
        name: &config.name,
        secret: &secret,
        vhost: &args.vhost,
        client_ids: &client_ids,
        queues: match args.queues {
            QueueArg::Classic => QueueKind::Classic { expires },
            QueueArg::Quorum => QueueKind::Quorum,
        },
        filters: by_hash.then_some(&*filters),
    };
    out.json(&plan.definitions())?;
    out.message(next_steps(&plan));
    Ok(ExitCode::SUCCESS)
}

/// The database of the settings.
pub(super) fn database(config: &Config) -> anyhow::Result<&Target> {
    match config.store.as_ref().map(|settings| &settings.location) {
        Some(StoreLocation::Postgres(target)) => Ok(target),
        Some(_) | None => anyhow::bail!(NO_DATABASE),
    }
}

/// The client identifiers of the sessions.
fn client_ids(config: &Config, target: &Target, secret: &str) -> Vec<String> {
    let slots = 0..target.slots();
    let links = slots.map(|slot| match target.slots() {
        1 => config.shared_links(secret),
        _ => config.slot_links(slot, secret),
    });
    links
        .map(|links| links.client_id.expose_secret().to_owned())
        .collect()
}

fn next_steps(plan: &Plan<'_>) -> String {
    let mut steps = vec![
        "keep the names of the queues to yourself: who knows a client identifier \
                          can take the session"
            .to_owned(),
    ];
    if plan.filters.is_some() {
        let plugin = "rabbitmq-plugins enable rabbitmq_consistent_hash_exchange";
        steps.push(format!("on each node of the broker: {plugin}"));
    }
    steps.push("on one node: rabbitmqctl import_definitions FILE".to_owned());
    if plan.queues == QueueKind::Quorum {
        let queue = plan.client_ids.first().map(|id| session_queue(id));
        steps.push(format!(
            "a session that is there already stays what it is: see that nothing waits in it, and \
             delete its queue first (rabbitmqctl delete_queue {} …)",
            queue.unwrap_or_default()
        ));
    }
    if plan.filters.is_some() {
        let exchange = plan.exchange_name();
        steps.push(format!(
            "start the observers; `check` proves what the exchange {exchange} does"
        ));
    }
    steps.join("\n")
}
