//! A cgroup with all below it, in either version: what is in it, its emptying, its end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{OURS, RELEASE_PATIENCE, REMOVAL_PATIENCE};

/// Make it, and the directories on the way. Another run's end may remove a shared parent in between.
pub(super) fn make(path: &Path) -> io::Result<()> {
    let mut tries = 0;
    let parent = path.parent().unwrap_or(path);
    while let Err(error) = fs::create_dir_all(parent).and_then(|()| fs::create_dir(path)) {
        tries += 1;
        if error.kind() != io::ErrorKind::NotFound || tries > 20 {
            return Err(error);
        }
    }
    Ok(())
}

/// Processes in it and below, as numbered in our pid namespace.
pub(super) fn pids(top: &Path) -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    for dir in tree(top) {
        match fs::read_to_string(dir.join("cgroup.procs")) {
            // Zero: a process that our pid namespace does not know.
            Ok(text) => pids.extend(
                text.lines()
                    .filter_map(|l| l.parse::<i32>().ok())
                    .filter(|pid| *pid > 0),
            ),
            // Gone meanwhile, or threaded: its processes are listed at the domain's root.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error)
                if error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Move every process to the cgroup `home`.
pub(super) fn release(top: &Path, home: &Path) -> io::Result<()> {
    let home = home.join("cgroup.procs");
    let deadline = Instant::now() + RELEASE_PATIENCE;
    let mut before = Vec::new();
    // Forks may outrun one sweep.
    while Instant::now() < deadline {
        let pids = pids(top)?;
        if pids.is_empty() {
            return Ok(());
        }
        for pid in &pids {
            match fs::write(&home, pid.to_string()) {
                Err(error)
                    if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
                other => other?,
            }
        }
        // Those that are about to end cannot be moved, and the kernel does not say so.
        if pids == before {
            sleep(Duration::from_millis(2));
        }
        before = pids;
    }
    Err(io::Error::other(
        "processes of the run neither end nor stay where they are moved to",
    ))
}

/// Remove it with all cgroups below, and the directory that holds runs if it was the last. Fails while a process is in
/// it; may be called again.
pub(super) fn remove(top: &Path) -> io::Result<()> {
    let deadline = Instant::now() + REMOVAL_PATIENCE;
    loop {
        // Children come after their parents in `tree`.
        let failed = tree(top)
            .into_iter()
            .rev()
            .find_map(|dir| match fs::remove_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Some(error),
                _ => None,
            });
        match failed {
            None => break,
            Some(error) if Instant::now() > deadline => return Err(error),
            Some(_) => sleep(Duration::from_millis(2)),
        }
    }
    if let Some(parent) = top
        .parent()
        .filter(|parent| parent.file_name() == Some(OURS.as_ref()))
    {
        // Fails while another run is in it, which is as it should be.
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

/// A cgroup directory and all below, parents first.
pub(super) fn tree(top: &Path) -> Vec<PathBuf> {
    let mut dirs = vec![top.to_owned()];
    let mut next = 0;
    while next < dirs.len() {
        if let Ok(entries) = fs::read_dir(&dirs[next]) {
            let below = entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            dirs.extend(below.map(|entry| entry.path()));
        }
        next += 1;
    }
    dirs
}
