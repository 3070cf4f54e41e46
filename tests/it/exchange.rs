//! RabbitMQ's consistent-hash exchange shares the messages out among slots.

use std::process::Output;

use crate::bed::{Broker, Observer, binary, fresh_app, wait_for};
use crate::http::free_port;
use crate::pipes::unread;
use crate::postgres::{Database, shared, start};
use crate::slots::{By, Process, by_slot, chaos_by, load, settle, wait_all};

const MISSING: &str = "nothing comes from the exchange at the broker: import what `slots rabbitmq` \
                       prints with these settings";

/// Waits until a process says why it is not ready.
fn wait_unready(process: &Process, says: &str) {
    wait_for("that it is not ready", || {
        let (status, text) = process.readiness();
        (status == 503 && text.contains(says)).then_some(())
    });
}

/// Nobody subscribes to what users write: the operator's definitions lead it to the sessions.
fn shares_messages_out(by: By, broker: Broker) {
    let (_server, _broker) = (shared(), broker.shared());
    let (app, database) = (fresh_app(), Database::make());
    let first = Process::start_by(by, &database, broker, &app, "2");
    wait_unready(&first, MISSING);
    if by == By::HashInQuorums {
        // A session that is there stays what it is.
        let mut first = first;
        first.observer.stop();
        delete_sessions(&database, &app, broker);
        by.import(&database, broker, &app, "2");
        let first = Process::start_by(by, &database, broker, &app, "2");
        return share_messages_out(by, broker, &app, &database, first);
    }
    by.import(&database, broker, &app, "2");
    share_messages_out(by, broker, &app, &database, first);
}

fn share_messages_out(by: By, broker: Broker, app: &str, database: &Database, first: Process) {
    let mut second = Process::start_by(by, database, broker, app, "2");
    wait_all(database, 2, &[&first, &second]);
    let load = load(broker, app, 20);
    load.allow(load.expected() / 2);
    load.wait_arrived(load.expected() / 4);
    second.observer.kill();
    wait_all(database, 2, &[&first]);
    settle(load, database, "shared out");
    let counts = by_slot(database);
    assert_eq!(counts.len(), 2, "one slot had nothing to do: {counts:?}");
    // What one user writes goes to both, by whom it is for.
    let senders = "SELECT count(DISTINCT seq % 16) FROM message GROUP BY app, sender";
    let slots = database.sql(senders);
    assert!(slots.lines().any(|slots| slots == "2"), "{slots}");
    let mut first = first;
    let (status, log) = first.observer.stop();
    assert!(status.success() && !log.contains("ERROR"), "{log}");
}

/// The copy has the same secret, and the sessions in which each slot got all are still there.
fn a_copy_of_slots_that_got_all_shares_messages_out(broker: Broker) {
    let (_server, _broker) = (shared(), broker.shared());
    let (app, database, copied) = (fresh_app(), Database::make(), Database::make());
    let mut first = Process::start_by(By::All, &database, broker, &app, "2");
    wait_all(&database, 2, &[&first]);
    first.observer.stop();
    database.copy_to(&copied);
    // Nothing stays before a slot is served.
    By::Hash.definitions(&copied, &app, "3");
    By::Hash.import(&copied, broker, &app, "2");
    let process = Process::start_by(By::Hash, &copied, broker, &app, "2");
    wait_all(&copied, 2, &[&process]);
    settle(load(broker, &app, 10), &copied, "all, then by hash");
    assert_eq!(by_slot(&copied).len(), 2);
}

#[test]
fn a_copy_of_slots_that_got_all_shares_messages_out_on_rabbitmq3() {
    a_copy_of_slots_that_got_all_shares_messages_out(Broker::Rabbit3);
}

#[test]
fn a_copy_of_slots_that_got_all_shares_messages_out_on_rabbitmq4() {
    a_copy_of_slots_that_got_all_shares_messages_out(Broker::Rabbit4);
}

/// The old exchange has queues that nobody reads any more, and others of the same observer.
#[test]
fn a_copy_in_fewer_slots_gets_everything_once() {
    let broker = Broker::Rabbit4;
    let (_server, _broker) = (shared(), broker.shared());
    let (app, database, copied) = (fresh_app(), Database::make(), Database::make());
    By::Hash.import(&database, broker, &app, "4");
    let mut first = Process::start_by(By::Hash, &database, broker, &app, "4");
    wait_all(&database, 4, &[&first]);
    first.observer.stop();
    database.copy_to(&copied);
    // Nothing stays before a slot is served.
    By::Hash.definitions(&copied, &app, "3");
    By::Hash.import(&copied, broker, &app, "2");
    let process = Process::start_by(By::Hash, &copied, broker, &app, "2");
    wait_all(&copied, 2, &[&process]);
    settle(load(broker, &app, 10), &copied, "four slots, then two");
    assert_eq!(by_slot(&copied).len(), 2);
}

