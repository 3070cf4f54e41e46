//! The console and the demo's chat, in a real browser.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use super::driver::{Browser, Page};
use crate::bed::{PATIENCE, binary, signal};
use crate::http::call_at;
use crate::wire::{Wire, packet};

/// A demo that runs.
struct Demo {
    child: Child,
    /// The address of its page, without a slash at the end.
    url: String,
    /// The host and port of its broker.
    broker: String,
}

impl Demo {
    /// Each on a loopback address of its own: no two choose the same port.
    fn start() -> Self {
        static STARTED: AtomicU8 = AtomicU8::new(1);
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let host = [127, high, low, STARTED.fetch_add(1, Ordering::Relaxed)];
        let host = Ipv4Addr::from(host).to_string();
        Self::with(&["--port", "0", "--listen", &host])
    }

    fn with(args: &[&str]) -> Self {
        let mut child = binary()
            .arg("demo")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        output.read_line(&mut first).unwrap();
        let url = first
            .split_whitespace()
            .find(|word| word.starts_with("http://"));
        let url = url.unwrap_or_else(|| panic!("{first:?} names no page"));
        let url = url.trim_end_matches('/').to_owned();
        let mut played = String::new();
        while !played.contains("Now you") {
            assert!(output.read_line(&mut played).unwrap() > 0, "{played}");
        }
        let broker = played.split("mqtt://").nth(1).unwrap();
        let broker = broker.split_whitespace().next().unwrap().to_owned();
        std::thread::spawn(move || output.read_to_end(&mut vec![]));
        Self { child, url, broker }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // So that it takes its files with it.
        signal(self.child.id(), "TERM");
        let _ = self.child.wait();
    }
}

/// The demo, and a browser that shows its chat and its console.
struct Scene {
    browser: Browser,
    chat: Page,
    console: Page,
    demo: Demo,
}

impl Scene {
    fn open() -> Self {
        Self::of(Demo::start())
    }

    fn of(demo: Demo) -> Self {
        let mut browser = Browser::start();
        let console = browser.open(&format!("{}/", demo.url));
        browser.until(
            &console,
            "document.getElementById('live-state').textContent === 'live'",
        );
        let chat = browser.open(&format!("{}/chat", demo.url));
        let online = "[...document.querySelectorAll('.person .state')]
            .filter((state) => state.textContent === 'online').length === 2";
        browser.until(&chat, online);
        // The history that the acts have left.
        browser.until(&chat, &has("bob", "theirs", "Hi, are you there?"));
        Self {
            browser,
            chat,
            console,
            demo,
        }
    }

    fn chat(&mut self, script: &str) {
        self.browser.eval(&self.chat, script);
    }

    fn writes(&mut self, user: &str, text: &str) {
        self.chat(&format!(
            "document.querySelector('#{user} input').value = {text:?};
             document.querySelector('#{user} form button').click();"
        ));
    }

    fn is_now(&mut self, user: &str, mood: &str) {
        self.chat(&format!(
            "{{ const select = document.querySelector('#{user} select');
                select.value = {mood:?};
                select.dispatchEvent(new Event('change')); }}"
        ));
    }

    /// Opens a conversation by what its button says.
    fn opens(&mut self, user: &str, title: &str) {
        self.chat(&format!(
            "[...document.querySelectorAll('#{user} .tabs button')]
                .find((button) => button.textContent.startsWith({title:?})).click()"
        ));
    }

    /// Waits until a user sees a message of that kind.
    fn sees(&mut self, user: &str, kind: &str, text: &str) {
        self.browser.until(&self.chat, &has(user, kind, text));
    }

    /// Waits until a user's message has that tick.
    fn is(&mut self, user: &str, text: &str, tick: &str) {
        let expression = format!(
            "[...document.querySelectorAll('#{user} .mine')].some((item) =>
                item.querySelector('.text').textContent === {text:?} &&
                item.querySelector('.tick').getAttribute('aria-label') === {tick:?})"
        );
        self.browser.until(&self.chat, &expression);
    }
}

fn has(user: &str, kind: &str, text: &str) -> String {
    format!(
        "[...document.querySelectorAll('#{user} .messages .{kind}')]
            .some((item) => item.textContent.includes({text:?}))"
    )
}

