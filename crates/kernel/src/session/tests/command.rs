//! Real commands in a run's cgroup.

use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::spawn::{Child, Command, SignalState, spawn};

/// Start one from which nothing is taken.
pub(super) fn started(cgroup: BorrowedFd<'_>, argv: [&str; 3]) -> Child {
    spawn(&Command {
        argv: &argv.map(OsString::from),
        env: &[],
        cgroup: Some(cgroup),
        joins: &[],
        filter: None,
        contain: None,
        hide: None,
        no_new_privileges: false,
        signals: SignalState::current().unwrap(),
    })
    .unwrap()
}

/// Wait for its end; its code.
pub(super) fn ended(child: &Child) -> Option<i32> {
    let pid = Pid::from_raw(child.pid).unwrap();
    let ended = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED).unwrap();
    ended.and_then(|status| status.exit_status())
}

/// By which it and the test take turns.
pub(super) fn fifo(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
    path
}
