//! A report on disk.

use std::io;
use std::path::Path;

use crate::whole_file::{Readers, WholeFile};

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
    file: WholeFile,
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
        // Arguments of processes may be in it.
        let file = WholeFile::at(typed, Readers::Owner)
            .and_then(|file| file.try_place().map(|()| file))
            .map_err(|why| format!("cannot write a report to {shown}: {why}"))?;
        Ok(Self { file, form })
    }

    /// Replaces what is there by what `fill` writes.
    pub(crate) fn write(
        &self,
        fill: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> io::Result<()> {
        self.file.replace(fill)
    }

    /// In which form.
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// Where it goes.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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