/// A new database has another secret, and other sessions.
#[test]
fn a_new_database_under_the_same_name_gets_everything() {
    let broker = Broker::Rabbit3;
    let (_server, _broker) = (shared(), broker.shared());
    let (app, old, new) = (fresh_app(), Database::make(), Database::make());
    let mut exchanges = vec![];
    for database in [&old, &new] {
        let definitions = By::Hash.definitions(database, &app, "2");
        exchanges.push(exchange(&definitions));
        broker.import(&definitions);
        let mut process = Process::start_by(By::Hash, database, broker, &app, "2");
        wait_all(database, 2, &[&process]);
        settle(load(broker, &app, 10), database, "a new database");
        process.observer.stop();
    }
    assert_ne!(exchanges[0], exchanges[1]);
    for (database, exchange) in [&old, &new].into_iter().zip(&exchanges) {
        delete_sessions(database, &app, broker);
        delete_exchange(exchange, broker);
    }
}

#[test]
fn an_exchange_that_is_deleted_is_missed_until_it_is_imported_again() {
    let broker = Broker::Rabbit4;
    let (_server, _broker) = (shared(), broker.shared());
    let (app, database) = (fresh_app(), Database::make());
    By::Hash.definitions(&database, "another", "4");
    let definitions = By::Hash.definitions(&database, &app, "2");
    broker.import(&definitions);
    let process = Process::start_by(By::Hash, &database, broker, &app, "2");
    wait_all(&database, 2, &[&process]);
    delete_exchange(&exchange(&definitions), broker);
    wait_unready(&process, MISSING);
    broker.import(&definitions);
    wait_all(&database, 2, &[&process]);
    settle(load(broker, &app, 10), &database, "imported again");
}

/// It gets what the settings say: what was imported for others proves nothing.
#[test]
fn definitions_for_other_settings_are_told_from_these() {
    let broker = Broker::Rabbit4;
    let (_server, _broker) = (shared(), broker.shared());
    let (app, database) = (fresh_app(), Database::make());
    By::Hash.import(&database, broker, &app, "2");
    let mut first = Process::start_by(By::Hash, &database, broker, &app, "2");
    wait_all(&database, 2, &[&first]);
    first.observer.stop();
    let (http, layouts) = (free_port(), ["--layouts", "chat21"]);
    let more = [&["--slots", "2", "--sharing", "hash"][..], &layouts].concat();
    let mut observer = database.observer_of(broker, &app, http, &more);
    start(&mut observer);
    let process = Process::of(observer, http);
    // The log says what has lasted for seconds.
    process.observer.wait_log(MISSING);
    wait_unready(&process, MISSING);
    let print = ["slots", "rabbitmq", "--session-expiry", "1day"];
    let of = ["--app", &app, "--name", &app];
    broker.import(&database.printed(&[&print[..], &of, &more].concat()));
    wait_all(&database, 2, &[&process]);
    settle(load(broker, &app, 10), &database, "other layouts");
}

