//! From the record to the report.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;

use jiff::Timestamp;

use super::coverage::coverage;
use super::findings::findings;
use super::probe::told_by_another;
use super::{
    Delegate, Flow, Gap, Guarded, Kernel, Mode, Name, Outcome, PolicySource, Report, Run,
    SCHEMA_VERSION, Subject, Time, Usage, Verdict,
};
use crate::policy::Policy;
use crate::record::{AnswerRow, FlowRow, NameId, QueryRow, Snapshot, SubjectId, SubjectRow};
use crate::redact::redact;
use crate::tables::{
    RULE_DEFAULT, RULE_LOCAL, RULE_MALFORMED, RULE_RESOLVER, RULE_RESOLVER_SOCKET, RULE_SEARCH,
    RuleId,
};

/// What is known of a run besides the kernel's record.
#[derive(Debug, Clone)]
pub struct RunFacts<'a> {
    /// UUIDv7.
    pub id: String,
    /// What the run deploys; where none, the policy's `service`.
    pub service: Option<String>,
    /// Who owns that.
    pub owner: Option<String>,
    /// The command line as typed; redacted here.
    pub command: Vec<String>,
    /// Host name.
    pub host: String,
    /// The mode that was in force, which need not be the policy's.
    pub mode: Mode,
    /// Where the policy came from.
    pub policy_source: Option<PolicySource>,
    /// The policy: texts, reasons and fixes of its rules.
    pub policy: Option<&'a Policy>,
    /// Wall-clock nanoseconds since the epoch when the child started.
    pub started_ns: i64,
    /// When the run ended; none while it goes on, and if the end was not seen.
    pub ended_ns: Option<i64>,
    /// Exit code of `blackstart run`.
    pub exit_code: Option<i32>,
    /// Use of resources.
    pub usage: Usage,
    /// `uname -r`.
    pub kernel_release: String,
    /// Names of the features that were in use.
    pub features: Vec<String>,
    /// Was the run guarded?
    pub guarded: Guarded,
    /// Gaps that the record cannot show: features that were missing, interfaces that no hook sees.
    pub gaps: Vec<Gap>,
    /// Processes that outlived the main child.
    pub leftovers: Vec<Leftover>,
    /// Seconds without a supervisor.
    pub unsupervised_seconds: f64,
    /// The run's resolvers and the host's own addresses: reaching for these needs no name.
    pub known_addresses: Vec<IpAddr>,
}

/// A process that outlived the main child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Its thread group id, initial pid namespace.
    pub tgid: u32,
    /// Its arguments; redacted here.
    pub argv: Vec<String>,
}

/// The text by which a report names a rule: the policy's own line, `default`, or a built-in rule's name.
pub fn rule_text(policy: Option<&Policy>, id: RuleId) -> String {
    match id {
        RULE_DEFAULT => "default".to_owned(),
        RULE_LOCAL => "built-in: local address".to_owned(),
        RULE_RESOLVER => "built-in: own resolver".to_owned(),
        RULE_MALFORMED => "built-in: unreadable DNS message".to_owned(),
        RULE_SEARCH => "built-in: search list".to_owned(),
        RULE_RESOLVER_SOCKET => "built-in: resolver socket".to_owned(),
        id => match policy.and_then(|p| p.rule(id)) {
            Some(rule) => rule.text.clone(),
            None => format!("rule {id}"),
        },
    }
}

