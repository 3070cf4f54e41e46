//! Tells the program which commit it is made of, for `--version`: from `OBSERVER_COMMIT`, else from
//! git, else nothing.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=OBSERVER_COMMIT");
    // Changes with each commit, and each change of branch.
    println!("cargo::rerun-if-changed=.git/logs/HEAD");
    let given = std::env::var("OBSERVER_COMMIT").ok();
    let commit = given.filter(|commit| !commit.is_empty()).or_else(|| {
        let asked = Command::new("git")
            .args(["rev-parse", "--short=12", "HEAD"])
            .output();
        let output = asked.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    });
    let commit = commit.unwrap_or_default();
    println!("cargo::rustc-env=OBSERVER_BUILT_COMMIT={commit}");
    let built_of = if commit.is_empty() {
        String::new()
    } else {
        format!(" ({commit})")
    };
    println!("cargo::rustc-env=OBSERVER_BUILT_OF={built_of}");
}
