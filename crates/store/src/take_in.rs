//! Taking in a report: read once, entry by entry, into the tables, and its bytes beside them.
//!
//! A long run's report is larger than all else that a supervisor holds, so that it is never in memory as a whole. All
//! of it is one transaction: a history has a run, or it has nothing of it.

mod document;
mod packed;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Write as _};
use std::net::IpAddr;
use std::path::Path;

use blackstart_core::history::{lacks, micros};
use blackstart_core::report::{Coverage, Delegate, Flow, Name, Run, Subject, rule_text};
use blackstart_core::tables::RULE_RESOLVER_SOCKET;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use serde::de::DeserializeSeed as _;

use crate::attempts::{Attempts, Head, ROWS};
use crate::numbers::{
    amount_number, attribution_number, guarded_number, mode_number, subject_number, verdict_number,
};
use crate::retention::forget;
use crate::schema::place;
use crate::{Error, Kind, Store};
use document::Document;
use packed::{PART, Parts, Tee};

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The history has the run now.
    New,
    /// It had it already.
    Known,
}

impl Store {
    /// Does the history have the run with this id, up to its end?
    pub fn has(&self, uuid: &str) -> Result<bool, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT 1 FROM run WHERE uuid = ? AND ended IS NOT NULL")?;
        Ok(statement.exists([uuid])?)
    }

    /// Take in the report in this file.
    pub fn take_in(&mut self, path: &Path) -> Result<Taken, Error> {
        let what = || format!("the report {} cannot be read", path.display());
        let file = File::open(path).map_err(|error| Error::io(what(), error))?;
        self.take_in_from(file).map_err(|error| match error.kind() {
            Kind::NoReport => Error::new(Kind::NoReport, format!("{}: {error}", what())),
            _ => error,
        })
    }

    /// Take in a report, whose text comes from `source`.
    pub fn take_in_from(&mut self, source: impl Read) -> Result<Taken, Error> {
        // Who writes says so before it reads, so that two commands wait for each other instead of failing.
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let number = next(&transaction, "run")?;
        let entry = Entry::new(&transaction, number);
        let taken = entry.take(source)?;
        if taken == Taken::New {
            transaction.commit()?;
            self.shorten_log()?;
        }
        Ok(taken)
    }
}

fn next(connection: &Connection, table: &str) -> rusqlite::Result<i64> {
    let text = format!("SELECT coalesce(max(id), 0) + 1 FROM {table}");
    connection
        .prepare_cached(&text)?
        .query_row([], |row| row.get(0))
}

/// A run on its way into the tables.
struct Entry<'c> {
    connection: &'c Connection,
    number: i64,
    rest: RefCell<Rest>,
    /// A failure of the database while serde had the word.
    failed: RefCell<Option<rusqlite::Error>>,
}

/// What is gathered on the way.
#[derive(Default)]
struct Rest {
    run: Option<Run>,
    coverage: Option<Coverage>,
    findings: u64,
    /// Of each subject, the number of its program.
    programs: HashMap<u64, (i64, i64)>,
    executables: BTreeSet<i64>,
    destinations: HashSet<u64>,
    refused: u64,
    would: u64,
    words: HashMap<String, i64>,
    lineages: HashMap<(i64, i64), i64>,
    /// Attempts that are not in the tables yet, and how many parts are.
    attempts: Attempts,
    parts: i64,
    packed: u64,
}

/// Numbers of words are kept up to so many.
const WORDS: usize = 4096;

impl<'c> Entry<'c> {
    fn new(connection: &'c Connection, number: i64) -> Self {
        Self {
            connection,
            number,
            rest: RefCell::default(),
            failed: RefCell::default(),
        }
    }

    fn take(self, source: impl Read) -> Result<Taken, Error> {
        let mut tee = Tee::new(source, Parts::of(self.connection, self.number));
        let parsed = {
            let mut deserializer =
                serde_json::Deserializer::from_reader(BufReader::with_capacity(PART, &mut tee));
            Document(&self)
                .deserialize(&mut deserializer)
                .and_then(|()| deserializer.end())
        };
        if let Some(error) = self.failed.take().or(tee.packed.get_mut().failed.take()) {
            return Err(error.into());
        }
        if let Err(error) = parsed {
            return Err(match error.classify() {
                serde_json::error::Category::Io => {
                    Error::io("the report cannot be read", error.into())
                }
                _ => Error::new(
                    Kind::NoReport,
                    format!("it is not a report of `blackstart run`, or was cut off: {error}"),
                ),
            });
        }
        let read = tee.read;
        let mut parts = tee
            .packed
            .finish()
            .map_err(|error| Error::io("the report cannot be packed", error))?;
        if let Err(error) = parts.flush() {
            return Err(parts.failed.take().map_or_else(
                || Error::io("the report cannot be packed", error),
                Error::from,
            ));
        }
        let stored = parts.bytes;
        self.finish(read, stored)
    }