/// Make the report. The same record and facts always give the same document.
pub fn assemble(record: &Snapshot, facts: &RunFacts<'_>) -> Report {
    let lens = Lens::new(record, facts);
    let subjects = lens.subjects();
    let mut names: Vec<_> = record
        .queries
        .iter()
        .map(|row| lens.name_entry(row))
        .collect();
    names.sort_by(|a, b| {
        let key = |n: &Name| {
            (
                n.subject,
                n.first_seen.clone(),
                n.name.clone(),
                n.qtype.clone(),
                n.rule.clone(),
            )
        };
        key(a).cmp(&key(b)).then(a.verdict.cmp(&b.verdict))
    });
    let mut flows: Vec<_> = record
        .flows
        .iter()
        .map(|row| lens.flow_entry(row))
        .collect();
    // In the order of the record's rows, as long as the flows are.
    let told_by_another = told_by_another(&flows);
    flows.sort_by(|a, b| {
        let key = |f: &Flow| {
            (
                f.subject,
                f.first_seen.clone(),
                f.name.clone(),
                f.address,
                f.port,
            )
        };
        let rest = |f: &Flow| (f.protocol.clone(), f.verdict, f.rule.clone(), f.attribution);
        key(a).cmp(&key(b)).then_with(|| rest(a).cmp(&rest(b)))
    });
    let mut delegates: Vec<_> = record
        .delegates
        .iter()
        .map(|row| Delegate {
            subject: lens.subject(row.subject),
            path: row.path.clone(),
            listener_pid: None,
            listener_exe: None,
            verdict: row.verdict,
            rule: lens.rule(row.rule),
            attempts: row.attempts,
        })
        .collect();
    delegates.sort_by(|a, b| {
        (a.subject, &a.path, a.verdict, &a.rule).cmp(&(b.subject, &b.path, b.verdict, &b.rule))
    });
    let findings = findings(&lens, &subjects, &told_by_another);
    let mut features = facts.features.clone();
    features.sort();
    features.dedup();
    Report {
        schema_version: SCHEMA_VERSION,
        run: Run {
            id: facts.id.clone(),
            service: facts
                .service
                .clone()
                .or_else(|| facts.policy?.service.clone()),
            owner: facts.owner.clone(),
            command: redact(&facts.command),
            host: facts.host.clone(),
            mode: facts.mode,
            policy: facts.policy_source.clone(),
            started: wall_time(facts.started_ns.into()),
            ended: facts.ended_ns.map(|ns| wall_time(ns.into())),
            exit_code: facts.exit_code,
            usage: facts.usage.clone(),
            kernel: Kernel {
                release: facts.kernel_release.clone(),
                features,
            },
            guarded: facts.guarded,
            addresses: Vec::new(),
            scripts: Vec::new(),
        },
        subjects,
        names,
        flows,
        delegates,
        findings,
        coverage: coverage(&lens),
    }
}

/// The record seen with the report's eyes: names for ids, times for ticks.
pub(super) struct Lens<'a> {
    pub(super) record: &'a Snapshot,
    pub(super) facts: &'a RunFacts<'a>,
    /// Subjects in the report's order.
    order: Vec<&'a SubjectRow>,
    numbers: HashMap<SubjectId, u64>,
    names: HashMap<NameId, &'a str>,
    answers: HashMap<NameId, Vec<&'a AnswerRow>>,
}

impl<'a> Lens<'a> {
    fn new(record: &'a Snapshot, facts: &'a RunFacts<'a>) -> Self {
        let order = in_start_order(&record.subjects);
        let numbers = order
            .iter()
            .zip(1..)
            .map(|(row, number)| (row.id, number))
            .collect();
        let names = record
            .names
            .iter()
            .map(|row| (row.id, row.name.as_str()))
            .collect();
        let mut answers: HashMap<NameId, Vec<&AnswerRow>> = HashMap::new();
        for row in &record.answers {
            answers.entry(row.name).or_default().push(row);
        }
        Self {
            record,
            facts,
            order,
            numbers,
            names,
            answers,
        }
    }

    /// The number of a subject in the report.
    pub(super) fn subject(&self, id: SubjectId) -> Option<u64> {
        self.numbers.get(&id).copied()
    }

    /// A name's text. An id without a row (the name table was full) still tells names apart.
    pub(super) fn name(&self, id: NameId) -> String {
        match self.names.get(&id) {
            Some(name) => (*name).to_owned(),
            None => format!("unknown-name-{id:016x}"),
        }
    }

    pub(super) fn rule(&self, id: RuleId) -> String {
        rule_text(self.facts.policy, id)
    }

    fn time(&self, boot_ns: u64) -> Time {
        wall_time(i128::from(boot_ns) + i128::from(self.record.boot_offset_ns))
    }

    fn subjects(&self) -> Vec<Subject> {
        self.order
            .iter()
            .zip(1..)
            .map(|(row, id)| Subject {
                id,
                pid: row.tgid,
                // A parent that does not come first is no parent: the record contradicts itself.
                parent: self.subject(row.parent).filter(|&parent| parent < id),
                exe: row.exe.clone(),
                argv: redact(&row.argv),
                argv_truncated: row.argv_truncated,
                started: self.time(row.started_ns),
                ended: (row.ended_ns != 0).then(|| self.time(row.ended_ns)),
                exit: (row.ended_ns != 0 && !row.replaced).then(|| exit_code(row.wait_status)),
            })
            .collect()
    }

