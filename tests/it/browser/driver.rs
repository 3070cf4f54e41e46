//! The browser of the bed, driven over its debugging pipe.
//!
//! Owns the process, its pages, and what they have said in the console and asked of servers.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bed::{PATIENCE, root};

/// The browser with a profile of its own.
pub(crate) fn command(profile: &Path) -> Command {
    let mut command = Command::new("sh");
    // The pipe is on descriptors 3 and 4. Who does not use it leaves them alone.
    command
        .args(["-c", "exec \"$0\" browser \"$@\" 3<&0 4>&1 </dev/null >&2"])
        .arg(root().join("scripts/brokers"))
        .arg(format!("--user-data-dir={}", profile.display()))
        // What it leaves behind there goes with the profile.
        .env("TMPDIR", profile);
    command
}

/// A running browser.
pub(crate) struct Browser {
    child: Child,
    pipe: ChildStdin,
    heard: mpsc::Receiver<Value>,
    /// What was heard besides answers.
    events: Vec<Value>,
    calls: u64,
    _profile: TempDir,
}

/// A page in a window of its own.
#[derive(Clone, Debug)]
pub(crate) struct Page(String);

impl Browser {
    pub(crate) fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut child = command(profile.path())
            .args([
                "--remote-debugging-pipe",
                "--hide-scrollbars",
                // Pages that are not in front are to live on.
                "--disable-background-timer-throttling",
                "--disable-backgrounding-occluded-windows",
                "--disable-renderer-backgrounding",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (said, heard) = mpsc::channel();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut text = vec![];
            while output.read_until(0, &mut text).is_ok_and(|read| read > 0) {
                text.pop();
                if said.send(serde_json::from_slice(&text).unwrap()).is_err() {
                    return;
                }
                text.clear();
            }
        });
        Self {
            pipe: child.stdin.take().unwrap(),
            child,
            heard,
            events: vec![],
            calls: 0,
            _profile: profile,
        }
    }

    /// Opens a page, and waits until it is loaded.
    pub(crate) fn open(&mut self, url: &str) -> Page {
        let target = json!({"url": "about:blank", "newWindow": true});
        let target = self.call(None, "Target.createTarget", target);
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = self.call(None, "Target.attachToTarget", attach);
        let page = Page(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.call(Some(&page), &format!("{domain}.enable"), json!({}));
        }
        self.show(&page, 1200, "light");
        self.call(Some(&page), "Page.navigate", json!({"url": url}));
        self.until(
            &page,
            "document.readyState === 'complete' && location.href !== 'about:blank'",
        );
        page
    }

    /// Sets the width of a page, and the colours that its reader prefers.
    pub(crate) fn show(&mut self, page: &Page, width: u32, scheme: &str) {
        let size = json!({
            "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500,
        });
        self.call(Some(page), "Emulation.setDeviceMetricsOverride", size);
        let scheme = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call(Some(page), "Emulation.setEmulatedMedia", scheme);
    }

    /// What a script comes to in a page; a promise is waited for.
    pub(crate) fn eval(&mut self, page: &Page, script: &str) -> Value {
        let script = json!({
            "expression": script, "awaitPromise": true, "returnByValue": true, "userGesture": true,
        });
        let answer = self.call(Some(page), "Runtime.evaluate", script);
        assert_eq!(answer["exceptionDetails"], Value::Null, "{answer:#}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true in a page.
    pub(crate) fn until(&mut self, page: &Page, expression: &str) {
        let limit = PATIENCE.as_millis();
        let script = format!(
            "new Promise((done) => {{
               const end = performance.now() + {limit};
               const look = () => {{
                 if ({expression}) done('');
                 else if (performance.now() > end) done(document.body.innerText);
                 else setTimeout(look, 20);
               }};
               look();
             }})"
        );
        let shown = self.eval(page, &script);
        assert_eq!(
            shown,
            "",
            "not in time: {expression}; {:#?}",
            self.complaints()
        );
    }

    /// What the pages' consoles hold: uncaught errors, warnings, breaches of the content policy.
    pub(crate) fn complaints(&self) -> Vec<&Value> {
        let complains = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown" | "Runtime.consoleAPICalled") => true,
            Some("Log.entryAdded") => event["params"]["entry"]["level"] != "verbose",
            _ => false,
        };
        self.events.iter().filter(complains).collect()
    }

    /// The addresses that pages have asked for anything, WebSockets among them.
    pub(crate) fn asked(&self) -> Vec<String> {
        let url = |event: &Value| {
            match event["method"].as_str() {
                Some("Network.requestWillBeSent") => Some(&event["params"]["request"]["url"]),
                Some("Network.webSocketCreated") => Some(&event["params"]["url"]),
                _ => None,
            }
            .map(|url| url.as_str().unwrap().to_owned())
        };
        self.events.iter().filter_map(url).collect()
    }

    /// The roles of controls in a page that have no accessible name, and how many controls it has.
    pub(crate) fn nameless(&mut self, page: &Page) -> (Vec<Value>, usize) {
        let tree = self.call(Some(page), "Accessibility.getFullAXTree", json!({}));
        let controls = [
            "button",
            "link",
            "textbox",
            "combobox",
            "checkbox",
            "DisclosureTriangle",
            "img",
            "image",
            "list",
            "table",
            "navigation",
            "region",
        ];
        let nodes = tree["nodes"].as_array().unwrap();
        let controls: Vec<&Value> = nodes
            .iter()
            .filter(|node| node["ignored"] != true)
            .filter(|node| controls.contains(&node["role"]["value"].as_str().unwrap_or_default()))
            .collect();
        let is_nameless = |node: &&&Value| node["name"]["value"].as_str().unwrap_or("").is_empty();
        let nameless = controls.iter().filter(is_nameless).copied().cloned();
        (nameless.collect(), controls.len())
    }

    /// Types a text into what has the focus, and presses Enter.
    pub(crate) fn press_enter_after(&mut self, page: &Page, text: &str) {
        self.call(Some(page), "Input.insertText", json!({"text": text}));
        for kind in ["keyDown", "keyUp"] {
            let key = json!({
                "type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13,
                "text": if kind == "keyDown" { "\r" } else { "" },
            });
            self.call(Some(page), "Input.dispatchKeyEvent", key);
        }
    }

    /// A picture of a page as far as its content goes, but no higher than `most`.
    pub(crate) fn picture(&mut self, page: &Page, most: u64) -> Vec<u8> {
        let size = "[innerWidth, document.documentElement.scrollHeight]";
        let size = self.eval(page, size);
        let clip = json!({
            "x": 0, "y": 0, "width": size[0], "scale": 1,
            "height": size[1].as_u64().unwrap().min(most),
        });
        let shot = json!({"format": "png", "clip": clip, "captureBeyondViewport": true});
        let answer = self.call(Some(page), "Page.captureScreenshot", shot);
        BASE64_STANDARD
            .decode(answer["data"].as_str().unwrap())
            .unwrap()
    }

    fn call(&mut self, page: Option<&Page>, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut call = json!({"id": self.calls, "method": method, "params": params});
        if let Some(Page(session)) = page {
            call["sessionId"] = session.as_str().into();
        }
        write!(self.pipe, "{call}\0").unwrap();
        self.pipe.flush().unwrap();
        loop {
            let heard = self.heard.recv_timeout(2 * PATIENCE);
            let heard = heard.unwrap_or_else(|error| panic!("{method}: {error}"));
            if heard["id"] == self.calls {
                assert_eq!(heard["error"], Value::Null, "{method}");
                return heard["result"].clone();
            }
            self.events.push(heard);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
