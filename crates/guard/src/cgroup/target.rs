//! A cgroup that was there before, and is somebody else's: it can be looked at, and programs be attached to it. Nothing
//! here makes, changes or removes one, or moves or signals a process.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use blackstart_core::report::AttachedBy;
use rustix::fs::statfs;

use super::hierarchy::{self, Hierarchy, Tree};
use super::{below, in_run, named};
use crate::process;
use crate::refusal::{Cause, Refusal};

/// What statfs says of cgroups of either version.
const SECOND_MAGIC: u64 = 0x6367_7270;
const FIRST_MAGIC: u64 = 0x0027_e0eb;

/// How many of several that are meant are named.
const NAMED: usize = 5;

/// The cgroup that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meant {
    /// That of a unit of systemd.
    Unit(String),
    /// That of a container, by its id, the beginning of one, or its name.
    Container(String),
    /// This one: a directory, or its path in the tree as `/proc/PID/cgroup` has it.
    Cgroup(PathBuf),
    /// That of a process.
    Pid {
        /// Its number.
        pid: u32,
        /// Though others are in it.
        whole_cgroup: bool,
    },
}

impl Meant {
    fn by(&self) -> AttachedBy {
        match self {
            Self::Unit(_) => AttachedBy::Unit,
            Self::Container(_) => AttachedBy::Container,
            Self::Cgroup(_) => AttachedBy::Cgroup,
            Self::Pid { .. } => AttachedBy::Pid,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Unit(name) | Self::Container(name) => name.clone(),
            Self::Cgroup(path) => path.to_string_lossy().into_owned(),
            Self::Pid { pid, .. } => pid.to_string(),
        }
    }
}

/// The cgroup, found.
#[derive(Debug)]
pub(crate) struct Target {
    hierarchy: Hierarchy,
    /// Below the mount.
    path: PathBuf,
    dir: File,
    id: u64,
    pub(crate) by: AttachedBy,
    /// As it was typed.
    pub(crate) typed: String,
}

impl Target {
    /// Find it, and see that it is one that may be guarded.
    pub(crate) fn find(meant: &Meant) -> Result<Self, Refusal> {
        let hierarchy = Hierarchy::find(Tree::Second).map_err(|error| {
            refused(
                "this host shows no cgroup2",
                error,
                "mount cgroup2, for example on /sys/fs/cgroup/unified",
            )
        })?;
        let path = match meant {
            Meant::Unit(name) => named::unit(&hierarchy, name)?,
            Meant::Container(name) => named::container(&hierarchy, name)?,
            Meant::Cgroup(path) => of_path(&hierarchy, path)?,
            Meant::Pid { pid, .. } => of_process(&hierarchy, *pid)?,
        };
        if path == Path::new("") {
            return Err(refused(
                format!("{} is the root of the cgroup tree", meant.text()),
                "it holds every process of the host, Blackstart among them",
                "name a cgroup below it; `systemd-run --scope` makes one for a command",
            ));
        }
        let own = hierarchy.own().unwrap_or_default();
        if own.starts_with(&path) {
            return Err(refused(
                format!("Blackstart itself is in the cgroup /{}", path.display()),
                "it would judge its own connections",
                "start it from somewhere else, or name a cgroup that it is not in",
            ));
        }
        let target = Self::open(hierarchy, path, meant.by(), meant.text())?;
        if let Meant::Pid {
            pid,
            whole_cgroup: false,
        } = meant
        {
            target.holds_only(*pid)?;
        }
        Ok(target)
    }

    /// That of a unit of which it is known where it lies, below the mount.
    pub(crate) fn of_unit(hierarchy: Hierarchy, path: &Path, unit: &str) -> Result<Self, Refusal> {
        Self::open(
            hierarchy,
            path.to_owned(),
            AttachedBy::Unit,
            unit.to_owned(),
        )
    }

    fn open(
        hierarchy: Hierarchy,
        path: PathBuf,
        by: AttachedBy,
        typed: String,
    ) -> Result<Self, Refusal> {
        let gone = |error: io::Error| {
            refused(
                format!("the cgroup /{} cannot be opened", path.display()),
                error,
                "it may have ended just now; see that it runs, and try again",
            )
        };
        let dir = File::open(hierarchy.at(&path)).map_err(gone)?;
        let id = dir.metadata().map_err(gone)?.ino();
        Ok(Self {
            hierarchy,
            path,
            dir,
            id,
            by,
            typed,
        })
    }

    fn holds_only(&self, pid: u32) -> Result<(), Refusal> {
        let others: Vec<String> = self
            .pids()
            .unwrap_or_default()
            .into_iter()
            .filter(|other| *other != pid.cast_signed())
            .map(|other| other.to_string())
            .collect();
        if others.is_empty() {
            return Ok(());
        }
        let more = match others.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Err(refused(
            format!(
                "process {pid} shares its cgroup /{} with {}{more}",
                self.path.display(),
                others[..others.len().min(NAMED)].join(", ")
            ),
            "what is attached to a cgroup holds for all that are in it",
            "guard them all with --whole-cgroup",
        ))
    }

