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

use crate::agent::caller::lives;
use crate::stray;

mod below;
mod first;
mod hierarchy;
mod limits;
mod named;
mod place;
mod scope;
mod target;

use first::{FirstGroup, FirstPlace, plan_first};
pub(crate) use hierarchy::{Hierarchy, Tree};
pub(crate) use limits::{Controller, Outcome};
use place::{OURS, Place, place};
pub(crate) use place::{each_run, in_run, is_in_run};
pub use target::Meant;
pub(crate) use target::Target;

/// Processes in a cgroup and below, as numbered in our pid namespace.
pub(crate) fn pids_below(top: &Path) -> io::Result<Vec<i32>> {
    below::pids(top)
}

/// The file that says who is in the cgroup of this process.
pub(crate) fn own_procs() -> io::Result<PathBuf> {
    let hierarchy = Hierarchy::find(Tree::Second)?;
    let own = hierarchy.own()?;
    Ok(hierarchy.at(&own).join("cgroup.procs"))
}

/// How long an emptied cgroup may take until the kernel lets it be removed: exiting processes leave it
/// a moment after they are gone.
const REMOVAL_PATIENCE: Duration = Duration::from_millis(500);

/// How long emptying a cgroup may take. A process in the midst of its end, which may have much memory to give
/// back, can only be waited for; and no honest program forks faster than this many sweeps.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);

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
    /// The run's cgroups in hierarchies of the first version.
    #[serde(default)]
    pub(crate) first: Vec<FirstPlace>,
}

/// What became of the cgroup of an orphan.
#[derive(Debug)]
pub(crate) enum Found {
    /// It is there.
    Here(Box<RunCgroup>),
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
    /// Those in hierarchies of the first version.
    first: Vec<FirstGroup>,
    /// Controllers that were asked for and cannot be had, and why.
    lacking: Vec<(Controller, String)>,
    /// Keeps systemd's scope from being empty until the child is in.
    keeper: Option<scope::Keeper>,
}

