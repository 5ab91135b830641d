//! From the record to the report.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::account::{Account, RuleTexts, wall_time};
use super::coverage::coverage;
use super::drill::{DrillFacts, drill};
use super::findings::findings;
use super::followed::{FollowedFacts, followed};
use super::ledger::{Contact, Image, Ledger, Reach, Slot};
use super::limits::{LimitFacts, told};
use super::whole::guarded;
use super::{
    Attached, Delegate, Gap, Guarded, Kernel, Mode, PolicySource, Reloaded, Report, Run,
    SCHEMA_VERSION, Usage, image_name,
};
use crate::policy::Policy;
use crate::record::{Snapshot, Verdict};
use crate::redact::Redaction;
use crate::tables::{
    RULE_DEFAULT, RULE_HIDDEN, RULE_LINK_LOCAL, RULE_LOCAL, RULE_MALFORMED, RULE_RESOLVER,
    RULE_RESOLVER_SOCKET, RULE_REVERSE, RULE_SEARCH, RULE_SOCKET_KIND, RuleId,
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
    /// What is taken for a secret in command lines.
    pub redaction: Redaction,
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
    /// Policies that took over while the run was on.
    pub reloads: Vec<Reload>,
    /// Why everything was let pass, if it was.
    pub break_glass: Option<String>,
    /// The outage that was played, if one was.
    pub drill: Option<DrillFacts>,
    /// What it was attached to, where there was no command.
    pub attached: Option<Attached>,
    /// Units that were followed.
    pub followed: Vec<FollowedFacts>,
    /// What was to be followed, and did not start.
    pub unfollowed: Vec<String>,
    /// Limits, and what they did.
    pub limits: LimitFacts,
    /// Use of resources.
    pub usage: Usage,
    /// `uname -r`.
    pub kernel_release: String,
    /// Names of the features that were in use.
    pub features: Vec<String>,
    /// Was the run guarded?
    pub guarded: Guarded,
    /// Families of sockets that no program sees could not be made.
    pub closed_families: bool,
    /// The command could not undo its guard.
    pub contained: bool,
    /// Gaps that the record cannot show: features that were missing, interfaces that no hook sees.
    pub gaps: Vec<Gap>,
    /// Processes that outlived the main child.
    pub leftovers: Vec<Leftover>,
    /// Seconds without a supervisor.
    pub unsupervised_seconds: f64,
    /// Processes were left under guard without one on purpose.
    pub kept: bool,
    /// The run's resolvers and the host's own addresses: reaching for these needs no name.
    pub known_addresses: Vec<IpAddr>,
    /// The host's own addresses, loopback left out.
    pub own_addresses: Vec<IpAddr>,
    /// The run's name servers.
    pub resolvers: Vec<IpAddr>,
    /// Its search list.
    pub search: Vec<String>,
}

/// A process that outlived the main child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
        RULE_REVERSE => "built-in: reverse lookup".to_owned(),
        RULE_LINK_LOCAL => "built-in: link-local address of a name".to_owned(),
        RULE_HIDDEN => "built-in: hidden name (`hidden: deny`)".to_owned(),
        RULE_SOCKET_KIND => "built-in: kind of socket".to_owned(),
        id => match policy.and_then(|p| p.rule(id)) {
            Some(rule) => rule.text.to_string(),
            None => format!("rule {id}"),
        },
    }
}

/// Make the report. The same record and facts always give the same document.
pub fn assemble(record: &Snapshot, facts: &RunFacts<'_>) -> Report {
    let mut ledger = Ledger::redacting(&facts.redaction);
    record.rows().for_each(|row| ledger.add(row));
    Account::new(ledger, facts).to_report()
}

