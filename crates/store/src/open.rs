//! Opening a history: made if it is not there, brought to the newest schema, or set aside.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{FlockOperation, flock};

use crate::schema::{APPLICATION, STEPS, migrate};
use crate::{Error, Kind};

/// The file's name, in the directory of the runs' state.
pub const FILE: &str = "history.db";
/// Held while a history is opened, so that two commands do not make or set aside the same one.
const LOCK: &str = "history.lock";

/// What SQLite writes beside a database.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

/// A log of so many bytes, of some two hundred and fifty runs, is brought into the file even by who must not wait for the disk:
/// who opens a history reads its whole log, which takes about a third of a millisecond for each MiB.
pub const LONGEST_LOG: u64 = 16 << 20;

/// A history.
#[derive(Debug)]
pub struct Store {
    pub(crate) connection: Connection,
    path: PathBuf,
    /// The file's number: what is at the path may be another one by now.
    inode: u64,
    writable: bool,
    /// What is written stays in the log, until that is so long.
    leaves_log: Option<u64>,
}

/// What opening came to.
#[derive(Debug)]
pub struct Opened {
    /// The history.
    pub store: Store,
    /// What was in its place, if that was no history.
    pub set_aside: Option<SetAside>,
}

/// A file that was no history, or a damaged one: it is as it was, under another name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Where it is now.
    pub to: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

impl Store {
    /// Open the history in `directory`, which must be there. Whoever else writes is waited for no longer than
    /// `patience`. Where nothing may be written, a history that is there is opened for reading.
    pub fn open(directory: &Path, patience: Duration) -> Result<Opened, Error> {
        let path = directory.join(FILE);
        match Self::open_to_write(directory, &path, patience) {
            Err(error) if error.kind() == Kind::ReadOnly && path.exists() => {
                match Self::open_to_read(&path, patience) {
                    Ok(store) => Ok(Opened {
                        store,
                        set_aside: None,
                    }),
                    Err(_) => Err(error),
                }
            }
            other => other,
        }
    }

    /// A history of nothing, of which nothing is kept.
    pub fn empty() -> Result<Self, Error> {
        let mut connection = Connection::open_in_memory()?;
        migrate(&mut connection, STEPS)?;
        Ok(Self {
            connection,
            path: PathBuf::new(),
            inode: 0,
            writable: true,
            leaves_log: None,
        })
    }

    fn open_to_write(directory: &Path, path: &Path, patience: Duration) -> Result<Opened, Error> {
        let _alone = lock(directory, patience)?;
        let mut set_aside = None;
        if let Some(why) = foreign(path)? {
            set_aside = Some(put_aside(path, why)?);
        }
        let store = match Self::made(path, patience) {
            Err(error) if error.kind() == Kind::Foreign && set_aside.is_none() => {
                set_aside = Some(put_aside(path, error.to_string())?);
                Self::made(path, patience)?
            }
            other => other?,
        };
        Ok(Opened { store, set_aside })
    }

