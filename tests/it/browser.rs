//! A real browser, with a client as the stock ones are: from another origin, over WebSocket.

mod driver;
mod pages;

use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use serde_json::{Value, json};

use crate::api::Api;
use crate::bed::{Broker, PATIENCE, root, user_token};
use crate::http::{Answer, Server};

/// Serves the page with its scripts, and hands on what it reports.
fn serve(scene: &Value) -> (Server, mpsc::Receiver<Value>) {
    let (report, reports) = mpsc::channel();
    let page = include_str!("browser/page.html").replace("{{scene}}", &scene.to_string());
    let path = Command::new(root().join("scripts/brokers"))
        .arg("mqtt-js")
        .output()
        .unwrap();
    let mqtt = std::fs::read_to_string(String::from_utf8(path.stdout).unwrap().trim()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::on(listener, move |request| match request.path.as_str() {
        "/" => Answer::Says(200, page.clone()),
        "/mqtt.js" => Answer::Says(200, mqtt.clone()),
        "/client.js" => Answer::Says(200, include_str!("browser/client.js").to_owned()),
        "/talk.js" => Answer::Says(200, include_str!("browser/talk.js").to_owned()),
        "/report" => {
            report.send(request.body.clone()).unwrap();
            Answer::Says(200, String::new())
        }
        _ => Answer::Says(404, String::new()),
    });
    (server, reports)
}

/// Opens a page in a headless browser until it has reported. Returns the report, and what stands
/// in the console: uncaught errors and breaches of CORS among it, an answer of 404 not.
fn visit(url: &str, reports: &mpsc::Receiver<Value>) -> (Option<Value>, Vec<String>) {
    let profile = tempfile::tempdir().unwrap();
    let mut browser = driver::command(profile.path())
        .args(["--enable-logging=stderr", "--window-size=800,600"])
        .args(["--remote-debugging-port=0", url])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let report = reports.recv_timeout(PATIENCE * 2).ok();
    browser.kill().unwrap();
    let mut log = vec![];
    browser
        .stderr
        .take()
        .unwrap()
        .read_to_end(&mut log)
        .unwrap();
    browser.wait().unwrap();
    let log = String::from_utf8_lossy(&log).into_owned();
    let console = log.lines().filter(|line| line.contains(":CONSOLE"));
    (report, console.map(str::to_owned).collect())
}

fn talk(broker: Broker) {
    let _shared = broker.shared();
    let api = Api::new(broker, &[]);
    let app = &api.scene.app;
    let person = |user: &str| {
        let (name, password) = broker.login(app, user);
        let token = user_token(app, user, 3600);
        json!({"id": user, "name": name, "password": password, "token": token})
    };
    let (server, reports) = serve(&json!({
        "app": app,
        "ws": broker.url(true),
        "api": format!("http://127.0.0.1:{}/api", api.port),
        "alice": person("u01"),
        "bob": person("u02"),
    }));
    let page = server.url.replace("/decide", "/");
    let (report, console) = visit(&page, &reports);
    let report = report.unwrap_or_else(|| panic!("{broker:?}: no report, but {console:#?}"));
    assert_eq!(report["failure"], Value::Null, "{report:#} {console:#?}");
    assert!(console.is_empty(), "{broker:?}: {console:#?}");
}

#[test]
fn a_stock_client_in_a_browser_lives_on_web_mqtt_of_rabbitmq() {
    talk(Broker::Rabbit4);
    talk(Broker::Rabbit3);
}

#[test]
fn a_stock_client_in_a_browser_lives_on_mosquitto() {
    talk(Broker::Mosquitto);
}