/// The report without its long lists: those are made from the record as they are gone through.
pub(super) fn frame(record: &Ledger, rules: &RuleTexts, facts: &RunFacts<'_>) -> Report {
    let lens = Lens {
        record,
        rules,
        facts,
    };
    // Within the run nobody acts for it; what was refused there is told all the same.
    let within = |row: &&Contact| {
        row.verdict == Verdict::Allow && row.listener.as_ref().is_some_and(|it| it.inside)
    };
    let mut delegates: Vec<_> = record
        .delegates
        .iter()
        .filter(|row| !within(row))
        .map(|row| Delegate {
            subject: lens.subject(row.subject),
            path: row.path.clone(),
            listener_pid: row.listener.as_ref().map(|it| it.pid),
            listener_exe: row.listener.as_ref().and_then(|it| it.exe.clone()),
            reached: row.alias().map(str::to_owned),
            verdict: row.verdict,
            rule: lens.rule(row.rule),
            attempts: row.attempts,
        })
        .collect();
    delegates.sort_by(|a, b| {
        (a.subject, &a.path, a.verdict, &a.rule).cmp(&(b.subject, &b.path, b.verdict, &b.rule))
    });
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
            command: facts.redaction.of(&facts.command),
            host: facts.host.clone(),
            mode: facts.mode,
            policy: facts.policy_source.clone(),
            started: wall_time(facts.started_ns.into()),
            ended: facts.ended_ns.map(|ns| wall_time(ns.into())),
            exit_code: facts.exit_code,
            reloads: facts.reloads.iter().map(told_reload).collect(),
            break_glass: facts.break_glass.clone(),
            drill: drill(&lens),
            attached: facts.attached.clone(),
            followed: followed(&lens),
            limits: told(&facts.limits, &facts.usage),
            usage: facts.usage.clone(),
            kernel: Kernel {
                release: facts.kernel_release.clone(),
                features,
            },
            guarded: guarded(&lens),
            addresses: facts.own_addresses.clone(),
            resolvers: facts.resolvers.clone(),
            search: facts.search.clone(),
            scripts: Vec::new(),
        },
        subjects: Vec::new(),
        names: Vec::new(),
        flows: Vec::new(),
        delegates,
        findings: findings(&lens),
        coverage: coverage(&lens),
    }
}

/// A policy that took over while the run was on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// Wall-clock nanoseconds since the epoch.
    pub at_ns: i64,
    /// The policy.
    pub policy: PolicySource,
}

fn told_reload(reload: &Reload) -> Reloaded {
    Reloaded {
        at: wall_time(reload.at_ns.into()),
        policy: reload.policy.clone(),
    }
}

/// The record seen with the report's eyes: names for ids, words for processes.
pub(super) struct Lens<'a> {
    pub(super) record: &'a Ledger,
    pub(super) rules: &'a RuleTexts,
    pub(super) facts: &'a RunFacts<'a>,
}

impl Lens<'_> {
    /// The number of a subject in the report.
    pub(super) fn subject(&self, slot: Slot) -> Option<u64> {
        self.record.subject(slot)
    }

    /// A name's text.
    pub(super) fn name(&self, slot: Slot) -> String {
        self.record.name(slot)
    }

    pub(super) fn rule(&self, id: RuleId) -> String {
        self.rules.get(id).to_owned()
    }

    /// What the process of a row is called.
    pub(super) fn who(&self, slot: Slot) -> String {
        match self.subject(slot) {
            Some(number) => self.name_of(number),
            None => "unknown process".to_owned(),
        }
    }

    /// Where a row went: a name or an address, with the port if there was one.
    pub(super) fn destination(&self, row: &Reach) -> String {
        let host = match (row.name, row.address) {
            (0, IpAddr::V6(address)) if row.port != 0 => format!("[{address}]"),
            (0, address) => address.to_string(),
            (name, _) => self.name(name),
        };
        match row.port {
            0 => host,
            port => format!("{host}:{port}"),
        }
    }

    /// What the subject with this number is called.
    pub(super) fn name_of(&self, number: u64) -> String {
        let image = self.record.image(number);
        image_name(self.record.exe(image), &self.record.argv(image)).to_owned()
    }

    /// What a process is called that may have no subject.
    pub(super) fn name_of_process(&self, process: &Leftover) -> String {
        match self.last_image(process.tgid) {
            Some(number) => self.name_of(number),
            None if process.argv.is_empty() => "a process".to_owned(),
            None => image_name("", &self.facts.redaction.of(&process.argv)).to_owned(),
        }
    }

    /// Its arguments, redacted.
    pub(super) fn argv_of(&self, number: u64) -> Vec<String> {
        self.record.argv(self.record.image(number))
    }

    /// Its number and those of its ancestors. Ends, because a parent's number is always the smaller.
    pub(super) fn chain_of(&self, number: u64) -> Vec<u64> {
        let parent = |number: &u64| self.record.parent(self.record.image(*number));
        std::iter::successors(Some(number), parent).collect()
    }

    /// The last image of a process id.
    pub(super) fn last_image(&self, tgid: u32) -> Option<u64> {
        let is_it = |image: &Image| image.tgid == tgid;
        let at = self.record.subjects.iter().rposition(is_it)?;
        Some(at as u64 + 1)
    }
}
