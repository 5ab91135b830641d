//! Is the agent asked to end so that another one takes its place? Its own signal does not say so, systemd does: the job of the
//! agent's unit is `restart` until the old process is gone.
//!
//! By `systemctl`, which as root needs no bus. Whoever gets no answer is told to end for good: a guard that blocks what it
//! should not can always be stopped.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cgroup::{Hierarchy, Tree};
use crate::follow::slices::{is_slice, unit_of};

/// For one answer. Whoever stops the agent waits for it.
const PATIENCE: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(2);

/// Is the unit of this process being restarted?
pub(super) fn is_on() -> bool {
    let Some(unit) = own_unit() else {
        return false;
    };
    let job = said("Job", &unit);
    let job = job.filter(|job| !job.is_empty() && job.bytes().all(|octet| octet.is_ascii_digit()));
    let kind = job.and_then(|job| said("JobType", &job));
    tracing::debug!(unit, kind, "asked to end");
    kind.as_deref() == Some("restart")
}

/// The unit of systemd in which this process is.
fn own_unit() -> Option<String> {
    let own = Hierarchy::find(Tree::Second)
        .and_then(|tree| tree.own())
        .ok()?;
    let mut parts = own.iter().map(|part| part.to_string_lossy());
    let unit = parts.find(|part| !is_slice(part))?;
    Some(unit_of(&unit).to_owned())
}

/// What systemd says of a unit, or of a job with this number.
fn said(property: &str, of: &str) -> Option<String> {
    let mut child = Command::new("systemctl")
        .args([
            "show",
            "--value",
            &format!("--property={property}"),
            "--",
            of,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .inspect_err(|error| tracing::info!(%error, "systemctl"))
        .ok()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => break,
            Ok(None) if Instant::now() < deadline => sleep(STEP),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                tracing::info!(of, "systemd does not say whether the agent is restarted");
                return None;
            }
        }
    }
    let mut text = String::new();
    // A word, which the pipe held.
    child.stdout?.read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}
