//! What `runs` answers to a program: the types of which the documents are made, and their schemas.

use std::collections::BTreeSet;
use std::io::{self, Write};

use blackstart_core::history::change::{Changes, Footprint};
use blackstart_core::history::time_text;
use blackstart_core::report::{Guarded, Mode};
use blackstart_store::RunRow;
use blackstart_store::retention::{Plan, Why};
use schemars::JsonSchema;
use serde::Serialize;

use super::Earlier;

/// Goes up where a key is removed or changes its meaning.
const VERSION: u32 = 1;

/// `runs list --format json`.
#[derive(Debug, Serialize, JsonSchema)]
struct Listed<'a> {
    schema_version: u32,
    /// How many runs there are, with those that the limit leaves out.
    total: u64,
    /// The runs, the latest first.
    runs: Vec<Run<'a>>,
}

/// A run, in short.
#[derive(Debug, Serialize, JsonSchema)]
struct Run<'a> {
    /// Its id.
    id: &'a str,
    /// What it deployed.
    service: Option<&'a str>,
    /// Where.
    host: &'a str,
    /// The command line, redacted; empty where it was attached to something.
    command: &'a [String],
    /// What that was: the unit, the container, the path or the process that was typed. None of runs that an earlier version
    /// took in.
    attached: Option<&'a str>,
    /// When it began.
    started: String,
    /// When it ended, if that was seen.
    ended: Option<String>,
    /// As `blackstart run` exited.
    exit_code: Option<i32>,
    /// Observe or enforce.
    mode: Mode,
    /// Was it guarded?
    guarded: Guarded,
    /// An outage was played for it.
    drill: bool,
    /// The glass was broken.
    break_glass: bool,
    /// Everything that it tried to reach.
    attempts: u64,
    /// What of it was lost.
    lost: u64,
    /// Different destinations.
    destinations: u64,
    /// Attempts and lookups that were refused.
    refused: u64,
    /// Those that would have been in enforce mode.
    would_be_refused: u64,
    /// Findings.
    findings: u64,
    /// Why not everything may be known of it.
    incomplete: &'a [String],
    /// The size of its report.
    report_bytes: u64,
}

impl<'a> Run<'a> {
    fn of(row: &'a RunRow) -> Self {
        Self {
            id: &row.id,
            service: row.service.as_deref(),
            host: &row.host,
            command: &row.command,
            attached: row.target.as_deref(),
            started: time_text(row.started),
            ended: row.ended.map(time_text),
            exit_code: row.exit_code,
            mode: row.mode,
            guarded: row.guarded,
            drill: row.drill,
            break_glass: row.break_glass,
            attempts: row.attempts,
            lost: row.lost,
            destinations: row.destinations,
            refused: row.refused,
            would_be_refused: row.would_be_refused,
            findings: row.findings,
            incomplete: &row.lacks,
            report_bytes: row.report_bytes,
        }
    }
}

/// Writes the list, which may be long.
pub(super) fn list(rows: &[RunRow], total: u64, out: &mut dyn Write) -> io::Result<()> {
    let listed = Listed {
        schema_version: VERSION,
        total,
        runs: rows.iter().map(Run::of).collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &listed)?;
    out.write_all(b"\n")
}

/// A run, and what it is compared with.
pub(super) struct Compared<'a> {
    pub(super) earlier: &'a Earlier,
    pub(super) run: &'a RunRow,
    pub(super) changes: &'a Changes,
}

/// `runs diff --format json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Differs<'a> {
    schema_version: u32,
    /// The earlier run; none, where the run is compared with all earlier ones of its service.
    from: Option<Run<'a>>,
    /// How many earlier runs that are.
    earlier_runs: u64,
    /// How many others of its service were left out: drills, and what was attached to (or deployments, where the run was
    /// attached itself).
    passed_over: u64,
    /// The run.
    to: Run<'a>,
    /// What the earlier runs do not have.
    new: Prints<'a>,
    /// What the run does not have: of the earlier run, or of each of the ten runs before that were seen as a whole. Of a run
    /// that was not (`incomplete`) it may be there all the same.
    gone: Prints<'a>,
}

/// By what runs are compared.
#[derive(Debug, Serialize, JsonSchema)]
struct Prints<'a> {
    /// Names with ports, addresses where there is no name, and `unix:` with the path of a socket.
    destinations: &'a BTreeSet<String>,
    /// Names that were looked up.
    names: &'a BTreeSet<String>,
    /// What was executed.
    executables: &'a BTreeSet<String>,
}

impl<'a> Prints<'a> {
    fn of(footprint: &'a Footprint) -> Self {
        Self {
            destinations: &footprint.destinations,
            names: &footprint.names,
            executables: &footprint.executables,
        }
    }
}

impl<'a> Compared<'a> {
    pub(super) fn document(&self) -> Differs<'a> {
        let (from, earlier_runs, passed_over) = match self.earlier {
            Earlier::Run(run) => (Some(Run::of(run)), 1, 0),
            Earlier::All { runs, passed_over } => (None, *runs, *passed_over),
        };
        Differs {
            schema_version: VERSION,
            from,
            earlier_runs,
            passed_over,
            to: Run::of(self.run),
            new: Prints::of(&self.changes.new),
            gone: Prints::of(&self.changes.gone),
        }
    }
}

/// `runs prune --format json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Pruned<'a> {
    schema_version: u32,
    /// False for a dry run: nothing was removed.
    done: bool,
    /// The runs that go, the earliest first.
    removed: Vec<Removed<'a>>,
    /// How many runs stay.
    kept: u64,
    /// The size of the history before.
    bytes_before: u64,
    /// The size after; of a dry run, what it would be, more or less.
    bytes_after: u64,
}

/// A run that goes.
#[derive(Debug, Serialize, JsonSchema)]
struct Removed<'a> {
    /// Its id.
    id: &'a str,
    /// When it began.
    started: String,
    /// Why it goes.
    why: Cause,
    /// About what it takes.
    bytes: u64,
}

/// Why a run goes.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Cause {
    /// It is too old.
    Age,
    /// The history is too large.
    Size,
}

impl<'a> Pruned<'a> {
    /// `after` is the size once it is done.
    pub(super) fn of(plan: &'a Plan, after: Option<u64>) -> Self {
        let removed = plan.remove.iter().map(|(run, why)| Removed {
            id: &run.id,
            started: time_text(run.started),
            why: match why {
                Why::Age => Cause::Age,
                Why::Size => Cause::Size,
            },
            bytes: run.bytes,
        });
        Self {
            schema_version: VERSION,
            done: after.is_some(),
            removed: removed.collect(),
            kept: plan.keep,
            bytes_before: plan.bytes,
            bytes_after: after.unwrap_or(plan.bytes_after),
        }
    }
}

/// The schema of each, by the command that answers with it.
#[cfg(test)]
pub(crate) fn schemas() -> [(&'static str, serde_json::Value); 3] {
    [
        ("list", schemars::schema_for!(Listed<'_>).to_value()),
        ("diff", schemars::schema_for!(Differs<'_>).to_value()),
        ("prune", schemars::schema_for!(Pruned<'_>).to_value()),
    ]
}
