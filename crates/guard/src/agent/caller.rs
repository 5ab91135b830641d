//! Who is at the other end, and whether a process is theirs.
//!
//! Processes are held by descriptors. What /proc says under a number was said of the process that is meant if that lives
//! after it was read: its number cannot have come to mean another one before.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use blackstart_kernel::peer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{PidfdFlags, pidfd_open};

/// Whoever connected, when it did.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: i32,
    groups: Vec<u32>,
    held: OwnedFd,
}

impl Caller {
    /// By the kernel's word.
    pub(crate) fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let said = socket_peercred(socket)?;
        let held = match peer::process(socket)? {
            Some(held) => held,
            // Before 6.5. Should it have ended, and its number be another's by now, then what is that one's child is not
            // its: of the same user, at worst.
            None => pidfd_open(said.pid, PidfdFlags::empty())?,
        };
        Ok(Self {
            uid: said.uid.as_raw(),
            gid: said.gid.as_raw(),
            pid: said.pid.as_raw_pid(),
            groups: peer::groups(socket)?,
            held,
        })
    }

    /// May it ask for anything?
    pub(crate) fn is_permitted(&self, group: Option<u32>) -> bool {
        let is_in = |group: u32| self.gid == group || self.groups.contains(&group);
        self.uid == 0 || group.is_some_and(is_in)
    }

    /// Is it there still? Then its number was its own up to now.
    pub(crate) fn lives(&self) -> bool {
        lives(self.held.as_fd())
    }

    /// The number of this process, if it waits to be guarded for this caller: a child of the caller's, with its user and
    /// group and no others. With `confined` it has given up every way to more.
    pub(crate) fn child(&self, pidfd: BorrowedFd<'_>, confined: bool) -> Result<i32, String> {
        let pid = number(pidfd).ok_or("what came along is no descriptor of a process here")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .map_err(|error| format!("process {pid} cannot be looked at: {error}"))?;
        if !lives(pidfd) || !lives(self.held.as_fd()) {
            return Err(format!("process {pid} has ended, or its parent has"));
        }
        is_theirs(&status, pid, self, confined).map_err(|why| format!("process {pid} {why}"))?;
        Ok(pid)
    }
}

/// Does it live? A process that has ended and was not waited for does not, and keeps its number.
pub(crate) fn lives(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now)) == Ok(0)
}

/// The number of a process, as our pid namespace has it; none if it has none there, or if this is no descriptor of one.
fn number(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let line = about.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    line.trim().parse().ok().filter(|pid| *pid > 0)
}

/// What a `/proc/PID/status` has to say for that.
fn is_theirs(status: &str, pid: i32, caller: &Caller, confined: bool) -> Result<(), String> {
    let line = |name: &str| {
        let mut lines = status.lines();
        let text = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        text.map(str::trim)
    };
    let is = |name: &str, value: &str| line(name) == Some(value);
    let all = |name: &str, id: u32| {
        let ids: Vec<&str> = line(name)
            .unwrap_or_default()
            .split_ascii_whitespace()
            .collect();
        ids.len() == 4 && ids.iter().all(|one| one.parse() == Ok(id))
    };
    if !is("Tgid", &pid.to_string()) {
        return Err("is a thread, and not a process".to_owned());
    }
    if !is("PPid", &caller.pid.to_string()) {
        return Err("is no child of who asks".to_owned());
    }
    if !all("Uid", caller.uid) || !all("Gid", caller.gid) {
        return Err("does not run as the user and group of who asks".to_owned());
    }
    if line("State").is_none_or(|state| state.starts_with(['Z', 'X'])) {
        return Err("has ended".to_owned());
    }
    if !confined {
        return Ok(());
    }
    let without = ["CapInh", "CapPrm", "CapEff", "CapAmb"]
        .into_iter()
        .all(|set| line(set).is_some_and(|bits| bits.chars().all(|digit| digit == '0')));
    if !is("NoNewPrivs", "1") || !is("Seccomp", "2") || !without {
        return Err("has not given up its privileges, which `default: deny` asks for".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::Pid;

    fn own() -> Caller {
        let pid = rustix::process::getpid();
        Caller {
            uid: 1000,
            gid: 1000,
            pid: pid.as_raw_pid(),
            groups: vec![7],
            held: pidfd_open(pid, PidfdFlags::empty()).unwrap(),
        }
    }

    #[test]
    fn root_and_the_group_may_ask_and_nobody_else() {
        let mut caller = own();
        assert!(caller.is_permitted(Some(7)) && caller.is_permitted(Some(1000)));
        assert!(!caller.is_permitted(Some(8)) && !caller.is_permitted(None));
        caller.uid = 0;
        assert!(caller.is_permitted(None));
    }

    #[test]
    fn only_a_child_with_the_callers_user_and_group_is_theirs() {
        let caller = own();
        let status = |ids: &str, parent: i32, more: &str| {
            format!(
                "Name:\tx\nState:\tS (sleeping)\nTgid:\t9\nPid:\t9\nPPid:\t{parent}\nUid:\t{ids}\nGid:\t1000\t1000\t1000\t1000\n{more}"
            )
        };
        let plain = "1000\t1000\t1000\t1000";
        let theirs = |status: &str, confined| is_theirs(status, 9, &caller, confined).is_ok();
        assert!(theirs(&status(plain, caller.pid, ""), false));
        assert!(!theirs(&status(plain, caller.pid + 1, ""), false));
        assert!(is_theirs(&status(plain, caller.pid, ""), 8, &caller, false).is_err());
        for ids in [
            "0\t0\t0\t0",
            "1000\t0\t1000\t1000",
            "1000\t1000\t0\t1000",
            "1000\t1000\t1000",
            "",
        ] {
            assert!(!theirs(&status(ids, caller.pid, ""), false), "{ids}");
        }
        let confined = "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";
        assert!(theirs(&status(plain, caller.pid, confined), true));
        assert!(!theirs(&status(plain, caller.pid, ""), true));
        for (from, to) in [
            ("Privs:\t1", "Privs:\t0"),
            ("comp:\t2", "comp:\t0"),
            ("CapPrm:\t00", "CapPrm:\t20"),
        ] {
            assert!(!theirs(
                &status(plain, caller.pid, &confined.replace(from, to)),
                true
            ));
        }
    }

    #[test]
    fn a_process_is_known_by_its_descriptor() {
        let own = rustix::process::getpid();
        let held = pidfd_open(own, PidfdFlags::empty()).unwrap();
        assert_eq!(number(held.as_fd()), Some(own.as_raw_pid()));
        assert!(lives(held.as_fd()));
        let file = tempfile::tempfile().unwrap();
        assert_eq!(number(file.as_fd()), None);
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        let held = pidfd_open(Pid::from_child(&ended), PidfdFlags::empty()).unwrap();
        ended.wait().unwrap();
        assert!(!lives(held.as_fd()));
        assert_eq!(number(held.as_fd()), None);
    }
}