/// The exchange of definitions.
fn exchange(definitions: &str) -> String {
    let definitions: serde_json::Value = serde_json::from_str(definitions).unwrap();
    definitions["exchanges"][0]["name"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The queues of the sessions of two slots.
fn queues(database: &Database, app: &str) -> [String; 2] {
    let secret = database.sql("SELECT secret FROM observer WHERE n = 0");
    [0, 1].map(|slot| format!("mqtt-subscription-{app}-{secret}-slot-{slot}-of-2qos1"))
}

/// Deletes those that there are: a process may have ended before it had all its sessions.
fn delete_sessions(database: &Database, app: &str, broker: Broker) {
    for queue in queues(database, app) {
        if broker.has_queue(&queue) {
            broker.rabbitmqctl(&["delete_queue", &queue]);
        }
    }
}

/// As the guide says: `rabbitmqctl` has no command for it.
fn delete_exchange(exchange: &str, broker: Broker) {
    let delete = format!(
        "rabbit_exchange:delete(rabbit_misc:r(<<\"/\">>, exchange, <<\"{exchange}\">>), false, \
         <<\"cli\">>)."
    );
    broker.rabbitmqctl(&["eval", &delete]);
}

#[test]
fn rabbitmq3_shares_messages_out() {
    shares_messages_out(By::Hash, Broker::Rabbit3);
}

#[test]
fn rabbitmq4_shares_messages_out() {
    shares_messages_out(By::Hash, Broker::Rabbit4);
}

#[test]
fn rabbitmq4_shares_messages_out_to_quorum_queues() {
    shares_messages_out(By::HashInQuorums, Broker::Rabbit4);
}

/// Two who disagree would leave messages to each other, or serve them twice.
#[test]
fn how_messages_are_shared_is_fixed_with_the_first_start() {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let mut first = Process::start_by(By::All, &database, Broker::Mosquitto, &app, "2");
    wait_all(&database, 2, &[&first]);
    first.observer.stop();
    let mut other = Process::start_by(By::Hash, &database, Broker::Mosquitto, &app, "2");
    let (status, log) = other.observer.ended();
    let says = "share messages by --sharing all, which stays";
    assert!(!status.success() && log.contains(says), "{log}");
}

/// A session that is declared gets nothing before its slot has subscribed; the others do not know.
#[test]
fn sessions_that_get_all_are_not_declared() {
    let (_server, database) = (shared(), Database::make());
    for queues in ["classic", "quorum"] {
        let mut command = binary();
        command.args(["slots", "rabbitmq", "--slots", "2", "--queues", queues]);
        command.args(["--store", &database.address(), "--store-password-file"]);
        let output = command.arg(database.password_file()).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        let says = "slots by --sharing all make their sessions themselves";
        assert!(!output.status.success() && told.contains(says), "{told}");
        assert!(output.stdout.is_empty());
    }
}

/// `check` of observers that serve every app.
fn check(database: &Database, broker: Broker, name: &str, slots: &str) -> (bool, String) {
    let mut command = binary();
    command.args(["check", "-v", "--broker", &broker.url(false)]);
    command.args(["--username", "observer", "--name", name]);
    command.args(["--store", &database.address(), "--slots", slots]);
    command.args(["--sharing", "hash", "--store-password-file"]);
    command.arg(database.password_file());
    let output = command.env("OBSERVER_PASSWORD", "observerpw").output();
    let Output { status, stdout, .. } = output.unwrap();
    (status.success(), String::from_utf8(stdout).unwrap())
}

/// The observers serve every app, so that no other may be on the broker.
#[test]
fn check_proves_the_exchange() {
    let broker = Broker::Rabbit4;
    let (_server, _broker) = (shared(), broker.exclusive());
    let (name, database) = (fresh_app(), Database::make());
    let (password, url) = (database.password_file(), broker.url(false));
    let flags = ["--broker", &url, "--username", "observer", "--name", &name];
    let store = ["--store", &database.address(), "--store-password-file"];
    let http = free_port();
    let listen = format!("127.0.0.1:{http}");
    let slots = [
        "--slots",
        "2",
        "--sharing",
        "hash",
        "--http-listen",
        &listen,
    ];
    let flags = [&flags[..], &store, &[&password], &slots].concat();
    let mut observer = Observer::prepare(&flags);
    start(&mut observer);
    let process = Process::of(observer, http);
    wait_unready(&process, MISSING);
    let (passes, said) = check(&database, broker, &name, "2");
    assert!(!passes && said.contains("✗ slots"), "{said}");
    assert!(said.contains("no slot got a message"), "{said}");
    let (passes, said) = check(&database, broker, &name, "3");
    assert!(!passes && said.contains("✗ store"), "{said}");
    assert!(said.contains("was made for 2 slots"), "{said}");

    let of = ["slots", "rabbitmq", "--name", &name, "--slots", "2"];
    let more = ["--sharing", "hash", "--session-expiry", "1day"];
    let definitions = database.printed(&[&of[..], &more].concat());
    let mut command = binary();
    command.args([&of[..], &more, &store, &[&password]].concat());
    assert_eq!(unread(&mut command), (0, String::new()));
    broker.import(&definitions);
    let exchange = exchange(&definitions);
    wait_all(&database, 2, &[&process]);
    let (passes, said) = check(&database, broker, &name, "2");
    assert!(passes, "{said}");
    assert!(
        said.contains("✓ slots          64 messages came to one slot each: "),
        "{said}"
    );
    for layout in ["chat21", "inbox"] {
        let says = format!("layout {layout}: 8 messages arrived once each");
        assert!(said.contains(&says), "{says} is not in:\n{said}");
    }

    // The paths of users are not led there: taken out of the definitions, and from the broker.
    let eval = |code: &str| broker.rabbitmqctl(&["eval", code]);
    let [_, queue] = queues(&database, &name);
    eval(&format!(
        "rabbit_binding:remove({{binding, rabbit_misc:r(<<\"/\">>, exchange, <<\"{exchange}\">>),
            <<\"1\">>, rabbit_misc:r(<<\"/\">>, queue, <<\"{queue}\">>), []}}, <<\"check\">>)."
    ));
    let (passes, said) = check(&database, broker, &name, "2");
    assert!(!passes && said.contains("slot 1 got none of 64"), "{said}");
    broker.import(&definitions);
    delete_exchange(&exchange, broker);
    let (passes, said) = check(&database, broker, &name, "2");
    assert!(!passes && said.contains("no slot got a message"), "{said}");
    drop(process);
    delete_sessions(&database, &name, broker);
}

#[test]
fn chaos_with_two_slots_by_hash_on_rabbitmq3() {
    chaos_by(By::Hash, Broker::Rabbit3, "2");
}

#[test]
fn chaos_with_two_slots_by_hash_on_rabbitmq4() {
    chaos_by(By::Hash, Broker::Rabbit4, "2");
}

#[test]
fn chaos_with_four_slots_by_hash_in_quorum_queues_on_rabbitmq4() {
    chaos_by(By::HashInQuorums, Broker::Rabbit4, "4");
}
