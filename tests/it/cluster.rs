//! A cluster of three RabbitMQ nodes: the session outlives any of them.

use std::process::Command;

use serde_json::{Value, json};

use crate::bed::{Broker, Observer, fresh_app, import, root, wait_for};
use crate::http::free_port;
use crate::load::{Load, Path, Plan, users};
use crate::postgres::{Database, shared, start};
use crate::slots::{Process, by_slot, load, settle, wait_all};
use crate::wire::Wire;

/// Messages that may be under way when a node is killed.
const UNDER_WAY: usize = 200;

/// One more node.
struct Node {
    name: &'static str,
    port: u16,
}

impl Node {
    fn join(name: &'static str) -> Self {
        let output = Self::script(name, "join").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let ports = String::from_utf8(output.stdout).unwrap();
        let port = ports.lines().find_map(|line| line.strip_prefix("MQTT="));
        Self {
            name,
            port: port.unwrap().parse().unwrap(),
        }
    }

    fn script(name: &str, command: &str) -> Command {
        let mut script = Command::new(root().join("scripts/brokers"));
        script.args([command, name]);
        script
    }

    fn control(&self, command: &str) {
        let status = Self::script(self.name, command).status().unwrap();
        assert!(status.success(), "scripts/brokers {command} {}", self.name);
    }

    /// Declares what the definitions say: queues get their leaders here.
    fn import(&self, definitions: &str) {
        import(self.name, definitions);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // If the test has failed, this may, too.
        let _ = Self::script(self.name, "leave").status();
    }
}

/// The queues of definitions. They go before the nodes do: a quorum queue without a majority is in
/// the way of all later tests, whose observers say hello to its session.
struct Queues {
    broker: Broker,
    definitions: Value,
}

impl Queues {
    fn names(&self) -> impl Iterator<Item = &str> {
        let queues = self.definitions["queues"].as_array().unwrap();
        queues.iter().map(|queue| queue["name"].as_str().unwrap())
    }
}

impl Drop for Queues {
    fn drop(&mut self) {
        for name in self.names() {
            let mut script = Command::new(root().join("scripts/brokers"));
            script.args(["ctl", self.broker.name(), "delete_queue", name]);
            // If the test has failed, this may, too.
            let _ = script.status();
        }
    }
}

/// Clients are on the first node, the observer on the second; the leaders of the sessions' queues
/// are on the third. That is killed under load, and then the observer's own.
fn nodes_are_killed(slots: &str, sharing: &str) {
    let broker = Broker::Rabbit4;
    let (_server, _broker) = (shared(), broker.exclusive());
    let (second, third) = (Node::join("rabbitmq4b"), Node::join("rabbitmq4c"));
    let (app, database) = (fresh_app(), Database::make());
    let of = ["--slots", slots, "--sharing", sharing];
    let print = ["slots", "rabbitmq", "--queues", "quorum", "--app", &app];
    let definitions = database.printed(&[&print[..], &["--name", &app], &of].concat());
    third.import(&definitions);
    let definitions = serde_json::from_str(&definitions).unwrap();
    let _queues = Queues {
        broker,
        definitions,
    };
    let (url, http) = (format!("mqtt://localhost:{}", second.port), free_port());
    let more = [&["--store-lease", "2s"][..], &of].concat();
    let observer = database.observer_at(&url, &app, http, &more);
    let mut process = Process::of(observer, http);
    start(&mut process.observer);
    wait_all(&database, slots.parse().unwrap(), &[&process]);

    let load = load(broker, &app, 40);
    let under_way = |load: &Load, share: usize| {
        load.allow(share + UNDER_WAY);
        load.wait_arrived(share);
    };
    let expected = load.expected();
    under_way(&load, expected / 5);
    third.control("kill");
    under_way(&load, expected * 2 / 5);
    third.control("start");
    under_way(&load, expected * 3 / 5);
    second.control("kill");
    // What users write now waits in the session.
    load.wait_under_way(UNDER_WAY);
    second.control("start");
    under_way(&load, expected * 4 / 5);
    settle(
        load,
        &database,
        &format!("nodes killed, {slots} slots by {sharing}"),
    );
    if slots != "1" {
        assert!(by_slot(&database).len() > 1);
    }
    let (status, log) = process.observer.stop();
    assert!(status.success(), "{log}");
}

#[test]
fn one_session_outlives_each_node_of_a_cluster() {
    nodes_are_killed("1", "all");
}

#[test]
fn sessions_by_hash_outlive_each_node_of_a_cluster() {
    nodes_are_killed("2", "hash");
}

/// The queue of a user, and of somebody who listens to what observers say to each other, has lost
/// two of three nodes. RabbitMQ does not serve a connection for a minute on which something is
/// published to it.
#[test]
fn a_queue_without_a_majority_holds_up_nobody() {
    let broker = Broker::Rabbit4;
    let _broker = broker.exclusive();
    let (second, third) = (Node::join("rabbitmq4b"), Node::join("rabbitmq4c"));
    let app = fresh_app();
    let binding = |key: String| {
        json!({"source": "amq.topic", "vhost": "/", "destination": app, "arguments": {},
            "destination_type": "queue", "routing_key": key})
    };
    let definitions = json!({
        "queues": [{"name": app, "vhost": "/", "durable": true, "auto_delete": false,
            "arguments": {"x-queue-type": "quorum"}}],
        "bindings": [
            binding(format!("apps.{app}.users.away.#")),
            binding("observer.*.hello".to_owned()),
        ],
    });
    broker.import(&definitions.to_string());
    let _queues = Queues {
        broker,
        definitions,
    };
    second.control("kill");
    third.control("kill");

    let url = broker.url(false);
    let args = ["--broker", &url, "--username", "observer", "--app", &app];
    let mut observer = Observer::prepare(&args);
    observer.restart();
    let load = Load::start(Plan {
        broker,
        app: app.clone(),
        senders: users(0..3),
        recipients: users(3..6),
        paths: vec![Path::Chat21],
        per_pair: 200,
        allowed: Some(0),
    });
    let mut writer = Wire::connect(broker.port("MQTT"), &app, &broker.login(&app, "u09"), true);
    let writer = writer.as_mut().unwrap();
    let topic = Path::Chat21.outgoing(&app, "u09", "away");
    for round in 0..6 {
        let text = format!(r#"{{"text":"{round}"}}"#);
        writer.publish(&topic, text).unwrap();
        load.allow(load.arrived() + 300);
        load.wait_arrived(load.expected() * (round + 1) / 6);
    }
    println!("{} came twice", load.finish().verdict.repeated);

    second.control("start");
    wait_for("what the user missed", || {
        (broker.messages(&app) >= Some(6)).then_some(())
    });
    let (status, log) = observer.stop();
    assert!(
        status.success() && log.contains("left_unconfirmed=0"),
        "{log}"
    );
}
