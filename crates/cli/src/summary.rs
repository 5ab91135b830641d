//! The end of a run in words: a pure function from the report to text.
//!
//! The first line is the verdict. What was refused comes before what passed, and what could not be
//! seen is never left out. Large runs are cut to what a person reads; the report has the rest.

mod delegates;
pub(crate) mod destinations;
pub(crate) mod drill;
pub(crate) mod followed;
pub(crate) mod limits;
pub(crate) mod lineage;

use std::fmt::Write as _;

use blackstart_core::explain::{Explanation, Question};
use blackstart_core::policy::{Day, Rule};
use blackstart_core::report::{
    ATTEMPTS_LOST, Connection, DELEGATE, DrillOutcome, Gap, Guarded, PARTLY_GUARDED, Parts,
    RulePlace, STANDING_GAPS, Severity, UNGUARDED, UNSUPERVISED, Until, Verdict, image_name,
};

use self::delegates::{asked_resolved, contacts};
pub(crate) use self::delegates::{delegate_verdict, is_resolver_socket};
use self::destinations::{Busiest, Dependency, Destinations, Refusal};
use self::lineage::Lineage;
use crate::explain;
use crate::plain::{Paint, cut, plain};

/// How many entries of each kind are shown.
const REFUSED_SHOWN: usize = 10;
const DEPENDENCIES_SHOWN: usize = 25;
const DELEGATES_SHOWN: usize = 10;
const FINDINGS_SHOWN: usize = 10;
const CONNECTIONS_SHOWN: usize = 10;
const FOLLOWED_SHOWN: usize = 10;
const GAPS_SHOWN: usize = 40;
const CHAINS_SHOWN: usize = 3;
const PLACES_SHOWN: usize = 3;
const LOSERS_SHOWN: usize = 3;
/// Longest text of one cell, chain or sentence.
const NAME_WIDTH: usize = 48;
const LABEL_WIDTH: usize = 24;
const TARGET_WIDTH: usize = 100;
const SENTENCE_WIDTH: usize = 300;

/// For how long a waiver holds that is suggested.
pub(crate) const WAIVED_DAYS: u16 = 14;

/// Findings of these kinds are told further above already.
const TOLD_ALREADY: [&str; 4] = [
    "denied_dependency",
    "would_deny",
    "drill_failed",
    "drill_hung",
];

/// And these by what is said of the coverage and of daemons: they are findings for who is told of nothing else.
pub(crate) const OF_COVERAGE: [&str; 5] = [
    UNGUARDED,
    PARTLY_GUARDED,
    ATTEMPTS_LOST,
    UNSUPERVISED,
    DELEGATE,
];

/// Findings of these kinds are for whoever keeps the catalog, in the morning.
pub(crate) const ABOUT_CATALOG: [&str; 2] = ["seen_not_declared", "unowned_destination"];

/// Asks the policy again; none where it has no answer.
pub(crate) type Explain<'a> = dyn Fn(&Question) -> Option<Explanation> + 'a;

/// What to tell, and how.
pub(crate) struct Telling<'a> {
    /// The report.
    pub(crate) report: &'a dyn Parts,
    /// The policy's rules, to say in which file and line each stands.
    pub(crate) rules: &'a [Rule],
    /// Why the policy refuses something, where it is at hand and was the run's from its start to its end.
    pub(crate) explained: Option<&'a Explain<'a>>,
    /// The files that it was written to.
    pub(crate) written: &'a [String],
    /// Colours.
    pub(crate) paint: Paint,
}

