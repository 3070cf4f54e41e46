//! `bench` on real brokers: its figures are there, its verdict is right, and what stands in its way
//! is named.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::bed::{Broker, Observer, PATIENCE, binary, root, service, var};
use crate::wire::Wire;

/// An app of benches that no other test uses.
fn fresh_app() -> String {
    format!("bench-{}", crate::bed::fresh_app())
}

fn bench(broker: Broker, app: &str, more: &[&str]) -> Command {
    let mut command = binary();
    command
        .args(["bench", "--broker", &broker.url(false), "--app", app])
        .args(["--warm-up", "100ms"])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The same with the login of the observer.
fn as_observer(broker: Broker, app: &str, more: &[&str]) -> Command {
    let (user, password) = service();
    let mut command = bench(broker, app, more);
    command
        .args(["--username", &user])
        .env("OBSERVER_PASSWORD", password);
    command
}

/// Exit code, standard output and standard error.
fn ended(child: Child) -> (i32, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (code, text(output.stdout), text(output.stderr))
}

fn run(mut command: Command) -> (i32, String, String) {
    ended(command.spawn().unwrap())
}

/// The result of a bench that finds no fault.
fn sound(command: Command) -> Value {
    let (code, out, err) = run(command);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let result: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(result["sound"], true, "{out}");
    result
}

fn both(test: fn(Broker)) {
    for broker in [Broker::Rabbit4, Broker::Mosquitto] {
        let _shared = broker.shared();
        println!("{}", broker.name());
        test(broker);
    }
}

#[test]
fn a_measurement_has_all_figures_beside_those_of_the_broker() {
    both(|broker| {
        let app = fresh_app();
        let observer = Observer::start(broker, &app, &[]);
        let pid = observer.pid().to_string();
        let more = ["--ceiling", "--rounds", "2", "--json", "--pid", &pid];
        let size = ["--messages", "300", "--senders", "10", "--under-way", "20"];
        let result = sound(as_observer(broker, &app, &[&more[..], &size].concat()));
        let subjects = result["loads"][0]["subjects"].as_array().unwrap();
        let names: Vec<_> = subjects.iter().map(|subject| &subject["name"]).collect();
        assert_eq!(names, ["observer", "null forwarder", "broker alone"]);
        for subject in subjects {
            let verdict = &subject["verdict"];
            let count = |name: &str| verdict[name].as_u64().unwrap();
            // Twice 300, those of the warm-up, and the first.
            assert!(count("messages") >= 602, "{verdict}");
            assert_eq!(count("copies"), 2 * count("messages"), "{verdict}");
            assert_eq!(count("arrived"), count("copies"), "{verdict}");
            let is_other = subject["name"] != "observer";
            assert_eq!(subject["observer_to_this"].is_object(), is_other);
            assert_eq!(subject["rounds"].as_array().unwrap().len(), 2);
            for of in ["median", "lowest", "highest"] {
                let figures = &subject["figures"][of];
                let value = |name: &str| figures[name].as_f64().unwrap();
                assert!(value("deliveries_per_second") > 0.0, "{figures}");
                assert!(0.0 < value("p50_ms"), "{figures}");
                assert!(value("p50_ms") <= value("p99_ms"), "{figures}");
                assert!(value("p99_ms") <= value("max_ms"), "{figures}");
            }
        }
        let observer = &subjects[0];
        assert!(observer["memory"]["resident_bytes"].as_u64() > Some(1 << 20));
        assert!(observer["figures"]["median"]["cpu_us_per_message"].is_f64());
    });
}

#[test]
fn a_group_gets_every_copy_and_so_do_users_who_share_connections() {
    both(|broker| {
        let app = fresh_app();
        let _observer = Observer::start(broker, &app, &[]);
        let group = ["--group-size", "30", "--messages", "20", "--ceiling"];
        let more = ["--rounds", "1", "--connections", "4", "--json"];
        let result = sound(as_observer(broker, &app, &[&group[..], &more].concat()));
        for subject in result["loads"][0]["subjects"].as_array().unwrap() {
            let verdict = &subject["verdict"];
            let messages = verdict["messages"].as_u64().unwrap();
            assert_eq!(verdict["arrived"], 30 * messages, "{subject}");
        }
    });
}

#[test]
fn users_have_tokens_of_their_own_if_there_is_a_key() {
    for broker in [Broker::Rabbit3, Broker::Rabbit4] {
        let _shared = broker.shared();
        let app = fresh_app();
        let _observer = Observer::start(broker, &app, &[]);
        let dir = tempfile::TempDir::new().unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, var("BED_JWT_SECRET")).unwrap();
        let key = key.to_str().unwrap();
        let login = ["--jwt-key-file", key, "--jwt-key-id", "tiledesk-key"];
        let size = ["--messages", "50", "--senders", "4"];
        let (code, out, err) = run(bench(broker, &app, &[&login[..], &size].concat()));
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert!(out.contains("each user with a token of their own"), "{out}");
        assert!(out.contains("none lost, none twice, all in order"), "{out}");
    }
}

