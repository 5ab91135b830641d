//! What runs left whose state directory is gone: pins and cgroups that no record leads to any more.
//!
//! By its name alone nobody can tell what is such a stray, and what belongs to a run that keeps its state elsewhere. So pins and
//! cgroups say of themselves where that is ([`About`]), and whoever holds them holds a lock on them too: what is left of a run is a
//! stray if its state would be seen here, is not there, and nobody holds it. Whatever says nothing of itself is left alone.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use blackstart_kernel::Orphan;
use rustix::fs::{FlockOperation, Mode, OFlags, XattrFlags, flock, fsetxattr, lgetxattr, open};
use serde::{Deserialize, Serialize};

use crate::cgroup::{self, Found, RunCgroup, Whereabouts};
use crate::orphan::{Failed, Swept, described};
use crate::pins;
use crate::state::{RunDir, RunFile};

/// The link in a directory of pins whose target is what is said of them: a bpffs has no files.
const ABOUT: &str = "about";
/// The attribute of a cgroup that says it. Only root of the host can set it.
const ATTRIBUTE: &str = "trusted.blackstart";
/// No more is ever said; a link has no room for more.
const MOST: usize = 4095;

/// What pins or a cgroup say of their run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// What it deploys, if that is known.
    pub(crate) service: Option<String>,
    /// The run's directory; none, where it has no state.
    pub(crate) state: Option<PathBuf>,
    /// Inode of the mount namespace in which that path means something.
    pub(crate) mounts: u64,
    /// Its cgroup; none of what is attached to somebody else's.
    pub(crate) cgroup: Option<Whereabouts>,
}

/// The mount namespace of this process.
pub(crate) fn mounts() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/mnt")?.ino())
}

/// Hold a directory, as long as the result lives. Shared: it says that somebody is there, and keeps nobody out.
pub(crate) fn hold(dir: &Path) -> io::Result<File> {
    let held = opened(dir)?;
    flock(&held, FlockOperation::NonBlockingLockShared)?;
    Ok(held)
}

/// Does anybody hold it?
fn is_held(dir: &Path) -> io::Result<bool> {
    match flock(opened(dir)?, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::AGAIN) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn opened(dir: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(open(dir, flags, Mode::empty())?.into())
}

impl About {
    /// Of a run whose directory is `state`. Where this process does not know where it is, nobody will.
    pub(crate) fn of(run: &RunFile, state: Option<&Path>) -> Self {
        let absolute =
            |state: &Path| std::path::absolute(state).unwrap_or_else(|_| state.to_owned());
        Self {
            service: run.service.clone(),
            state: state.map(absolute),
            mounts: mounts().unwrap_or_default(),
            cgroup: run.cgroup.clone(),
        }
    }

    /// Say it of the directory of pins.
    pub(crate) fn say_of_pins(&self, pins: &Path) -> io::Result<()> {
        let text = serde_json::to_string(self)?;
        if text.len() > MOST {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        std::os::unix::fs::symlink(text, pins.join(ABOUT))
    }

    /// Say it of a cgroup.
    pub(crate) fn say_of_cgroup(&self, dir: impl std::os::fd::AsFd) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        Ok(fsetxattr(dir, ATTRIBUTE, &text, XattrFlags::empty())?)
    }

    fn of_pins(pins: &Path) -> Option<Self> {
        let text = fs::read_link(pins.join(ABOUT)).ok()?;
        serde_json::from_slice(text.as_os_str().as_bytes()).ok()
    }

    fn of_cgroup(dir: &Path) -> Option<Self> {
        let mut text = vec![0; MOST];
        let length = lgetxattr(dir, ATTRIBUTE, &mut text[..]).ok()?;
        serde_json::from_slice(text.get(..length)?).ok()
    }

    /// Is the state gone of which it speaks? Not, where it was made with other mounts than are seen here.
    fn is_lost(&self) -> bool {
        let is_on = |dir: &PathBuf| RunDir::is_on(dir);
        mounts().is_ok_and(|here| here == self.mounts) && !self.state.as_ref().is_some_and(is_on)
    }
}

/// Remove what is left of runs whose state is gone, once nothing lives there; what lives there is told, and left under its
/// guard. What was only attached to is taken off, whoever lives there.
pub(crate) fn sweep() -> Swept {
    let mut swept = Swept::default();
    for pins in pins::all() {
        if let Some(about) = lost(&pins, About::of_pins) {
            enter(&mut swept, &pins, &about, remove(&about, Some(&pins)));
        }
    }
    if !swept.lost.is_empty() {
        pins::tidy_usual();
    }
    let looked = cgroup::each_run(&mut |dir| {
        // Pins may have led there already.
        let is_it = |path: &Path| path.file_name() == dir.file_name();
        if swept.failed.iter().any(|known| is_it(&known.path)) {
            return;
        }
        if let Some(about) = lost(dir, About::of_cgroup) {
            enter(&mut swept, dir, &about, remove(&about, None));
        }
    });
    if let Err(error) = looked {
        tracing::debug!(%error, "cgroups of runs whose state is lost");
    }
    swept
}

/// What `dir` says of itself, if it is left of a run whose state is gone, and nobody holds it.
fn lost(dir: &Path, read: fn(&Path) -> Option<About>) -> Option<About> {
    read(dir)
        .filter(About::is_lost)
        .filter(|_| is_held(dir).is_ok_and(|held| !held))
}

/// Take it away; if it cannot be, why not.
fn remove(about: &About, pins: Option<&Path>) -> io::Result<Option<String>> {
    let cgroup = match &about.cgroup {
        None => None,
        Some(place) => match RunCgroup::find(place)? {
            Found::Here(cgroup) => Some(cgroup),
            Found::Gone => {
                RunCgroup::remove_rest(place)?;
                None
            }
            Found::Unknown(why) => return Ok(Some(why)),
        },
    };
    if let Some(cgroup) = &cgroup
        && cgroup.populated()?
    {
        let guarded = match pins {
            Some(_) => "guarded as before and supervised by nobody",
            None => "guarded and supervised by nobody",
        };
        return Ok(Some(format!(
            "{} of its processes go on, {guarded}; once they have ended, any command of blackstart removes what is left",
            cgroup.pids()?.len()
        )));
    }
    if let Some(pins) = pins {
        Orphan::remove(pins).map_err(|error| io::Error::other(described(&error)))?;
    }
    if let Some(cgroup) = cgroup {
        cgroup.remove()?;
    }
    Ok(None)
}

/// Tell what became of it.
fn enter(swept: &mut Swept, dir: &Path, about: &About, outcome: io::Result<Option<String>>) {
    let (path, lost) = match &about.state {
        Some(state) => (state.clone(), "its directory is gone"),
        None => (dir.to_owned(), "it had no state"),
    };
    let left = match outcome {
        Ok(None) => {
            swept.lost.push((path, lost.to_owned()));
            return;
        }
        Ok(Some(why)) => why,
        Err(error) => error.to_string(),
    };
    swept.failed.push(Failed {
        path,
        service: about.service.clone(),
        why: format!("{lost}; {left}"),
    });
}
