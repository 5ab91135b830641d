//! A report that is made while it is gone through.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use super::assemble::{RunFacts, frame, rule_text};
use super::findings::sort;
use super::ledger::{Image, Ledger, Lookup, Reach};
use super::probe::told_by_another;
use super::{Coverage, Delegate, Finding, Flow, Name, Report, Run, Script, Subject, Time};
use crate::policy::Policy;
use crate::tables::RuleId;

/// A report, part by part: one that is held ([`Report`]), or one that is made while it is gone through
/// ([`Account`]).
pub trait Parts {
    /// The run.
    fn run(&self) -> &Run;
    /// Its processes.
    fn subjects(&self) -> Box<dyn Iterator<Item = Cow<'_, Subject>> + '_>;
    /// The one of these with this number.
    fn subject(&self, id: u64) -> Option<Cow<'_, Subject>>;
    /// The names that were looked up.
    fn names(&self) -> Box<dyn Iterator<Item = Cow<'_, Name>> + '_>;
    /// The destinations that were reached for.
    fn flows(&self) -> Box<dyn Iterator<Item = Cow<'_, Flow>> + '_>;
    /// As the function of this name, for all flows.
    fn told_by_another(&self) -> Vec<bool>;
    /// Daemons outside the run that were contacted.
    fn delegates(&self) -> &[Delegate];
    /// Problems.
    fn findings(&self) -> &[Finding];
    /// What was seen and what was not.
    fn coverage(&self) -> &Coverage;
}

impl Parts for Report {
    fn run(&self) -> &Run {
        &self.run
    }

    fn subjects(&self) -> Box<dyn Iterator<Item = Cow<'_, Subject>> + '_> {
        Box::new(self.subjects.iter().map(Cow::Borrowed))
    }

    fn subject(&self, id: u64) -> Option<Cow<'_, Subject>> {
        let has_it = |subject: &&Subject| subject.id == id;
        // Numbered from 1, unless somebody else wrote the document.
        let place = usize::try_from(id).ok()?.checked_sub(1);
        place
            .and_then(|place| self.subjects.get(place))
            .filter(has_it)
            .or_else(|| self.subjects.iter().find(has_it))
            .map(Cow::Borrowed)
    }

    fn names(&self) -> Box<dyn Iterator<Item = Cow<'_, Name>> + '_> {
        Box::new(self.names.iter().map(Cow::Borrowed))
    }

    fn flows(&self) -> Box<dyn Iterator<Item = Cow<'_, Flow>> + '_> {
        Box::new(self.flows.iter().map(Cow::Borrowed))
    }

    fn told_by_another(&self) -> Vec<bool> {
        told_by_another(&self.flows)
    }

    fn delegates(&self) -> &[Delegate] {
        &self.delegates
    }

    fn findings(&self) -> &[Finding] {
        &self.findings
    }

    fn coverage(&self) -> &Coverage {
        &self.coverage
    }
}

/// The report of a run, of which only a record is held: subjects, names and flows are made one at a time, whenever
/// they are asked for. Serialized, it is the very document that [`Account::to_report`] is.
#[derive(Debug, Clone)]
pub struct Account {
    /// The report without its long lists.
    frame: Report,
    record: Ledger,
    rules: RuleTexts,
}

impl Account {
    /// What there is to report. The same rows and facts always give the same document.
    pub fn new(mut record: Ledger, facts: &RunFacts<'_>) -> Self {
        let rules = RuleTexts::of(&record, facts.policy);
        record.settle(&rules);
        Self {
            frame: frame(&record, &rules, facts),
            record,
            rules,
        }
    }

    /// Add what was found out after the record was read: which destinations the deployment's own scripts name, and
    /// what the run is part of.
    pub fn add(&mut self, scripts: Vec<Script>, found: Vec<Finding>) {
        self.frame.run.scripts.extend(scripts);
        self.frame.findings.extend(found);
        sort(&mut self.frame.findings);
    }

    /// Add who owns what the run deploys.
    pub fn owned_by(&mut self, owner: Option<String>) {
        self.frame.run.owner = owner;
    }

    /// The whole of it, in memory.
    pub fn to_report(&self) -> Report {
        Report {
            subjects: self.subjects().map(Cow::into_owned).collect(),
            names: self.names().map(Cow::into_owned).collect(),
            flows: self.flows().map(Cow::into_owned).collect(),
            ..self.frame.clone()
        }
    }

