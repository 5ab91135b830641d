//! What can go wrong with a history.

use std::fmt;
use std::io;

use rusqlite::ErrorCode;

/// Something failed. Its text is what, and why.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    kind: Kind,
    what: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A newer version wrote it; nothing is touched.
    Newer,
    /// It is damaged, or somebody else's: to be set aside.
    Foreign,
    /// Somebody else writes.
    Busy,
    /// No room on the disk.
    Full,
    /// It may be read, and not written.
    ReadOnly,
    /// What was to be taken in is no report.
    NoReport,
    /// Anything else.
    Other,
}

impl Error {
    pub(crate) fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            source: None,
        }
    }

    /// What the history has of something is not what this program writes.
    pub(crate) fn damaged(what: &str) -> Self {
        Self::new(
            Kind::Foreign,
            format!("the history is damaged: {what} in it makes no sense"),
        )
    }

    pub(crate) fn io(what: impl Into<String>, error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::Full,
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => Kind::ReadOnly,
            io::ErrorKind::WouldBlock => Kind::Busy,
            _ => Kind::Other,
        };
        Self {
            kind,
            what: what.into(),
            source: Some(error.into()),
        }
    }

    /// What follows from it.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let (kind, what) = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt) => (Kind::Foreign, "the history is damaged"),
            Some(ErrorCode::NotADatabase) => (Kind::Foreign, "the history is no database"),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                (Kind::Busy, "another command writes to the history")
            }
            Some(ErrorCode::DiskFull) => (Kind::Full, "there is no room for the history"),
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                (Kind::ReadOnly, "the history cannot be written")
            }
            _ => (Kind::Other, "the history failed"),
        };
        Self {
            kind,
            what: what.to_owned(),
            source: Some(error.into()),
        }
    }
}