impl RunCgroup {
    /// Make one for run `id`, with these controllers as far as they can be had. `announce` hears before it is made
    /// where it will be, so that it can be found after a death in between; if that fails, none is made.
    pub(crate) fn create(
        id: &str,
        systemd: bool,
        controllers: &[Controller],
        announce: &mut dyn FnMut(&Whereabouts) -> io::Result<()>,
    ) -> io::Result<Self> {
        let hierarchy = Hierarchy::find(Tree::Second)?;
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
        let scope = parent.file_name().and_then(|name| name.to_str());
        let scope = scope.zip(keeper.as_ref().map(scope::Keeper::pid));
        let (planned, mut lacking) = plan_first(id, controllers, scope)?;
        let mut cgroup = Whereabouts {
            path: parent.join(id),
            home,
            root: hierarchy.root().to_owned(),
            namespace: hierarchy::namespace()?,
            id: None,
            first: planned.iter().map(|(_, place)| place.clone()).collect(),
        };
        let path = hierarchy.at(&cgroup.path);
        announce(&cgroup)?;
        below::make(&path)?;
        // Memory and processes are counted for the report as well: where they cannot be, it goes without.
        for controller in [Controller::Memory, Controller::Cpu, Controller::Pids] {
            let wanted = controllers.contains(&controller);
            let first = planned
                .iter()
                .any(|(_, place)| first::lists(place, controller));
            if first || (controller == Controller::Cpu && !wanted) {
                continue;
            }
            let top = keeper.is_none();
            match limits::enable(controller, &hierarchy, &parent, wanted && top) {
                Ok(()) => {}
                Err(why) if wanted => lacking.push((controller, why)),
                Err(why) => tracing::debug!(why, "no accounting of {controller}"),
            }
        }
        let mut groups = Vec::new();
        for (hierarchy, place) in planned {
            let refused = |error: io::Error| {
                format!(
                    "a cgroup in the hierarchy of {} cannot be made: {error}",
                    place.controllers
                )
            };
            match FirstGroup::create(hierarchy, place.clone()) {
                Ok(group) => groups.push(group),
                Err(error) => {
                    let of_it = controllers
                        .iter()
                        .filter(|controller| first::lists(&place, **controller));
                    let why = refused(error);
                    lacking.extend(of_it.map(|controller| (*controller, why.clone())));
                }
            }
        }
        cgroup.first = groups.iter().map(|group| group.place().clone()).collect();
        let dir = stray::hold(&path)?;
        cgroup.id = Some(dir.metadata()?.ino());
        Ok(Self {
            hierarchy,
            cgroup,
            dir,
            first: groups,
            lacking,
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
        let Some(hierarchy) = Hierarchy::showing(Tree::Second, &cgroup.root)? else {
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
        let mut first = Vec::new();
        for place in &cgroup.first {
            match FirstGroup::find(place) {
                Ok(group) => first.extend(group),
                Err(error) => return Ok(Found::Unknown(error.to_string())),
            }
        }
        Ok(Found::Here(Box::new(Self {
            hierarchy,
            cgroup: Whereabouts {
                id: Some(inode),
                ..cgroup.clone()
            },
            dir,
            first,
            lacking: Vec::new(),
            keeper: None,
        })))
    }

    /// Remove what is left of an orphan's cgroups in hierarchies of the first version, where the one in cgroup2 is gone
    /// (systemd tidies its scopes by itself).
    pub(crate) fn remove_rest(cgroup: &Whereabouts) -> io::Result<()> {
        for place in &cgroup.first {
            if let Some(group) = FirstGroup::find(place)? {
                group.release()?;
                group.remove()?;
            }
        }
        Ok(())
    }

    /// For clone3 and for attaching programs.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// What the child has to write itself into, before it becomes the command.
    pub(crate) fn joins(&self) -> Vec<BorrowedFd<'_>> {
        self.first.iter().filter_map(FirstGroup::joins).collect()
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

    /// Where a process is, below the mount of the tree, and the id of that cgroup.
    pub(crate) fn place_of(&self, pid: u32) -> io::Result<(PathBuf, u64)> {
        let path = self.hierarchy.of(&pid.to_string())?;
        let id = fs::metadata(self.hierarchy.at(&path))?.ino();
        Ok((path, id))
    }

    /// Move a process that has left it back, if `still` is said of its number while it is held by a descriptor.
    pub(crate) fn take_back(&self, pid: u32, still: impl Fn(u32) -> bool) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let held = Pid::from_raw(pid.cast_signed()).ok_or_else(gone)?;
        let _held = pidfd_open(held, PidfdFlags::empty())?;
        if !still(pid) {
            return Err(gone());
        }
        fs::write(self.path().join("cgroup.procs"), pid.to_string())
    }

    /// Its directory, as this process sees it.
    pub(crate) fn path(&self) -> PathBuf {
        self.hierarchy.at(&self.cgroup.path)
    }

    /// What survives the run goes back to the cgroup in which this process is. Not, if that is a run's: whoever is guarded
    /// there is not taken out.
    pub(crate) fn goes_home_with(&mut self, pid: i32) -> Result<(), String> {
        let home = self
            .hierarchy
            .of(&pid.to_string())
            .map_err(|error| format!("the cgroup of its caller cannot be found: {error}"))?;
        if in_run(&home) {
            return Err("its caller is guarded by a run already, and is not taken out of that; run the command without another `blackstart run` around it".to_owned());
        }
        self.cgroup.home = home;
        Ok(())
    }

    /// Move this process in. Its number was its own all the time, if it lives afterwards; else whoever came in by that number
    /// is moved out again.
    pub(crate) fn take_in(&mut self, pid: i32, pidfd: BorrowedFd<'_>) -> Result<(), String> {
        let number = pid.to_string();
        if self
            .place_of(pid.cast_unsigned())
            .is_ok_and(|(place, _)| in_run(&place))
        {
            return Err(format!(
                "process {pid} is in a run already, and is not taken out of it"
            ));
        }
        let procs = self.path().join("cgroup.procs");
        let first = self.first.iter().filter_map(FirstGroup::joins);
        let moved = fs::write(procs, &number).and_then(|()| {
            for group in first {
                rustix::io::write(group, number.as_bytes())?;
            }
            Ok(())
        });
        let why = match moved {
            Ok(()) if lives(pidfd) && self.contains(pid.cast_unsigned()) => return Ok(()),
            Ok(()) => "it has ended".to_owned(),
            Err(error) => error.to_string(),
        };
        if let Err(error) = self.release() {
            tracing::warn!(%error, "the cgroup of a run that never was");
        }
        Err(format!(
            "process {pid} cannot be moved into the run's cgroup: {why}"
        ))
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
        below::pids(&self.path())
    }

    /// Who is still in it.
    pub(crate) fn survivors(&self) -> io::Result<Vec<Leftover>> {
        let leftover = |pid: i32| Leftover {
            tgid: pid.cast_unsigned(),
            argv: crate::process::argv(pid.cast_unsigned()),
        };
        Ok(self.pids()?.into_iter().map(leftover).collect())
    }

    /// End one process, as [`Self::signal_one`] does.
    pub(crate) fn kill_one(&self, pid: i32, still: impl FnOnce(Pid) -> bool) {
        self.signal_one(pid, Signal::KILL, still);
    }

    /// Signal one process, if it still is in here, and `still` the one that was meant. Both are looked at while
    /// it is held by a descriptor, so that its number cannot have come to mean another.
    pub(crate) fn signal_one(&self, pid: i32, signal: Signal, still: impl FnOnce(Pid) -> bool) {
        let Some(pid) = Pid::from_raw(pid) else {
            return;
        };
        if let Ok(held) = pidfd_open(pid, PidfdFlags::empty())
            && self.contains(pid.as_raw_pid().cast_unsigned())
            && still(pid)
        {
            let _ = pidfd_send_signal(&held, signal);
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

    /// Move every process to the cgroups that the caller came from: no limit of this run holds it any more.
    pub(crate) fn release(&self) -> io::Result<()> {
        let home = self.hierarchy.at(&self.cgroup.home);
        below::release(&self.path(), &home)?;
        self.first.iter().try_for_each(FirstGroup::release)
    }

    /// CPU time of all processes that ever were in it, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        let stat = fs::read_to_string(self.path().join("cpu.stat")).ok()?;
        cpu_seconds(&stat)
    }

    /// Remove it with all cgroups below, and the directory that holds runs if it was the last. Fails
    /// while a process is in it; may be called again.
    pub(crate) fn remove(&self) -> io::Result<()> {
        // cgroup2 last: by it a sweep finds the others.
        for group in &self.first {
            // Whoever left this one's cgroup2 group only is here still.
            group.release()?;
            group.remove()?;
        }
        below::remove(&self.path())
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Is anything left in hierarchies of the first version?
    pub(crate) fn is_left(cgroup: &Whereabouts) -> bool {
        let mut places = cgroup.first.iter();
        places.any(|place| FirstGroup::find(place).unwrap().is_some())
    }

    #[test]
    fn cpu_time_is_read_from_cpu_stat() {
        assert_eq!(cpu_seconds("usage_usec 1500000\nuser_usec 1\n"), Some(1.5));
        assert_eq!(cpu_seconds("nr_periods 0\n"), None);
    }

    #[test]
    fn a_cgroup_is_made_inhabited_emptied_and_removed() {
        crate::need_root();
        let id = uuid::Uuid::now_v7().to_string();
        let mut cgroup = RunCgroup::create(&id, false, &[], &mut |_| Ok(())).unwrap();
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