    fn time(&self, boot_ns: u64) -> Time {
        wall_time(self.record.wall_ns(boot_ns))
    }

    fn subject_entry(&self, id: u64, image: &Image) -> Subject {
        let ended = image.ended_ns != 0;
        Subject {
            id,
            pid: image.tgid,
            parent: self.record.parent(image),
            exe: self.record.exe(image).to_owned(),
            argv: self.record.argv(image),
            argv_truncated: image.argv_truncated,
            started: self.time(image.started_ns),
            ended: ended.then(|| self.time(image.ended_ns)),
            found: image.found,
            exit: (ended && !image.replaced).then(|| exit_code(image.wait_status)),
        }
    }

    fn name_entry(&self, row: &Lookup) -> Name {
        let (addresses, chain) = self.record.answered(row.name, row.qtype);
        Name {
            name: self.record.name(row.name),
            qtype: type_text(row.qtype),
            subject: self.record.subject(row.subject),
            verdict: row.verdict,
            rule: self.rules.get(row.rule).to_owned(),
            queries: row.queries,
            first_seen: self.time(row.first_ns),
            last_seen: self.time(row.last_ns),
            addresses,
            chain,
        }
    }

    fn flow_entry(&self, row: &Reach) -> Flow {
        Flow {
            subject: self.record.subject(row.subject),
            name: (row.name != 0).then(|| self.record.name(row.name)),
            address: row.address,
            port: row.port,
            protocol: protocol_text(row.protocol),
            verdict: row.verdict,
            rule: self.rules.get(row.rule).to_owned(),
            attempts: row.attempts,
            outcome: row.outcome,
            bytes_sent: row.bytes_sent,
            first_seen: self.time(row.first_ns),
            last_seen: self.time(row.last_ns),
            attribution: row.attribution,
        }
    }
}

impl Parts for Account {
    fn run(&self) -> &Run {
        &self.frame.run
    }

    fn subjects(&self) -> Box<dyn Iterator<Item = Cow<'_, Subject>> + '_> {
        let images = self.record.subjects.iter().zip(1..);
        Box::new(images.map(|(image, id)| Cow::Owned(self.subject_entry(id, image))))
    }

    fn subject(&self, id: u64) -> Option<Cow<'_, Subject>> {
        let image = self
            .record
            .subjects
            .get(usize::try_from(id).ok()?.checked_sub(1)?)?;
        Some(Cow::Owned(self.subject_entry(id, image)))
    }

    fn names(&self) -> Box<dyn Iterator<Item = Cow<'_, Name>> + '_> {
        let rows = self.record.queries.iter();
        Box::new(rows.map(|row| Cow::Owned(self.name_entry(row))))
    }

    fn flows(&self) -> Box<dyn Iterator<Item = Cow<'_, Flow>> + '_> {
        let rows = self.record.flows.iter();
        Box::new(rows.map(|row| Cow::Owned(self.flow_entry(row))))
    }

    fn told_by_another(&self) -> Vec<bool> {
        let rows = self.record.flows.iter();
        rows.map(|row| row.told_by_another).collect()
    }

    fn delegates(&self) -> &[Delegate] {
        &self.frame.delegates
    }

    fn findings(&self) -> &[Finding] {
        &self.frame.findings
    }

    fn coverage(&self) -> &Coverage {
        &self.frame.coverage
    }
}

/// A report from where it was made: of a run whose record is held, or of one that somebody else supervised.
#[derive(Debug, Clone)]
pub enum Told {
    /// Made while it is gone through.
    Account(Box<Account>),
    /// As it was handed over.
    Report(Box<Report>),
}

impl Told {
    fn parts(&self) -> &dyn Parts {
        match self {
            Self::Account(account) => &**account,
            Self::Report(report) => &**report,
        }
    }

    /// The whole of it, in memory.
    pub fn to_report(&self) -> Report {
        match self {
            Self::Account(account) => account.to_report(),
            Self::Report(report) => (**report).clone(),
        }
    }
}

impl Parts for Told {
    fn run(&self) -> &Run {
        self.parts().run()
    }

    fn subjects(&self) -> Box<dyn Iterator<Item = Cow<'_, Subject>> + '_> {
        self.parts().subjects()
    }

