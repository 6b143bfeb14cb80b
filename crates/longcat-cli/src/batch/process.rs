//! Which process it is that holds a line.

use std::fmt;
use std::fs;

use longcat_train::host_name;
use serde::{Deserialize, Serialize};

/// A process, as others on other machines can name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub host: String,
    pub pid: u32,
    /// The running system and its numbering of processes, where it can be told: two containers of one
    /// host have different ones.
    system: String,
    /// When the process began, in ticks of the system: a number is given again to a later process.
    began: u64,
}

impl Process {
    /// This one.
    pub fn this() -> Self {
        let pid = std::process::id();
        Self {
            host: host(),
            pid,
            system: system().unwrap_or_default(),
            began: began(pid).unwrap_or_default(),
        }
    }

    /// One of which nothing is known.
    pub fn unknown() -> Self {
        Self {
            host: "another process".into(),
            pid: 0,
            system: String::new(),
            began: 0,
        }
    }

    /// Whether it is of this running system and has ended. Of others nothing can be told.
    pub fn is_known_dead(&self) -> bool {
        let ours = system().is_some_and(|system| system == self.system);
        // Where processes of other users are hidden, the first one is as well.
        let shown = began(1).is_some();
        ours && shown && began(self.pid) != Some(self.began)
    }

    /// A process of this system that has ended.
    #[cfg(test)]
    pub fn dead() -> Self {
        Self {
            began: 1,
            ..Self::this()
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            0 => f.write_str(&self.host),
            pid => write!(f, "process {pid} on {}", self.host),
        }
    }
}

/// This host, as it becomes part of names of files.
fn host() -> String {
    let plain = |c: char| {
        if c.is_alphanumeric() || c == '-' {
            c
        } else {
            '_'
        }
    };
    match host_name() {
        Some(name) => name.chars().map(plain).collect(),
        None => "host".into(),
    }
}

/// Only Linux tells.
fn system() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let numbering = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), numbering.display()))
}

/// When a process began; none where it has ended.
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    // Z and X have ended, and somebody has yet to ask how.
    let runs = !matches!(fields.next()?, "Z" | "X");
    // The 22nd of all.
    let began = fields.nth(18)?.parse().ok()?;
    runs.then_some(began)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_lives_and_others_of_its_number_do_not() {
        assert!(!Process::this().is_known_dead());
        assert!(Process::dead().is_known_dead());
        assert!(!Process::unknown().is_known_dead());
    }
}
