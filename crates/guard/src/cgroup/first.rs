//! The run's cgroups in hierarchies of the first version, which have the controllers on a hybrid host.
//!
//! They are made only where a limit needs them, and below the caller's own, so that whatever limits the caller limits
//! the run as well. The child writes itself into them before it becomes the command: no clone places it there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::hierarchy::{Hierarchy, Tree};
use super::{Controller, OURS, below};

/// How to find such a cgroup again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FirstPlace {
    /// The hierarchy's controllers, as `/proc/PID/cgroup` lists them.
    pub(crate) controllers: String,
    /// Below `root`.
    pub(crate) path: PathBuf,
    /// The caller's own, below `root`.
    pub(crate) home: PathBuf,
    /// The part of the tree that the mount showed, as the cgroup namespace names it.
    pub(crate) root: PathBuf,
    /// The kernel's id; none while the cgroup was only about to be made.
    pub(crate) id: Option<u64>,
}

/// Does it have this controller?
pub(super) fn lists(place: &FirstPlace, controller: Controller) -> bool {
    let mut controllers = place.controllers.split(',');
    controllers.any(|one| one == controller.name())
}

/// One of them.
#[derive(Debug)]
pub(super) struct FirstGroup {
    hierarchy: Hierarchy,
    place: FirstPlace,
    /// For the child to write itself into it.
    procs: Option<File>,
}

impl FirstGroup {
    /// Where one for run `id` would be. `scope` is systemd's, and a process in it: where it has that scope in this
    /// hierarchy too, that is the place.
    pub(super) fn plan(
        tree: Tree,
        id: &str,
        scope: Option<(&str, u32)>,
    ) -> io::Result<(Hierarchy, FirstPlace)> {
        let hierarchy = Hierarchy::find(tree.clone())?;
        let Tree::First(controllers) = tree else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let home = hierarchy.own()?;
        let of_scope = scope.and_then(|(name, pid)| {
            let path = hierarchy.of(&pid.to_string()).ok()?;
            (path.file_name() == Some(name.as_ref())).then_some(path)
        });
        let path = of_scope.unwrap_or_else(|| home.join(OURS)).join(id);
        let place = FirstPlace {
            controllers,
            path,
            home,
            root: hierarchy.root().to_owned(),
            id: None,
        };
        Ok((hierarchy, place))
    }

    /// Make it.
    pub(super) fn create(hierarchy: Hierarchy, mut place: FirstPlace) -> io::Result<Self> {
        let path = hierarchy.at(&place.path);
        below::make(&path)?;
        let opened = OpenOptions::new()
            .write(true)
            .open(path.join("cgroup.procs"))
            .and_then(|procs| Ok((procs, fs::metadata(&path)?.ino())));
        match opened {
            Ok((procs, id)) => {
                place.id = Some(id);
                Ok(Self {
                    hierarchy,
                    place,
                    procs: Some(procs),
                })
            }
            Err(error) => {
                let _ = fs::remove_dir(&path);
                Err(error)
            }
        }
    }

    /// Find one of an orphan: none if it is gone, and an error if it lies where this process cannot look.
    pub(super) fn find(place: &FirstPlace) -> io::Result<Option<Self>> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let tree = Tree::First(place.controllers.clone());
        if !tree.is_among(&own) {
            // No such hierarchy any more: it was unmounted, and with it went its cgroups.
            return Ok(None);
        }
        let Some(hierarchy) = Hierarchy::showing(tree, &place.root)? else {
            return Err(io::Error::other(format!(
                "no mount here shows {} of the hierarchy of {}",
                place.root.display(),
                place.controllers
            )));
        };
        let found = match fs::metadata(hierarchy.at(&place.path)) {
            Ok(found) => found.ino(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(place.id.is_none_or(|id| id == found).then(|| Self {
            hierarchy,
            place: place.clone(),
            procs: None,
        }))
    }

    /// How to find it again.
    pub(super) fn place(&self) -> &FirstPlace {
        &self.place
    }

    /// Does it have this controller?
    pub(super) fn has(&self, controller: Controller) -> bool {
        lists(&self.place, controller)
    }

    /// Its directory, as this process sees it.
    pub(super) fn path(&self) -> PathBuf {
        self.hierarchy.at(&self.place.path)
    }

    /// What the child writes itself into.
    pub(super) fn joins(&self) -> Option<BorrowedFd<'_>> {
        self.procs.as_ref().map(AsFd::as_fd)
    }

    /// Move its processes to the cgroup that the caller came from, or what is left of the way there.
    pub(super) fn release(&self) -> io::Result<()> {
        let home = self
            .place
            .home
            .ancestors()
            .map(|path| self.hierarchy.at(path))
            .find(|path| path.join("cgroup.procs").exists())
            .unwrap_or_else(|| self.hierarchy.at(Path::new("")));
        below::release(&self.path(), &home)
    }

    /// Remove it with all below, and the directory that holds runs if it was the last.
    pub(super) fn remove(&self) -> io::Result<()> {
        below::remove(&self.path())
    }
}

/// Where the run's cgroups in hierarchies of the first version will be, and which controllers cannot be had although
/// such a hierarchy has them.
type FirstPlan = (Vec<(Hierarchy, FirstPlace)>, Vec<(Controller, String)>);

pub(super) fn plan_first(
    id: &str,
    controllers: &[Controller],
    scope: Option<(&str, u32)>,
) -> io::Result<FirstPlan> {
    let (mut planned, mut lacking): FirstPlan = (Vec::new(), Vec::new());
    if controllers.is_empty() {
        return Ok((planned, lacking));
    }
    let own = fs::read_to_string("/proc/self/cgroup")?;
    for controller in controllers {
        let Some(tree) = Tree::first_with(controller.name(), &own) else {
            continue;
        };
        // cpu and cpuacct, say, share one.
        if planned.iter().any(|(_, place)| lists(place, *controller)) {
            continue;
        }
        match FirstGroup::plan(tree, id, scope) {
            Ok(place) => planned.push(place),
            Err(error) => lacking.push((
                *controller,
                format!("its hierarchy of the first version cannot be reached: {error}"),
            )),
        }
    }
    Ok((planned, lacking))
}