#[test]
fn the_chat_delivers_and_the_console_shows_what_is_refused() {
    let mut scene = Scene::open();

    scene.is_now("bob", "away");
    scene.writes("alice", "one");
    scene.sees("bob", "theirs", "one");
    scene.is("alice", "one", "delivered");
    scene.is_now("bob", "here");
    scene.is("alice", "one", "seen");

    scene.writes("bob", "two");
    scene.sees("alice", "theirs", "two");
    scene.is("bob", "two", "seen");

    scene.is_now("bob", "offline");
    let gone = "document.querySelector('#bob .state').textContent === 'offline'";
    scene.browser.until(&scene.chat, gone);
    scene.writes("alice", "three");
    scene.is("alice", "three", "sent");
    scene.is_now("bob", "here");
    scene.sees("bob", "theirs", "three");
    scene.is("alice", "three", "seen");

    scene.opens("alice", "Group");
    scene.writes("alice", "to both");
    scene.is("alice", "to both", "sent");
    let unread = "document.querySelector('#bob .unread')?.textContent === '1'";
    scene.browser.until(&scene.chat, unread);
    scene.opens("bob", "Group");
    scene.sees("bob", "theirs", "to both");
    scene
        .browser
        .until(&scene.chat, "!document.querySelector('#bob .unread')");

    scene.opens("alice", "bob");
    scene.chat("document.querySelector('#alice .refuse').click()");
    scene.sees("alice", "refused", "not-json");
    let red = "(() => {
        const item = document.querySelector('#entries .refused');
        if (!item?.textContent.includes('not-json: the payload must be')) return false;
        const [r, g, b] = getComputedStyle(item.querySelector('.outcome')).color.match(/\\d+/g);
        return r > 2 * g && r > 2 * b;
    })()";
    scene.browser.until(&scene.console, red);
    let forwarded = "[...document.querySelectorAll('#entries .forwarded .route')]
        .some((route) => route.textContent === 'bob → alice tilechat')";
    scene.browser.until(&scene.console, forwarded);
    // Two rounds of figures make a line.
    let drawn = "document.querySelectorAll('.figure .line[d*=L]').length >= 5";
    scene.browser.until(&scene.console, drawn);

    for page in [scene.console.clone(), scene.chat.clone()] {
        let all = "performance.getEntriesByType('resource').map((entry) => entry.name)";
        let loaded = scene.browser.eval(&page, all);
        let loaded = loaded.as_array().unwrap();
        assert!(loaded.len() >= 3, "{loaded:?}");
        let own = |url: &&Value| url.as_str().unwrap().starts_with(&scene.demo.url);
        assert_eq!(
            loaded.iter().filter(own).count(),
            loaded.len(),
            "{loaded:?}"
        );
    }
    let asked = scene.browser.asked();
    let host = scene.demo.url.trim_start_matches("http");
    let own = [format!("http{host}/"), format!("ws{host}/mqtt")];
    assert!(asked.contains(&own[1]), "{asked:?}");
    let foreign = asked
        .iter()
        .filter(|url| !own.iter().any(|own| url.starts_with(own)));
    assert_eq!(foreign.collect::<Vec<_>>(), Vec::<&String>::new());
    let complaints = scene.browser.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn a_client_in_a_page_comes_back_by_itself() {
    let mut scene = Scene::open();
    let device = scene.browser.eval(&scene.chat, "sessionStorage.device");
    let id = format!("alice-{}", device.as_str().unwrap());
    // Whoever has the client identifier takes the connection over, and the page takes it back.
    let mut taken = Wire::new(TcpStream::connect(&scene.demo.broker).unwrap());
    let length_of_id = [0, u8::try_from(id.len()).unwrap()];
    let connect = [b"\0\x04MQTT\x04\0\0\0", &length_of_id[..], id.as_bytes()].concat();
    taken.send(&packet(0x10, &connect)).unwrap();
    assert!(taken.is_closed(PATIENCE));
    let online = "document.querySelector('#alice .state').textContent === 'online'";
    scene.browser.until(&scene.chat, online);
    scene.writes("bob", "are you back?");
    scene.sees("alice", "theirs", "are you back?");
    scene.writes("alice", "I am");
    scene.is("alice", "I am", "seen");
}

#[test]
fn pages_of_other_sites_do_not_reach_the_broker() {
    let demo = Demo::start();
    let host = demo.url.trim_start_matches("http://");
    let upgrade = |origin: &str, protocol: &str| {
        let headers = [
            "upgrade: websocket".to_owned(),
            "sec-websocket-version: 13".to_owned(),
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==".to_owned(),
            format!("sec-websocket-protocol: {protocol}"),
            format!("origin: {origin}"),
        ];
        call_at(host, host, "GET", "/mqtt", &headers, "").status
    };
    assert_eq!(upgrade("http://evil.example", "mqtt"), 403);
    assert_eq!(upgrade("null", "mqtt"), 403);
    assert_eq!(upgrade(&demo.url, "soap"), 426);
    assert_eq!(
        call_at(host, "evil.example", "GET", "/mqtt", &[], "").status,
        421
    );
    assert_eq!(call_at(host, host, "GET", "/chat", &[], "").status, 200);
}

