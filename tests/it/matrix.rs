//! Ten thousand direct messages in each layout, on every broker, version of MQTT and transport.

use crate::bed::{Broker, Observer, fresh_app};
use crate::load::{Load, Path, Plan, users};

/// 20 senders to 20 recipients, 25 messages a pair: 10,000 in each layout.
fn ten_thousand_in_each_layout(broker: Broker, protocol: &str, transport: &str) {
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
        paths: vec![Path::Inbox, Path::Chat21, Path::Chat21V1],
        per_pair: 25,
        allowed: None,
    };
    let load = Load::start(plan);
    assert_eq!(load.expected(), 30_000);
    let account = load.finish();
    println!(
        "{broker:?} {protocol} {transport}: 30000 messages in {:.1?}",
        account.took
    );
    assert_eq!(
        (account.arrived, account.duplicates, account.out_of_order),
        (30_000, 0, 0),
        "arrived, twice, out of order"
    );
    let (status, log) = observer.stop();
    assert!(status.success());
    assert!(
        log.contains("forwarded=30000 refused=0") && log.contains("left_unacknowledged=0"),
        "{log}"
    );
}

macro_rules! matrix {
    ($($name:ident: $broker:ident $protocol:literal $transport:literal;)*) => {
        $(#[test]
        fn $name() {
            ten_thousand_in_each_layout(Broker::$broker, $protocol, $transport);
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
}
