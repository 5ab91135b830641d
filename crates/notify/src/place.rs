//! Where all of it is kept: a directory for its owner alone, since URLs are secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use blackstart_core::notify::{Memory, Tally};
use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};

/// More than any list of targets, or any URL.
const TEXT_MOST: u64 = 64 << 10;
const STEP: Duration = Duration::from_millis(5);

/// The directory `notify` of the state.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    dir: PathBuf,
}

/// What is kept from run to run.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Kept {
    /// What was told.
    pub(crate) memory: Memory,
    /// Sums, by the target that they are for.
    pub(crate) tallies: BTreeMap<String, Tally>,
    /// What could not be told and is gone, by target.
    pub(crate) dropped: BTreeMap<String, u64>,
    /// What of the queue is in the sums already.
    pub(crate) taken: BTreeSet<String>,
}

impl Place {
    /// Make it, or take it as it is.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let mut maker = DirBuilder::new();
        maker.recursive(true).mode(0o700).create(state)?;
        let dir = state.join("notify");
        match maker.recursive(false).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let place = Self { dir };
        place.is_ours()?;
        for within in [place.spool(), place.local()] {
            match maker.create(within) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(place)
    }

    /// If it is there.
    pub(crate) fn existing(state: &Path) -> Option<Self> {
        let place = Self {
            dir: state.join("notify"),
        };
        place.is_ours().ok().map(|()| place)
    }

    /// Nobody else can read or replace what is in it.
    fn is_ours(&self) -> io::Result<()> {
        let found = fs::symlink_metadata(&self.dir)?;
        let ours = found.is_dir()
            && found.uid() == rustix::process::geteuid().as_raw()
            && found.mode() & 0o077 == 0;
        match ours {
            true => Ok(()),
            false => Err(io::Error::other(format!(
                "{} is not a directory for its owner alone",
                self.dir.display()
            ))),
        }
    }

    /// What waits to be sent.
    pub(crate) fn spool(&self) -> PathBuf {
        self.dir.join("spool")
    }

    /// What waits to be written on this host.
    pub(crate) fn local(&self) -> PathBuf {
        self.dir.join("local")
    }

    /// What was typed for runs that are on.
    pub(crate) fn typed(&self) -> PathBuf {
        self.dir.join("typed")
    }

    /// Wait for a lock, no longer than `patience`; none if somebody else holds it all the time.
    pub(crate) fn lock(&self, name: &str, patience: Duration) -> io::Result<Option<File>> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.dir.join(name))?;
        locked(&file, patience).map(|held| held.then_some(file))
    }

    /// What is kept; what cannot be read is set aside, and the error says so.
    pub(crate) fn kept(&self) -> (Kept, Option<String>) {
        let path = self.dir.join("kept.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Default::default(),
            Err(error) => {
                return (
                    Kept::default(),
                    Some(format!("{} cannot be read: {error}", path.display())),
                );
            }
        };
        match serde_json::from_slice(&text) {
            Ok(kept) => (kept, None),
            Err(error) => {
                let aside = self.dir.join("kept.json.set-aside");
                let _unmoved = fs::rename(&path, &aside);
                let why = format!(
                    "what was told before is not known: {} cannot be read ({error}), and is now {}",
                    path.display(),
                    aside.display()
                );
                (Kept::default(), Some(why))
            }
        }
    }

    /// Keep it.
    pub(crate) fn keep(&self, kept: &Kept) -> io::Result<()> {
        let text = serde_json::to_vec(kept)?;
        replace(&self.dir.join("kept.json"), 0o600, &text)
    }
}

/// Take the lock on a file, if it can be had in time.
pub(crate) fn locked(file: &File, patience: Duration) -> io::Result<bool> {
    let until = Instant::now() + patience;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => thread::sleep(STEP),
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Replace a file as a whole, or not at all. Nothing is forced to the disk: that could take long.
pub(crate) fn replace(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.part", std::process::id()));
    let beside = path.with_file_name(name);
    // One that a killed process with the same number left.
    let _absent = fs::remove_file(&beside);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .and_then(|mut file| {
            // Whatever the mask of whoever started this leaves of it.
            file.set_permissions(Permissions::from_mode(mode))?;
            file.write_all(bytes)
        })
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _absent = fs::remove_file(&beside);
    }
    written
}

/// The text of a file with targets, or with a URL. Nothing that is read here is waited for: a pipe, a device or a terminal is
/// an error, and so is a file of any size.
pub fn text_of(path: &Path) -> io::Result<String> {
    let flags = OFlags::NONBLOCK.union(OFlags::NOCTTY).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    if file.take(TEXT_MOST + 1).read_to_string(&mut text)? as u64 > TEXT_MOST {
        return Err(io::Error::other("it is larger than any such file"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn nothing_is_waited_for_where_a_text_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("url"), "https://alerts.example/x\n").unwrap();
        assert_eq!(text_of(&at("url")).unwrap(), "https://alerts.example/x\n");
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        fs::write(at("large"), vec![b'x'; 1 << 20]).unwrap();
        for refused in [
            at("pipe"),
            at("large"),
            dir.path().into(),
            "/dev/zero".into(),
        ] {
            let error = text_of(&refused).unwrap_err().to_string();
            assert!(error.starts_with("it is "), "{refused:?}: {error}");
        }
    }
}
