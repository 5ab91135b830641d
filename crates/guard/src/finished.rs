//! What is left of runs that are over: their files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::state::{RunDir, StateDir};

/// How many of the latest runs are looked at for what a command usually does: the files of so many are to be kept.
pub const FILES_KEPT: usize = 1000;

/// A run that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its id.
    pub id: String,
    /// Its report.
    pub report: PathBuf,
}

/// The runs below `state_dir` that are over and have a report, the earliest first.
pub fn finished(state_dir: &Path) -> io::Result<Vec<Finished>> {
    let Some(state) = StateDir::existing(state_dir) else {
        return Ok(Vec::new());
    };
    let mut found: Vec<Finished> = state
        .finished()?
        .into_iter()
        .filter_map(|dir| {
            let id = dir.file_name()?.to_str()?.to_owned();
            let report = RunDir::report_in(&dir);
            report.exists().then_some(Finished { id, report })
        })
        .collect();
    // By id, which begins with the time.
    found.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// Remove what is left of a run that is over; of one that is not, nothing. Somebody else may have done it already.
pub fn forget(run: &Finished) -> io::Result<()> {
    let Some(dir) = run.report.parent() else {
        return Ok(());
    };
    if RunDir::is_on(dir) {
        return Ok(());
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_over_is_told_and_forgotten() {
        let temp = tempfile::tempdir().unwrap();
        assert!(finished(&temp.path().join("none")).unwrap().is_empty());
        let state = StateDir::open(temp.path()).unwrap();
        let on = state.begin("3").unwrap();
        fs::write(on.report_path(), "{}").unwrap();
        for id in ["2", "1"] {
            let run = state.begin(id).unwrap();
            fs::write(run.report_path(), "{}").unwrap();
            run.finish().unwrap();
        }
        // It never had a report.
        fs::create_dir(temp.path().join("runs/0")).unwrap();
        let found = finished(temp.path()).unwrap();
        let ids: Vec<_> = found.iter().map(|run| run.id.as_str()).collect();
        assert_eq!(ids, ["1", "2"]);
        forget(&found[0]).unwrap();
        forget(&found[0]).unwrap();
        let report = on.report_path();
        forget(&Finished {
            id: "3".to_owned(),
            report: report.clone(),
        })
        .unwrap();
        assert!(report.exists());
        assert_eq!(finished(temp.path()).unwrap(), found[1..]);
    }
}
