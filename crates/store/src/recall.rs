//! What a history tells.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use blackstart_core::history::{
    Ancestry, Answer, Asked, Contacted, LineageId, Micros, Past, Reached, Surroundings,
};
use blackstart_core::report::{Attribution, Guarded, Mode, Verdict};
use flate2::write::DeflateDecoder;
use hashbrown::HashMap;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::attempts::{Attempts, ContactRow, FlowRow, LookupRow};
use crate::earlier;
use crate::earlier::NO_COMMAND;
use crate::schema::place;
use crate::{Error, Kind, Store};

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

/// How many texts, answers and destinations are kept while runs are gone through.
const KEPT: usize = 200_000;

/// What numbers stand for, as far as it was met.
struct Memory<'c, 'a> {
    connection: &'c Connection,
    ancestry: &'a mut Ancestry,
    words: HashMap<i64, Arc<str>>,
    answers: HashMap<i64, Arc<Answer>>,
    surroundings: HashMap<i64, Arc<Surroundings>>,
    lacks: HashMap<i64, Arc<[String]>>,
    destinations: HashMap<i64, Destination>,
    lineages: HashMap<i64, LineageId>,
}

#[derive(Clone)]
struct Destination {
    name: Option<Arc<str>>,
    address: IpAddr,
    port: u16,
    protocol: Arc<str>,
}

impl<'c, 'a> Memory<'c, 'a> {
    fn new(connection: &'c Connection, ancestry: &'a mut Ancestry) -> Result<Self, Error> {
        // What lies together is read at once; the default is for those that write a little.
        connection.pragma_update(None, "cache_size", -32_000)?;
        Ok(Self {
            connection,
            ancestry,
            words: HashMap::new(),
            answers: HashMap::new(),
            surroundings: HashMap::new(),
            lacks: HashMap::new(),
            destinations: HashMap::new(),
            lineages: HashMap::from([(0, 0)]),
        })
    }

    fn past(&mut self, number: i64, service: Option<i64>) -> Result<Past, Error> {
        self.tidy();
        let attempts = match attempts_of(self.connection, number, service)? {
            Some(attempts) => attempts,
            None => earlier::attempts_of(self.connection, number)?,
        };
        let Some((head, id)) = attempts.head else {
            return Err(damaged("what a run did"));
        };
        let [service, host, started, drill, attached, lacks, around] = head;
        let lookups = attempts.lookups.iter().map(|row| self.asked(row, started));
        let lookups = lookups.collect::<Result<_, _>>()?;
        let flows = attempts.flows.iter().map(|row| self.reached(row, started));
        let flows = flows.collect::<Result<_, _>>()?;
        let contacts = attempts.contacts.iter().map(|row| self.contacted(row));
        let contacts = contacts.collect::<Result<_, _>>()?;
        Ok(Past {
            id,
            service: match service {
                0 => None,
                service => Some(self.word(service)?),
            },
            host: self.word(host)?,
            started,
            drill: drill != 0,
            attached: attached != 0,
            lacks: self.lacks(lacks)?,
            around: self.surroundings(around)?,
            lookups,
            flows,
            contacts,
        })
    }

    fn asked(&mut self, row: &LookupRow, began: Micros) -> Result<Asked, Error> {
        let [
            name,
            qtype,
            by,
            subject,
            given,
            rule,
            queries,
            first,
            last,
            answer,
        ] = *row;
        Ok(Asked {
            name: self.word(name)?,
            qtype: self.word(qtype)?,
            by: self.lineage(by)?,
            subject: subject_of(subject),
            verdict: verdict(given)?,
            rule: self.word(rule)?,
            queries: amount(queries),
            first: began.wrapping_add(first),
            last: began.wrapping_add(last),
            answer: self.answer(answer)?,
        })
    }

    fn reached(&mut self, row: &FlowRow, began: Micros) -> Result<Reached, Error> {
        let [
            destination,
            by,
            subject,
            given,
            rule,
            attempts,
            first,
            last,
            sure,
            probe,
        ] = *row;
        let Destination {
            name,
            address,
            port,
            protocol,
        } = self.destination(destination)?;
        Ok(Reached {
            name,
            address,
            port,
            protocol,
            by: self.lineage(by)?,
            subject: subject_of(subject),
            verdict: verdict(given)?,
            rule: self.word(rule)?,
            attempts: amount(attempts),
            first: began.wrapping_add(first),
            last: began.wrapping_add(last),
            attribution: attribution(sure)?,
            probe: probe != 0,
        })
    }

