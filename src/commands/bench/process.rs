//! CPU time and memory of a process or a thread, as Linux tells them in `/proc`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

/// A tick of the counters in `/proc/PID/stat`: a hundredth of a second on every Linux.
const TICK: Duration = Duration::from_millis(10);
/// Fields of `/proc/PID/stat` behind the name: ticks in user mode and in the kernel.
const TICKS: std::ops::Range<usize> = 11..13;

/// Where the counters of a process stand.
#[derive(Clone, Debug)]
pub(super) struct Process(PathBuf);

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Memory {
    /// Now.
    pub(super) resident_bytes: u64,
    /// The most there ever was.
    pub(super) peak_bytes: u64,
}

impl Process {
    /// # Errors
    /// If there is no such process, or this is not Linux.
    pub(super) fn of_pid(pid: u32) -> anyhow::Result<Self> {
        let process = Self(PathBuf::from(format!("/proc/{pid}")));
        let read = process.cpu();
        read.with_context(|| format!("--pid {pid}: no such process on this machine, or no /proc"))?;
        Ok(process)
    }

    /// The thread that calls this.
    pub(super) fn of_this_thread() -> std::io::Result<Self> {
        let place = std::fs::read_link("/proc/thread-self")?;
        Ok(Self(PathBuf::from("/proc").join(place)))
    }

    /// What it is called.
    pub(super) fn name(&self) -> Option<String> {
        let name = std::fs::read_to_string(self.0.join("comm")).ok()?;
        Some(name.trim_end().to_owned())
    }

    /// The CPU time it has used so far.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        let path = self.0.join("stat");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        ticks(&text).with_context(|| format!("cannot understand {}", path.display()))
    }

    pub(super) fn memory(&self) -> Option<Memory> {
        let status = std::fs::read_to_string(self.0.join("status")).ok()?;
        Some(Memory {
            resident_bytes: bytes(&status, "VmRSS:")?,
            peak_bytes: bytes(&status, "VmHWM:")?,
        })
    }
}

fn ticks(stat: &str) -> Option<Duration> {
    // The name, in parentheses, may hold spaces.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = fields.get(TICKS)?.iter().map(|field| field.parse::<u32>());
    Some(TICK * ticks.sum::<Result<u32, _>>().ok()?)
}

fn bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_are_read_whatever_the_process_is_called() {
        let stat = "12 (a) b c) S 1 1 1 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 9 9 9";
        assert_eq!(ticks(stat), Some(Duration::from_secs(2)));
        let status = "Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\n";
        assert_eq!(bytes(status, "VmRSS:"), Some(1 << 20));
        assert_eq!(bytes(status, "VmSwap:"), None);
    }
}
