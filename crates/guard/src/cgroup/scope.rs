//! A transient scope from systemd. Why by `busctl`: docs/decisions/0003-systemd-scope-by-busctl.md.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
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
pub(super) struct Keeper {
    child: Child,
    /// Where it waits: a cgroup that holds processes lends no controllers to those below, so not in the scope itself.
    aside: Option<PathBuf>,
}

impl Keeper {
    pub(super) fn pid(&self) -> u32 {
        self.child.pid.cast_unsigned()
    }

    /// Out of the run's way, into a cgroup of its own below the scope. Where that fails the run has no controllers.
    fn step_aside(&mut self, scope: &Path) {
        let aside = scope.join("placeholder");
        let moved = fs::create_dir(&aside)
            .and_then(|()| fs::write(aside.join("cgroup.procs"), self.child.pid.to_string()));
        if let Err(error) = moved {
            tracing::debug!(%error, "the placeholder stays in the scope");
        }
        self.aside = Some(aside);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
        let pidfd = self.child.pidfd.as_fd();
        let _ = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED);
        if let Some(aside) = &self.aside {
            // If not now, then by systemd with the scope.
            let _ = fs::remove_dir(aside);
        }
    }
}

/// Ask for `blackstart-<id>.scope`. Its cgroup (below the mount), and what keeps it there.
pub(super) fn request(id: &str, hierarchy: &Hierarchy) -> io::Result<(PathBuf, Keeper)> {
    let deadline = Instant::now() + PATIENCE;
    let mut keeper = Keeper {
        child: placeholder()?,
        aside: None,
    };
    let pid = keeper.child.pid.to_string();
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
            keeper.step_aside(&hierarchy.at(&path));
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
