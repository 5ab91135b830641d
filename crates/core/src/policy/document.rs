//! One file of a policy, as it was written.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use super::{Day, Diagnostic, Effect, LeaseLife, Limits, Rule, Severity, UnitPattern};
use crate::name::Name;
use crate::record::Verdict;
use crate::report::Mode;
use crate::tables::Protocol;

/// A place in a file of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<str>,
    /// Byte range in the file's text.
    pub span: Range<usize>,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
}

/// Something and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written<T> {
    /// What.
    pub value: T,
    /// Where.
    pub place: Place,
}

/// One file, as it was written: nothing has been looked up, and nothing filled in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Document {
    /// What the run deploys.
    pub service: Option<Written<String>>,
    /// Observe or enforce.
    pub mode: Option<Written<Mode>>,
    /// What holds where no rule does.
    pub default: Option<Written<Effect>>,
    /// How long leases last.
    pub lease: Option<Written<LeaseLife>>,
    /// At which ports names are read that connections give.
    pub inspect: Option<Written<Vec<u16>>>,
    /// What becomes of connections that hide a name.
    pub hidden: Option<Written<Effect>>,
    /// Other files that belong to this one; a relative path is meant from this one's directory.
    pub include: Vec<Written<String>>,
    /// Services whose failure the run must survive.
    pub protect: Vec<Written<String>>,
    /// Services of systemd that are observed while they start.
    pub follow: Vec<Written<UnitPattern>>,
    /// The rules, but for what only [`resolve()`](super::resolve()) knows: their layer, and the mode of those
    /// that do not say.
    pub rules: Vec<Rule>,
    /// Of each of `rules`, what of its writing does not stand in it.
    pub notes: Vec<Note>,
    /// Rules about services.
    pub service_rules: Vec<ServiceRule>,
    /// Exceptions.
    pub waivers: Vec<Waiver>,
    /// What the run may use.
    pub limits: Limits,
    /// What is expected of the policy. They are about the policy that this file makes together with what it
    /// includes; those of an included file are about that file alone.
    pub tests: Vec<Case>,
}

/// What stands about a rule in its file, beside the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Its own mode.
    pub mode: Option<Mode>,
    /// The byte range of its target. A file has at most [`MAX_BYTES`](super::MAX_BYTES).
    pub span: Range<u32>,
}

/// A rule about whatever a service provides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRule {
    /// The service.
    pub service: Written<String>,
    /// What the rules are like that it makes; their targets are the catalog's.
    pub like: Rule,
    /// Its own mode.
    pub mode: Option<Mode>,
}

/// An exception, in force or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiver {
    /// What it makes an exception of: the rule that it is while it is in force.
    pub rule: Rule,
    /// Or a service; then the rule's target is the catalog's.
    pub service: Option<Written<String>>,
    /// Its last day.
    pub expires: Day,
    /// Where it says until when.
    pub until: Place,
    /// Where it says what for.
    pub place: Place,
}

/// What is reached for in a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A name.
    Name(Name),
    /// An address that no name led to.
    Address(IpAddr),
    /// A unix socket; abstract names begin with `@`.
    Unix(String),
}

/// One test: an attempt, and what is expected of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// What is reached for.
    pub to: Destination,
    /// On which port; none for the lookup of a name only.
    pub port: Option<u16>,
    /// The address that the name leads to.
    pub address: Option<IpAddr>,
    /// What the process executes.
    pub process: Option<String>,
    /// What one executes that it descends from.
    pub ancestor: Option<String>,
    /// With which protocol; TCP if none is said.
    pub protocol: Option<Protocol>,
    /// What is expected to become of it.
    pub expect: Verdict,
    /// The rule that is expected to be behind it, as a report names it.
    pub rule: Option<String>,
    /// The destination as it was written.
    pub text: String,
    /// Where the test stands.
    pub place: Place,
}

impl Place {
    /// What is wrong here.
    pub fn diagnostic(
        &self,
        severity: Severity,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) -> Diagnostic {
        Diagnostic {
            severity,
            message: message.into(),
            file: self.file.to_string(),
            span: self.span.clone(),
            line: self.line,
            column: self.column,
            help: help.into(),
        }
    }

    /// `file:line`, as it is written in a sentence.
    pub fn line_of_file(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }
}

impl Document {
    /// Where one of `rules` stands.
    pub(super) fn place_of(&self, index: usize) -> Place {
        let (rule, note) = (&self.rules[index], &self.notes[index]);
        Place {
            file: Arc::clone(&rule.file),
            span: note.span.start as usize..note.span.end as usize,
            line: rule.line,
            column: rule.column,
        }
    }
}
