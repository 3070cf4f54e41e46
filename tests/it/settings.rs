//! Settings as an operator meets them: the command `config`, where commands look for the service of
//! the machine, and what they ignore.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use chat21_observer::store::{self, Access, OfflineDelivery, StoreLocation};
use serde_json::Value;

use crate::bed::binary;
use crate::cli::run;
use crate::http::{Answer, Server};

#[test]
fn config_init_writes_a_file_to_begin_with_and_overwrites_none() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("observer.toml");
    let file = path.to_str().unwrap();
    let (code, out, err) = run(&["config", "init", file], &[]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains(&format!("config check -c {file}")), "{out}");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let written = std::fs::read_to_string(&path).unwrap();
    assert_eq!(run(&["config", "init"], &[]).1, written);
    let all = run(&["config", "init", "--all"], &[]).1;
    assert!(all.len() > 2 * written.len());

    let (code, out, err) = run(&["config", "check", "-c", file], &[]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("no mistakes: "), "{out}");

    // A disk that is full: no file may be longer than nothing.
    let full = dir.path().join("full.toml");
    let script = r#"trap "" XFSZ; ulimit -f 0; exec "$0" config init "$1""#;
    let mut shell = std::process::Command::new("sh");
    let shell = shell
        .args(["-c", script])
        .arg(binary().get_program())
        .arg(&full);
    let output = shell.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("full.toml: File too large"), "{said}");
    assert!(!full.exists(), "the next one is not in its way");

    std::fs::write(&path, "window = 10\n").unwrap();
    let (code, out, err) = run(&["config", "init", file], &[]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        err.contains("is there already: it is not overwritten"),
        "{err}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "window = 10\n");
}

#[test]
fn config_check_names_each_mistake_with_its_place_and_connects_to_nothing() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("observer.toml");
    let file = path.to_str().unwrap();
    std::fs::write(&path, "name = \"x\"\n\nwindow = 0\nrate_burst = 5\n").unwrap();
    let (code, out, err) = run(
        &["config", "check", "-c", file, "--retain", "5s"],
        &[
            ("OBSERVER_KEEP_ALIVE", "soon"),
            ("OBSERVER_WEBHOK_QUEUE", "1MiB"),
        ],
    );
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(
        err.starts_with("error: 5 mistakes in the settings\n"),
        "{err}"
    );
    for place in [
        &*format!("window in {file}, line 3: \"0\""),
        &format!("{file}, line 4: \"rate_burst\" is not a setting (is rate-burst meant?)"),
        "--retain: ",
        "OBSERVER_KEEP_ALIVE: ",
        "OBSERVER_WEBHOK_QUEUE: is not a setting (is OBSERVER_WEBHOOK_QUEUE meant?)",
    ] {
        assert!(err.contains(place), "{place}\n{err}");
    }
    // Nothing listens at this address.
    std::fs::write(&path, "broker = \"mqtt://127.0.0.1:1\"\nname = \"x\"\n").unwrap();
    let (code, out, err) = run(
        &["config", "check", "-c", file, "--window", "7"],
        &[("APP_ID", "tilechat"), ("MONGODB_URI", "x")],
    );
    assert_eq!(code, 0, "{err}");
    let counted = "(2 settings), 1 from variables, 1 from flags\n";
    assert!(out.ends_with(counted), "{out}");
    assert!(err.starts_with("warning: MONGODB_URI is ignored"), "{err}");
}

#[test]
fn config_show_says_where_each_value_comes_from_and_no_secret() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("observer.toml");
    let file = path.to_str().unwrap();
    std::fs::write(&path, "\nbroker = \"mqtt://u:geheim@b\"\nname = \"mine\"\n").unwrap();
    let args = ["config", "show", "--origin", "-c", file, "--window", "7"];
    let env = [
        ("OBSERVER_POLICY_URL", "http://p/?key=geheim"),
        ("LOG_LEVEL", "debug"),
        ("HOME", "/nonexistent"),
    ];
    let (code, out, err) = run(&args, &env);
    assert_eq!((code, err.as_str()), (0, ""));
    let rows: Vec<Vec<&str>> = out
        .lines()
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|word| !word.is_empty())
                .collect()
        })
        .collect();
    let row = |name: &str| {
        let found = rows.iter().find(|row| row.first() == Some(&name));
        found.unwrap_or_else(|| panic!("{name}\n{out}"))[1..].to_vec()
    };
    assert_eq!(
        row("broker"),
        [&*format!("{file}, line 2"), "mqtt://u:***@b"]
    );
    assert_eq!(row("name"), [&*format!("{file}, line 3"), "mine"]);
    assert_eq!(row("window"), ["flag", "7"]);
    assert_eq!(row("policy-url"), ["OBSERVER_POLICY_URL", "http://p/?***"]);
    assert_eq!(row("log-level"), ["LOG_LEVEL", "debug"]);
    assert_eq!(row("max-payload"), ["default", "1MiB"]);
    let store = "/nonexistent/.local/state/chat21-observer/mine.db";
    assert_eq!(row("store"), ["default", store]);

    let (_, json, _) = run(&[&args[..], &["--json"]].concat(), &env);
    let json: Value = serde_json::from_str(&json).unwrap();
    let count = chat21_observer::config::settings().count();
    assert_eq!(json.as_array().unwrap().len(), count);
    assert_eq!(json[0]["name"], "broker");
    assert_eq!(json[0]["origin"], format!("{file}, line 2"));
    assert!(!format!("{out}{json}").contains("geheim"));
}