#[test]
fn an_observer_that_stops_in_the_middle_shows_as_loss() {
    both(|broker| {
        let app = fresh_app();
        let observer = Observer::start(broker, &app, &[]);
        let mut witness = Wire::connect(
            broker.port("MQTT"),
            &format!("{app}-witness"),
            &service(),
            true,
        )
        .unwrap();
        let filter = format!("apps/{app}/users/+/messages/+/clientadded");
        witness.subscribe(&[&filter]).unwrap();
        let load = ["--rate", "100", "--for", "8s", "--senders", "5"];
        let more = ["--patience", "2s"];
        let mut command = as_observer(broker, &app, &[&load[..], &more].concat());
        let child = command.spawn().unwrap();
        for _ in 0..100 {
            witness.message(PATIENCE).expect("nothing is measured");
        }
        observer.freeze();
        let (code, out, err) = ended(child);
        observer.thaw();
        assert_eq!((code, err.as_str()), (1, ""), "{out}");
        assert!(out.contains(" copies lost (not there within 2s)"), "{out}");
        assert!(!out.contains("out of order"), "{out}");
    });
}

#[test]
fn two_observers_show_as_copies_under_two_ids() {
    both(|broker| {
        let app = fresh_app();
        let _observer = Observer::start(broker, &app, &[]);
        let more = ["--name", "second", "--allow-other-observers"];
        let _second = Observer::start(broker, &app, &more);
        let size = ["--messages", "50", "--senders", "4"];
        let (code, out, err) = run(as_observer(broker, &app, &size));
        assert_eq!((code, err.as_str()), (1, ""), "{out}");
        assert!(out.contains(" copies twice, under another id"), "{out}");
        assert!(!out.contains(" lost "), "{out}");
    });
}

#[test]
fn the_limit_of_a_sender_is_named_with_its_remedy() {
    both(|broker| {
        let app = fresh_app();
        let _observer = Observer::start(broker, &app, &["--rate-per-minute", "60"]);
        let (code, out, err) = run(as_observer(broker, &app, &["--senders", "2"]));
        assert_eq!((code, err.as_str()), (1, ""), "{out}");
        assert!(out.contains(" refused: rate-limited: "), "{out}");
        assert!(out.contains("--rate-per-minute"), "{out}");
    });
}

#[test]
fn what_stands_in_the_way_is_named() {
    both(|broker| {
        let app = fresh_app();
        let run = |app: &str, more: &[&str]| run(as_observer(broker, app, more));
        let (code, _, err) = run(&app, &["--patience", "1s"]);
        assert_eq!(code, 1);
        let words = "error: the broker has taken a message, but no observer delivers it within 1s";
        assert!(err.starts_with(words), "{err}");
        assert!(err.contains(&format!("add --app {app} to it")), "{err}");

        let (code, _, err) = run("tilechat", &[]);
        assert!(code == 1 && err.contains("--force"), "{err}");
        let (code, _, err) = run(&app, &["--rate", "100", "--plot", "x.svg"]);
        assert!(
            code == 1 && err.contains("--plot needs several rates"),
            "{err}"
        );
        let (code, _, err) = run(&app, &["--pid", "4294967295"]);
        assert!(code == 1 && err.contains("no such process"), "{err}");

        let _observer = Observer::start(broker, &app, &["--store", "none"]);
        let (code, _, err) = run(&app, &["--group-size", "5"]);
        assert!(code == 1 && err.contains("not-a-group"), "{err}");
        assert!(err.contains("an observer with a store"), "{err}");
    });
}

