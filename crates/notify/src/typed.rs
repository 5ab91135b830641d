//! Targets that were typed for one run, kept beside the spool while that is on: whoever tells of it in the place of a supervisor that
//! was killed knows them by this alone. Their URLs are secrets, and lie where those of messages do.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::place::{Place, replace};

/// One that is older is of a run of which nobody will ever tell: its machine lost power, or its state was removed.
const OLDEST: Duration = Duration::from_secs(90 * 24 * 3600);

/// What was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Typed {
    /// The targets, each as it was typed.
    pub targets: Vec<String>,
    /// Alerts are repeated.
    pub all: bool,
    /// The directory that relative paths are meant in.
    pub here: PathBuf,
}

/// Keep it for the run with this id.
pub fn keep(state: &Path, run: &str, typed: &Typed) -> io::Result<()> {
    let place = Place::open(state)?;
    let dir = place.typed();
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for old in fs::read_dir(&dir)?.flatten() {
        let age = old.metadata().and_then(|of| of.modified());
        let age = age
            .ok()
            .and_then(|at| SystemTime::now().duration_since(at).ok());
        if age.is_some_and(|age| age > OLDEST) {
            let _ = fs::remove_file(old.path());
        }
    }
    replace(&file(&dir, run)?, 0o600, &serde_json::to_vec(typed)?)
}

/// What was kept for it. It is there no more: who asks tells of it.
pub fn take(state: &Path, run: &str) -> Option<Typed> {
    let path = file(&Place::existing(state)?.typed(), run).ok()?;
    let text = fs::read(&path).ok()?;
    let _ = fs::remove_file(&path);
    serde_json::from_slice(&text)
        .inspect_err(|error| tracing::debug!(%error, "targets that were typed"))
        .ok()
}

fn file(dir: &Path, run: &str) -> io::Result<PathBuf> {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-';
    match !run.is_empty() && run.bytes().all(plain) {
        true => Ok(dir.join(format!("{run}.json"))),
        false => Err(io::Error::other("that is no run's id")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_was_typed_is_for_its_owner_alone_and_had_once() {
        let temp = tempfile::tempdir().unwrap();
        let state = temp.path().join("state");
        assert_eq!(take(&state, "1"), None);
        let typed = Typed {
            targets: vec!["slack:https://x.example/secret".to_owned()],
            all: true,
            here: "/somewhere".into(),
        };
        keep(&state, "1", &typed).unwrap();
        keep(&state, "2", &Typed::default()).unwrap();
        let mode = |path: &str| {
            let of = fs::metadata(state.join("notify").join(path)).unwrap();
            of.permissions().mode() & 0o777
        };
        assert_eq!(
            (mode(""), mode("typed"), mode("typed/1.json")),
            (0o700, 0o700, 0o600)
        );
        assert_eq!(take(&state, "1"), Some(typed));
        assert_eq!(take(&state, "1"), None);
        assert_eq!(take(&state, "2"), Some(Typed::default()));
        keep(&state, "../1", &Typed::default()).unwrap_err();
        fs::write(state.join("notify/typed/3.json"), "{\"targets\":").unwrap();
        assert_eq!(take(&state, "3"), None);
        assert!(!state.join("notify/typed/3.json").exists());
    }
}
