//! A wall clock that is wrong for a moment. A library that is loaded before the system's shifts it.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

use crate::bed::{Broker, Observer, PATIENCE, fresh_app};
use crate::load::Path;
use crate::wire::Wire;

/// Adds the seconds in the file $CLOCK_OFF to CLOCK_REALTIME (0 on Linux).
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>
int clock_gettime(clockid_t id, struct timespec *at) {
    int result = syscall(SYS_clock_gettime, id, at);
    long off = 0;
    FILE *file = id == 0 ? fopen(getenv("CLOCK_OFF"), "r") : NULL;
    if (file) {
        if (fscanf(file, "%ld", &off) == 1) at->tv_sec += off;
        fclose(file);
    }
    return result;
}
"#;

/// The library, and the file that it reads.
pub(crate) struct Shim {
    library: String,
    off: String,
}

impl Shim {
    /// Compiles it in this directory.
    pub(crate) fn make(dir: &std::path::Path) -> Self {
        let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let (source, library, off) = (path("shim.c"), path("shim.so"), path("off"));
        std::fs::write(&source, SHIM).unwrap();
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-o", &library, &source])
            .status();
        assert!(compiled.unwrap().success());
        let shim = Self { library, off };
        shim.set(0);
        shim
    }

    /// The clock is so many seconds ahead from now on.
    pub(crate) fn set(&self, seconds: i64) {
        std::fs::write(&self.off, seconds.to_string()).unwrap();
    }

    /// What the process needs that has this clock.
    pub(crate) fn environment(&self) -> [(&str, &str); 2] {
        [("LD_PRELOAD", &self.library), ("CLOCK_OFF", &self.off)]
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

#[test]
fn a_clock_that_is_ten_years_ahead_for_a_moment_changes_nothing() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let dir = TempDir::new().unwrap();
    let shim = Shim::make(dir.path());
    let app = fresh_app();
    let url = broker.url(false);
    let flags = ["--broker", &url, "--username", "observer", "--app", &app];
    let mut observer = Observer::prepare(&[&flags[..], &["--retain", "90d"]].concat());
    let [library, off] = shim.environment();
    observer.spawn(&[("OBSERVER_PASSWORD", "observerpw"), library, off]);
    observer.wait_ready();
    let login = broker.login(&app, "u01");
    let mut user = Wire::connect(broker.port("MQTT"), &app, &login, true).unwrap();
    let inbox = Path::Chat21.inbox(&app, "u01", "u01");
    user.subscribe(&[&inbox]).unwrap();
    let mut send = || -> Value {
        let topic = Path::Chat21.outgoing(&app, "u01", "u01");
        user.publish_confirmed(topic, r#"{"text":"hi"}"#).unwrap();
        user.message(PATIENCE).expect("the message").json()
    };
    let mut last = send()["message_id"].as_str().unwrap().to_owned();
    for (seconds, says) in [
        (315_360_000, "has jumped"),
        (0, "is back where it should be"),
    ] {
        shim.set(seconds);
        observer.wait_log(says);
        let message = send();
        let id = message["message_id"].as_str().unwrap();
        let written = message["timestamp"].as_u64().unwrap();
        let of_id = u64::from_str_radix(&id.replace('-', "")[..12], 16).unwrap();
        for time in [written, of_id] {
            let limit = Duration::from_secs(60).as_millis();
            assert!(u128::from(time.abs_diff(now())) < limit, "{message}");
        }
        assert!(*id > *last, "ids rise");
        id.clone_into(&mut last);
    }
    let stored: i64 = observer
        .store()
        .query_row("SELECT count(*) FROM message", [], |row| row.get(0))
        .unwrap();
    assert_eq!(stored, 3);
}
