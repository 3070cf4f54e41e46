//! The layers of the source: every import points to a lower layer or stays in its folder, and
//! the pure folders stay pure.
//!
//! The order is the table [`LAYERS`]; what each folder owns stands in its `mod.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::bed::root;

/// Each folder of `src` and its layer. A file may use folders of a lower layer, and its own.
const LAYERS: [(&str, u8); 13] = [
    ("guide", 1),
    ("protocol", 1),
    ("auth", 2),
    ("rules", 2),
    ("delivery", 3),
    ("mqtt", 3),
    ("store", 3),
    ("telemetry", 4),
    ("connections", 5),
    ("http", 5),
    ("config", 6),
    ("observer", 7),
    ("commands", 8),
];

/// Folders that do no I/O. (That they read no clock either, clippy's `disallowed_methods`
/// enforces.)
const PURE: [&str; 3] = ["protocol", "rules", "delivery"];
/// What a pure folder must not name.
const IMPURE: [&str; 9] = [
    "tokio",
    "rusqlite",
    "rumqttc",
    "reqwest",
    "SystemTime::now",
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
];

/// How code names the MQTT client crate, which only the folder `mqtt` may do.
const MQTT_CRATE: [&str; 2] = ["rumqttc::", "use rumqttc"];

pub(crate) fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn layer(folder: &str) -> Option<u8> {
    let found = LAYERS.iter().find(|(name, _)| *name == folder);
    found.map(|(_, layer)| *layer)
}

#[test]
fn every_import_points_down_and_the_core_is_pure() {
    let src = root().join("src");
    let mut all = vec![];
    files(&src, &mut all);
    let mut faults = vec![];
    let mut seen = 0;
    for path in all {
        let name = path.strip_prefix(&src).unwrap().display().to_string();
        let Some((folder, _)) = name.split_once('/') else {
            continue;
        };
        let own = layer(folder).unwrap_or_else(|| panic!("{folder} is in no layer: see LAYERS"));
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let place = format!("src/{name}:{}: {}", number + 1, line.trim());
            for used in code.split("crate::").skip(1) {
                let used: String = used
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                seen += 1;
                if used != folder && layer(&used).is_some_and(|used| used >= own) {
                    faults.push(format!("{place}\n    {folder} (layer {own}) uses {used}"));
                }
            }
            if folder != "mqtt" && MQTT_CRATE.iter().any(|word| code.contains(word)) {
                faults.push(format!(
                    "{place}\n    only src/mqtt names the MQTT client crate"
                ));
            }
            if !name.starts_with("store/sqlite/") && code.contains("rusqlite") {
                faults.push(format!("{place}\n    only src/store/sqlite names SQLite"));
            }
            if PURE.contains(&folder) && IMPURE.iter().any(|word| code.contains(word)) {
                faults.push(format!("{place}\n    {folder} is pure"));
            }
        }
    }
    assert!(seen > 200, "the imports were not found: {seen}");
    assert!(
        faults.is_empty(),
        "{} imports point up:\n{}",
        faults.len(),
        faults.join("\n")
    );
}
