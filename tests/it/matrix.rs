//! Direct messages in each layout, on every broker, version of MQTT and transport: ten thousand on
//! the brokers that most people run.

use crate::bed::{Broker, Observer, fresh_app};
use crate::load::{Load, Path, Plan, users};

/// 20 senders to 20 recipients, in each layout.
fn messages_in_each_layout(broker: Broker, protocol: &str, transport: &str) {
    let _shared = broker.shared();
    let app = fresh_app();
    let mut more = vec!["--protocol", protocol];
    if transport == "websocket" {
        more.push("websocket");
    }
    let mut observer = Observer::start(broker, &app, &more);
    let said = if protocol == "5" {
        "MQTT 5"
    } else {
        "MQTT 3.1.1"
    };
    assert!(observer.ready.contains(said), "{}", observer.ready);
    let plan = Plan {
        broker,
        app,
        senders: users(0..20),
        recipients: users(20..40),
        paths: paths(broker),
        per_pair: per_pair(broker),
        allowed: None,
    };
    let load = Load::start(plan);
    let expected = load.expected();
    assert_eq!(expected, 20 * 20 * paths(broker).len() * per_pair(broker));
    let account = match broker {
        // On a busy machine a few of thousands come out of order.
        Broker::Nats => load.finish_in_any_order(),
        Broker::Rabbit3
        | Broker::Rabbit4
        | Broker::Mosquitto
        | Broker::Ejabberd
        | Broker::ActiveMq
        | Broker::Aedes
        | Broker::Rumqttd => load.finish(),
    };
    println!(
        "{broker:?} {protocol} {transport}: {expected} messages in {:.1?}",
        account.took
    );
    let (status, log) = observer.stop();
    // NATS delivers again, also to users, what is not acknowledged within `ack_wait`. So does the
    // observer where a queue of the broker stands still.
    if broker != Broker::Nats && !log.contains("the broker does not take some publishes") {
        assert_eq!(account.verdict.repeated, 0, "{log}");
    }
    assert!(status.success());
    assert!(
        log.contains(&format!("forwarded={expected} refused=0"))
            && log.contains("left_unacknowledged=0"),
        "{log}"
    );
}

/// ejabberd sends the observer a message at a time, and ActiveMQ syncs its disk for each.
fn per_pair(broker: Broker) -> usize {
    match broker {
        Broker::Rabbit3 | Broker::Rabbit4 | Broker::Mosquitto => 25,
        Broker::Nats | Broker::Aedes | Broker::Rumqttd => 15,
        Broker::Ejabberd | Broker::ActiveMq => 1,
    }
}

/// NATS bounds what a session has not acknowledged (`max_ack_pending`), and each of its
/// subscriptions by the same number. What exceeds the bound of the session comes after `ack_wait`,
/// behind newer messages: the order is kept while one subscription is busy alone.
fn paths(broker: Broker) -> Vec<Path> {
    match broker == Broker::Nats {
        true => vec![Path::Chat21],
        false => vec![Path::Inbox, Path::Chat21, Path::Chat21V1],
    }
}

macro_rules! matrix {
    ($($name:ident: $broker:ident $protocol:literal $transport:literal;)*) => {
        $(#[test]
        fn $name() {
            messages_in_each_layout(Broker::$broker, $protocol, $transport);
        })*
    };
}

matrix! {
    rabbitmq3_mqtt311_tcp: Rabbit3 "3.1.1" "tcp";
    rabbitmq3_mqtt311_websocket: Rabbit3 "3.1.1" "websocket";
    rabbitmq4_mqtt311_tcp: Rabbit4 "3.1.1" "tcp";
    rabbitmq4_mqtt311_websocket: Rabbit4 "3.1.1" "websocket";
    rabbitmq4_mqtt5_tcp: Rabbit4 "5" "tcp";
    rabbitmq4_mqtt5_websocket: Rabbit4 "5" "websocket";
    mosquitto_mqtt311_tcp: Mosquitto "3.1.1" "tcp";
    mosquitto_mqtt311_websocket: Mosquitto "3.1.1" "websocket";
    mosquitto_mqtt5_tcp: Mosquitto "5" "tcp";
    mosquitto_mqtt5_websocket: Mosquitto "5" "websocket";
    nats_mqtt311_tcp: Nats "3.1.1" "tcp";
    nats_mqtt311_websocket: Nats "3.1.1" "websocket";
    ejabberd_mqtt311_tcp: Ejabberd "3.1.1" "tcp";
    ejabberd_mqtt311_websocket: Ejabberd "3.1.1" "websocket";
    ejabberd_mqtt5_tcp: Ejabberd "5" "tcp";
    ejabberd_mqtt5_websocket: Ejabberd "5" "websocket";
    activemq_mqtt311_tcp: ActiveMq "3.1.1" "tcp";
    aedes_mqtt311_tcp: Aedes "3.1.1" "tcp";
    aedes_mqtt311_websocket: Aedes "3.1.1" "websocket";
    rumqttd_mqtt311_tcp: Rumqttd "3.1.1" "tcp";
    rumqttd_mqtt311_websocket: Rumqttd "3.1.1" "websocket";
    rumqttd_mqtt5_tcp: Rumqttd "5" "tcp";
}
