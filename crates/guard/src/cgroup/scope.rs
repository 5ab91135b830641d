//! A transient scope from systemd. Why by `busctl`: docs/decisions/0003-systemd-scope-by-busctl.md.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use blackstart_kernel::spawn::{Child, placeholder};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::Hierarchy;

/// All that systemd gets: an emergency fix does not wait for a bus.
const PATIENCE: Duration = Duration::from_millis(500);

/// The process that a scope is made around: systemd makes none without.
#[derive(Debug)]
pub(super) struct Keeper(Child);

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.0.pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(self.0.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

/// Ask for `blackstart-<id>.scope`. Its cgroup (below the mount), and what keeps it there.
pub(super) fn request(id: &str, hierarchy: &Hierarchy) -> io::Result<(PathBuf, Keeper)> {
    let deadline = Instant::now() + PATIENCE;
    let keeper = Keeper(placeholder()?);
    let pid = keeper.0.pid.to_string();
    let scope = format!("blackstart-{id}.scope");
    let mut busctl = Command::new("busctl")
        .args([
            "--quiet",
            "--timeout=0.5",
            "call",
            "org.freedesktop.systemd1",
            "/org/freedesktop/systemd1",
        ])
        .args([
            "org.freedesktop.systemd1.Manager",
            "StartTransientUnit",
            "ssa(sv)a(sa(sv))",
        ])
        .args([scope.as_str(), "fail", "4"])
        .args(["Description", "s", "a run guarded by blackstart"])
        .args(["Delegate", "b", "true"])
        .args(["CollectMode", "s", "inactive-or-failed"])
        .args(["PIDs", "au", "1", pid.as_str()])
        .arg("0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let answered = loop {
        if let Some(status) = busctl.try_wait()? {
            break status.success();
        }
        if Instant::now() > deadline {
            busctl.kill()?;
            busctl.wait()?;
            break false;
        }
        sleep(Duration::from_millis(2));
    };
    if !answered {
        return Err(io::Error::other(
            "systemd refused the scope, or did not answer in 500 ms",
        ));
    }
    // The answer is a job; the scope is there once the keeper is in it.
    loop {
        let path = hierarchy.of(&pid)?;
        if path.file_name() == Some(scope.as_ref()) {
            return Ok((path, keeper));
        }
        if Instant::now() > deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "systemd did not start the scope in 500 ms",
            ));
        }
        sleep(Duration::from_millis(2));
    }
}
