//! What a history tells.

mod memory;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::ops::ControlFlow;

use blackstart_core::history::{Ancestry, Micros, Past};
use blackstart_core::report::{Guarded, Mode};
use flate2::write::DeflateDecoder;
use rusqlite::{OptionalExtension as _, Row, params};

use crate::earlier::NO_COMMAND;
use crate::numbers::{amount, guarded, mode};
use crate::{Error, Kind, Store};
use memory::Memory;

/// Which runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those that deployed this.
    pub service: Option<String>,
    /// Only those that began then or later.
    pub since: Option<Micros>,
    /// Only those that began before.
    pub before: Option<Micros>,
    /// No more than the latest so many.
    pub limit: Option<u64>,
}

/// A run, in short.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRow {
    /// Its number in this history.
    pub(crate) number: i64,
    /// Its id.
    pub id: String,
    /// What it deployed.
    pub service: Option<String>,
    /// Where.
    pub host: String,
    /// The command line, redacted; empty where it was attached to something.
    pub command: Vec<String>,
    /// What that was, as it was typed: the unit, the container, the path; none of what earlier versions took in.
    pub target: Option<String>,
    /// When it began.
    pub started: Micros,
    /// When it ended, if that was seen.
    pub ended: Option<Micros>,
    /// As `blackstart run` exited.
    pub exit_code: Option<i32>,
    /// Observe or enforce.
    pub mode: Mode,
    /// Was it guarded?
    pub guarded: Guarded,
    /// An outage was played for it.
    pub drill: bool,
    /// The glass was broken.
    pub break_glass: bool,
    /// Everything that it tried to reach.
    pub attempts: u64,
    /// What of it was lost.
    pub lost: u64,
    /// Different destinations.
    pub destinations: u64,
    /// Attempts and lookups that were refused.
    pub refused: u64,
    /// Those that would have been in enforce mode.
    pub would_be_refused: u64,
    /// Findings.
    pub findings: u64,
    /// Why not everything may be known of it; see [`blackstart_core::history::lacks`].
    pub lacks: Vec<String>,
    /// The size of its report.
    pub report_bytes: u64,
}

/// What an abbreviated id stands for.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// One run.
    One(Box<RunRow>),
    /// None.
    None,
    /// Several: their ids, no more than a few.
    Several(Vec<String>),
}

/// So many ids are told where one was meant.
const CANDIDATES: usize = 10;

const RUNS: &str = "SELECT run.id, uuid, (SELECT text FROM word WHERE id = service),
    (SELECT text FROM word WHERE id = host), (SELECT text FROM word WHERE id = command), started, ended, exit_code,
    mode, guarded, drill, break_glass, attempts, lost, destinations, refused, would_be_refused, findings,
    (SELECT text FROM word WHERE id = lacks), report_bytes, (SELECT text FROM word WHERE id = target) FROM run";