    fn made(path: &Path, patience: Duration) -> Result<Self, Error> {
        let what = || format!("the history {} cannot be opened", path.display());
        // It tells what was deployed with which arguments: not everybody's business. SQLite gives its other files the
        // same permissions.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|error| Error::io(what(), error))?;
        let inode = file
            .metadata()
            .map_err(|error| Error::io(what(), error))?
            .ino();
        drop(file);
        let mut connection = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        settle(&connection, patience)?;
        migrate(&mut connection, STEPS)?;
        // After the tables, so that the header of the file itself says whose it is.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // The report is on disk already: after a power cut it is taken in again.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        Ok(Self {
            connection,
            path: path.to_owned(),
            inode,
            writable: true,
            leaves_log: None,
        })
    }

    fn open_to_read(path: &Path, patience: Duration) -> Result<Self, Error> {
        let of = |text: &str| {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
                | OpenFlags::SQLITE_OPEN_NO_MUTEX
                | OpenFlags::SQLITE_OPEN_URI;
            let connection = Connection::open_with_flags(text, flags)?;
            settle(&connection, patience)?;
            let version: u32 =
                connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
            if version as usize == STEPS.len() {
                Ok(connection)
            } else {
                Err(Error::new(
                    Kind::ReadOnly,
                    format!(
                        "the history has schema version {version}, this blackstart needs {}, and nothing may be written there",
                        STEPS.len()
                    ),
                ))
            }
        };
        let uri = |more: &str| format!("file:{}?mode=ro{more}", escaped(path));
        // Nothing of what was written lies beside it, so that the file is the whole.
        let alone = !beside(path, BESIDE[0]).exists();
        let connection = of(&uri(if alone { "&immutable=1" } else { "" }))?;
        let inode = fs::metadata(path).map_or(0, |metadata| metadata.ino());
        Ok(Self {
            connection,
            path: path.to_owned(),
            inode,
            writable: false,
            leaves_log: None,
        })
    }

    /// Bring the log into the file, if there is one.
    pub fn bring_in(directory: &Path, patience: Duration) -> Result<(), Error> {
        let log = beside(&directory.join(FILE), BESIDE[0]);
        if fs::metadata(log).is_ok_and(|it| it.len() > 0) {
            // The last one that closes it does so.
            drop(Self::open(directory, patience)?);
        }
        Ok(())
    }

    /// May it be written?
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How large it is, without the room that it has free.
    pub fn size(&self) -> Result<u64, Error> {
        let of = |pragma: &str| -> Result<u64, Error> {
            Ok(self
                .connection
                .pragma_query_value(None, pragma, |row| row.get(0))?)
        };
        Ok((of("page_count")?.saturating_sub(of("freelist_count")?)) * of("page_size")?)
    }

    /// For whoever must not wait for the disk: what is written stays in the log beside the file until that has `longest`
    /// bytes, also when this is dropped. Whoever opens the history otherwise brings it into the file.
    pub fn leave_log(&mut self, longest: u64) -> Result<(), Error> {
        self.connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        self.connection
            .pragma_update(None, "wal_autocheckpoint", 0)?;
        self.leaves_log = Some(longest);
        Ok(())
    }

    /// Something was written: if the log is to be left and has become long, bring it into the file, and begin it anew.
    /// SQLite's own way does only the first where each command writes once: what was brought in is forgotten with the last
    /// connection, so that the next command brings in all of it again, and it never ends.
    pub(crate) fn shorten_log(&self) -> Result<(), Error> {
        let Some(longest) = self.leaves_log else {
            return Ok(());
        };
        let log = beside(&self.path, BESIDE[0]);
        if fs::metadata(log).map_or(0, |it| it.len()) < longest {
            return Ok(());
        }
        // Who reads an older moment is not waited for: the log is then for whoever comes next.
        let patience: i64 = self
            .connection
            .pragma_query_value(None, "busy_timeout", |row| row.get(0))?;
        self.connection.busy_timeout(Duration::ZERO)?;
        let done = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        let patience = Duration::from_millis(u64::try_from(patience).unwrap_or(0));
        self.connection.busy_timeout(patience)?;
        match done.map_err(Error::from) {
            Err(error) if error.kind() == Kind::Foreign => Err(error),
            // What was written is written.
            _ => Ok(()),
        }
    }

    /// Let it grow to no more than so many pages, as if the disk had no more room. For tests.
    #[doc(hidden)]
    pub fn at_most(&self, pages: u64) -> Result<(), Error> {
        Ok(self
            .connection
            .pragma_update(None, "max_page_count", pages)?)
    }

    /// Set a history aside that turned out to be damaged while it was in use; none, if somebody else has done so.
    pub fn set_aside(self, why: &Error, patience: Duration) -> Result<Option<SetAside>, Error> {
        let Self {
            connection,
            path,
            inode,
            ..
        } = self;
        drop(connection);
        let directory = path.parent().unwrap_or(Path::new("/"));
        let _alone = lock(directory, patience)?;
        let same = fs::metadata(&path).is_ok_and(|metadata| metadata.ino() == inode);
        if !same {
            return Ok(None);
        }
        put_aside(&path, why.to_string()).map(Some)
    }
}

fn settle(connection: &Connection, patience: Duration) -> Result<(), Error> {
    connection.busy_timeout(patience)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(())
}

/// Keep other commands from making or setting aside a history until the file is dropped.
fn lock(directory: &Path, patience: Duration) -> Result<File, Error> {
    let path = directory.join(LOCK);
    let what = || format!("the history in {} cannot be opened", directory.display());
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| Error::io(what(), error))?;
    let deadline = Instant::now() + patience;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::AGAIN) if Instant::now() < deadline => {
                sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(Error::io(what(), error.into())),
        }
    }
}

