//! What the program is made of is known: the list of parts is complete, and each direct dependency
//! has a reason to be trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::bed::root;

/// The names of the direct dependencies, for tests not among them.
fn direct() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    let linux = &manifest["target"]["cfg(target_os = \"linux\")"]["dependencies"];
    let tables = [&manifest["dependencies"], linux];
    let names = tables
        .into_iter()
        .flat_map(|table| table.as_table().unwrap().keys());
    names.cloned().collect()
}

#[test]
fn each_direct_dependency_has_a_reason_to_be_trusted() {
    let text = std::fs::read_to_string(root().join("src/guide/contributing.md")).unwrap();
    let rows = text
        .lines()
        .skip_while(|line| !line.starts_with("| kept by |"));
    let mut named = BTreeSet::new();
    for row in rows.skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [keeper, crates, reason] = cells[..] else {
            panic!("three cells: {row}");
        };
        assert!(!keeper.is_empty() && !reason.is_empty(), "{row}");
        for name in crates.split(", ") {
            let name = name.trim_matches('`').to_owned();
            assert!(named.insert(name.clone()), "{name} is there twice");
        }
    }
    assert_eq!(named, direct());
}

/// `scripts/sbom` names every part, where it comes from, and what it needs.
#[test]
fn the_list_of_parts_is_complete() {
    let output = Command::new(root().join("scripts/sbom")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(list["bomFormat"], "CycloneDX");
    assert_eq!(list["specVersion"], "1.5");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let mut parts = BTreeMap::new();
    for part in list["components"].as_array().unwrap() {
        let id = text(&part["bom-ref"]);
        assert_eq!(part["purl"], part["bom-ref"], "{id}");
        let licence = text(&part["licenses"][0]["expression"]);
        assert!(!licence.is_empty() && licence != "NOASSERTION", "{id}");
        if id.starts_with("pkg:cargo/") {
            let hash = text(&part["hashes"][0]["content"]);
            let is_locked = lock.contains(&format!("checksum = \"{hash}\""));
            assert!(hash.len() == 64 && is_locked, "{id}: {hash}");
        }
        assert!(
            parts.insert(id.clone(), text(&part["name"])).is_none(),
            "{id} twice"
        );
    }
    for c_code in ["pkg:generic/sqlite@", "pkg:generic/aws-lc@"] {
        assert!(parts.keys().any(|id| id.starts_with(c_code)), "{c_code}");
    }
    let program = text(&list["metadata"]["component"]["bom-ref"]);
    let mut needed = BTreeSet::new();
    for part in list["dependencies"].as_array().unwrap() {
        let needs: Vec<String> = part["dependsOn"]
            .as_array()
            .unwrap()
            .iter()
            .map(text)
            .collect();
        assert!(needs.iter().all(|id| parts.contains_key(id)), "{part}");
        if part["ref"] == program {
            let names: BTreeSet<String> = needs.iter().map(|id| parts[id].clone()).collect();
            assert_eq!(names, direct());
        }
        needed.extend(needs);
    }
    let crates = parts.keys().filter(|id| id.starts_with("pkg:cargo/"));
    assert_eq!(
        crates.cloned().collect::<BTreeSet<_>>(),
        needed,
        "nothing stands there in vain"
    );
}