    fn contacted(&mut self, row: &ContactRow) -> Result<Contacted, Error> {
        let [path, by, subject, given, rule, attempts] = *row;
        Ok(Contacted {
            path: self.word(path)?,
            by: self.lineage(by)?,
            subject: subject_of(subject),
            verdict: verdict(given)?,
            rule: self.word(rule)?,
            attempts: amount(attempts),
        })
    }

    fn text(&self, id: i64) -> Result<String, Error> {
        Ok(self
            .connection
            .prepare_cached("SELECT text FROM word WHERE id = ?")?
            .query_row([id], |row| row.get(0))?)
    }

    fn word(&mut self, id: i64) -> Result<Arc<str>, Error> {
        if let Some(known) = self.words.get(&id) {
            return Ok(known.clone());
        }
        let word: Arc<str> = self.text(id)?.into();
        self.words.insert(id, word.clone());
        Ok(word)
    }

    fn answer(&mut self, id: i64) -> Result<Arc<Answer>, Error> {
        if let Some(known) = self.answers.get(&id) {
            return Ok(known.clone());
        }
        let (addresses, chain): (Vec<IpAddr>, Vec<Arc<str>>) = parsed(&self.text(id)?)?;
        let answer = Arc::new(Answer { addresses, chain });
        self.answers.insert(id, answer.clone());
        Ok(answer)
    }

    fn surroundings(&mut self, id: i64) -> Result<Arc<Surroundings>, Error> {
        if let Some(known) = self.surroundings.get(&id) {
            return Ok(known.clone());
        }
        let (own, resolvers, search) = parsed(&self.text(id)?)?;
        let around = Arc::new(Surroundings {
            own,
            resolvers,
            search,
        });
        self.surroundings.insert(id, around.clone());
        Ok(around)
    }

    fn lacks(&mut self, id: i64) -> Result<Arc<[String]>, Error> {
        if let Some(known) = self.lacks.get(&id) {
            return Ok(known.clone());
        }
        let lacks: Vec<String> = parsed(&self.text(id)?)?;
        let lacks: Arc<[String]> = lacks.into();
        self.lacks.insert(id, lacks.clone());
        Ok(lacks)
    }

    fn destination(&mut self, id: i64) -> Result<Destination, Error> {
        if let Some(known) = self.destinations.get(&id) {
            return Ok(known.clone());
        }
        let (name, address, port, protocol): (i64, Vec<u8>, i64, i64) = self
            .connection
            .prepare_cached("SELECT name, address, port, protocol FROM destination WHERE id = ?")?
            .query_row([id], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
        let address = <[u8; 4]>::try_from(address.as_slice())
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(address.as_slice()).map(IpAddr::from))
            .map_err(|_| damaged("an address"))?;
        let found = Destination {
            name: match name {
                0 => None,
                name => Some(self.word(name)?),
            },
            address,
            port: u16::try_from(port).map_err(|_| damaged("a port"))?,
            protocol: self.word(protocol)?,
        };
        self.destinations.insert(id, found.clone());
        Ok(found)
    }

    /// A parent was entered before what it started, so that its number is the smaller one.
    fn lineage(&mut self, id: i64) -> Result<LineageId, Error> {
        let mut unknown: Vec<(i64, i64)> = Vec::new();
        let mut next = id;
        let mut above = loop {
            if let Some(known) = self.lineages.get(&next) {
                break *known;
            }
            let (parent, exe): (i64, i64) = self
                .connection
                .prepare_cached("SELECT parent, exe FROM lineage WHERE id = ?")?
                .query_row([next], |row| Ok((row.get(0)?, row.get(1)?)))?;
            if parent >= next {
                return Err(damaged("who started a program"));
            }
            unknown.push((next, exe));
            next = parent;
        };
        for (number, exe) in unknown.into_iter().rev() {
            let exe = self.word(exe)?;
            above = self.ancestry.below(above, &exe);
            self.lineages.insert(number, above);
        }
        Ok(above)
    }

