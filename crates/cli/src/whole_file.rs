//! A file that is written: there as a whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

/// Who may read a file that is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Its owner alone.
    Owner,
    /// Everyone: it is looked at, or committed, by others than whoever made it.
    Everyone,
    /// Who may read, and owns, the file that it takes the place of.
    AsBefore,
}

/// A place for such a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WholeFile {
    path: PathBuf,
    readers: Readers,
}

impl WholeFile {
    /// Where `typed` leads to through symbolic links, so that a link stays one.
    pub(crate) fn at(typed: &Path, readers: Readers) -> io::Result<Self> {
        let path = real_path(typed)?;
        if path.is_dir() {
            return Err(io::Error::other("it is a directory"));
        }
        Ok(Self { path, readers })
    }

    /// Absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a file can be made there is found out by making one and taking it away again.
    pub(crate) fn try_place(&self) -> io::Result<()> {
        let beside = self.beside();
        let made = self.create(&beside).and_then(|_| fs::remove_file(&beside));
        made.map_err(|error| {
            let shown = self.directory().display();
            io::Error::new(
                error.kind(),
                format!("no file can be made in {shown}: {error}"),
            )
        })
    }

    /// Replaces what is there by what `fill` writes.
    pub(crate) fn replace(
        &self,
        fill: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let beside = self.beside();
        let written = self.create(&beside).and_then(|file| {
            if self.readers == Readers::AsBefore {
                self.make_as_before(&file)?;
            }
            let mut out = BufWriter::new(file);
            fill(&mut out)?;
            let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            fs::rename(&beside, &self.path)
        });
        if written.is_err() {
            // Nothing may be there to remove; the first error is the one to tell.
            let _absent = fs::remove_file(&beside);
        }
        written
    }

    /// Before it has its name: by that, in a directory of somebody else's, another file could be meant.
    fn make_as_before(&self, file: &File) -> io::Result<()> {
        let before = fs::symlink_metadata(&self.path)?;
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (before.uid(), before.gid()) {
            match fchown(file, Some(before.uid()), Some(before.gid())) {
                // Who may write there without being root becomes its owner, as by any editor.
                Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
                _ => {}
            }
        }
        file.set_permissions(Permissions::from_mode(before.mode() & 0o777))
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// In the same directory, since a rename does not cross file systems.
    fn beside(&self) -> PathBuf {
        let mut name = std::ffi::OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(format!(".{}.part", std::process::id()));
        self.directory().join(name)
    }

    /// A new file. Never follows what somebody else put there.
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(match self.readers {
                Readers::Owner | Readers::AsBefore => 0o600,
                Readers::Everyone => 0o644,
            })
            .open(path)
    }
}

/// Absolute, and through symbolic links.
fn real_path(typed: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(typed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = typed.file_name().ok_or(io::ErrorKind::InvalidInput)?;
            let parent = match typed.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            Ok(fs::canonicalize(parent)?.join(name))
        }
        other => other,
    }
}
