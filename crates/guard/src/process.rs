//! What /proc tells of a process, while there is one.

use std::fs;
use std::sync::OnceLock;

/// Does /proc number processes as the kernel's record does, by the initial pid namespace? If not, a
/// number from the record is another process here, or none.
pub(crate) fn numbered_as_recorded() -> bool {
    static INITIAL: OnceLock<bool> = OnceLock::new();
    // The inode of the initial pid namespace is part of the kernel's interface (PROC_PID_INIT_INO).
    *INITIAL.get_or_init(|| {
        fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == "pid:[4026531836]")
    })
}

/// Its arguments; empty if it is gone or has none.
pub(crate) fn argv(pid: u32) -> Vec<String> {
    // A process may write what it likes here, without end.
    const MOST: usize = 1024;
    let mut bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.truncate(MOST);
    split_argv(&bytes)
}

fn split_argv(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// Its executable.
pub(crate) fn exe(pid: u32) -> Option<String> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let path = path.to_string_lossy();
    Some(path.strip_suffix(" (deleted)").unwrap_or(&path).to_owned())
}

/// State letter and session id.
pub(crate) fn state_and_session(pid: u32) -> Option<(char, i32)> {
    stat(pid).map(|stat| (stat.state, stat.session))
}

/// Some of what `/proc/PID/stat` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// State letter.
    pub(crate) state: char,
    pub(crate) parent: u32,
    pub(crate) session: i32,
    /// A thread of the kernel.
    pub(crate) kernel: bool,
    /// Start, in ticks since boot.
    pub(crate) started: u64,
}

/// Has the process of this number in the record ended, every thread of it?
pub(crate) fn has_ended(pid: u32) -> bool {
    let ended = match state_and_session(pid) {
        None => true,
        // Its first thread may end before the others.
        Some(('Z' | 'X', _)) => {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
            threads.is_ok_and(|threads| threads.count() < 2)
        }
        Some(_) => false,
    };
    ended && numbered_as_recorded()
}

/// Of whatever has this number: the process that it is, or is a thread of.
pub(crate) fn thread_group(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok()
}

/// What it tells of this process.
pub(crate) fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Were signals of this number ignored when we were started? (`nohup`, and what a script's shell puts into the
/// background.)
pub(crate) fn ignores(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored(&status).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

fn ignored(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Of a process's flags (linux/sched.h).
const PF_KTHREAD: u64 = 0x0020_0000;

fn parse_stat(stat: &str) -> Option<Stat> {
    // The name in parentheses may hold anything, parentheses included.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    Some(Stat {
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        session: fields.nth(1)?.parse().ok()?,
        kernel: fields.nth(2)?.parse::<u64>().ok()? & PF_KTHREAD != 0,
        started: fields.nth(12)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_any_name() {
        assert_eq!(
            parse_stat(
                "12 (a) b (c)) T 1 12 7 34816 12 4194304 97 0 0 0 1 0 0 0 20 0 1 0 4242 8192 200"
            ),
            Some(Stat {
                state: 'T',
                parent: 1,
                session: 7,
                kernel: false,
                started: 4242,
            })
        );
        assert_eq!(parse_stat("12 (a"), None);
    }

    #[test]
    fn ignored_signals_are_a_mask() {
        let status = "Name:\tsleep\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000006\n";
        assert_eq!(ignored(status), Some(6));
        assert_eq!(ignored("Name:\tx\n"), None);
        assert!(!ignores(rustix::process::Signal::TERM.as_raw()));
    }

    #[test]
    fn empty_arguments_are_kept() {
        assert_eq!(split_argv(b"sh\0-c\0\0x\0"), ["sh", "-c", "", "x"]);
        assert!(split_argv(b"").is_empty());
    }
}
