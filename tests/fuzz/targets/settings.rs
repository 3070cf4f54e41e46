//! The configuration file, custom layouts and their templates among it, and the policy file: the
//! lines behind the first `---`. Mistakes are reported.

#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use chat21_observer::config::{Config, Flags};
use libfuzzer_sys::fuzz_target;

fn place() -> &'static PathBuf {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = std::env::temp_dir().join(format!("fuzz-settings-{}", std::process::id()));
        std::fs::create_dir_all(&place).expect("a directory");
        place
    })
}

fuzz_target!(|text: &str| {
    let (settings, policy) = text.split_once("---").unwrap_or((text, ""));
    let place = place();
    let (file, policy_file) = (place.join("observer.toml"), place.join("policy.toml"));
    std::fs::write(&file, settings).expect("written");
    std::fs::write(&policy_file, policy).expect("written");
    let flags: Flags = [
        ("broker", "mqtt://localhost"),
        ("state-dir", "/proc/nowhere"),
        ("policy-file", policy_file.to_str().expect("text")),
    ]
    .into_iter()
    .map(|(name, text)| (name, vec![text.to_owned()]))
    .collect();
    match Config::load(&flags, &|_| None, Some(&file)) {
        Ok(config) => assert!(!config.in_force.is_empty()),
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
});
