//! The bytes of a report, as they are kept.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::write::DeflateEncoder;
use rusqlite::{Connection, params};

/// A report's bytes are stored in parts of this size: no row is larger than what is read at a time.
pub(super) const PART: usize = 64 << 10;

/// Packs what is read through it.
pub(super) struct Tee<'c, R> {
    source: R,
    /// How many bytes.
    pub(super) read: u64,
    pub(super) packed: DeflateEncoder<Parts<'c>>,
}

impl<'c, R> Tee<'c, R> {
    pub(super) fn new(source: R, parts: Parts<'c>) -> Self {
        Self {
            source,
            read: 0,
            packed: DeflateEncoder::new(parts, Compression::fast()),
        }
    }
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.read += count as u64;
        self.packed.write_all(&buffer[..count])?;
        Ok(count)
    }
}

/// Rows of packed bytes.
pub(super) struct Parts<'c> {
    connection: &'c Connection,
    run: i64,
    part: i64,
    /// How many are written.
    pub(super) bytes: u64,
    buffer: Vec<u8>,
    /// A failure of the database.
    pub(super) failed: Option<rusqlite::Error>,
}

impl<'c> Parts<'c> {
    /// Those of a run's report.
    pub(super) fn of(connection: &'c Connection, run: i64) -> Self {
        Self {
            connection,
            run,
            part: 0,
            bytes: 0,
            buffer: Vec::with_capacity(PART),
            failed: None,
        }
    }

    fn insert(&mut self, most: usize) -> io::Result<()> {
        let rest = self.buffer.split_off(self.buffer.len().min(most));
        let bytes = std::mem::replace(&mut self.buffer, rest);
        if bytes.is_empty() {
            return Ok(());
        }
        let inserted = self
            .connection
            .prepare_cached("INSERT INTO report VALUES (?, ?, ?)")
            .and_then(|mut statement| statement.execute(params![self.run, self.part, bytes]));
        self.part += 1;
        self.bytes += bytes.len() as u64;
        inserted.map(|_| ()).map_err(|error| {
            let text = error.to_string();
            self.failed = Some(error);
            io::Error::other(text)
        })
    }
}

impl Write for Parts<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() >= PART {
            self.insert(PART)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.insert(usize::MAX)
    }
}