impl Telling<'_> {
    /// The summary, ending in a line feed.
    pub(crate) fn text(&self) -> String {
        let lines = Lineage::of(self.report.subjects());
        let destinations = Destinations::of(self.report, self.rules, &lines);
        let (refused, would) = (&destinations.refused, &destinations.would);

        let mut out = format!("blackstart: {}\n", self.headline(&destinations));
        self.drill(&mut out, &lines);
        self.circles(&mut out, &lines);
        self.refusals(&mut out, "refused", refused);
        self.refusals(&mut out, "would be refused in enforce mode", would);
        self.waive(&mut out, refused.shown.iter().chain(&would.shown));
        self.dependencies(&mut out, &destinations.reached, destinations.names_only);
        self.delegates(&mut out, &lines);
        self.followed(&mut out);
        self.open_before(&mut out);
        self.findings(&mut out);
        self.coverage(&mut out);
        for path in self.written {
            let _ = writeln!(out, "report    {}", plain(path));
        }
        out
    }

    /// What the summary begins with, by itself.
    pub(crate) fn sentence(&self) -> String {
        let lines = Lineage::of(self.report.subjects());
        self.headline(&Destinations::of(self.report, self.rules, &lines))
    }

    fn headline(&self, destinations: &Destinations) -> String {
        let run = self.report.run();
        let command = match &run.attached {
            Some(attached) => cut(&plain(&attached.target), TARGET_WIDTH),
            None => label("", &run.command),
        };
        let command = self.paint.bold(&command);
        if run.guarded == Guarded::No {
            return format!(
                "{} {command} ran, and nothing of what it reached for was seen{}",
                self.paint.bad("unguarded:"),
                self.limits_reached()
            );
        }
        let (stopped, spared) = (
            destinations.refused.destinations,
            destinations.would.destinations,
        );
        let mut line = match destinations.count {
            0 => format!("{command} reached for nothing outside this host"),
            count => format!(
                "{command} reached for {}",
                counted(count as u64, "outside destination")
            ),
        };
        if stopped > 0 {
            let words = format!("{stopped} {} refused", were(stopped));
            let _ = write!(line, "; {}", self.paint.bad(&words));
        }
        if spared > 0 {
            let words = format!("{spared} would be refused in enforce mode");
            let _ = write!(line, "; {}", self.paint.doubtful(&words));
        }
        line.push_str(&self.limits_reached());
        let restarts = run.attached.as_ref().map_or(0, |to| to.restarts);
        if restarts > 0 {
            let _ = write!(
                line,
                "; its cgroup was made anew {}",
                counted(restarts, "time")
            );
        }
        match run.attached.as_ref().map(|attached| attached.until) {
            Some(Some(Until::Gone)) => line.push_str("; its cgroup is gone"),
            Some(Some(Until::Replaced)) => {
                line.push_str("; the agent was replaced by another, whose run of it goes on");
            }
            Some(None) => line.push_str("; its end was not seen"),
            _ => {}
        }
        if run.guarded == Guarded::Partly {
            line.push_str("; not everything could be seen, see the gaps");
        }
        line
    }

    /// Connections that were older than the guard.
    fn open_before(&self, out: &mut String) {
        let attached = self.report.run().attached.as_ref();
        // Those that are refused first.
        let told = |one: &&Connection| match one.verdict {
            Some(Verdict::Deny) => 0,
            Some(Verdict::WouldDeny) => 1,
            Some(_) => 2,
            None => 3,
        };
        let mut open: Vec<_> = attached.iter().flat_map(|to| &to.connections).collect();
        open.sort_by_key(told);
        if open.is_empty() {
            return;
        }
        let _ = writeln!(out, "\n{} ({})", self.paint.bold("open before"), open.len());
        for one in open.iter().take(CONNECTIONS_SHOWN) {
            let who = match (&one.exe, one.pid) {
                (Some(exe), Some(pid)) => format!("{} (pid {pid})", label(exe, &[])),
                _ => "a process that is not known".to_owned(),
            };
            let way = if one.incoming { "from" } else { "to" };
            let refused = matches!(one.verdict, Some(Verdict::Deny | Verdict::WouldDeny));
            let remark = match (&one.rule, one.cut) {
                (Some(rule), true) => format!("; {} [{}]", self.paint.bad("cut"), plain(rule)),
                (Some(rule), false) if refused => {
                    let left = self.paint.doubtful("left, though a new one is refused");
                    format!("; {left} [{}]", plain(rule))
                }
                _ => String::new(),
            };
            let _ = writeln!(
                out,
                "    {} {way} {}, {who}{remark}",
                plain(&one.protocol),
                one.peer
            );
        }
        let more = open.len().saturating_sub(CONNECTIONS_SHOWN);
        if more > 0 {
            let _ = writeln!(out, "    … and {more} more");
        }
    }

    /// Units that started meanwhile.
    fn followed(&self, out: &mut String) {
        let units = &self.report.run().followed;
        if units.is_empty() {
            return;
        }
        let _ = writeln!(
            out,
            "\n{}",
            self.paint
                .bold("units that started meanwhile, observed and not judged")
        );
        for unit in units.iter().take(FOLLOWED_SHOWN) {
            let _ = writeln!(out, "    {}", plain(&followed::told(unit)));
        }
        self.more(out, units.len(), FOLLOWED_SHOWN);
    }

    /// `; time limit of 30m reached`
    fn limits_reached(&self) -> String {
        let reached = limits::reached(&self.report.run().limits).into_iter();
        reached
            .map(|text| format!("; {}", self.paint.bad(&text)))
            .collect()
    }

    /// What the outage that was played made of the command.
    fn drill(&self, out: &mut String, lines: &Lineage) {
        let run = self.report.run();
        let (Some(drill), Some(told)) = (&run.drill, drill::told(run)) else {
            return;
        };
        let outcome = match drill.outcome {
            DrillOutcome::Managed => self.paint.good(told.outcome),
            DrillOutcome::Failed | DrillOutcome::Hung => self.paint.bad(told.outcome),
            DrillOutcome::Unknown => self.paint.doubtful(told.outcome),
        };
        let word = self.paint.bold("drill");
        let _ = writeln!(out, "\n{word} {}: {outcome}; {}", told.what, told.vain);
        if let Some(subject) = drill.subjects.first() {
            let _ = writeln!(out, "    in    {}", lines.chain(Some(*subject)));
        }
        if let Some(time) = told.time {
            let _ = writeln!(out, "    time  {time}");
        }
    }

    /// The circles that the deployment closes, by the kind of each, with the process behind it and what is known
    /// of each step.
    fn circles(&self, out: &mut String, lines: &Lineage) {
        let circles = || {
            let findings = self.report.findings().iter();
            findings.filter_map(|finding| Some((finding, finding.circle.as_ref()?)))
        };
        let all = circles().count();
        if all == 0 {
            return;
        }
        let _ = writeln!(out, "\n{}", self.paint.bold("circular dependencies"));
        for (finding, circle) in circles().take(FINDINGS_SHOWN) {
            let _ = writeln!(
                out,
                "  {}  {}",
                self.paint.bad(&plain(&circle.kind)),
                cut(&plain(&finding.title), SENTENCE_WIDTH)
            );
            if let Some(subject) = finding.subjects.first() {
                let _ = writeln!(out, "    by    {}", lines.chain(Some(*subject)));
            }
            for step in &circle.steps {
                let known = match step.evidence.first() {
                    Some(known) => format!(": {}", plain(known)),
                    None => String::new(),
                };
                let text = format!("{} needs {} to {}{known}", step.from, step.to, step.phase);
                let _ = writeln!(out, "    step  {}", cut(&plain(&text), SENTENCE_WIDTH));
            }
            if let Some(fix) = &finding.fix {
                let _ = writeln!(out, "    fix   {}", cut(&plain(fix), SENTENCE_WIDTH));
            }
            if let Some(owner) = &finding.owner {
                let _ = writeln!(out, "    owner {}", plain(owner));
            }
        }
        self.more(out, all, FINDINGS_SHOWN);
    }

    fn refusals(&self, out: &mut String, title: &str, list: &Busiest<Refusal>) {
        if list.all == 0 {
            return;
        }
        let _ = writeln!(out, "\n{}", self.paint.bold(title));
        for refusal in &list.shown {
            let ways = refusal.ways.iter().cloned().collect::<Vec<_>>().join(", ");
            let _ = writeln!(
                out,
                "  {}  {}  {}",
                self.paint.bad(&refusal.what),
                cut(&ways, NAME_WIDTH),
                counted(refusal.attempts, "attempt")
            );
            for chain in refusal.chains.iter().take(CHAINS_SHOWN) {
                let _ = writeln!(out, "    by    {chain}");
            }
            if let Some(more) = refusal.chains.len().checked_sub(CHAINS_SHOWN + 1) {
                let _ = writeln!(out, "    by    … and {} more", more + 1);
            }
            let _ = writeln!(
                out,
                "    rule  {}{}",
                refusal.rule,
                written_at(&refusal.places)
            );
            for line in explain::lines(&refusal.advice) {
                let _ = writeln!(out, "    {line}");
            }
            self.explain(out, refusal);
        }
        self.more(out, list.all, REFUSED_SHOWN);
    }

    /// What mattered, and which rules lost: where it is the same rule that would refuse it again. What a chain of
    /// CNAMEs, or another name of the address, had a part in is not asked like that.
    fn explain(&self, out: &mut String, refusal: &Refusal) {
        let (Some(explained), Some(asked)) = (self.explained, &refusal.asked) else {
            return;
        };
        let Some(explanation) = explained(asked) else {
            return;
        };
        let judged = match asked.port {
            Some(_) => explanation.connect,
            None => explanation.lookup.or(explanation.connect),
        };
        let Some(judged) = judged.filter(|judged| {
            let place = judged.rule.rule.as_ref();
            let place = place.map(|rule| (rule.file.as_str(), rule.line));
            let places = refusal
                .places
                .iter()
                .map(|place| (place.file.as_str(), place.line));
            judged.rule.text == refusal.rule && places.map(Some).chain([None]).any(|at| at == place)
        }) else {
            return;
        };
        explain::through(out, &judged, asked.address);
        explain::losers(out, &judged, LOSERS_SHOWN, "`policy explain` has them");
    }

    /// How to make an exception, for the first of the names that one can be made for: once, since the others are
    /// written in the same way.
    fn waive<'r>(&self, out: &mut String, mut list: impl Iterator<Item = &'r Refusal>) {
        let Some(refusal) = list.find(|refusal| refusal.waivable) else {
            return;
        };
        let Some(today) = self.report.run().started.get(..10).and_then(Day::parse) else {
            return;
        };
        let _ = writeln!(
            out,
            "\n{}, if it must be: paste this below `waivers:` in the policy, with your names and reason",
            self.paint.bold("to waive")
        );
        let _ = writeln!(out, "  - {{ for: {}, owner: WHO,", refusal.what);
        let _ = writeln!(out, "      reason: WHY,");
        let _ = writeln!(out, "      expires: {} }}", today.plus(WAIVED_DAYS));
    }

    fn dependencies(&self, out: &mut String, list: &Busiest<Dependency>, looked_up: usize) {
        if list.all == 0 && looked_up == 0 {
            return;
        }
        let _ = writeln!(out, "\n{}", self.paint.bold("outside dependencies"));
        let head = [
            "NAME", "ADDRESS", "PROTOCOL", "ATTEMPTS", "OUTCOME", "PROCESS",
        ]
        .map(str::to_owned);
        let rows = list.shown.iter().map(|dependency| {
            [
                cut(dependency.name.as_deref().unwrap_or("-"), NAME_WIDTH),
                dependency.place(),
                dependency.protocol.clone(),
                dependency.attempts.to_string(),
                dependency.outcome.clone(),
                dependency.by(),
            ]
        });
        if list.all > 0 {
            table(out, std::iter::once(head).chain(rows).collect());
        }
        self.more(out, list.all, DEPENDENCIES_SHOWN);
        if looked_up > 0 {
            let _ = writeln!(
                out,
                "  {} looked up and not contacted",
                counted(looked_up as u64, "name") + " " + were(looked_up)
            );
        }
    }

    fn delegates(&self, out: &mut String, lines: &Lineage) {
        let contacts = contacts(self.report, lines);
        if !contacts.is_empty() {
            let title = "daemons outside the run that were contacted";
            let _ = writeln!(out, "\n{}", self.paint.bold(title));
            let head = ["SOCKET", "DAEMON", "ATTEMPTS", "VERDICT", "PROCESS"].map(str::to_owned);
            let rows = contacts
                .iter()
                .take(DELEGATES_SHOWN)
                .map(|(contact, attempts)| {
                    let [path, daemon, verdict, chain] = contact.clone();
                    [path, daemon, attempts.to_string(), verdict, chain]
                });
            table(out, std::iter::once(head).chain(rows).collect());
            self.more(out, contacts.len(), DELEGATES_SHOWN);
        }
        if asked_resolved(self.report) {
            out.push_str("\nlookups through systemd-resolved were turned to DNS\n");
        }
    }

    fn findings(&self, out: &mut String) {
        let of_catalog = |kind: &str| ABOUT_CATALOG.contains(&kind);
        let about_catalog = self.report.findings().iter();
        let about_catalog = about_catalog.filter(|f| of_catalog(&f.kind)).count();
        let list: Vec<_> = self
            .report
            .findings()
            .iter()
            .filter(|finding| !TOLD_ALREADY.contains(&finding.kind.as_str()))
            .filter(|finding| !OF_COVERAGE.contains(&finding.kind.as_str()))
            .filter(|finding| finding.circle.is_none() && !of_catalog(&finding.kind))
            .collect();
        if list.is_empty() && about_catalog == 0 {
            return;
        }
        let _ = writeln!(out, "\n{}", self.paint.bold("also"));
        for finding in list.iter().take(FINDINGS_SHOWN) {
            let severity = match finding.severity {
                Severity::Error => self.paint.bad("error"),
                Severity::Warning => self.paint.doubtful("warning"),
                Severity::Info => "note".to_owned(),
            };
            let _ = writeln!(
                out,
                "  {severity}: {}",
                cut(&plain(&finding.title), SENTENCE_WIDTH)
            );
            if let Some(fix) = &finding.fix {
                let _ = writeln!(out, "    fix   {}", cut(&plain(fix), SENTENCE_WIDTH));
            }
        }
        self.more(out, list.len(), FINDINGS_SHOWN);
        if about_catalog > 0 {
            let _ = writeln!(
                out,
                "  note: {} on what the catalog leaves open, see the report",
                counted(about_catalog as u64, "remark")
            );
        }
    }

    fn coverage(&self, out: &mut String) {
        let coverage = self.report.coverage();
        out.push('\n');
        if let Some(text) = limits::use_of(self.report.run()) {
            let _ = writeln!(out, "limits    {text}");
        }
        if self.report.run().guarded != Guarded::No {
            let _ = write!(
                out,
                "coverage  {} of {} recorded, {} with process and name",
                coverage.recorded,
                counted(coverage.attempts, "attempt"),
                coverage.attributed
            );
            if coverage.lost > 0 {
                let _ = write!(
                    out,
                    ", {}",
                    self.paint.bad(&format!("{} lost", coverage.lost))
                );
            }
            if coverage.unsupervised_seconds > 0.0 {
                let _ = write!(
                    out,
                    ", {:.1} s without a supervisor",
                    coverage.unsupervised_seconds
                );
            }
            out.push('\n');
        }
        let of_kind = |kind: &str| coverage.gaps.iter().any(|gap| gap.kind == kind);
        let own: Vec<_> = coverage.gaps.iter().filter(|gap| !stands(gap)).collect();
        for gap in own.iter().take(GAPS_SHOWN) {
            let times = if gap.count > 0 {
                format!(" ×{}", gap.count)
            } else {
                String::new()
            };
            let _ = writeln!(
                out,
                "{}       {}{times}: {}",
                self.paint.doubtful("gap"),
                plain(&gap.kind),
                cut(&plain(&gap.detail), SENTENCE_WIDTH)
            );
        }
        self.more(out, own.len(), GAPS_SHOWN);
        // The same in every run: one line for all of them.
        let standing: Vec<_> = STANDING_GAPS
            .iter()
            .filter(|standing| of_kind(standing.kind))
            .map(|standing| standing.brief)
            .collect();
        if !standing.is_empty() {
            let _ = writeln!(out, "not watched by this version: {}", standing.join("; "));
        }
    }

    fn more(&self, out: &mut String, all: usize, shown: usize) {
        if all > shown {
            let where_else = if self.written.is_empty() {
                "--report FILE keeps them"
            } else {
                "see the report"
            };
            let _ = writeln!(out, "  … and {} more; {where_else}", all - shown);
        }
    }
}