/// Why what is at `path` is no history; nothing, if it is one, or empty, or not there.
fn foreign(path: &Path) -> Result<Option<String>, Error> {
    let what = || format!("the history {} cannot be read", path.display());
    let mut header = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(what(), error)),
        Ok(file) => {
            let metadata = file.metadata().map_err(|error| Error::io(what(), error))?;
            if !metadata.is_file() {
                return Ok(Some("it is no file".to_owned()));
            }
            file.take(100)
                .read_to_end(&mut header)
                .map_err(|error| Error::io(what(), error))?;
        }
    }
    if header.is_empty() {
        return Ok(None);
    }
    if !header.starts_with(b"SQLite format 3\0") {
        return Ok(Some("it is no SQLite database".to_owned()));
    }
    let application = header.get(68..72).and_then(|bytes| bytes.try_into().ok());
    match application.map(u32::from_be_bytes) {
        Some(APPLICATION) => Ok(None),
        Some(_) => Ok(Some("it is another program's database".to_owned())),
        None => Ok(Some("it was cut off".to_owned())),
    }
}

/// Give it another name that is free, and with it what SQLite wrote beside it.
fn put_aside(path: &Path, why: String) -> Result<SetAside, Error> {
    let what = || format!("{} cannot be set aside", path.display());
    let free = (1..10_000)
        .map(|n| beside(path, &format!(".set-aside-{n}")))
        .find(|to| !to.exists() && BESIDE.iter().all(|ending| !beside(to, ending).exists()));
    let Some(to) = free else {
        return Err(Error::new(
            Kind::Other,
            format!("{}: there are too many already", what()),
        ));
    };
    fs::rename(path, &to).map_err(|error| Error::io(what(), error))?;
    for ending in BESIDE {
        match fs::rename(beside(path, ending), beside(&to, ending)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(what(), error));
            }
            _ => {}
        }
    }
    Ok(SetAside { to, why })
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// As a part of a URI.
fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                text.push(char::from(*byte));
            }
            other => text.push_str(&format!("%{other:02x}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn open(dir: &tempfile::TempDir) -> Opened {
        Store::open(dir.path(), SOON).unwrap()
    }

    #[test]
    fn a_history_is_made_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(&dir);
        assert!(first.set_aside.is_none() && first.store.writable());
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(open(&dir).set_aside.is_none());
    }

    #[test]
    fn what_is_no_history_is_set_aside_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        fs::write(&path, b"important notes").unwrap();
        let aside = open(&dir).set_aside.unwrap();
        assert_eq!(aside.why, "it is no SQLite database");
        assert_eq!(fs::read(&aside.to).unwrap(), b"important notes");

        // Another program's database, of which a part is still in its log.
        fs::remove_file(&path).unwrap();
        let other = Connection::open(&path).unwrap();
        other.pragma_update(None, "journal_mode", "WAL").unwrap();
        other
            .execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (7)")
            .unwrap();
        let second = open(&dir).set_aside.unwrap();
        assert_eq!(second.why, "it is another program's database");
        assert_ne!(second.to, aside.to);
        drop(other);
        let value: i64 = Connection::open(&second.to)
            .unwrap()
            .query_row("SELECT x FROM t", [], |row| row.get(0))
            .unwrap();
        assert_eq!(value, 7);
        assert!(open(&dir).set_aside.is_none());
    }

    #[test]
    fn a_history_that_was_cut_off_is_set_aside() {
        for keep in [50, 2000, 5000] {
            let dir = tempfile::tempdir().unwrap();
            drop(open(&dir));
            let path = dir.path().join(FILE);
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(keep).unwrap();
            let aside = open(&dir).set_aside.unwrap();
            assert_eq!(fs::metadata(aside.to).unwrap().len(), keep);
        }
    }

    #[test]
    fn a_newer_history_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir).store;
        store
            .connection
            .pragma_update(None, "user_version", 99)
            .unwrap();
        drop(store);
        let error = Store::open(dir.path(), SOON).unwrap_err();
        assert_eq!(error.kind(), Kind::Newer);
        assert!(error.to_string().contains("schema version 99"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn it_is_not_set_aside_twice() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (open(&dir).store, open(&dir).store);
        let why = Error::new(Kind::Foreign, "damaged");
        assert!(one.set_aside(&why, SOON).unwrap().is_some());
        assert!(two.set_aside(&why, SOON).unwrap().is_none());
        // Nor is what was made since.
        let old = open(&dir).store;
        fs::rename(dir.path().join(FILE), dir.path().join("gone")).unwrap();
        drop(open(&dir));
        assert!(old.set_aside(&why, SOON).unwrap().is_none());
    }
}