    fn finish(&self, read: u64, stored: u64) -> Result<Taken, Error> {
        let rest = self.rest.take();
        let (Some(run), Some(coverage)) = (rest.run.clone(), rest.coverage.clone()) else {
            return Err(Error::new(
                Kind::NoReport,
                "it is not a report of `blackstart run`: it has no run, or no coverage",
            ));
        };
        let known = self
            .connection
            .prepare_cached("SELECT id, ended FROM run WHERE uuid = ?")?
            .query_row([&run.id], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?))
            })
            .optional()?;
        match known {
            None => {}
            Some((_, Some(_))) => return Ok(Taken::Known),
            // It went on when it was taken in: what is known of it now takes the place of that.
            Some((number, None)) => forget(self.connection, number)?,
        }
        self.rest.replace(rest);
        let service = match &run.service {
            Some(service) => Some(self.word(service)?),
            None => None,
        };
        let target = match &run.attached {
            Some(attached) => Some(self.word(&attached.target)?),
            None => None,
        };
        let host = self.word(&run.host)?;
        let command = self.word(&json(&run.command))?;
        let lacks = self.word(&json(&lacks(&run, &coverage)))?;
        let surroundings = (&run.addresses, &run.resolvers, &run.search);
        let surroundings = self.word(&json(&surroundings))?;
        let head = [
            service.unwrap_or(0),
            host,
            micros(&run.started),
            run.drill.is_some().into(),
            run.attached.is_some().into(),
            lacks,
            surroundings,
        ];
        self.part(Some((head, run.id.clone())))?;
        let rest = self.rest.take();
        for exe in &rest.executables {
            self.connection
                .prepare_cached("INSERT INTO program VALUES (?, ?)")?
                .execute([self.number, *exe])?;
        }
        let started = micros(&run.started);
        let rows = amount_number(rest.executables.len() as u64);
        self.connection
            .prepare_cached(
                "INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                self.number,
                run.id,
                service,
                host,
                command,
                started,
                run.ended.as_deref().map(micros),
                run.exit_code,
                mode_number(run.mode),
                guarded_number(run.guarded),
                run.drill.is_some(),
                run.break_glass.is_some(),
                amount_number(coverage.attempts),
                amount_number(coverage.lost),
                amount_number(rest.destinations.len() as u64),
                amount_number(rest.refused),
                amount_number(rest.would),
                amount_number(rest.findings),
                lacks,
                surroundings,
                rows,
                amount_number(read),
                amount_number(stored + rest.packed),
                target,
            ])?;
        Ok(Taken::New)
    }

    /// The number of a text.
    fn word(&self, text: &str) -> rusqlite::Result<i64> {
        if let Some(known) = self.rest.borrow().words.get(text) {
            return Ok(*known);
        }
        let id = number_of(
            self.connection,
            "SELECT id FROM word WHERE text = ?",
            "INSERT INTO word (text) VALUES (?)",
            &[Value::from(text.to_owned())],
        )?;
        let words = &mut self.rest.borrow_mut().words;
        if words.len() >= WORDS {
            words.clear();
        }
        words.insert(text.to_owned(), id);
        Ok(id)
    }

    fn subject(&self, subject: &Subject) -> rusqlite::Result<()> {
        let exe = self.word(&subject.exe)?;
        let (parent, parent_exe) = {
            let rest = self.rest.borrow();
            let parent = subject
                .parent
                .and_then(|id| rest.programs.get(&id).copied());
            parent.unwrap_or((0, 0))
        };
        // As `Ancestry::below` has it.
        let lineage = if exe == parent_exe {
            parent
        } else {
            let known = self.rest.borrow().lineages.get(&(parent, exe)).copied();
            match known {
                Some(id) => id,
                None => number_of(
                    self.connection,
                    "SELECT id FROM lineage WHERE parent = ? AND exe = ?",
                    "INSERT INTO lineage (parent, exe) VALUES (?, ?)",
                    &[parent.into(), exe.into()],
                )?,
            }
        };
        let mut rest = self.rest.borrow_mut();
        rest.lineages.insert((parent, exe), lineage);
        rest.programs.insert(subject.id, (lineage, exe));
        rest.executables.insert(exe);
        Ok(())
    }

    fn program(&self, subject: Option<u64>) -> i64 {
        let rest = self.rest.borrow();
        let program = subject.and_then(|id| rest.programs.get(&id));
        program.map_or(0, |(lineage, _)| *lineage)
    }

    fn name(&self, name: &Name) -> rusqlite::Result<()> {
        let text = self.word(&name.name)?;
        let qtype = self.word(&name.qtype)?;
        let rule = self.word(&name.rule)?;
        let answer = self.word(&json(&(&name.addresses, &name.chain)))?;
        self.count(name.verdict, name.queries);
        let began = self.began();
        let row = [
            text,
            qtype,
            self.program(name.subject),
            subject_number(name.subject),
            verdict_number(name.verdict),
            rule,
            amount_number(name.queries),
            micros(&name.first_seen).wrapping_sub(began),
            micros(&name.last_seen).wrapping_sub(began),
            answer,
        ];
        self.rest.borrow_mut().attempts.lookups.push(row);
        self.part_if_full()
    }

    fn flow(&self, flow: &Flow) -> rusqlite::Result<()> {
        let name = match &flow.name {
            Some(name) => self.word(name)?,
            None => 0,
        };
        let rule = self.word(&flow.rule)?;
        let protocol = self.word(&flow.protocol)?;
        let destination = number_of(
            self.connection,
            "SELECT id FROM destination WHERE address = ? AND port = ? AND protocol = ? AND name = ?",
            "INSERT INTO destination (address, port, protocol, name) VALUES (?, ?, ?, ?)",
            &[
                address_bytes(flow.address).into(),
                i64::from(flow.port).into(),
                protocol.into(),
                name.into(),
            ],
        )?;
        let probe = flow.is_route_probe();
        if !probe {
            self.count(flow.verdict, flow.attempts);
            let mut rest = self.rest.borrow_mut();
            let what = if name == 0 { -destination } else { name };
            rest.destinations.insert(
                (what.cast_unsigned() << 24) ^ u64::from(flow.port) << 8 ^ protocol.cast_unsigned(),
            );
        }
        let began = self.began();
        let row = [
            destination,
            self.program(flow.subject),
            subject_number(flow.subject),
            verdict_number(flow.verdict),
            rule,
            amount_number(flow.attempts),
            micros(&flow.first_seen).wrapping_sub(began),
            micros(&flow.last_seen).wrapping_sub(began),
            attribution_number(flow.attribution),
            probe.into(),
        ];
        self.rest.borrow_mut().attempts.flows.push(row);
        self.part_if_full()
    }

    fn delegate(&self, delegate: &Delegate) -> rusqlite::Result<()> {
        let path = self.word(&delegate.path)?;
        let rule = self.word(&delegate.rule)?;
        // Turned away in every run, on purpose.
        if delegate.rule != rule_text(None, RULE_RESOLVER_SOCKET) {
            self.count(delegate.verdict, delegate.attempts);
        }
        let row = [
            path,
            self.program(delegate.subject),
            subject_number(delegate.subject),
            verdict_number(delegate.verdict),
            rule,
            amount_number(delegate.attempts),
        ];
        self.rest.borrow_mut().attempts.contacts.push(row);
        self.part_if_full()
    }

    /// When the run began: times of attempts count from there.
    fn began(&self) -> i64 {
        let rest = self.rest.borrow();
        rest.run.as_ref().map_or(0, |run| micros(&run.started))
    }

    fn part_if_full(&self) -> rusqlite::Result<()> {
        if self.rest.borrow().attempts.rows() < ROWS {
            return Ok(());
        }
        self.part(None)
    }

    /// Write what was gathered; the last part has the head.
    fn part(&self, head: Option<(Head, String)>) -> rusqlite::Result<()> {
        let service = {
            let rest = self.rest.borrow();
            rest.run.as_ref().and_then(|run| run.service.clone())
        };
        let service = match service {
            Some(service) => Some(self.word(&service)?),
            None => None,
        };
        let (bytes, part) = {
            let mut rest = self.rest.borrow_mut();
            let mut attempts = std::mem::take(&mut rest.attempts);
            attempts.head = head;
            let bytes = attempts.packed();
            rest.packed += bytes.len() as u64;
            rest.parts += 1;
            (bytes, rest.parts - 1)
        };
        let place = place(service, self.number);
        let id = place.start() + part;
        if !place.contains(&id) {
            return Err(rusqlite::Error::IntegralValueOutOfRange(0, id));
        }
        self.connection
            .prepare_cached("INSERT INTO attempts VALUES (?, ?)")?
            .execute(params![id, bytes])?;
        Ok(())
    }

    fn count(&self, verdict: blackstart_core::report::Verdict, count: u64) {
        use blackstart_core::report::Verdict;
        let mut rest = self.rest.borrow_mut();
        match verdict {
            Verdict::Deny => rest.refused += count,
            Verdict::WouldDeny => rest.would += count,
            Verdict::Allow | Verdict::Waived | Verdict::BreakGlass => {}
        }
    }

    /// A failure of the database, for serde.
    fn stashed<E: serde::de::Error>(&self, result: rusqlite::Result<()>) -> Result<(), E> {
        result.map_err(|error| {
            let text = error.to_string();
            self.failed.replace(Some(error));
            E::custom(text)
        })
    }
}

/// The number of what has these values, made if there is none.
fn number_of(
    connection: &Connection,
    find: &str,
    make: &str,
    values: &[Value],
) -> rusqlite::Result<i64> {
    let values = || rusqlite::params_from_iter(values);
    let found = connection
        .prepare_cached(find)?
        .query_row(values(), |row| row.get(0))
        .optional()?;
    match found {
        Some(id) => Ok(id),
        None => connection.prepare_cached(make)?.insert(values()),
    }
}

/// What can be JSON without fail.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
