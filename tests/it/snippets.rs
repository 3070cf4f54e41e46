//! The client examples of the guide, as they stand there, beside the demo.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use chat21_observer::guide::chapter;

use crate::bed::{PATIENCE, lines_of, root};
use crate::pipes::Demo;

/// A script that runs in the bed, and what it prints.
struct Script {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Script {
    /// The example of that language, with the demo's port in place of the usual one.
    fn start(interpreter: &str, language: &str, demo: &Demo) -> Self {
        let text = chapter("clients").unwrap().text;
        let start = text.find(&format!("```{language}\n")).unwrap() + language.len() + 4;
        let end = text[start..].find("```").unwrap() + start;
        let script = text[start..end].replace("1883", &demo.port.to_string());
        let mut child = Command::new(root().join("scripts/brokers"))
            .args([interpreter, "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(script.as_bytes()).unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn says(&self, wanted: &str) {
        let mut said = vec![];
        while said.last().map(String::as_str) != Some(wanted) {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => said.push(line),
                Err(_) => panic!("{wanted:?} is not in {said:#?}"),
            }
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn javascript_and_python_talk_to_each_other() {
    let demo = Demo::start();
    let bob = Script::start("python", "python", &demo);
    bob.says("bob is there");
    let alice = Script::start("node", "js", &demo);
    alice.says("to bob: Hello Bob! (sent)");
    bob.says("alice: Hello Bob!");
    alice.says("bob has seen it");
    alice.says("bob: Hello to you!");
}
