//! A cluster of three RabbitMQ nodes: the session outlives any of them.

use std::process::Command;

use crate::bed::{Broker, fresh_app, import, root};
use crate::http::free_port;
use crate::load::Load;
use crate::postgres::{Database, shared, start};
use crate::slots::{Process, by_slot, load, settle, wait_all};

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