#[test]
fn an_unknown_variable_is_a_warning_in_check() {
    let unknown = [("OBSERVER_BROKR", "x")];
    let (_, out, _) = run(&["check", "-b", "mqtt://127.0.0.1:1"], &unknown);
    let warning = "OBSERVER_BROKR: is not a setting (is OBSERVER_BROKER meant?)";
    assert!(out.contains(warning), "{out}");
}

/// What a command does not use may be wrong: it is ignored.
#[test]
fn a_command_ignores_settings_that_it_does_not_use() {
    let dir = tempfile::TempDir::new().unwrap();
    make_store(&dir.path().join("observer.db"));
    let file = dir.path().join("observer.toml");
    let text = "password-file = \"/nonexistent\"\nwindow = 0\napi-listen = 80\n\
        state-dir = \"STATE\"\nhttp-listen = \"ADDRESS\"\n[[custom-layout]]\nname = 5\n";
    let server = Server::start(|_, _| Answer::Says(200, "ready".to_owned()));
    let address = server.url.split('/').nth(2).unwrap();
    let text = text.replace("STATE", dir.path().to_str().unwrap());
    std::fs::write(&file, text.replace("ADDRESS", address)).unwrap();
    let file = file.to_str().unwrap();
    let env = [
        ("OBSERVER_CA_FILE", "/nonexistent"),
        ("PORT", "8004"),
        ("JWT_KEY", "x"),
    ];
    let (code, out, err) = run(&["store", "check", "-c", file], &env);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let health = run(&["health", "-c", file], &env);
    assert_eq!(health, (0, "ready\n".to_owned(), String::new()));
    assert_eq!(run(&["run", "-c", file], &env).0, 2);
}

#[test]
fn health_says_when_another_program_answers() {
    let server = Server::start(|_, _| Answer::Says(404, "not found".to_owned()));
    let address = server.url.split('/').nth(2).unwrap();
    let (code, _, err) = run(&["health", "--http-listen", address], &[]);
    let said = format!(
        "error: another program answers on {address}, not an observer (GET /readyz: 404 Not \
         Found)\n"
    );
    assert_eq!((code, err), (1, said));

    // It greets like an SSH server.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut client, _) = listener.accept().unwrap();
        let _ = client.read(&mut [0; 16]);
        let _ = client.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
        let _ = client.read_to_end(&mut vec![]);
    });
    let (code, _, err) = run(&["health", "--http-listen", &address.to_string()], &[]);
    let said = format!(
        "error: another program answers on {address}, not an observer (it does not speak HTTP)\n"
    );
    assert_eq!((code, err), (1, said));
}

fn make_store(path: &Path) {
    let place = StoreLocation::File(path.to_owned());
    drop(store::open(&place, Access::Exclusive, OfflineDelivery::Broker).unwrap());
}

/// A machine with an `/etc` and a `/var/lib` of its own: the program sees those of this directory.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::TempDir::new().unwrap();
        for name in [
            "etc/chat21-observer",
            "etc/ssl",
            "lib/chat21-observer",
            "home",
        ] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    fn write_settings(&self, text: &str) {
        let path = self.dir.path().join("etc/chat21-observer/observer.toml");
        std::fs::write(path, text).unwrap();
    }

    fn make_store(&self, name: &str) {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        make_store(&path);
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let program = binary();
        // CA certificates are those of the real machine.
        let mount = "mount --bind /etc/ssl $1/etc/ssl && mount --rbind $1/etc /etc && \
            mount --bind $1/lib /var/lib && shift && exec \"$@\"";
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", mount, "sh"]);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OBSERVER_")) {
            unshare.env_remove(name);
        }
        let output = unshare
            .arg(self.dir.path())
            .arg(program.get_program())
            .args(args)
            .env("HOME", self.dir.path().join("home"))
            .env_remove("XDG_STATE_HOME")
            .env_remove("STATE_DIRECTORY")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }
}

