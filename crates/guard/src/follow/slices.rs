//! The units whose cgroups come and go, as the kernel tells of it.
//!
//! systemd makes a unit's cgroup before its first process and removes it when the unit has ended, below a slice; where
//! it keeps one, that gets its first process anew. Both are events of the file system: nobody looks again and again.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use blackstart_core::policy::UnitPattern;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::cgroup::Hierarchy;

/// A unit began to run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Started {
    /// Its name.
    pub(crate) unit: String,
    /// Its cgroup, below the mount.
    pub(crate) path: PathBuf,
}

/// What is watched.
#[derive(Debug)]
enum Watched {
    /// A slice, for what is made in it.
    Slice(PathBuf),
    /// `cgroup.events` of a unit that is meant, and whether processes were in it.
    Unit { path: PathBuf, populated: bool },
}

/// All slices of this host.
#[derive(Debug)]
pub(crate) struct Slices {
    hierarchy: Hierarchy,
    inotify: OwnedFd,
    watched: HashMap<i32, Watched>,
    patterns: Vec<UnitPattern>,
    /// Something could not be watched that was there.
    missed: bool,
}

impl Slices {
    /// Watch from now on. Units that are there by now are told to `each`.
    pub(crate) fn watch(
        hierarchy: Hierarchy,
        patterns: &[UnitPattern],
        each: &mut dyn FnMut(Started),
    ) -> io::Result<Self> {
        let mut slices = Self {
            hierarchy,
            inotify: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?,
            watched: HashMap::new(),
            patterns: patterns.to_vec(),
            missed: false,
        };
        slices.slice(PathBuf::new(), each);
        match std::mem::take(&mut slices.missed) {
            true => Err(io::Error::other(
                "not every slice of systemd can be watched",
            )),
            false => Ok(slices),
        }
    }

    /// Readable when there is something to read.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// The tree in which they are.
    pub(crate) fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// What has started since the last time. False, if not all of it can be told.
    pub(crate) fn started(&mut self, each: &mut dyn FnMut(Started)) -> bool {
        for (wd, flags, name) in self.read() {
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                self.missed = true;
                continue;
            }
            if flags.contains(ReadFlags::IGNORED) {
                self.watched.remove(&wd);
                continue;
            }
            match self.watched.get_mut(&wd) {
                Some(Watched::Unit { path, populated }) => {
                    let before = *populated;
                    *populated = is_populated(&self.hierarchy.at(path));
                    if !before && *populated {
                        let path = path.clone();
                        each(self.of(path));
                    }
                }
                Some(Watched::Slice(slice)) if flags.contains(ReadFlags::CREATE) => {
                    let path = slice.join(&name);
                    if is_slice(&name) {
                        self.slice(path, each);
                    } else if self.is_meant(&name) {
                        each(self.of(path.clone()));
                        self.unit(path, true);
                    }
                }
                _ => {}
            }
        }
        !std::mem::take(&mut self.missed)
    }

    fn of(&self, path: PathBuf) -> Started {
        let name = path.file_name().unwrap_or_default();
        let unit = unit_of(&name.to_string_lossy()).to_owned();
        Started { unit, path }
    }

    /// Watch a slice and those in it; units that are in there by now are told to `each`.
    fn slice(&mut self, path: PathBuf, each: &mut dyn FnMut(Started)) {
        let at = self.hierarchy.at(&path);
        let flags = WatchFlags::CREATE | WatchFlags::ONLYDIR;
        self.add(&at, flags, Watched::Slice(path.clone()));
        for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if is_slice(&name) {
                self.slice(path.join(&*name), each);
            } else if self.is_meant(&name) {
                let unit = path.join(&*name);
                let populated = is_populated(&self.hierarchy.at(&unit));
                each(self.of(unit.clone()));
                self.unit(unit, populated);
            }
        }
    }

    /// Watch a unit that stays where it is.
    fn unit(&mut self, path: PathBuf, populated: bool) {
        let file = self.hierarchy.at(&path).join("cgroup.events");
        self.add(&file, WatchFlags::MODIFY, Watched::Unit { path, populated });
    }

    fn add(&mut self, at: &Path, flags: WatchFlags, watched: Watched) {
        match inotify::add_watch(&self.inotify, at, flags) {
            Ok(wd) => {
                self.watched.insert(wd, watched);
            }
            // Gone again.
            Err(Errno::NOENT | Errno::NODEV) => {}
            Err(error) => {
                tracing::info!(%error, at = %at.display(), "not watched");
                self.missed = true;
            }
        }
    }

    fn is_meant(&self, name: &str) -> bool {
        let unit = unit_of(name);
        self.patterns.iter().any(|pattern| pattern.matches(unit))
    }

    fn read(&self) -> Vec<(i32, ReadFlags, String)> {
        let mut room = [MaybeUninit::<u8>::uninit(); 8192];
        let mut reader = inotify::Reader::new(&self.inotify, &mut room);
        let mut events = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| {
                        let name = std::ffi::OsStr::from_bytes(name.to_bytes());
                        name.to_string_lossy().into_owned()
                    });
                    events.push((event.wd(), event.events(), name.unwrap_or_default()));
                }
                Err(Errno::INTR) => {}
                Err(_) => return events,
            }
        }
    }
}

/// The unit whose cgroup has this name: systemd puts a `_` before what would look like a file of the kernel's.
pub(crate) fn unit_of(name: &str) -> &str {
    name.strip_prefix('_').unwrap_or(name)
}

/// Does it hold units, and is none that runs something?
pub(crate) fn is_slice(name: &str) -> bool {
    name.ends_with(".slice")
}

fn is_populated(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.events"))
        .is_ok_and(|text| text.lines().any(|line| line == "populated 1"))
}
