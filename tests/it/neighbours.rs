//! Two observers on one broker: a second one that takes the same messages does not stay.

use std::time::Duration;

use crate::bed::{Broker, Observer, PATIENCE, fresh_app, service};
use crate::load::Path;
use crate::wire::Wire;

const BROKERS: [Broker; 3] = [Broker::Rabbit3, Broker::Rabbit4, Broker::Mosquitto];

/// A second observer, with a state directory of its own.
fn second(broker: Broker, app: &str, name: &str, more: &[&str]) -> Observer {
    let url = broker.url(false);
    let mut args = vec!["--broker", &url, "--username", "observer"];
    args.extend(["--name", name, "--app", app]);
    args.extend(more);
    let mut observer = Observer::prepare(&args);
    observer.spawn(&[("OBSERVER_PASSWORD", "observerpw")]);
    observer
}

#[test]
fn a_second_observer_of_the_same_app_names_the_first_and_stops() {
    for broker in BROKERS {
        let _shared = broker.shared();
        let app = fresh_app();
        let first = Observer::start(broker, &app, &[]);
        // Of two that start at once it is not said which one stays.
        std::thread::sleep(Duration::from_secs(3));
        let also_this = format!("other,{app}");
        for name in ["observer", "staging"] {
            let (status, log) = second(broker, &also_this, name, &[]).ended();
            assert_eq!(status.code(), Some(1), "{broker:?} {log}");
            let expected = r#"the observer "observer" (instance "#;
            assert!(log.contains(expected), "{log}");
            assert!(log.contains("--allow-other-observers"), "{log}");
            assert!(log.contains(&format!("serves {app})")), "{log}");
        }
        // Nothing is delivered twice.
        let login = broker.login(&app, "u01");
        let mut user = Wire::connect(broker.port("MQTT"), &app, &login, true).unwrap();
        let inbox = Path::Chat21.inbox(&app, "u01", "u01");
        user.subscribe(&[&inbox]).unwrap();
        let outgoing = Path::Chat21.outgoing(&app, "u01", "u01");
        user.publish_confirmed(outgoing, "{}").unwrap();
        assert!(user.message(PATIENCE).is_some());
        assert_eq!(user.message(Duration::from_millis(500)), None);
        drop(first);
    }
}

#[test]
fn a_second_observer_stays_if_that_is_allowed_or_the_apps_are_others() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let app = fresh_app();
    let _first = Observer::start(broker, &app, &[]);
    let mut allowed = second(broker, &app, "observer", &["--allow-other-observers"]);
    allowed.wait_ready();
    let mut others = second(broker, &fresh_app(), "observer", &[]);
    others.wait_ready();
    std::thread::sleep(Duration::from_secs(1));
    assert!(allowed.stop().0.success() && others.stop().0.success());
}

/// Another observer of the same name, for other apps, says offline on the topic of both.
#[test]
fn a_status_that_somebody_else_has_replaced_is_repaired() {
    for broker in BROKERS {
        let _shared = broker.shared();
        let name = format!("n{}", fresh_app());
        let named = ["--name", &name];
        let _stays = Observer::start(broker, &fresh_app(), &named);
        let mut goes = Observer::start(broker, &fresh_app(), &named);
        let client = format!("watch-{name}");
        let mut watch = Wire::connect(broker.port("MQTT"), &client, &service(), true).unwrap();
        watch
            .subscribe(&[&format!("observer/{name}/status")])
            .unwrap();
        goes.stop();
        let mut await_online = |online: bool| {
            loop {
                let status = watch.message(PATIENCE).expect("a status").json();
                if status["online"] == online {
                    return;
                }
            }
        };
        await_online(false);
        await_online(true);
    }
}