#[test]
fn administrative_commands_find_the_store_of_the_service() {
    let machine = Machine::new();
    let home = machine.dir.path().join("home").display().to_string();
    let own = format!("{home}/.local/state/chat21-observer/observer.db");
    let (code, out, err) = machine.run(&["store", "check"]);
    assert_eq!((code, out.as_str()), (1, ""));
    let said = format!(
        "error: there is no store, say where it is with --store, --state-dir or --config; looked \
         at:\n  {own}: not there\n  /etc/chat21-observer/observer.toml: not there\n  \
         /var/lib/chat21-observer/observer.db: not there\n"
    );
    assert_eq!(err, said);

    machine.make_store("lib/chat21-observer/observer.db");
    let service = "/var/lib/chat21-observer/observer.db";
    for args in [
        &["store", "check"][..],
        &["group", "list"],
        &["block", "ban", "a", "eve"],
        &["webhook", "list"],
    ] {
        let (code, _, err) = machine.run(args);
        assert_eq!(code, 0, "{args:?}: {err}");
        assert_eq!(
            err.lines().next(),
            Some(format!("store {service}").as_str())
        );
    }
    let (_, out, _) = machine.run(&["store", "check"]);
    assert_eq!(out, format!("{service} is sound\n"));

    // The service has another name, and its password is not for everybody.
    machine.write_settings("name = \"main\"\npassword-file = \"/nonexistent\"\n");
    machine.make_store("lib/chat21-observer/main.db");
    let (code, _, err) = machine.run(&["store", "check"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(err, "store /var/lib/chat21-observer/main.db\n");

    machine.write_settings("store = \"/var/lib/elsewhere.db\"\n");
    machine.make_store("lib/elsewhere.db");
    let (_, _, err) = machine.run(&["store", "check"]);
    assert_eq!(err, "store /var/lib/elsewhere.db\n");

    // A store of the user's own goes first, as ever; the other one is named.
    machine.make_store("home/.local/state/chat21-observer/observer.db");
    let (_, out, err) = machine.run(&["store", "check"]);
    assert_eq!(out, format!("{own} is sound\n"));
    assert_eq!(
        err,
        format!("store {own}; the service's is /var/lib/elsewhere.db\n")
    );

    // Who says which one is meant gets that, and no remark.
    let (_, out, err) = machine.run(&["store", "check", "--store", service]);
    assert_eq!((out, err), (format!("{service} is sound\n"), String::new()));
}

#[test]
fn health_asks_the_service_of_the_machine() {
    let machine = Machine::new();
    let server = Server::start(|_, _| Answer::Says(200, "ready".to_owned()));
    let address = server.url.split('/').nth(2).unwrap();
    machine.write_settings(&format!("http-listen = \"{address}\"\n"));
    let said = "settings of /etc/chat21-observer/observer.toml\n";
    assert_eq!(
        machine.run(&["health"]),
        (0, "ready\n".to_owned(), said.to_owned())
    );
    let (code, _, err) = machine.run(&["health", "--http-listen", "1"]);
    assert!(code == 1 && !err.contains("settings of"), "{err}");
}

#[test]
fn a_mistyped_path_makes_no_store_in_silence() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("mistyped.db");
    let file = path.to_str().unwrap();
    for args in [
        &["store", "stats", "--store", file][..],
        &["store", "prune", "90d", "--store", file],
        &["group", "remove", "a", "g", "--store", file],
        &["block", "ban", "a", "eve", "--store", file],
        &["webhook", "retry", "--store", file],
    ] {
        let (code, _, err) = run(args, &[]);
        assert_eq!(
            (code, err),
            (1, format!("error: there is no store at {file}\n"))
        );
        assert!(!path.exists(), "{args:?}");
    }
    // An import is the first thing that some stores see: it says so.
    let import = ["store", "import", "--groups", "/dev/null", "--store", file];
    let (code, _, err) = run(&import, &[]);
    assert_eq!((code, err), (0, format!("a new store is made: {file}\n")));
    assert_eq!(run(&import, &[]).2, "");
}