#[test]
fn an_app_of_others_is_measured_only_if_that_is_meant() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let app = crate::bed::fresh_app();
    let _observer = Observer::start(broker, &app, &[]);
    let size = ["--messages", "50", "--senders", "4", "--force", "--json"];
    let result = sound(as_observer(broker, &app, &size));
    assert_eq!(result["app"], app.as_str());
}

#[test]
fn the_plot_is_an_svg_with_a_curve_for_each_percentile() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let app = fresh_app();
    let _observer = Observer::start(broker, &app, &[]);
    let dir = tempfile::TempDir::new().unwrap();
    let plot = dir.path().join("latency.svg");
    let file = plot.to_str().unwrap();
    let rates = ["--rate", "50,100", "--for", "500ms", "--plot", file];
    let more = ["--senders", "5", "--ceiling", "--rounds", "1"];
    let (code, out, err) = run(as_observer(broker, &app, &[&rates[..], &more].concat()));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    for rate in ["50 messages/s offered", "100 messages/s offered"] {
        assert!(out.contains(rate), "{out}");
    }
    let svg = std::fs::read_to_string(plot).unwrap();
    for name in ["observer p50", "null forwarder p99", "broker alone p50"] {
        assert!(svg.contains(&format!(">{name}</text>")), "{svg}");
    }
    // A curve and its key, for two percentiles of three.
    assert_eq!(svg.matches("<polyline").count(), 12, "{svg}");
    assert_eq!(elements_of(&svg), "svg 12");
}

/// The root element and the number of curves, as an XML parser reads them.
fn elements_of(xml: &str) -> String {
    let script = "import sys, xml.etree.ElementTree as e\n\
                  r = e.fromstring(sys.stdin.read())\n\
                  n = '{http://www.w3.org/2000/svg}'\n\
                  print(r.tag.replace(n, ''), len(r.findall(n + 'polyline')))";
    let mut child = Command::new(root().join("scripts/brokers"))
        .args(["python", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(xml.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The sessions of stand-ins at the broker, other tests' among them.
fn stand_ins(broker: Broker) -> usize {
    let queues = broker.queues().into_iter();
    queues
        .filter(|(name, _)| name.contains("bench-stand-in"))
        .count()
}

/// Rounds that go on for longer than any test waits.
const NO_END: [&str; 7] = [
    "--ceiling",
    "--rate",
    "10",
    "--for",
    "300ms",
    "--rounds",
    "100",
];

#[test]
fn an_interrupted_bench_leaves_no_session_behind() {
    let broker = Broker::Rabbit4;
    let _shared = broker.shared();
    let app = fresh_app();
    let _observer = Observer::start(broker, &app, &[]);
    // Other tests' come and go.
    let others = stand_ins(broker);
    let child = as_observer(broker, &app, &NO_END).spawn().unwrap();
    crate::bed::wait_for("a stand-in", || (stand_ins(broker) > others).then_some(()));
    crate::bed::signal(child.id(), "INT");
    let (code, _, err) = ended(child);
    assert_eq!((code, err.as_str()), (1, "error: interrupted\n"));
    crate::bed::wait_for("the sessions' end", || {
        (stand_ins(broker) == 0).then_some(())
    });
}

/// Wherever it is: while it connects, while a stand-in starts, while it measures, between the
/// rounds.
#[test]
fn a_bench_is_interrupted_at_any_moment() {
    let broker = Broker::Rabbit4;
    let _shared = broker.shared();
    let app = fresh_app();
    let _observer = Observer::start(broker, &app, &[]);
    for step in 0..12 {
        let mut child = as_observer(broker, &app, &NO_END).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        // It listens to signals before it prints what it measures.
        let mut first = [0];
        out.read_exact(&mut first).unwrap();
        std::thread::sleep(Duration::from_millis(100 * step));
        crate::bed::signal(child.id(), if step % 2 == 0 { "INT" } else { "TERM" });
        let (code, _, err) = ended(child);
        assert_eq!((code, err.as_str()), (1, "error: interrupted\n"), "{step}");
    }
    crate::bed::wait_for("the sessions' end", || {
        (stand_ins(broker) == 0).then_some(())
    });
}
