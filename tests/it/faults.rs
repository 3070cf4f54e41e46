//! What must not lose a message: the observer killed, the broker restarted, connections cut.

use std::time::Duration;

use crate::bed::{Broker, Observer, PATIENCE, fresh_app, wait_for};
use crate::http::{free_port, get};
use crate::load::{Load, Path, Plan, users};
use crate::relay::Relay;
use crate::wire::Wire;

/// 4,000 messages, of which a quarter may be sent at first.
fn load(broker: Broker, app: &str) -> Load {
    Load::start(Plan {
        broker,
        app: app.to_owned(),
        senders: users(0..10),
        recipients: users(10..20),
        paths: vec![Path::Inbox, Path::Chat21],
        per_pair: 20,
        allowed: Some(1_000),
    })
}

/// Messages that are under way at each fault.
const UNDER_WAY: usize = 100;

/// The observer is killed three times with messages under way: none is lost, and order is kept.
fn kill_9_loses_nothing(broker: Broker) {
    let _shared = broker.shared();
    let app = fresh_app();
    let mut observer = Observer::start(broker, &app, &[]);
    let load = load(broker, &app);
    for quarter in 1..4 {
        load.allow(load.expected() * quarter / 4);
        load.wait_arrived(load.expected() * quarter / 4 - UNDER_WAY);
        observer.freeze();
        load.wait_under_way(UNDER_WAY);
        observer.kill_and_restart();
        assert!(
            observer.ready.contains("session resumed"),
            "{}",
            observer.ready
        );
    }
    load.allow(load.expected());
    let verdict = load.finish().verdict;
    println!(
        "{broker:?}: {} arrived after three kills, {} of them twice",
        verdict.arrived, verdict.repeated
    );
}

#[test]
fn kill_9_loses_nothing_on_rabbitmq3() {
    kill_9_loses_nothing(Broker::Rabbit3);
}

#[test]
fn kill_9_loses_nothing_on_rabbitmq4() {
    kill_9_loses_nothing(Broker::Rabbit4);
}

#[test]
fn kill_9_loses_nothing_on_mosquitto() {
    kill_9_loses_nothing(Broker::Mosquitto);
}

/// The broker restarts under load. Senders repeat what was not confirmed, so nothing is lost and
/// order is kept.
fn a_broker_restart_loses_nothing(broker: Broker) {
    let _exclusive = broker.exclusive();
    let app = fresh_app();
    let mut observer = Observer::start(broker, &app, &[]);
    let load = load(broker, &app);
    load.wait_arrived(load.expected() / 5);
    observer.freeze();
    load.wait_under_way(UNDER_WAY);
    broker.control("stop");
    observer.thaw();
    observer.wait_log("not connected");
    load.allow(load.expected());
    broker.control("start");
    let verdict = load.finish().verdict;
    println!(
        "{broker:?}: {} arrived over a restart of the broker, {} of them twice",
        verdict.arrived, verdict.repeated
    );
    let (status, log) = observer.stop();
    assert!(
        status.success() && log.contains("left_unacknowledged=0"),
        "{log}"
    );
}

#[test]
fn a_broker_restart_loses_nothing_on_rabbitmq3() {
    a_broker_restart_loses_nothing(Broker::Rabbit3);
}

#[test]
fn a_broker_restart_loses_nothing_on_rabbitmq4() {
    a_broker_restart_loses_nothing(Broker::Rabbit4);
}

#[test]
fn a_broker_restart_loses_nothing_on_mosquitto() {
    a_broker_restart_loses_nothing(Broker::Mosquitto);
}

/// The observer's host vanishes, and it starts elsewhere at once. The broker still holds the old
/// connection, with messages that nobody will acknowledge there, and more wait behind them.
fn a_vanished_host_loses_nothing(broker: Broker) {
    let _exclusive = broker.exclusive();
    let app = fresh_app();
    let relay = Relay::to(broker.port("MQTT"));
    let url = relay.url();
    let args = ["--broker", &url, "--username", "observer", "--app", &app];
    let mut observer = Observer::prepare(&args);
    observer.restart();
    let load = load(broker, &app);
    load.wait_arrived(load.expected() / 5);
    observer.freeze();
    load.wait_under_way(UNDER_WAY);
    relay.vanish();
    observer.kill();
    load.allow(load.expected());
    observer.restart();
    let verdict = load.finish().verdict;
    println!(
        "{broker:?}: {} arrived though the host vanished, {} of them twice",
        verdict.arrived, verdict.repeated
    );
}

#[test]
fn a_vanished_host_loses_nothing_on_rabbitmq3() {
    a_vanished_host_loses_nothing(Broker::Rabbit3);
}

#[test]
fn a_vanished_host_loses_nothing_on_rabbitmq4() {
    a_vanished_host_loses_nothing(Broker::Rabbit4);
}

#[test]
fn a_vanished_host_loses_nothing_on_mosquitto() {
    a_vanished_host_loses_nothing(Broker::Mosquitto);
}