    fn subject(&self, id: u64) -> Option<Cow<'_, Subject>> {
        self.parts().subject(id)
    }

    fn names(&self) -> Box<dyn Iterator<Item = Cow<'_, Name>> + '_> {
        self.parts().names()
    }

    fn flows(&self) -> Box<dyn Iterator<Item = Cow<'_, Flow>> + '_> {
        self.parts().flows()
    }

    fn told_by_another(&self) -> Vec<bool> {
        self.parts().told_by_another()
    }

    fn delegates(&self) -> &[Delegate] {
        self.parts().delegates()
    }

    fn findings(&self) -> &[Finding] {
        self.parts().findings()
    }

    fn coverage(&self) -> &Coverage {
        self.parts().coverage()
    }
}

impl Serialize for Told {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Account(account) => account.serialize(serializer),
            Self::Report(report) => report.serialize(serializer),
        }
    }
}

impl Report {
    /// As [`Account::add`].
    pub fn add(&mut self, scripts: Vec<Script>, found: Vec<Finding>) {
        self.run.scripts.extend(scripts);
        self.findings.extend(found);
        sort(&mut self.findings);
    }
}

impl Serialize for Account {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // By pattern, so that no field of a report can be forgotten here.
        let Report {
            schema_version,
            run,
            subjects: _,
            names: _,
            flows: _,
            delegates,
            findings,
            coverage,
        } = &self.frame;
        let mut document = serializer.serialize_struct("Report", 8)?;
        document.serialize_field("schema_version", schema_version)?;
        document.serialize_field("run", run)?;
        document.serialize_field("subjects", &Listed(|| self.subjects()))?;
        document.serialize_field("names", &Listed(|| self.names()))?;
        document.serialize_field("flows", &Listed(|| self.flows()))?;
        document.serialize_field("delegates", delegates)?;
        document.serialize_field("findings", findings)?;
        document.serialize_field("coverage", coverage)?;
        document.end()
    }
}

/// A list whose entries are made as they are written.
struct Listed<F>(F);

impl<F, I> Serialize for Listed<F>
where
    F: Fn() -> I,
    I: Iterator<Item: Serialize>,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

/// The texts of the rules that a record names.
#[derive(Debug, Clone)]
pub(super) struct RuleTexts(HashMap<RuleId, String>);

impl RuleTexts {
    fn of(record: &Ledger, policy: Option<&Policy>) -> Self {
        let mut texts = HashMap::new();
        let flows = record.flows.iter().map(|row| row.rule);
        let queries = record.queries.iter().map(|row| row.rule);
        let delegates = record.delegates.iter().map(|row| row.rule);
        let sockets = record.sockets.iter().map(|row| row.rule);
        for id in flows.chain(queries).chain(delegates).chain(sockets) {
            texts.entry(id).or_insert_with(|| rule_text(policy, id));
        }
        Self(texts)
    }

    pub(super) fn get(&self, id: RuleId) -> &str {
        self.0.get(&id).map_or("", String::as_str)
    }
}

/// What lies beyond the calendar is cut to its ends.
fn timestamp(ns: i128) -> Timestamp {
    let bounds = (
        Timestamp::MIN.as_nanosecond(),
        Timestamp::MAX.as_nanosecond(),
    );
    Timestamp::from_nanosecond(ns.clamp(bounds.0, bounds.1)).unwrap_or_default()
}

/// RFC 3339, UTC, microseconds.
pub(super) fn wall_time(ns: i128) -> Time {
    format!("{:.6}", timestamp(ns))
}

/// A number in the order of [`wall_time`]'s texts.
pub(super) fn wall_us(ns: i128) -> i128 {
    timestamp(ns).as_nanosecond().div_euclid(1000)
}

/// wait(2) status as a shell gives it.
fn exit_code(status: u32) -> i32 {
    match status & 0x7f {
        0 => ((status >> 8) & 0xff) as i32,
        signal => 128 + signal as i32,
    }
}

/// Is this the kind of address that a query of this type is answered with?
pub(super) fn asked_for(qtype: u16, address: IpAddr) -> bool {
    match qtype {
        1 => address.is_ipv4(),
        28 => address.is_ipv6(),
        _ => false,
    }
}

pub(super) fn protocol_text(number: u8) -> String {
    match number {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    }
}

/// A DNS type's name, or RFC 3597's form for the less usual.
pub(super) fn type_text(qtype: u16) -> String {
    let known = match qtype {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        43 => "DS",
        48 => "DNSKEY",
        52 => "TLSA",
        64 => "SVCB",
        65 => "HTTPS",
        255 => "ANY",
        257 => "CAA",
        other => return format!("TYPE{other}"),
    };
    known.to_owned()
}
