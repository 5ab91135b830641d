//! A report on disk: there as a whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// For its owner alone: arguments of processes may be in it.
const PRIVATE: u32 = 0o600;

/// In which form a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The document.
    Json,
    /// A page for people.
    Html,
}

/// Where a report goes, known before the run to be a place that can be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReportFile {
    path: PathBuf,
    form: Form,
}

impl ReportFile {
    /// Checks the ending and that a file can be made there, by making one and taking it away again.
    /// The error says what is wrong and what to do.
    pub(crate) fn prepare(typed: &Path) -> Result<Self, String> {
        let shown = typed.display();
        let form = match typed.extension().and_then(|ending| ending.to_str()) {
            Some("json") => Form::Json,
            Some("html") => Form::Html,
            _ => {
                return Err(format!(
                    "cannot write a report to {shown}: the ending says in which form, and it is neither .json nor .html"
                ));
            }
        };
        let path = real_path(typed)
            .map_err(|error| format!("cannot write a report to {shown}: {error}"))?;
        if path.is_dir() {
            return Err(format!(
                "cannot write a report to {shown}: it is a directory"
            ));
        }
        let file = Self { path, form };
        let beside = beside(&file.path);
        let probe = create(&beside, PRIVATE).and_then(|_| fs::remove_file(&beside));
        match probe {
            Ok(()) => Ok(file),
            Err(error) => Err(format!(
                "cannot write a report to {shown}: no file can be made in {}: {error}",
                file.directory().display()
            )),
        }
    }

    /// Replaces what is there by what `fill` writes.
    pub(crate) fn write(
        &self,
        fill: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> io::Result<()> {
        replace(&self.path, PRIVATE, fill)
    }

    /// In which form.
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// Where it goes.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn directory(&self) -> &Path {
        directory(&self.path)
    }
}

/// Replaces what is at `path` by what `fill` writes, as a whole or not at all.
pub(crate) fn replace(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> io::Result<()> {
    let beside = beside(path);
    let written = create(&beside, mode).and_then(|file| {
        let mut out = BufWriter::new(file);
        fill(&mut out)?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    });
    if written.is_err() {
        // Nothing may be there to remove; the first error is the one to tell.
        let _absent = fs::remove_file(&beside);
    }
    written
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// In the same directory, since a rename does not cross file systems.
fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.part", std::process::id()));
    directory(path).join(name)
}

/// Absolute, and through symbolic links, so that a link stays one.
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

/// A new file. Never follows what somebody else put there.
fn create(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_says_in_which_form() {
        for name in [
            "out.htm",
            "out",
            ".json",
            ".html",
            "out.JSON",
            "out.html.gz",
        ] {
            let error = ReportFile::prepare(Path::new(name)).unwrap_err();
            assert!(error.contains("neither .json nor .html"), "{error}");
        }
        let dir = tempfile::tempdir().unwrap();
        let form = |name: &str| ReportFile::prepare(&dir.path().join(name)).unwrap().form();
        assert_eq!(form("out.json"), Form::Json);
        assert_eq!(form("out.html"), Form::Html);
        assert_eq!(form("out.json.html"), Form::Html);
    }

    #[test]
    fn a_place_that_cannot_be_is_found_out_before() {
        let dir = tempfile::tempdir().unwrap();
        let error = ReportFile::prepare(&dir.path().join("no/where.json")).unwrap_err();
        assert!(error.contains("No such file or directory"), "{error}");
        fs::create_dir(dir.path().join("dir.json")).unwrap();
        let error = ReportFile::prepare(&dir.path().join("dir.json")).unwrap_err();
        assert!(error.contains("is a directory"), "{error}");
    }

    #[test]
    fn replaces_as_a_whole_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.json");
        fs::write(&path, "old").unwrap();
        let file = ReportFile::prepare(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        file.write(|out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("real.json"), "old").unwrap();
        std::os::unix::fs::symlink("real.json", dir.path().join("link.json")).unwrap();
        ReportFile::prepare(&dir.path().join("link.json"))
            .unwrap()
            .write(|out| out.write_all(b"new"))
            .unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join("real.json")).unwrap(),
            "new"
        );
        assert!(dir.path().join("link.json").is_symlink());
    }

    #[test]
    fn a_failure_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.json");
        let file = ReportFile::prepare(&path).unwrap();
        fs::create_dir(&path).unwrap();
        file.write(|out| out.write_all(b"new")).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
