//! The egress lockfile on disk.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use blackstart_core::graph::{Found, directory_of_command};
use blackstart_core::lock::{FILE_NAME, Lock};
use blackstart_core::report::{Guarded, Parts};
use blackstart_guard::LockOrder;

use crate::args;
use crate::whole_file::{Readers, WholeFile};

/// Longer ones are not read.
const MOST_BYTES: u64 = 64 << 20;

/// The lockfile of a run.
#[derive(Debug)]
pub(crate) struct LockFile {
    path: PathBuf,
    /// What it says.
    known: Option<Lock>,
    /// It is to be written anew.
    update: bool,
    /// Why one that nobody named could not be read: that must not hold up a run.
    remark: Option<String>,
}

impl LockFile {
    /// The one that was named, or the one beside the command's own script; none if there is none and none is to be
    /// written. Only what was typed can be wrong.
    pub(crate) fn of(typed: &args::Run, directory: &Path) -> Result<Option<Self>, String> {
        let beside = || {
            let from = directory.to_string_lossy();
            let words = typed
                .command
                .iter()
                .map(|word| word.to_string_lossy().into_owned());
            let words: Vec<String> = words.collect();
            let own = directory_of_command(&words, &from, &mut at)?;
            Some(Path::new(&own).join(FILE_NAME))
        };
        let named = typed.lock.as_ref().map(|path| directory.join(path));
        let by_name = named.is_some();
        let Some(path) = named.or_else(beside) else {
            return match typed.update_lock {
                true => Err(
                    "the command is installed on this host, or not a file, so nothing says where its lockfile is: name it with --lock FILE"
                        .to_owned(),
                ),
                false => Ok(None),
            };
        };
        let shown = path.display();
        let mut file = Self {
            known: None,
            update: typed.update_lock,
            remark: None,
            path: path.clone(),
        };
        match read(&path) {
            Ok(Some(known)) => file.known = Some(known),
            Ok(None) if typed.update_lock => {}
            Ok(None) if by_name => {
                return Err(format!(
                    "there is no lockfile {shown}; write a first one with --update-lock"
                ));
            }
            Ok(None) => return Ok(None),
            // It may be anything, the deployment's script too: only a lock is replaced.
            Err(why) if typed.update_lock => {
                return Err(format!(
                    "cannot write the lockfile {shown}: what is there is no lock of this version ({why}); remove it first, or name another with --lock FILE"
                ));
            }
            Err(why) if by_name => return Err(format!("cannot read the lockfile {shown}: {why}")),
            Err(why) => {
                file.remark = Some(format!(
                    "the lockfile {shown} is left out, it cannot be read: {why}"
                ));
            }
        }
        Ok(Some(file))
    }

    /// What the guard is to do with it.
    pub(crate) fn order(&self) -> LockOrder {
        LockOrder {
            known: self.known.clone(),
            beside: self.path.parent().unwrap_or(Path::new("/")).to_owned(),
        }
    }

    /// What whoever keeps it ought to know.
    pub(crate) fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    /// Write it anew, if that was asked for. What was done, if something was; or why not.
    pub(crate) fn update(
        &self,
        now: &Lock,
        seen: &dyn Parts,
        exit_code: i32,
    ) -> Result<Option<String>, String> {
        if !self.update {
            return Ok(None);
        }
        let shown = self.path.display();
        if exit_code != 0 {
            return Err(format!(
                "the lockfile {shown} stays as it is: of a run that failed nobody knows what it would have reached"
            ));
        }
        if seen.run().guarded == Guarded::No || seen.coverage().lost > 0 {
            return Err(format!(
                "the lockfile {shown} stays as it is: not all that the run reached for was seen, see the gaps"
            ));
        }
        if self.known.as_ref() == Some(now) {
            return Ok(Some(format!("the lockfile {shown} holds as it is")));
        }
        // It is committed with the deployment, whoever ran that.
        WholeFile::at(&self.path, Readers::Everyone)
            .and_then(|file| file.replace(|out| out.write_all(now.text().as_bytes())))
            .map_err(|error| format!("cannot write the lockfile {shown}: {error}"))?;
        Ok(Some(format!("wrote the lockfile {shown}")))
    }
}

fn at(path: &str) -> Found {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => match metadata.permissions().mode() & 0o111 {
            0 => Found::Text,
            _ => Found::Program,
        },
        _ => Found::Nothing,
    }
}

fn read(path: &Path) -> Result<Option<Lock>, String> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| error.to_string())?,
    };
    if !metadata.is_file() {
        return Err("it is not a file".to_owned());
    }
    if metadata.len() > MOST_BYTES {
        return Err(format!("it is larger than {} MiB", MOST_BYTES >> 20));
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    Lock::parse(&text).map(Some)
}