    /// Ever new addresses and names are not all kept.
    fn tidy(&mut self) {
        if self.words.len() > KEPT {
            self.words.clear();
        }
        if self.answers.len() > KEPT {
            self.answers.clear();
        }
        if self.destinations.len() > KEPT {
            self.destinations.clear();
        }
    }
}

fn damaged(what: &str) -> Error {
    Error::new(
        Kind::Foreign,
        format!("the history is damaged: {what} in it makes no sense"),
    )
}

fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|_| damaged("a list"))
}

/// As [`crate::take_in`] has it: 0 is none.
fn subject_of(number: i64) -> Option<u64> {
    u64::try_from(number.checked_sub(1)?).ok()
}

fn amount(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// What a run did, of all its parts; none, if an earlier version took it in.
fn attempts_of(
    connection: &Connection,
    run: i64,
    service: Option<i64>,
) -> Result<Option<Attempts>, Error> {
    let place = place(service, run);
    let mut statement = connection
        .prepare_cached("SELECT bytes FROM attempts WHERE id BETWEEN ? AND ? ORDER BY id")?;
    let mut rows = statement.query([place.start(), place.end()])?;
    let mut all: Option<Attempts> = None;
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
        let part = Attempts::unpacked(bytes).ok_or_else(|| damaged("what a run did"))?;
        match &mut all {
            None => all = Some(part),
            Some(all) => all.append(part),
        }
    }
    Ok(all)
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
        mode: if row.get::<_, i64>(8)? == mode_number(Mode::Enforce) {
            Mode::Enforce
        } else {
            Mode::Observe
        },
        guarded: match row.get::<_, i64>(9)? {
            0 => Guarded::Yes,
            1 => Guarded::Partly,
            _ => Guarded::No,
        },
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

// Numbers of what has words in a report. They are part of the schema.

pub(crate) fn mode_number(mode: Mode) -> i64 {
    match mode {
        Mode::Observe => 0,
        Mode::Enforce => 1,
    }
}

pub(crate) fn guarded_number(guarded: Guarded) -> i64 {
    match guarded {
        Guarded::Yes => 0,
        Guarded::Partly => 1,
        Guarded::No => 2,
    }
}

const VERDICTS: [Verdict; 5] = [
    Verdict::Allow,
    Verdict::Deny,
    Verdict::WouldDeny,
    Verdict::Waived,
    Verdict::BreakGlass,
];

const ATTRIBUTIONS: [Attribution; 5] = [
    Attribution::Exact,
    Attribution::Inherited,
    Attribution::Ambiguous,
    Attribution::Unnamed,
    Attribution::Unknown,
];

pub(crate) fn verdict_number(verdict: Verdict) -> i64 {
    match verdict {
        Verdict::Allow => 0,
        Verdict::Deny => 1,
        Verdict::WouldDeny => 2,
        Verdict::Waived => 3,
        Verdict::BreakGlass => 4,
    }
}

pub(crate) fn attribution_number(attribution: Attribution) -> i64 {
    match attribution {
        Attribution::Exact => 0,
        Attribution::Inherited => 1,
        Attribution::Ambiguous => 2,
        Attribution::Unnamed => 3,
        Attribution::Unknown => 4,
    }
}

fn verdict(number: i64) -> Result<Verdict, Error> {
    let found = usize::try_from(number).ok().and_then(|at| VERDICTS.get(at));
    found.copied().ok_or_else(|| damaged("a verdict"))
}

fn attribution(number: i64) -> Result<Attribution, Error> {
    let found = usize::try_from(number)
        .ok()
        .and_then(|at| ATTRIBUTIONS.get(at));
    found.copied().ok_or_else(|| damaged("an attribution"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_for_what_they_came_from() {
        for it in VERDICTS {
            assert_eq!(verdict(verdict_number(it)).unwrap(), it);
        }
        for it in ATTRIBUTIONS {
            assert_eq!(attribution(attribution_number(it)).unwrap(), it);
        }
        assert_eq!(verdict(5).unwrap_err().kind(), Kind::Foreign);
    }
}