#[test]
fn both_pages_can_be_read_by_everybody_on_any_screen() {
    let mut scene = Scene::open();
    scene.chat("document.querySelector('#alice .refuse').click()");
    scene.sees("alice", "refused", "not-json");
    scene.writes("alice", "read me");
    scene.is("alice", "read me", "seen");
    scene.opens("bob", "Group");
    scene.writes("alice", "unread");
    scene
        .browser
        .until(&scene.chat, "document.querySelector('#bob .unread')");
    scene.browser.until(
        &scene.console,
        "document.querySelector('#entries .refused')",
    );
    scene.browser.eval(
        &scene.console,
        "document.querySelector('details').open = true",
    );
    for page in [scene.console.clone(), scene.chat.clone()] {
        for scheme in ["light", "dark"] {
            for width in [1200, 800, 360, 320] {
                scene.browser.show(&page, width, scheme);
                // Colours may be on their way for as long as an animation takes.
                let still = "Promise.all(document.getAnimations().map((one) => one.finished))";
                scene.browser.eval(&page, &format!("{still}.then(() => 0)"));
                let look = scene.browser.eval(&page, include_str!("look.js"));
                let case = format!("{page:?} {scheme} {width}: {look:#}");
                assert_eq!(look["faults"], serde_json::json!([]), "{case}");
                assert!(look["seen"].as_u64().unwrap() > 20, "{case}");
            }
        }
        let (nameless, controls) = scene.browser.nameless(&page);
        assert!(
            nameless.is_empty() && controls > 8,
            "{controls}: {nameless:#?}"
        );
    }
    // With the keyboard alone.
    scene.chat("document.querySelector('#bob input').focus()");
    scene
        .browser
        .press_enter_after(&scene.chat.clone(), "typed");
    scene.sees("bob", "mine", "typed");
}

/// Somebody who takes a person for a group.
const CAROL: &str = r#"import("/chat21-client.js").then(({ Chat21Client }) => {
    const url = `ws://${location.host}/mqtt`;
    const carol = new Chat21Client({ url, app: "tilechat", user: "carol", clientId: "carol-web" });
    carol.connect();
    carol.send("dave", { text: "Is anybody here?", channel_type: "group" });
})"#;

/// The pictures of the guide: `scripts/screenshots` names the folder they go to, and has more pass
/// before, so that the console has lines to show. They may have 120 KiB each.
#[test]
fn pictures() {
    let scratch = TempDir::new().unwrap();
    let wanted = std::env::var("SCREENSHOTS").ok().map(PathBuf::from);
    let (place, rounds) = match &wanted {
        Some(place) => (place.as_path(), 120),
        None => (scratch.path(), 5),
    };
    let keep = |name: &str, picture: Vec<u8>| {
        assert!(picture.starts_with(b"\x89PNG"), "{name}");
        let bytes = picture.len();
        assert!(
            (10_000..=120 << 10).contains(&bytes),
            "{name}: {bytes} bytes"
        );
        std::fs::write(place.join(name), picture).unwrap();
    };
    let mut scene = Scene::of(Demo::with(&[]));
    scene.is_now("bob", "away");
    for (user, text) in [
        ("alice", "Shall we meet at eight?"),
        ("bob", "Half past would be better."),
        ("alice", "Half past eight it is."),
    ] {
        scene.writes(user, text);
        let other = if user == "alice" { "bob" } else { "alice" };
        scene.sees(other, "theirs", text);
    }
    scene.is_now("bob", "here");
    scene.is("alice", "Half past eight it is.", "seen");
    scene.chat("document.querySelector('#alice .refuse').click()");
    scene.sees("alice", "refused", "not-json");
    scene.opens("alice", "Group");
    scene.writes("alice", "Tickets are booked.");
    scene.is("alice", "Tickets are booked.", "sent");
    scene.opens("alice", "bob");
    scene
        .browser
        .until(&scene.chat, "document.querySelector('#bob .unread')");
    let picture = scene.browser.picture(&scene.chat.clone(), 680);
    keep("chat.png", picture);
    // A while of messages, so that there are lines to see.
    for round in 0..rounds {
        let user = ["alice", "bob"][round % 2];
        scene.writes(user, &format!("message {round}"));
        if [60, 115, 119].contains(&round) {
            scene.chat(&format!(
                "document.querySelector('#{user} .refuse').click()"
            ));
        }
        if round == 118 {
            scene.chat(CAROL);
        }
        let pause = 120 + 61 * ((round * 7) % 13);
        scene.chat(&format!("new Promise((done) => setTimeout(done, {pause}))"));
    }
    // What has just come is highlighted for a moment.
    let still = "Promise.all(document.getAnimations().map((one) => one.finished)).then(() => 0)";
    let console = scene.console.clone();
    scene.browser.eval(&console, still);
    let picture = scene.browser.picture(&console, 720);
    keep("console.png", picture);
}