impl Store {
    /// The runs, the latest first. Ends where `each` breaks.
    pub fn runs(
        &self,
        filter: &Filter,
        each: &mut dyn FnMut(RunRow) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let Some(service) = self.service(filter)? else {
            return Ok(());
        };
        let text = format!(
            "{RUNS} {} ORDER BY started DESC, run.id DESC LIMIT ?4",
            by(service)
        );
        let mut statement = self.connection.prepare(&text)?;
        let limit = filter
            .limit
            .map_or(-1, |limit| i64::try_from(limit).unwrap_or(-1));
        let mut rows = statement.query(params![
            service,
            filter.since.unwrap_or(Micros::MIN),
            filter.before.unwrap_or(Micros::MAX),
            limit
        ])?;
        while let Some(row) = rows.next()? {
            if each(run_row(row)?).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// How many there are.
    pub fn count(&self, filter: &Filter) -> Result<u64, Error> {
        let Some(service) = self.service(filter)? else {
            return Ok(0);
        };
        let text = format!("SELECT count(*) FROM run {}", by(service));
        let count: i64 = self.connection.query_row(
            &text,
            params![
                service,
                filter.since.unwrap_or(Micros::MIN),
                filter.before.unwrap_or(Micros::MAX)
            ],
            |row| row.get(0),
        )?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// The services of which there are runs.
    pub fn services(&self) -> Result<Vec<String>, Error> {
        let mut statement = self.connection.prepare(
            "SELECT text FROM word WHERE id IN (SELECT DISTINCT service FROM run) ORDER BY text",
        )?;
        let rows = statement.query_map([], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// None if no run ever deployed it; 0 for any service.
    fn service(&self, filter: &Filter) -> Result<Option<i64>, Error> {
        let Some(name) = &filter.service else {
            return Ok(Some(0));
        };
        Ok(self
            .connection
            .query_row("SELECT id FROM word WHERE text = ?", [name], |row| {
                row.get(0)
            })
            .optional()?)
    }

    /// The run that is meant by an id, the beginning or the end of one, or `latest`.
    pub fn find(&self, which: &str) -> Result<Found, Error> {
        if which == "latest" {
            let latest = Filter {
                limit: Some(1),
                ..Filter::default()
            };
            let mut found = Found::None;
            self.runs(&latest, &mut |row| {
                found = Found::One(Box::new(row));
                ControlFlow::Break(())
            })?;
            return Ok(found);
        }
        let wanted = which.to_ascii_lowercase();
        let is_part = |c: char| c.is_ascii_hexdigit() || c == '-';
        if wanted.is_empty() || !wanted.chars().all(is_part) {
            return Ok(Found::None);
        }
        let text = format!(
            "{RUNS} WHERE substr(uuid, 1, ?2) = ?1 OR substr(uuid, -?2) = ?1 ORDER BY started DESC LIMIT ?3"
        );
        let mut statement = self.connection.prepare(&text)?;
        let length = i64::try_from(wanted.len()).unwrap_or(i64::MAX);
        let most = i64::try_from(CANDIDATES + 1).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![wanted, length, most], run_row)?;
        let mut rows: Vec<RunRow> = rows.collect::<Result<_, _>>()?;
        Ok(match rows.len() {
            0 => Found::None,
            1 => Found::One(Box::new(rows.remove(0))),
            _ => Found::Several(
                rows.into_iter()
                    .take(CANDIDATES)
                    .map(|row| row.id)
                    .collect(),
            ),
        })
    }

    /// The report of a run, as it was taken in.
    pub fn report(&self, run: &RunRow, out: &mut dyn Write) -> Result<(), Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT bytes FROM report WHERE run = ? ORDER BY part")?;
        let mut rows = statement.query([run.number])?;
        let unpacking = |error: io::Error| {
            let kind = match error.kind() {
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => Kind::Foreign,
                _ => {
                    return Error::io(
                        format!("the report of run {} cannot be written", run.id),
                        error,
                    );
                }
            };
            Error::new(
                kind,
                format!("the report of run {} is damaged: {error}", run.id),
            )
        };
        let mut unpacked = DeflateDecoder::new(Counted { out, count: 0 });
        while let Some(row) = rows.next()? {
            let bytes = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
            unpacked.write_all(bytes).map_err(unpacking)?;
        }
        let counted = unpacked.finish().map_err(unpacking)?;
        if counted.count != run.report_bytes {
            return Err(Error::new(
                Kind::Foreign,
                format!(
                    "the report of run {} is damaged: a part of it is missing",
                    run.id
                ),
            ));
        }
        Ok(())
    }

    /// What a run executed.
    pub fn executables(&self, run: &RunRow) -> Result<BTreeSet<String>, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT text FROM program JOIN word ON word.id = program.exe WHERE run = ?",
        )?;
        let rows = statement.query_map([run.number], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What any of these runs executed that was no drill: of deployments, or of what was attached to.
    pub fn executables_of(
        &self,
        filter: &Filter,
        attached: bool,
    ) -> Result<BTreeSet<String>, Error> {
        let Some(service) = self.service(filter)? else {
            return Ok(BTreeSet::new());
        };
        let text = format!(
            "SELECT text FROM word WHERE id IN (
                 SELECT DISTINCT exe FROM program WHERE run IN (
                     SELECT id FROM run {} AND NOT drill
                         AND (command IN (SELECT id FROM word WHERE text = ?4)) = ?5
                 )
             )",
            by(service)
        );
        let mut statement = self.connection.prepare(&text)?;
        let rows = statement.query_map(
            params![
                service,
                filter.since.unwrap_or(Micros::MIN),
                filter.before.unwrap_or(Micros::MAX),
                NO_COMMAND,
                attached
            ],
            |row| row.get(0),
        )?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What runs reached for, the earliest first; with a limit, of the latest so many. Ends where `each` breaks. All
    /// of it is of one moment, whatever is written meanwhile.
    pub fn pasts(
        &self,
        filter: &Filter,
        ancestry: &mut Ancestry,
        each: &mut dyn FnMut(&Past, &Ancestry) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let Some(service) = self.service(filter)? else {
            return Ok(());
        };
        let moment = self.connection.unchecked_transaction()?;
        let text = format!(
            "SELECT id, service FROM run {} ORDER BY started DESC, id DESC LIMIT ?4",
            by(service)
        );
        let mut statement = moment.prepare(&text)?;
        let limit = filter
            .limit
            .map_or(-1, |limit| i64::try_from(limit).unwrap_or(-1));
        let rows = statement.query_map(
            params![
                service,
                filter.since.unwrap_or(Micros::MIN),
                filter.before.unwrap_or(Micros::MAX),
                limit
            ],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let numbers: Vec<(i64, Option<i64>)> = rows.collect::<Result<_, _>>()?;
        let mut memory = Memory::new(&moment, ancestry)?;
        for (number, service) in numbers.into_iter().rev() {
            let past = memory.past(number, service)?;
            if each(&past, memory.ancestry).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// What one run reached for.
    pub fn past(&self, run: &RunRow, ancestry: &mut Ancestry) -> Result<Past, Error> {
        let service = self
            .connection
            .prepare_cached("SELECT service FROM run WHERE id = ?")?
            .query_row([run.number], |row| row.get(0))?;
        Memory::new(&self.connection, ancestry)?.past(run.number, service)
    }
}

/// The condition of a query; its parameters 1 to 3 are the service, since when, and before when.
fn by(service: i64) -> &'static str {
    if service == 0 {
        "WHERE ?1 = 0 AND started >= ?2 AND started < ?3"
    } else {
        "WHERE service = ?1 AND started >= ?2 AND started < ?3"
    }
}

/// Counts what passes.
struct Counted<'a> {
    out: &'a mut dyn Write,
    count: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn run_row(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    let list = |at: usize| -> rusqlite::Result<Vec<String>> {
        let text: String = row.get(at)?;
        Ok(serde_json::from_str(&text).unwrap_or_default())
    };
    Ok(RunRow {
        number: row.get(0)?,
        id: row.get(1)?,
        service: row.get(2)?,
        host: row.get(3)?,
        command: list(4)?,
        target: row.get(20)?,
        started: row.get(5)?,
        ended: row.get(6)?,
        exit_code: row.get(7)?,
        mode: mode(row.get(8)?),
        guarded: guarded(row.get(9)?),
        drill: row.get(10)?,
        break_glass: row.get(11)?,
        attempts: amount(row.get(12)?),
        lost: amount(row.get(13)?),
        destinations: amount(row.get(14)?),
        refused: amount(row.get(15)?),
        would_be_refused: amount(row.get(16)?),
        findings: amount(row.get(17)?),
        lacks: list(18)?,
        report_bytes: amount(row.get(19)?),
    })
}