/// SIGTERM under load: messages under way are finished; the broker keeps the rest, which is
/// forwarded once after the next start.
#[test]
fn a_graceful_stop_under_load_forwards_nothing_twice() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let app = fresh_app();
    let mut observer = Observer::start(broker, &app, &[]);
    let load = load(broker, &app);
    load.wait_arrived(load.expected() / 5);
    let (status, log) = observer.stop();
    assert!(
        status.success() && log.contains("left_unacknowledged="),
        "{log}"
    );
    // Messages are sent while the observer is away.
    load.wait_under_way(UNDER_WAY);
    load.allow(load.expected());
    observer.restart();
    assert_eq!(load.finish().verdict.repeated, 0);
}

/// Under a memory alarm RabbitMQ neither reads nor confirms. Nothing is lost or counted as refused,
/// and traffic continues afterwards.
fn a_memory_alarm_is_waited_out(broker: Broker) {
    let _exclusive = broker.exclusive();
    let app = fresh_app();
    let mut observer =
        Observer::start(broker, &app, &["--ack-timeout", "3s", "--keep-alive", "5s"]);
    let load = load(broker, &app);
    load.wait_arrived(load.expected() / 5);
    observer.freeze();
    load.wait_under_way(UNDER_WAY);
    let alarm = broker.alarm();
    observer.thaw();
    load.allow(load.expected());
    // The alarm has to outlast the ack timeout and the keep alive.
    std::thread::sleep(Duration::from_secs(12));
    drop(alarm);
    let verdict = load.finish().verdict;
    println!(
        "{broker:?}: {} arrived over an alarm, {} of them twice",
        verdict.arrived, verdict.repeated
    );
    let (status, log) = observer.stop();
    assert!(status.success() && log.contains("refused=0"), "{log}");
}

#[test]
fn a_memory_alarm_is_waited_out_on_rabbitmq3() {
    a_memory_alarm_is_waited_out(Broker::Rabbit3);
}

#[test]
fn a_memory_alarm_is_waited_out_on_rabbitmq4() {
    a_memory_alarm_is_waited_out(Broker::Rabbit4);
}

/// RabbitMQ 4.0 blocks only those who publish, and delivers on. What it delivers is stored and
/// acknowledged meanwhile, far more than memory has room for (200), and published afterwards.
#[test]
fn messages_are_taken_in_while_rabbitmq4_blocks_publishers() {
    const QUEUED: usize = 2_000;
    let broker = Broker::Rabbit4;
    let _exclusive = broker.exclusive();
    let app = fresh_app();
    let port = free_port();
    let listen = port.to_string();
    let flags = ["--window", "50", "--http-listen", &listen];
    let observer = Observer::start(broker, &app, &flags);
    let load = load(broker, &app);
    load.wait_arrived(UNDER_WAY);
    observer.freeze();
    load.allow(load.expected());
    load.wait_under_way(QUEUED);
    let alarm = broker.alarm();
    let arrived = load.arrived();
    observer.thaw();
    wait_for("the messages to be taken in", || {
        let (_, metrics) = get(port, "/metrics")?;
        let value = |name: &str| {
            let line = metrics.lines().find(|line| line.starts_with(name))?;
            line.rsplit(' ').next()?.parse::<usize>().ok()
        };
        let received = value("observer_messages_received_total{kind=\"message\",qos=\"1\"}")?;
        let open = value("observer_inflight_messages ")?;
        let backlog = value("observer_backlog_bytes ")?;
        let taken = received >= arrived + QUEUED && open == 0;
        (taken && backlog > 0).then_some(())
    });
    assert!(load.arrived() < arrived + QUEUED, "it takes no publishes");
    drop(alarm);
    load.finish();
    assert!(observer.log().contains("is on its way"));
}

/// A session outlives the settings it was made with: filters of an earlier run must not cause
/// duplicates.
#[test]
fn other_settings_leave_no_old_filters_in_the_session() {
    let broker = Broker::Mosquitto;
    let _exclusive = broker.exclusive();
    let app = fresh_app();
    let mut observer = Observer::start(broker, &app, &["--protocol", "5"]);
    observer.stop();
    let with_app = observer.args.clone();
    let at = with_app.iter().position(|arg| arg == "--app").unwrap();
    observer.args.drain(at..at + 2);
    observer.spawn(&[("OBSERVER_PASSWORD", "observerpw")]);
    observer.wait_ready();
    observer.stop();
    observer.args = with_app;
    observer.spawn(&[("OBSERVER_PASSWORD", "observerpw")]);
    observer.wait_ready();
    assert!(
        observer.ready.contains("session resumed"),
        "{}",
        observer.ready
    );
    let mut user = Wire::connect(
        broker.port("MQTT"),
        &format!("{app}-u00"),
        &broker.login(&app, "u00"),
        true,
    )
    .unwrap();
    user.subscribe(&[&format!("apps/{app}/users/u00/#")])
        .unwrap();
    user.publish_confirmed(Path::Chat21.outgoing(&app, "u00", "u00"), b"{}")
        .unwrap();
    assert!(user.message(PATIENCE).is_some());
    assert_eq!(
        user.message(Duration::from_secs(1)),
        None,
        "it is delivered twice"
    );
}
