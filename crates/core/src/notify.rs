//! What others are told of a run: what is told, to whom, and what was told before. Nothing here sends anything.
//!
//! Two kinds of targets. *Logs* (`file`, `journald`, `metrics`, `otlp`) get every run and every finding, since
//! whoever reads them asks for all of it; each finding says whether it is new. *Alerts* (`webhook`, `slack`, `alertmanager`)
//! get what they were not told yet: one finding, one alert; see [`Memory`]. Which findings go to whom, says [`Route`].

mod memory;
mod otlp;
mod payload;
mod route;
mod tally;
mod target;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::report::{Circle, Parts, Reaction};
use crate::report::{Finding, Guarded, Mode, PolicySource, Severity, Verdict};

pub use memory::{FORGOTTEN_AFTER, Memory};
pub use otlp::{logs, traces};
pub use payload::{SHORT, alertmanager, journal, lines, short_line, slack, webhook};
pub use route::Route;
pub use tally::{Sums, Tally};
pub use target::{Form, Sink, Target, fingerprint};

/// Goes up where a key of a line or a webhook is removed or changes its meaning.
pub const VERSION: u32 = 1;

/// What is told of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Told {
    /// The run.
    pub run: ToldRun,
    /// Its findings, as in its report.
    pub findings: Vec<ToldFinding>,
}

/// The run itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToldRun {
    /// UUIDv7.
    pub id: String,
    /// What it deployed, if anyone said.
    pub service: Option<String>,
    /// Who owns that, if the catalog says.
    pub owner: Option<String>,
    /// Host name.
    pub host: String,
    /// The command line, redacted; empty where something was attached to.
    pub command: Vec<String>,
    /// What it was attached to instead.
    #[serde(default)]
    pub attached: Option<String>,
    /// Mode.
    pub mode: Mode,
    /// Was it guarded?
    pub guarded: Guarded,
    /// The policy, if there was one.
    pub policy: Option<PolicySource>,
    /// When the command started.
    pub started: String,
    /// When the run ended; none while it goes on.
    pub ended: Option<String>,
    /// While it goes on, up to when this is what there is to tell.
    #[serde(default)]
    pub so_far: Option<String>,
    /// Exit code of `blackstart run`.
    pub exit_code: Option<i32>,
    /// Seconds from the command's start to the run's end.
    pub wall_seconds: Option<f64>,
    /// Why everything was let pass, if the glass was broken.
    pub break_glass: Option<String>,
    /// An outage was played for it.
    pub drill: bool,
    /// Attempts that were refused: lookups, connections, contacts.
    pub refused: u64,
    /// Attempts that would have been, had the policy been enforced.
    pub would_refuse: u64,
    /// Attempts that a hook judged.
    pub attempts: u64,
    /// Those that have a row.
    pub recorded: u64,
    /// Kinds of what could not be seen, each once, but for those that stand in every report.
    pub gaps: Vec<String>,
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToldFinding {
    /// Stable over runs and hosts.
    pub id: String,
    /// As in the report.
    pub kind: String,
    /// How bad.
    pub severity: Severity,
    /// One line.
    pub title: String,
    /// Whom to ask: the owner that the catalog names, else the owner of what the run deploys.
    pub owner: Option<String>,
    /// Command line of the process behind it, redacted.
    pub command: Option<Vec<String>>,
    /// The rule as text.
    pub rule: Option<String>,
    /// Why the rule stands, as its author wrote.
    pub reason: Option<String>,
    /// What to do.
    pub fix: Option<String>,
    /// What the refusal does to the run's exit code.
    pub reaction: Option<Reaction>,
    /// The circle that a deployment closes, of a `loop`.
    #[serde(rename = "loop")]
    pub circle: Option<Circle>,
    /// This target was not told of it before, or not lately.
    pub new: bool,
}

