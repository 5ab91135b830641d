//! The run's cgroup: where it goes, what is in it, and its end.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use blackstart_core::report::Leftover;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

mod hierarchy;
mod scope;

pub(crate) use hierarchy::Hierarchy;

/// Name of the directory that holds runs, and mark of what is ours.
const OURS: &str = "blackstart";

/// How long an emptied cgroup may take until the kernel lets it be removed: exiting processes leave it
/// a moment after they are gone.
const REMOVAL_PATIENCE: Duration = Duration::from_millis(500);

/// How long emptying a cgroup may take. A process in the midst of its end, which may have much memory to give
/// back, can only be waited for; and no honest program forks faster than this many sweeps.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);

/// Where a run's cgroup goes.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Below the caller's own, which lies in a guarded run: the outer guard must still hold.
    Nested(PathBuf),
    /// Below a transient scope that systemd is asked for.
    Scope,
    /// At the top of the hierarchy.
    Top,
}

/// Decide by the caller's cgroup (below the mount) and whether systemd is PID 1. Where systemd keeps this
/// tree every process is in some unit's cgroup; at the top of it means that it keeps only the v1 ones.
fn place(own: &Path, systemd: bool) -> Place {
    if in_run(own) {
        Place::Nested(own.join(OURS))
    } else if systemd && own != Path::new("") {
        Place::Scope
    } else {
        Place::Top
    }
}

/// Does a path lie in the cgroup of a run? Runs are directories named by a UUID, in one named by us.
fn in_run(path: &Path) -> bool {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts.windows(2).any(|pair| {
        let ours =
            pair[0] == OURS || (pair[0].starts_with("blackstart-") && pair[0].ends_with(".scope"));
        ours && uuid::Uuid::parse_str(&pair[1]).is_ok()
    })
}

/// How to find a run's cgroup again, by a process that may see another part of the tree, or all of it by
/// other paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Whereabouts {
    /// Below `root`.
    pub(crate) path: PathBuf,
    /// The caller's own, below `root`.
    pub(crate) home: PathBuf,
    /// The part of the tree that the mount showed, as the cgroup namespace names it.
    pub(crate) root: PathBuf,
    /// Inode of that cgroup namespace.
    pub(crate) namespace: u64,
    /// The kernel's id; none while the cgroup was only about to be made.
    pub(crate) id: Option<u64>,
}

/// What became of the cgroup of an orphan.
#[derive(Debug)]
pub(crate) enum Found {
    /// It is there.
    Here(RunCgroup),
    /// It was removed.
    Gone,
    /// It lies where this process cannot look, and why.
    Unknown(String),
}

/// A cgroup made for one run.
#[derive(Debug)]
pub(crate) struct RunCgroup {
    hierarchy: Hierarchy,
    cgroup: Whereabouts,
    dir: File,
    /// Keeps systemd's scope from being empty until the child is in.
    keeper: Option<scope::Keeper>,
}

impl RunCgroup {
    /// Make one for run `id`. `announce` hears before it is made where it will be, so that it can be found
    /// after a death in between; if that fails, none is made.
    pub(crate) fn create(
        id: &str,
        systemd: bool,
        announce: &mut dyn FnMut(&Whereabouts) -> io::Result<()>,
    ) -> io::Result<Self> {
        let hierarchy = Hierarchy::find()?;
        let home = hierarchy.own()?;
        let (parent, keeper) = match place(&home, systemd) {
            Place::Nested(parent) => (parent, None),
            Place::Top => (PathBuf::from(OURS), None),
            Place::Scope => match scope::request(id, &hierarchy) {
                Ok((parent, keeper)) => (parent, Some(keeper)),
                Err(error) => {
                    tracing::info!(%error, "no scope from systemd; using a top-level cgroup");
                    (PathBuf::from(OURS), None)
                }
            },
        };
        let mut cgroup = Whereabouts {
            path: parent.join(id),
            home,
            root: hierarchy.root().to_owned(),
            namespace: hierarchy::namespace()?,
            id: None,
        };
        let path = hierarchy.at(&cgroup.path);
        announce(&cgroup)?;
        // Another run's end may remove the shared parent in between.
        let mut tries = 0;
        while let Err(error) =
            fs::create_dir_all(hierarchy.at(&parent)).and_then(|()| fs::create_dir(&path))
        {
            tries += 1;
            if error.kind() != io::ErrorKind::NotFound || tries > 20 {
                return Err(error);
            }
        }
        // For the report's peak memory. Where the controller is not offered, or the parent holds processes of its
        // own (a run around this one), the report goes without.
        let control = hierarchy.at(&parent).join("cgroup.subtree_control");
        if let Err(error) = fs::write(&control, "+memory") {
            tracing::debug!(%error, path = %control.display(), "no memory accounting");
        }
        let dir = File::open(&path)?;
        cgroup.id = Some(dir.metadata()?.ino());
        Ok(Self {
            hierarchy,
            cgroup,
            dir,
            keeper,
        })
    }