    fn name_entry(&self, row: &QueryRow) -> Name {
        let mut answers: Vec<_> = self
            .answers
            .get(&row.name)
            .into_iter()
            .flatten()
            .filter(|a| !a.fixed && asked_for(row.qtype, a.address))
            .collect();
        answers.sort_by_key(|a| (a.address, &a.chain));
        let mut addresses: Vec<_> = answers.iter().map(|a| a.address).collect();
        addresses.dedup();
        let mut chain: Vec<NameId> = Vec::new();
        for &link in answers.iter().flat_map(|a| &a.chain) {
            if !chain.contains(&link) {
                chain.push(link);
            }
        }
        Name {
            name: self.name(row.name),
            qtype: type_text(row.qtype),
            subject: self.subject(row.subject),
            verdict: row.verdict,
            rule: self.rule(row.rule),
            queries: row.queries,
            first_seen: self.time(row.first_ns),
            last_seen: self.time(row.last_ns),
            addresses,
            chain: chain.into_iter().map(|id| self.name(id)).collect(),
        }
    }

    fn flow_entry(&self, row: &FlowRow) -> Flow {
        Flow {
            subject: self.subject(row.subject),
            name: (row.name != 0).then(|| self.name(row.name)),
            address: row.address,
            port: row.port,
            protocol: protocol_text(row.protocol),
            verdict: row.verdict,
            rule: self.rule(row.rule),
            attempts: row.attempts,
            outcome: outcome(row),
            bytes_sent: row.bytes_sent,
            first_seen: self.time(row.first_ns),
            last_seen: self.time(row.last_ns),
            attribution: row.attribution,
        }
    }
}

/// Parents first, and otherwise by start.
fn in_start_order(rows: &[SubjectRow]) -> Vec<&SubjectRow> {
    let index: HashMap<SubjectId, usize> = rows
        .iter()
        .enumerate()
        .map(|(i, row)| (row.id, i))
        .collect();
    let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut ready = BinaryHeap::new();
    let key = |i: usize| Reverse((rows[i].started_ns, rows[i].id, i));
    for (i, row) in rows.iter().enumerate() {
        match index.get(&row.parent) {
            Some(&parent) if row.parent != 0 && parent != i => {
                children.entry(parent).or_default().push(i)
            }
            _ => ready.push(key(i)),
        }
    }
    let mut order = Vec::with_capacity(rows.len());
    let mut placed = vec![false; rows.len()];
    // Rows that are each other's ancestors are never ready; they follow at the end, in order of start.
    let mut stuck: Vec<_> = (0..rows.len()).collect();
    stuck.sort_by_key(|&i| (rows[i].started_ns, rows[i].id));
    let mut stuck = stuck.into_iter();
    loop {
        let next = ready
            .pop()
            .map(|Reverse((_, _, i))| i)
            .or_else(|| stuck.find(|&i| !placed[i]));
        let Some(i) = next else { return order };
        if std::mem::replace(&mut placed[i], true) {
            continue;
        }
        order.push(&rows[i]);
        for &child in children.get(&i).into_iter().flatten() {
            ready.push(key(child));
        }
    }
}

/// RFC 3339, UTC, microseconds; what lies beyond the calendar is cut to its ends.
fn wall_time(ns: i128) -> Time {
    let bounds = (
        Timestamp::MIN.as_nanosecond(),
        Timestamp::MAX.as_nanosecond(),
    );
    let time = Timestamp::from_nanosecond(ns.clamp(bounds.0, bounds.1)).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// wait(2) status as a shell gives it.
fn exit_code(status: u32) -> i32 {
    match status & 0x7f {
        0 => ((status >> 8) & 0xff) as i32,
        signal => 128 + signal as i32,
    }
}

fn outcome(row: &FlowRow) -> Outcome {
    if row.connected > 0 {
        Outcome::Connected
    } else if row.verdict == Verdict::Deny || row.refused > 0 {
        Outcome::Refused
    } else if row.timed_out > 0 {
        Outcome::TimedOut
    } else {
        Outcome::Unknown
    }
}

/// Is this the kind of address that a query of this type is answered with?
fn asked_for(qtype: u16, address: IpAddr) -> bool {
    match qtype {
        1 => address.is_ipv4(),
        28 => address.is_ipv6(),
        _ => false,
    }
}

fn protocol_text(number: u8) -> String {
    match number {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    }
}

/// A DNS type's name, or RFC 3597's form for the less usual.
fn type_text(qtype: u16) -> String {
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