impl Told {
    /// Of a report. No finding is new yet: what is, differs from target to target.
    pub fn of(report: &dyn Parts) -> Self {
        let run = report.run();
        let coverage = report.coverage();
        let (mut refused, mut would_refuse) = (0u64, 0u64);
        let mut count = |verdict, times: u64| match verdict {
            Verdict::Deny => refused += times,
            Verdict::WouldDeny => would_refuse += times,
            _ => {}
        };
        report
            .names()
            .for_each(|name| count(name.verdict, name.queries));
        let asks_the_way = report.told_by_another();
        for (flow, asks_the_way) in report.flows().zip(asks_the_way) {
            if !asks_the_way {
                count(flow.verdict, flow.attempts);
            }
        }
        for delegate in report.delegates() {
            count(delegate.verdict, delegate.attempts);
        }
        let mut gaps: Vec<String> = coverage
            .gaps
            .iter()
            .filter(|gap| {
                crate::report::STANDING_GAPS
                    .iter()
                    .all(|it| it.kind != gap.kind)
            })
            .map(|gap| gap.kind.clone())
            .collect();
        gaps.sort_unstable();
        gaps.dedup();
        Self {
            run: ToldRun {
                id: run.id.clone(),
                service: run.service.clone(),
                owner: run.owner.clone(),
                host: run.host.clone(),
                command: run.command.clone(),
                attached: run.attached.as_ref().map(|to| to.target.clone()),
                mode: run.mode,
                guarded: run.guarded,
                policy: run.policy.clone(),
                started: run.started.clone(),
                ended: run.ended.clone(),
                so_far: None,
                exit_code: run.exit_code,
                wall_seconds: run.usage.wall_seconds,
                break_glass: run.break_glass.clone(),
                drill: run.drill.is_some(),
                refused,
                would_refuse,
                attempts: coverage.attempts,
                recorded: coverage.recorded,
                gaps,
            },
            findings: report
                .findings()
                .iter()
                .map(|finding| ToldFinding::of(finding, run.owner.as_deref()))
                .collect(),
        }
    }

    /// With what `target` was not told yet marked as new. The memory has it as told from then on.
    pub fn to(&self, target: &Target, memory: &mut Memory) -> Self {
        let mut told = self.clone();
        let now = self.run.moment();
        for finding in &mut told.findings {
            finding.new = memory.tell(&target.key(), &self.run, finding, now);
        }
        told
    }

    /// Of a run that goes on: this is what there was to tell up to `now`.
    pub fn up_to(mut self, now: crate::history::Micros) -> Self {
        self.run.so_far = Some(crate::history::time_text(now)).filter(|_| self.run.goes_on());
        self
    }

    /// Of a run that goes on, only what is news: all of it is told when it has ended.
    pub fn news(mut self) -> Self {
        let goes_on = self.run.goes_on();
        self.findings.retain(|finding| finding.new || !goes_on);
        self
    }

    /// Only what an alert is about: new findings (or all of them), and no mere remarks where people are called.
    pub fn alerting(mut self, form: Form, all: bool) -> Self {
        self.findings
            .retain(|finding| (all || finding.new) && finding.severity >= form.least());
        self
    }
}

impl ToldRun {
    /// When it ended, or was looked at; or began, where nothing else is known.
    pub fn moment(&self) -> crate::history::Micros {
        let known = self.ended.as_deref().or(self.so_far.as_deref());
        crate::history::micros(known.unwrap_or(&self.started))
    }

    /// Does it still go on?
    pub fn goes_on(&self) -> bool {
        self.ended.is_none()
    }

    /// What it deployed; where nobody said, what it executed or was attached to: whose finding it is.
    pub fn subject(&self) -> &str {
        let named = self.service.as_ref().or(self.command.first());
        named.or(self.attached.as_ref()).map_or("", String::as_str)
    }
}

impl ToldFinding {
    fn of(finding: &Finding, owner_of_run: Option<&str>) -> Self {
        Self {
            id: finding.id.clone(),
            kind: finding.kind.clone(),
            severity: finding.severity,
            title: finding.title.clone(),
            owner: finding
                .owner
                .clone()
                .or_else(|| owner_of_run.map(str::to_owned)),
            command: finding.command.clone(),
            rule: finding.rule.clone(),
            reason: finding.reason.clone(),
            fix: finding.fix.clone(),
            reaction: finding.reaction,
            circle: finding.circle.clone(),
            new: false,
        }
    }
}
