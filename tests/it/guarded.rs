//! Separate brokers, configured only with what `acl` prints, and what ordinary users can reach
//! there.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::bed::{Broker, Observer, binary, in_the_bed, root};
use crate::wire::Wire;

pub(crate) const APP: &str = "tilechat";
const SECRET: &str = "the secret of a broker that is set up by what acl prints";

/// How users log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    Tokens,
    Passwords,
}

/// A broker that enforces the inbox rule by our own configuration, and an observer on it.
pub(crate) struct Guarded {
    pub(crate) broker: Broker,
    pub(crate) observer: Observer,
    login: Login,
    run: String,
    ports: HashMap<String, String>,
    dir: TempDir,
}

pub(crate) fn brokers(run: &str, setup: &std::path::Path, broker: Broker, args: &[&str]) -> String {
    let output = Command::new(root().join("scripts/brokers"))
        .args(args)
        .env("OBSERVER_RUN", run)
        .env("OBSERVER_SETUP", setup)
        .env("OBSERVER_BROKERS", broker.name())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "scripts/brokers {args:?}: {output:?}"
    );
    String::from_utf8(output.stdout).unwrap()
}

fn acl(broker: &str, part: &str, more: &[&str]) -> String {
    let output = binary()
        .args([
            "acl",
            broker,
            "--part",
            part,
            "--app",
            APP,
            "--state-dir",
            "/tmp",
        ])
        .args(more)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What the script that `acl nats` prints makes of a few users.
fn nats_users() -> String {
    use std::io::Write;
    let mut child = Command::new("sh")
        .args(["-c", &acl("nats", "users", &[])])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The last line has no end.
    let users = "observer observerpw\nu00 u00pw\nu01 u01pw\nu02 u02pw";
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(users.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

impl Guarded {
    pub(crate) fn set(broker: Broker, login: Login, observer: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let run = format!("acl-{}-{}", std::process::id(), crate::bed::fresh_app());
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        match broker {
            Broker::Mosquitto => write("mosquitto.acl", &acl("mosquitto", "acl", &[])),
            Broker::Nats => {
                write("nats-server.conf", &acl("nats", "conf", &[]));
                write("users.conf", &nats_users());
            }
            Broker::Ejabberd => write("ejabberd.yml", &acl("ejabberd", "conf", &[])),
            // As the guide says, which is what the bed has anyway.
            Broker::Aedes => {}
            Broker::ActiveMq | Broker::Rumqttd => unreachable!("they do not know whose a topic is"),
            Broker::Rabbit3 | Broker::Rabbit4 => {
                let old: &[&str] = if broker == Broker::Rabbit3 {
                    &["--before-3.13"]
                } else {
                    &[]
                };
                let conf = acl("rabbitmq", "conf", old);
                let tokens = acl("rabbitmq", "tokens", &[]);
                write("rabbitmq.conf", &format!("{conf}{tokens}"));
                let advanced = acl("rabbitmq", "advanced", &[]).replace("THE SECRET", SECRET);
                write("advanced.config", &advanced);
                write("key", SECRET);
            }
        }
        brokers(&run, dir.path(), broker, &["up"]);
        let env = brokers(&run, dir.path(), broker, &["env"]);
        let ports = env.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("export BED_")?.split_once('=')?;
            let prefix = format!("{}_", broker.name().to_uppercase());
            Some((name.strip_prefix(&prefix)?.to_owned(), value.to_owned()))
        });
        let ports: HashMap<String, String> = ports.collect();
        let mut guarded = Self {
            broker,
            observer: Observer::prepare(
                &[
                    &[
                        "--broker",
                        &format!("mqtt://observer@localhost:{}", ports["MQTT"]),
                    ][..],
                    &["--app", APP, "--dead-letter-topic", "dead/letters"],
                    observer,
                ]
                .concat(),
            ),
            login,
            run,
            ports,
            dir,
        };
        if login == Login::Passwords && broker.is_rabbitmq() {
            guarded.add_plain_users();
        }
        guarded
            .observer
            .spawn(&[("OBSERVER_PASSWORD", "observerpw")]);
        guarded.observer.wait_ready();
        guarded
    }

    /// Adds users with the script that `acl` prints.
    fn add_plain_users(&self) {
        let script = self.dir.path().join("users.sh");
        std::fs::write(&script, acl("rabbitmq", "users", &[])).unwrap();
        let name = self.broker.name();
        let users = ["u00", "u01", "u02"];
        for user in users {
            let args = ["ctl", name, "add_user", user, &format!("{user}pw")];
            brokers(&self.run, self.dir.path(), self.broker, &args);
        }
        let ctl = format!("{}/scripts/brokers ctl {name}", root().display());
        let output = Command::new("sh")
            .arg(&script)
            .args(users)
            .env("RABBITMQCTL", ctl)
            .env("OBSERVER_RUN", &self.run)
            .env("OBSERVER_BROKERS", name)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    pub(crate) fn port(&self) -> u16 {
        self.ports["MQTT"].parse().unwrap()
    }

    /// What a user logs in with.
    pub(crate) fn credentials(&self, user: &str) -> (String, String) {
        if self.login == Login::Passwords {
            return (user.to_owned(), format!("{user}pw"));
        }
        let key = self.dir.path().join("key");
        let output = binary()
            .args(["token", "mint", "user", APP, user, "--state-dir", "/tmp"])
            .args(["--jwt-key-file", key.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let token = String::from_utf8(output.stdout).unwrap();
        ("JWT".to_owned(), token.trim().to_owned())
    }

    /// A client identifier that is the user's.
    pub(crate) fn client_id(&self, user: &str) -> String {
        format!("{user}.{}", crate::bed::fresh_app())
    }

    pub(crate) fn enter(&self, user: &str) -> Wire {
        let login = self.credentials(user);
        Wire::connect(self.port(), &self.client_id(user), &login, true).unwrap()
    }

    pub(crate) fn service(&self) -> Wire {
        let login = crate::bed::service();
        Wire::connect(self.port(), &crate::bed::fresh_app(), &login, true).unwrap()
    }

    /// Runs `check` with u00 as the probe.
    fn check(&self) -> (bool, Value) {
        let (name, secret) = self.credentials("u00");
        let file = self.dir.path().join("probe");
        std::fs::write(&file, secret).unwrap();
        let file = file.to_str().unwrap();
        let probe: &[&str] = match self.login {
            Login::Tokens => &["--probe-token-file", file],
            Login::Passwords => &["--probe-user", &name, "--probe-password-file", file],
        };
        let url = format!("mqtt://observer@localhost:{}", self.port());
        let output = binary()
            .args(["check", "--json", "--broker", &url, "--app", APP])
            .args(["--state-dir", self.dir.path().to_str().unwrap()])
            .args(probe)
            .env("OBSERVER_PASSWORD", "observerpw")
            .output()
            .unwrap();
        let steps = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (output.status.success(), steps)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        for command in ["down", "forget"] {
            brokers(
                &self.run,
                &PathBuf::from(self.dir.path()),
                self.broker,
                &[command],
            );
        }
    }
}

fn outcomes(steps: &Value, begins: &str) -> Vec<(String, String)> {
    let steps = steps.as_array().unwrap().iter();
    let named = steps.filter(|step| step["step"].as_str().unwrap().starts_with(begins));
    named
        .map(|step| {
            let text = |name: &str| step[name].as_str().unwrap().to_owned();
            (text("step"), text("outcome"))
        })
        .collect()
}

/// With what `acl` prints, `check` confirms that users reach their own paths and nothing else.
fn check_proves_the_rule(broker: Broker, login: Login) {
    let guarded = Guarded::set(broker, login, &[]);
    let (ok, steps) = guarded.check();
    assert!(ok, "{steps:#}");
    assert_eq!(
        outcomes(&steps, "probe login"),
        [("probe login".to_owned(), "ok".to_owned())]
    );
    for begins in ["probe reads", "probe writes"] {
        let tried = outcomes(&steps, begins);
        assert!(
            tried.len() >= 9 && tried.iter().all(|(_, outcome)| outcome == "ok"),
            "{tried:#?}"
        );
    }
    for name in ["window", "redelivery", "session"] {
        // ejabberd sends a message at a time; NATS sends newer ones before what comes again.
        let outcome = match (broker, name) {
            (Broker::Ejabberd, "window") | (Broker::Nats | Broker::Aedes, "redelivery") => "note",
            _ => "ok",
        };
        assert_eq!(
            outcomes(&steps, name),
            [(name.to_owned(), outcome.to_owned())],
            "{steps:#}"
        );
    }
}

#[test]
fn check_proves_the_rule_on_rabbitmq3_with_tokens() {
    check_proves_the_rule(Broker::Rabbit3, Login::Tokens);
}

#[test]
fn check_proves_the_rule_on_rabbitmq3_with_passwords() {
    check_proves_the_rule(Broker::Rabbit3, Login::Passwords);
}

#[test]
fn check_proves_the_rule_on_rabbitmq4_with_tokens() {
    check_proves_the_rule(Broker::Rabbit4, Login::Tokens);
}

#[test]
fn check_proves_the_rule_on_rabbitmq4_with_passwords() {
    check_proves_the_rule(Broker::Rabbit4, Login::Passwords);
}

#[test]
fn check_proves_the_rule_on_nats() {
    check_proves_the_rule(Broker::Nats, Login::Passwords);
}

#[test]
fn check_proves_the_rule_on_ejabberd() {
    check_proves_the_rule(Broker::Ejabberd, Login::Passwords);
}

#[test]
fn check_proves_the_rule_on_aedes() {
    check_proves_the_rule(Broker::Aedes, Login::Passwords);
}

#[test]
fn check_proves_the_rule_on_mosquitto() {
    check_proves_the_rule(Broker::Mosquitto, Login::Passwords);
}

/// A user whose name is a wildcard reaches nobody's inbox on ejabberd.
#[test]
fn a_wildcard_for_a_name_reaches_nobody_on_ejabberd() {
    let guarded = Guarded::set(Broker::Ejabberd, Login::Passwords, &[]);
    for name in ["+", "#"] {
        let filter = format!("apps/{APP}/users/{name}");
        let filter = match name {
            "#" => filter,
            _ => format!("{filter}/#"),
        };
        let login = (name.to_owned(), "any".to_owned());
        // ejabberd may refuse the login, the subscription, or end the connection.
        if let Ok(mut wire) = Wire::connect(guarded.port(), "wildcard", &login, true) {
            let codes = wire.subscribe(&[&filter]).unwrap_or_default();
            assert!(codes.iter().all(|code| *code >= 0x80), "{name}: {codes:?}");
        }
    }
    let mut alice = guarded.enter("u00");
    assert!(
        alice
            .subscribe(&[&format!("apps/{APP}/users/u00/#")])
            .is_ok()
    );
}

/// The same check on a broker that lets everybody do everything: it says so, and fails.
#[test]
fn check_finds_what_is_open() {
    let guarded = Guarded::set(Broker::Rabbit4, Login::Passwords, &[]);
    let args = ["ctl", "rabbitmq4", "clear_topic_permissions", "u00"];
    brokers(&guarded.run, guarded.dir.path(), guarded.broker, &args);
    let (ok, steps) = guarded.check();
    assert!(!ok);
    let failed: Vec<String> = steps
        .as_array()
        .unwrap()
        .iter()
        .filter(|step| step["outcome"] == "failed")
        .map(|step| step["step"].as_str().unwrap().to_owned())
        .collect();
    for wanted in [
        "probe reads apps/tilechat/users/check-other/#",
        "probe reads #",
        "probe writes apps/tilechat/outgoing/users/check-other/messages/check/outgoing",
        "probe writes apps/tilechat/users/check-other/messages/check/clientadded",
        "probe writes apps/observer/tilechat/groups/update",
    ] {
        assert!(
            failed.iter().any(|step| step == wanted),
            "{wanted} in {failed:#?}"
        );
    }
}

/// There is no EMQX in the test bed: the test only checks that Erlang can parse the file, rule by
/// rule.
#[test]
fn the_file_for_emqx_is_erlang() {
    let file = acl("emqx", "acl", &[]);
    let eval = r"
        Text = (fun F(Acc) -> case io:get_line('') of
            eof -> lists:append(lists:reverse(Acc));
            L -> F([L | Acc])
        end end)([]),
        {ok, Tokens, _} = erl_scan:string(Text),
        Split = fun
            S([], [], Acc) -> lists:reverse(Acc);
            S([{dot, _} = D | R], Now, Acc) -> S(R, [], [lists:reverse([D | Now]) | Acc]);
            S([T | R], Now, Acc) -> S(R, [T | Now], Acc)
        end,
        Parse = fun(F) -> {ok, Term} = erl_parse:parse_term(F), Term end,
        Terms = [Parse(F) || F <- Split(Tokens, [], [])],
        [case Term of
            {deny, all} -> ok;
            {allow, {username, [_ | _]}, all, [[_ | _] | _]} -> ok;
            {allow, all, A, Topics} when A =:= subscribe; A =:= publish ->
                [true = is_list(T) || T <- Topics]
        end || Term <- Terms],
        io:format(\x22~p rules~n\x22, [length(Terms)]), halt(0).";
    let eval = eval.replace(r"\x22", "\"");
    let (done, said) = in_the_bed(&["erl", "-noshell", "-eval", &eval], &file);
    assert!(done && said.contains("4 rules"), "{said}");
}