    /// Find the cgroup of an orphan. It is gone only if this process looked at the very place where it was.
    pub(crate) fn find(cgroup: &Whereabouts) -> io::Result<Found> {
        if hierarchy::namespace()? != cgroup.namespace {
            return Ok(Found::Unknown(
                "its cgroup was made in another cgroup namespace".to_owned(),
            ));
        }
        let Some(hierarchy) = Hierarchy::showing(&cgroup.root)? else {
            return Ok(Found::Unknown(format!(
                "no mount here shows {} of the cgroup tree, where its cgroup was made",
                cgroup.root.display()
            )));
        };
        let dir = match File::open(hierarchy.at(&cgroup.path)) {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Gone),
            Err(error) => return Err(error),
        };
        let inode = dir.metadata()?.ino();
        if cgroup.id.is_some_and(|id| id != inode) {
            return Ok(Found::Gone);
        }
        Ok(Found::Here(Self {
            hierarchy,
            cgroup: Whereabouts {
                id: Some(inode),
                ..cgroup.clone()
            },
            dir,
            keeper: None,
        }))
    }

    /// For clone3 and for attaching programs.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// How to find it again.
    pub(crate) fn whereabouts(&self) -> &Whereabouts {
        &self.cgroup
    }

    /// Is this process in it, or below?
    pub(crate) fn contains(&self, pid: u32) -> bool {
        self.hierarchy
            .of(&pid.to_string())
            .is_ok_and(|path| path.starts_with(&self.cgroup.path))
    }

    /// Its directory, as this process sees it.
    pub(crate) fn path(&self) -> PathBuf {
        self.hierarchy.at(&self.cgroup.path)
    }

    /// The child is in: nothing else need keep the cgroup alive.
    pub(crate) fn inhabited(&mut self) {
        self.keeper = None;
    }

    /// Is it still there? Until it is removed, whether empty or not.
    pub(crate) fn exists(&self) -> bool {
        self.path().is_dir()
    }

    /// Is any process in it, or below?
    pub(crate) fn populated(&self) -> io::Result<bool> {
        let events = match fs::read_to_string(self.path().join("cgroup.events")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        Ok(events.lines().any(|line| line == "populated 1"))
    }

    /// Processes in it and below, as numbered in our pid namespace.
    pub(crate) fn pids(&self) -> io::Result<Vec<i32>> {
        let mut pids = Vec::new();
        for dir in tree(&self.path()) {
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
                    if error.raw_os_error()
                        == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Who is still in it.
    pub(crate) fn survivors(&self) -> io::Result<Vec<Leftover>> {
        let leftover = |pid: i32| Leftover {
            tgid: pid.cast_unsigned(),
            argv: crate::process::argv(pid.cast_unsigned()),
        };
        Ok(self.pids()?.into_iter().map(leftover).collect())
    }

    /// End one process, if it still is in here, and `still` the one that was meant. Both are looked at while
    /// it is held by a descriptor, so that its number cannot have come to mean another.
    pub(crate) fn kill_one(&self, pid: i32, still: impl FnOnce(Pid) -> bool) {
        let Some(pid) = Pid::from_raw(pid) else {
            return;
        };
        if let Ok(held) = pidfd_open(pid, PidfdFlags::empty())
            && self.contains(pid.as_raw_pid().cast_unsigned())
            && still(pid)
        {
            let _ = pidfd_send_signal(&held, Signal::KILL);
        }
    }

    /// End every process in it and wait until they are gone, up to `patience`.
    pub(crate) fn kill(&self, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        let at_once = fs::write(self.path().join("cgroup.kill"), "1").is_ok();
        while self.populated()? {
            if !at_once {
                // Before 5.14. Forks may outrun one sweep, hence once more each time round.
                for pid in self.pids()? {
                    self.kill_one(pid, |_| true);
                }
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "processes of the run do not end",
                ));
            }
            sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Move every process to the cgroup that the caller came from.
    pub(crate) fn release(&self) -> io::Result<()> {
        let home = self.hierarchy.at(&self.cgroup.home).join("cgroup.procs");
        let deadline = Instant::now() + RELEASE_PATIENCE;
        let mut before = Vec::new();
        // Forks may outrun one sweep.
        while Instant::now() < deadline {
            let pids = self.pids()?;
            if pids.is_empty() {
                return Ok(());
            }
            for pid in &pids {
                match fs::write(&home, pid.to_string()) {
                    Err(error)
                        if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                    }
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

    /// CPU time of all processes that ever were in it, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        let stat = fs::read_to_string(self.path().join("cpu.stat")).ok()?;
        cpu_seconds(&stat)
    }

    /// Peak memory in bytes, where the kernel tells.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        fs::read_to_string(self.path().join("memory.peak"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Remove it with all cgroups below, and the directory that holds runs if it was the last. Fails
    /// while a process is in it; may be called again.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let deadline = Instant::now() + REMOVAL_PATIENCE;
        loop {
            // Children come after their parents in `tree`.
            let failed = tree(&self.path())
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
        if let Some(parent) = self
            .cgroup
            .path
            .parent()
            .filter(|parent| parent.file_name() == Some(OURS.as_ref()))
        {
            // Fails while another run is in it, which is as it should be.
            let _ = fs::remove_dir(self.hierarchy.at(parent));
        }
        Ok(())
    }
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    let micros: u64 = stat
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?
        .parse()
        .ok()?;
    Some(Duration::from_micros(micros).as_secs_f64())
}

/// A cgroup directory and all below, parents first.
fn tree(top: &Path) -> Vec<PathBuf> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "01980000-0000-7000-8000-000000000001";

    #[test]
    fn a_run_inside_a_run_nests() {
        let outer = PathBuf::from(format!("blackstart/{RUN}/job"));
        assert_eq!(place(&outer, true), Place::Nested(outer.join("blackstart")));
        let scoped = PathBuf::from(format!("system.slice/blackstart-{RUN}.scope/{RUN}"));
        assert!(matches!(place(&scoped, true), Place::Nested(_)));
        assert_eq!(
            place(Path::new("system.slice/ssh.service"), true),
            Place::Scope
        );
        assert_eq!(place(Path::new("blackstart"), false), Place::Top);
        assert_eq!(place(Path::new(""), true), Place::Top);
        // A service of that name, with a cgroup of its own below, is not a run.
        assert_eq!(place(Path::new("blackstart/agent"), false), Place::Top);
    }

    #[test]
    fn cpu_time_is_read_from_cpu_stat() {
        assert_eq!(cpu_seconds("usage_usec 1500000\nuser_usec 1\n"), Some(1.5));
        assert_eq!(cpu_seconds("nr_periods 0\n"), None);
    }

    #[test]
    fn a_cgroup_is_made_inhabited_emptied_and_removed() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let id = uuid::Uuid::now_v7().to_string();
        let mut cgroup = RunCgroup::create(&id, false, &mut |_| Ok(())).unwrap();
        assert!(!cgroup.populated().unwrap());
        let mut sleeper = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = i32::try_from(sleeper.id()).unwrap();
        // It was spawned a moment before it has arguments.
        while crate::process::argv(sleeper.id()).is_empty() {
            sleep(Duration::from_millis(1));
        }
        fs::create_dir(cgroup.path().join("below")).unwrap();
        fs::write(cgroup.path().join("below/cgroup.procs"), pid.to_string()).unwrap();
        cgroup.inhabited();
        assert!(cgroup.populated().unwrap());
        assert_eq!(
            cgroup.survivors().unwrap(),
            [Leftover {
                tgid: sleeper.id(),
                argv: vec!["sleep".into(), "60".into()]
            }]
        );
        assert!(cgroup.remove().is_err());

        let place = cgroup.whereabouts().clone();
        let Found::Here(found) = RunCgroup::find(&place).unwrap() else {
            panic!("not found at {place:?}");
        };
        found.release().unwrap();
        assert!(!cgroup.populated().unwrap());
        cgroup.kill_one(pid, |_| true);
        assert!(sleeper.try_wait().unwrap().is_none(), "it is outside");
        fs::write(cgroup.path().join("below/cgroup.procs"), pid.to_string()).unwrap();
        cgroup.kill_one(pid, |_| false);
        assert!(cgroup.populated().unwrap());
        cgroup.kill(Duration::from_secs(5)).unwrap();
        sleeper.wait().unwrap();
        cgroup.remove().unwrap();
        cgroup.remove().unwrap();
        assert!(!cgroup.exists());
        assert!(matches!(RunCgroup::find(&place).unwrap(), Found::Gone));
        // From where it cannot be seen, not seeing it says nothing.
        for elsewhere in [
            Whereabouts {
                namespace: place.namespace + 1,
                ..place.clone()
            },
            Whereabouts {
                root: "/../outside".into(),
                ..place.clone()
            },
        ] {
            assert!(matches!(
                RunCgroup::find(&elsewhere).unwrap(),
                Found::Unknown(_)
            ));
        }
    }
}