    /// For attaching programs.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The kernel's id.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Its path in the tree.
    pub(crate) fn path(&self) -> String {
        let inside = self.hierarchy.root().join(&self.path);
        inside.to_string_lossy().into_owned()
    }

    /// Does it lie in a run of ours?
    pub(crate) fn is_in_run(&self) -> bool {
        in_run(&self.path)
    }

    /// Is it still there, and the same?
    pub(crate) fn exists(&self) -> bool {
        fs::metadata(self.at()).is_ok_and(|found| found.ino() == self.id)
    }

    /// Processes in it and below, as numbered in our pid namespace.
    pub(crate) fn pids(&self) -> io::Result<Vec<i32>> {
        below::pids(&self.at())
    }

    /// Is this process in it, or below?
    pub(crate) fn contains(&self, pid: u32) -> bool {
        self.hierarchy
            .of(&pid.to_string())
            .is_ok_and(|path| path.starts_with(&self.path))
    }

    /// The ids of it and of all cgroups below.
    pub(crate) fn ids(&self) -> Vec<u64> {
        let dirs = below::tree(&self.at());
        dirs.iter()
            .filter_map(|dir| Some(fs::metadata(dir).ok()?.ino()))
            .collect()
    }

    fn at(&self) -> PathBuf {
        self.hierarchy.at(&self.path)
    }
}

pub(super) fn refused(
    what: impl Into<String>,
    why: impl ToString,
    remedy: impl Into<String>,
) -> Refusal {
    Refusal {
        cause: Cause::Request,
        what: what.into(),
        why: why.to_string(),
        remedy: remedy.into(),
    }
}

/// Below the mount, of a directory or a path in the tree.
fn of_path(hierarchy: &Hierarchy, path: &Path) -> Result<PathBuf, Refusal> {
    let shown = path.display();
    let found = match fs::canonicalize(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // As /proc/PID/cgroup has it.
            let inside = hierarchy.below(path);
            return match path.is_absolute() && hierarchy.at(&inside).is_dir() {
                true if inside == Path::new("") && path != Path::new("/") => Err(vanished(path)),
                true => Ok(inside),
                false => Err(vanished(path)),
            };
        }
        Err(error) => {
            let what = format!("the cgroup {shown} cannot be looked at");
            return Err(refused(what, error, "look with root's privileges"));
        }
    };
    let magic = statfs(&found).map(|of| u64::try_from(of.f_type));
    match magic {
        Ok(Ok(SECOND_MAGIC)) => {}
        Ok(Ok(FIRST_MAGIC)) => {
            return Err(refused(
                format!("{shown} is a cgroup of the first version"),
                "BPF programs are attached to cgroups of cgroup2 only",
                "name the one in cgroup2: `sed -n s/^0:://p /proc/PID/cgroup` tells it for each process",
            ));
        }
        _ => {
            return Err(refused(
                format!("{shown} is no cgroup"),
                "it does not lie on a cgroup2 file system",
                "name a directory there, or a path as /proc/PID/cgroup has it",
            ));
        }
    }
    if !found.is_dir() {
        return Err(refused(
            format!("{shown} is no cgroup"),
            "it is a file of one",
            "name the directory",
        ));
    }
    hierarchy::inside(&found)
        .map(|inside| hierarchy.below(&inside))
        .ok_or_else(|| {
            refused(
                format!("{shown} cannot be placed in the cgroup tree"),
                "no mount that this process sees holds it",
                "name it by a path as /proc/PID/cgroup has it",
            )
        })
}

fn vanished(path: &Path) -> Refusal {
    refused(
        format!("there is no cgroup {}", path.display()),
        "it never was, or has been removed since",
        "see that what is meant runs; `systemd-cgls` or `find /sys/fs/cgroup -type d` show what there is",
    )
}

/// Below the mount, of the cgroup that a process is in.
fn of_process(hierarchy: &Hierarchy, pid: u32) -> Result<PathBuf, Refusal> {
    let none = || {
        refused(
            format!("there is no process {pid}"),
            "it never was, or has ended",
            "",
        )
    };
    let group = process::thread_group(pid).ok_or_else(none)?;
    if group != pid {
        return Err(refused(
            format!("{pid} is a thread of process {group}"),
            "a cgroup holds whole processes",
            format!("name the process: --pid {group}"),
        ));
    }
    let stat = process::stat(pid).ok_or_else(none)?;
    if stat.kernel {
        return Err(refused(
            format!("{pid} is a thread of the kernel"),
            "no policy reaches it",
            "name a process",
        ));
    }
    if matches!(stat.state, 'Z' | 'X') {
        return Err(refused(
            format!("process {pid} has ended"),
            "nobody has waited for it yet",
            "",
        ));
    }
    hierarchy.of(&pid.to_string()).map_err(|error| {
        refused(
            format!("the cgroup of process {pid} cannot be told"),
            error,
            "",
        )
    })
}