/// Where rules of this text stand, each place once: a guardrail and the run's own file may say the same, and so do
/// a policy and the one that took over from it.
pub(crate) fn places_of(rules: &[Rule], text: &str) -> Vec<RulePlace> {
    let mut places: Vec<RulePlace> = Vec::new();
    for rule in rules.iter().filter(|rule| *rule.text == *text) {
        if !places.iter().any(|place| place.is_of(rule)) {
            places.push(RulePlace::of(rule));
        }
    }
    places
}

/// ` (deploy.yaml:7)`, for a rule that stands in a policy; ` (deploy.yaml:7 or deploy.yaml:9)` where nothing tells
/// which.
pub(crate) fn written_at(places: &[RulePlace]) -> String {
    if places.is_empty() {
        return String::new();
    }
    let texts = places.iter().take(PLACES_SHOWN).map(RulePlace::to_string);
    let mut texts: Vec<_> = texts.map(|text| plain(&text)).collect();
    if let Some(more) = places.len().checked_sub(PLACES_SHOWN + 1) {
        texts.push(format!("{} more", more + 1));
    }
    format!(" ({})", texts.join(" or "))
}

/// What a process is called, for a terminal.
pub(crate) fn label(exe: &str, argv: &[String]) -> String {
    cut(&plain(image_name(exe, argv)), LABEL_WIDTH)
}

/// Is it in every report?
pub(crate) fn stands(gap: &Gap) -> bool {
    STANDING_GAPS
        .iter()
        .any(|standing| standing.kind == gap.kind)
}

/// Columns as wide as their widest cell; the last one is not padded.
fn table<const N: usize>(out: &mut String, rows: Vec<[String; N]>) {
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        let mut line = String::from(" ");
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, " {cell:width$} ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// `1 attempt`, `3 attempts`.
pub(crate) fn counted(count: u64, what: &str) -> String {
    if count == 1 {
        format!("1 {what}")
    } else {
        format!("{count} {what}s")
    }
}

fn were(count: usize) -> &'static str {
    if count == 1 { "was" } else { "were" }
}

#[cfg(test)]
mod tests;
