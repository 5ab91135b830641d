//! The end of a run in words: a pure function from the report to text.
//!
//! The first line is the verdict. What was refused comes before what passed, and what could not be
//! seen is never left out. Large runs are cut to what a person reads; the report has the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use blackstart_core::explain::Detail;
use blackstart_core::name::Pattern;
use blackstart_core::policy::{Day, Rank, Rule};
use blackstart_core::report::{
    Flow, Gap, Guarded, Outcome, Report, STANDING_GAPS, Severity, Subject, Verdict, image_name,
    rule_text, told_by_another,
};
use blackstart_core::tables::RULE_RESOLVER_SOCKET;

use crate::explain;
use crate::plain::{Paint, cut, plain};

mod limits;

/// How many entries of each kind are shown.
const REFUSED_SHOWN: usize = 10;
const DEPENDENCIES_SHOWN: usize = 25;
const DELEGATES_SHOWN: usize = 10;
const FINDINGS_SHOWN: usize = 10;
const GAPS_SHOWN: usize = 40;
const CHAINS_SHOWN: usize = 3;
/// Longest text of one cell, chain or sentence.
const NAME_WIDTH: usize = 48;
const CHAIN_LINKS: usize = 6;
const LABEL_WIDTH: usize = 24;
const SENTENCE_WIDTH: usize = 300;

/// For how long a waiver holds that is suggested.
const WAIVED_DAYS: u16 = 14;

/// Findings of these kinds are told as refusals already.
const TOLD_AS_REFUSAL: [&str; 2] = ["denied_dependency", "would_deny"];

/// What to tell, and how.
pub(crate) struct Telling<'a> {
    /// The report.
    pub(crate) report: &'a Report,
    /// The policy's rules, to say in which file and line each stands.
    pub(crate) rules: &'a [Rule],
    /// The files that it was written to.
    pub(crate) written: &'a [String],
    /// Colours.
    pub(crate) paint: Paint,
}

impl Telling<'_> {
    /// The summary, ending in a line feed.
    pub(crate) fn text(&self) -> String {
        let lines = Lineage::of(&self.report.subjects);
        let flows = flows_of_their_own(self.report);
        let refused = refusals(self.report, &flows, self.rules, Verdict::Deny, &lines);
        let would = refusals(self.report, &flows, self.rules, Verdict::WouldDeny, &lines);
        let dependencies = dependencies(&flows, &lines);

        let mut out = String::new();
        self.headline(&mut out, &refused, &would, &dependencies);
        self.refusals(&mut out, "refused", &refused);
        self.refusals(&mut out, "would be refused in enforce mode", &would);
        self.waive(&mut out, refused.iter().chain(&would));
        self.dependencies(&mut out, &dependencies);
        self.delegates(&mut out, &lines);
        self.findings(&mut out);
        self.coverage(&mut out);
        for path in self.written {
            let _ = writeln!(out, "report    {}", plain(path));
        }
        out
    }

    fn headline(
        &self,
        out: &mut String,
        refused: &[Refusal],
        would: &[Refusal],
        reached: &[Dependency],
    ) {
        let command = label("", &self.report.run.command);
        let command = self.paint.bold(&command);
        if self.report.run.guarded == Guarded::No {
            let _ = writeln!(
                out,
                "blackstart: {} {command} ran, and nothing of what it reached for was seen{}",
                self.paint.bad("unguarded:"),
                self.limits_reached()
            );
            return;
        }
        let what: BTreeSet<&str> = refused
            .iter()
            .chain(would)
            .map(|refusal| refusal.what.as_str())
            .chain(reached.iter().map(|dependency| dependency.what.as_str()))
            .collect();
        let distinct = |list: &[Refusal]| {
            list.iter()
                .map(|r| r.what.clone())
                .collect::<BTreeSet<_>>()
                .len()
        };
        let (stopped, spared) = (distinct(refused), distinct(would));
        let mut line = match what.len() {
            0 => format!("blackstart: {command} reached for nothing outside this host"),
            count => format!(
                "blackstart: {command} reached for {}",
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
        if self.report.run.guarded == Guarded::Partly {
            line.push_str("; not everything could be seen, see the gaps");
        }
        out.push_str(&line);
        out.push('\n');
    }

    /// `; time limit of 30m reached`
    fn limits_reached(&self) -> String {
        let reached = limits::reached(&self.report.run.limits).into_iter();
        reached
            .map(|text| format!("; {}", self.paint.bad(&text)))
            .collect()
    }

    fn refusals(&self, out: &mut String, title: &str, list: &[Refusal]) {
        if list.is_empty() {
            return;
        }
        let _ = writeln!(out, "\n{}", self.paint.bold(title));
        for refusal in list.iter().take(REFUSED_SHOWN) {
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
                self.place(&refusal.rule)
            );
            for line in explain::lines(&refusal.advice) {
                let _ = writeln!(out, "    {line}");
            }
        }
        self.more(out, list.len(), REFUSED_SHOWN);
    }

    /// How to make an exception, for the first of the names that one can be made for: once, since the others are
    /// written in the same way.
    fn waive<'r>(&self, out: &mut String, mut list: impl Iterator<Item = &'r Refusal>) {
        let Some(refusal) = list.find(|refusal| refusal.waivable) else {
            return;
        };
        let Some(today) = self.report.run.started.get(..10).and_then(Day::parse) else {
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

    fn dependencies(&self, out: &mut String, list: &[Dependency]) {
        let looked_up = names_only(self.report);
        if list.is_empty() && looked_up == 0 {
            return;
        }
        let _ = writeln!(out, "\n{}", self.paint.bold("outside dependencies"));
        let head = [
            "NAME", "ADDRESS", "PROTOCOL", "ATTEMPTS", "OUTCOME", "PROCESS",
        ]
        .map(str::to_owned);
        let rows = list.iter().take(DEPENDENCIES_SHOWN).map(|dependency| {
            [
                cut(dependency.name.as_deref().unwrap_or("-"), NAME_WIDTH),
                dependency.place(),
                dependency.protocol.clone(),
                dependency.attempts.to_string(),
                dependency.outcome.clone(),
                dependency.by(),
            ]
        });
        if !list.is_empty() {
            table(out, std::iter::once(head).chain(rows).collect());
        }
        self.more(out, list.len(), DEPENDENCIES_SHOWN);
        if looked_up > 0 {
            let _ = writeln!(
                out,
                "  {} looked up and not contacted",
                counted(looked_up as u64, "name") + " " + were(looked_up)
            );
        }
    }

    fn delegates(&self, out: &mut String, lines: &Lineage<'_>) {
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
        let list: Vec<_> = self
            .report
            .findings
            .iter()
            .filter(|finding| !TOLD_AS_REFUSAL.contains(&finding.kind.as_str()))
            .collect();
        if list.is_empty() {
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
    }

    fn coverage(&self, out: &mut String) {
        let coverage = &self.report.coverage;
        out.push('\n');
        if let Some(text) = limits::use_of(&self.report.run) {
            let _ = writeln!(out, "limits    {text}");
        }
        if self.report.run.guarded != Guarded::No {
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

    /// ` (deploy.yaml:7)`, for a rule that stands in a policy.
    fn place(&self, rule: &str) -> String {
        self.rules
            .iter()
            .find(|candidate| plain(&candidate.text) == rule)
            .map(|found| format!(" ({}:{})", plain(&found.file), found.line))
            .unwrap_or_default()
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

/// What a process is called, for a terminal.
pub(crate) fn label(exe: &str, argv: &[String]) -> String {
    cut(&plain(image_name(exe, argv)), LABEL_WIDTH)
}

/// Is it in every report?
fn stands(gap: &Gap) -> bool {
    STANDING_GAPS
        .iter()
        .any(|standing| standing.kind == gap.kind)
}

/// Who came from whom.
struct Lineage<'a> {
    by_id: BTreeMap<u64, &'a Subject>,
}

impl<'a> Lineage<'a> {
    fn of(subjects: &'a [Subject]) -> Self {
        Self {
            by_id: subjects
                .iter()
                .map(|subject| (subject.id, subject))
                .collect(),
        }
    }

    /// `deploy.sh → terraform → provider`: the first process first. Images that only forked, and a
    /// process that exec'ed itself anew, are one link.
    fn chain(&self, subject: Option<u64>) -> String {
        let mut links: Vec<String> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut next = subject;
        while let Some(subject) = next.and_then(|id| self.by_id.get(&id)) {
            if !seen.insert(subject.id) {
                break;
            }
            let label = label(&subject.exe, &subject.argv);
            if links.last() != Some(&label) {
                links.push(label);
            }
            next = subject.parent;
        }
        links.reverse();
        match links.as_slice() {
            [] => "unknown process".to_owned(),
            [first, .., last_but_one, last] if links.len() > CHAIN_LINKS => {
                format!("{first} → … → {last_but_one} → {last}")
            }
            links => links.join(" → "),
        }
    }
}

/// Everything that one rule refused at one destination.
struct Refusal {
    what: String,
    /// `tcp/443`, `lookup`.
    ways: BTreeSet<String>,
    attempts: u64,
    chains: BTreeSet<String>,
    rule: String,
    /// What is to be known of the rule.
    advice: Detail,
    /// It is a name, and a waiver for it would hold.
    waivable: bool,
}

/// The flows that are told: a route probe for another flow is not, and one to port 0 that was refused is
/// no refusal of anything.
fn flows_of_their_own(report: &Report) -> Vec<&Flow> {
    report
        .flows
        .iter()
        .zip(told_by_another(&report.flows))
        .filter(|(flow, told)| {
            let refused = matches!(flow.verdict, Verdict::Deny | Verdict::WouldDeny);
            let nowhere = flow.is_route_probe() && flow.port == 0;
            !(*told || refused && nowhere)
        })
        .map(|(flow, _)| flow)
        .collect()
}

/// Lookups and attempts with this verdict, by destination and rule, the busiest first.
fn refusals(
    report: &Report,
    flows: &[&Flow],
    rules: &[Rule],
    verdict: Verdict,
    lines: &Lineage<'_>,
) -> Vec<Refusal> {
    let mut groups: BTreeMap<(String, &str), Refusal> = BTreeMap::new();
    let mut add = |what: String, rule, way: String, attempts, subject| {
        let group = groups.entry((what.clone(), rule)).or_insert_with(|| {
            let written = rules.iter().find(|written| *written.text == *rule);
            let advice = advice(report, written, rule, &what);
            let is_name = what.parse::<IpAddr>().is_err() && Pattern::parse(&what).is_ok();
            Refusal {
                what,
                ways: BTreeSet::new(),
                attempts: 0,
                chains: BTreeSet::new(),
                rule: plain(rule),
                advice,
                waivable: is_name && written.is_some_and(|written| written.rank != Rank::Final),
            }
        });
        group.ways.insert(way);
        group.attempts += attempts;
        group.chains.insert(lines.chain(subject));
    };
    for name in report.names.iter().filter(|name| name.verdict == verdict) {
        add(
            plain(&name.name),
            &name.rule,
            "lookup".to_owned(),
            name.queries,
            name.subject,
        );
    }
    for flow in flows.iter().filter(|flow| flow.verdict == verdict) {
        let what = flow
            .name
            .as_deref()
            .map_or_else(|| flow.address.to_canonical().to_string(), plain);
        let way = way(&flow.protocol, flow.port);
        add(what, &flow.rule, way, flow.attempts, flow.subject);
    }
    let mut list: Vec<_> = groups.into_values().collect();
    list.sort_by(|a, b| {
        b.attempts
            .cmp(&a.attempts)
            .then_with(|| a.what.cmp(&b.what))
    });
    list
}

/// Why a rule stands and what to do about this destination: from the finding about the two, since it
/// knows more (what to allow, say), else from the rule itself.
fn advice(report: &Report, written: Option<&Rule>, rule: &str, what: &str) -> Detail {
    let names_it = |title: &str| {
        title.split_whitespace().any(|word| {
            let rest = word.trim_start_matches('[').strip_prefix(what);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', ']']))
        })
    };
    let finding = report
        .findings
        .iter()
        .find(|finding| finding.rule.as_deref() == Some(rule) && names_it(&finding.title));
    let mut detail = written.map(Detail::of).unwrap_or_default();
    if let Some(finding) = finding {
        let told = |of_finding: &Option<String>, of_rule: &mut Option<String>| {
            if of_finding.is_some() {
                of_rule.clone_from(of_finding);
            }
        };
        told(&finding.reason, &mut detail.reason);
        told(&finding.fix, &mut detail.fix);
        told(&finding.owner, &mut detail.owner);
    }
    detail
}

fn way(protocol: &str, port: u16) -> String {
    if port == 0 {
        plain(protocol)
    } else {
        format!("{}/{port}", plain(protocol))
    }
}

/// One outside destination that was reached for, on one port.
struct Dependency {
    /// The name, or the address.
    what: String,
    name: Option<String>,
    addresses: BTreeSet<IpAddr>,
    port: u16,
    protocol: String,
    attempts: u64,
    outcome: String,
    chains: BTreeSet<String>,
}

impl Dependency {
    fn place(&self) -> String {
        let first = match self.addresses.first() {
            Some(address @ IpAddr::V6(_)) if self.port != 0 => format!("[{address}]:{}", self.port),
            Some(address) if self.port != 0 => format!("{address}:{}", self.port),
            Some(address) => address.to_string(),
            None => "-".to_owned(),
        };
        match self.addresses.len() {
            0 | 1 => first,
            several => format!("{first} (+{})", several - 1),
        }
    }

    fn by(&self) -> String {
        let first = self.chains.first().map_or("-", String::as_str);
        match self.chains.len() {
            0 | 1 => first.to_owned(),
            several => format!("{first} (+{})", several - 1),
        }
    }
}

/// Attempts at addresses outside this host, by destination, the busiest first.
fn dependencies(flows: &[&Flow], lines: &Lineage<'_>) -> Vec<Dependency> {
    let mut groups: BTreeMap<_, Dependency> = BTreeMap::new();
    for flow in flows {
        let address = flow.address.to_canonical();
        if address.is_loopback() || address.is_unspecified() {
            continue;
        }
        let name = flow.name.as_deref().map(plain);
        let what = name.clone().unwrap_or_else(|| address.to_string());
        let outcome = outcome_words(flow);
        let key = (
            what.clone(),
            flow.port,
            flow.protocol.as_str(),
            outcome.clone(),
        );
        let group = groups.entry(key).or_insert_with(|| Dependency {
            what,
            name,
            addresses: BTreeSet::new(),
            port: flow.port,
            protocol: plain(&flow.protocol),
            attempts: 0,
            outcome,
            chains: BTreeSet::new(),
        });
        group.addresses.insert(address);
        group.attempts += flow.attempts;
        group.chains.insert(lines.chain(flow.subject));
    }
    let mut list: Vec<_> = groups.into_values().collect();
    list.sort_by(|a, b| {
        b.attempts
            .cmp(&a.attempts)
            .then_with(|| a.what.cmp(&b.what))
    });
    list
}

/// How many names were looked up with leave, and never contacted under that name.
fn names_only(report: &Report) -> usize {
    let contacted: BTreeSet<_> = report
        .flows
        .iter()
        .filter_map(|flow| flow.name.as_deref())
        .collect();
    report
        .names
        .iter()
        .filter(|name| !matches!(name.verdict, Verdict::Deny | Verdict::WouldDeny))
        .map(|name| name.name.as_str())
        .filter(|name| !contacted.contains(name))
        .collect::<BTreeSet<_>>()
        .len()
}

fn outcome_words(flow: &Flow) -> String {
    let seen = match flow.outcome {
        Outcome::Connected => "connected",
        Outcome::Refused => "refused by peer",
        Outcome::TimedOut => "timed out",
        Outcome::Unknown if flow.is_route_probe() => "probed",
        // Handshakes that nobody answered while the command lived.
        Outcome::Unknown if flow.protocol == "tcp" => "no answer seen",
        Outcome::Unknown => "sent",
    };
    match flow.verdict {
        Verdict::Deny => "denied".to_owned(),
        Verdict::Allow | Verdict::WouldDeny => seen.to_owned(),
        Verdict::Waived => format!("{seen} (waived)"),
        Verdict::BreakGlass => format!("{seen} (break glass)"),
    }
}

/// Sockets of daemons by path, daemon, verdict and process chain, and how often, the busiest first.
///
/// Without those of the resolvers: every program of some C libraries tries them, whether anybody listens
/// there or not, and goes on to DNS.
fn contacts(report: &Report, lines: &Lineage<'_>) -> Vec<([String; 4], u64)> {
    let mut groups: BTreeMap<[String; 4], u64> = BTreeMap::new();
    let delegates = report.delegates.iter();
    for delegate in delegates.filter(|delegate| !is_resolver_socket(&delegate.rule)) {
        let contact = [
            cut(&plain(&delegate.path), NAME_WIDTH),
            delegate
                .listener_exe
                .as_deref()
                .map_or_else(|| "-".to_owned(), |exe| cut(&plain(exe), NAME_WIDTH)),
            delegate_verdict(delegate.verdict, &delegate.rule),
            lines.chain(delegate.subject),
        ];
        *groups.entry(contact).or_default() += delegate.attempts;
    }
    let mut list: Vec<_> = groups.into_iter().collect();
    list.sort_by(|(a, most), (b, next)| next.cmp(most).then_with(|| a.cmp(b)));
    list
}

fn is_resolver_socket(rule: &str) -> bool {
    rule == rule_text(None, RULE_RESOLVER_SOCKET)
}

/// Was systemd-resolved tried? Only hosts that are set up for it do; nscd's socket is tried everywhere, and
/// says nothing.
fn asked_resolved(report: &Report) -> bool {
    report.delegates.iter().any(|delegate| {
        is_resolver_socket(&delegate.rule) && delegate.path.contains("/systemd/resolve/")
    })
}

/// A refusal that no policy asked for names the rule that did, or it would alarm.
fn delegate_verdict(verdict: Verdict, rule: &str) -> String {
    match verdict {
        Verdict::Allow => "allowed".to_owned(),
        Verdict::Deny => format!("refused ({})", cut(&plain(rule), NAME_WIDTH)),
        Verdict::WouldDeny => format!("would be refused ({})", cut(&plain(rule), NAME_WIDTH)),
        Verdict::Waived => "waived".to_owned(),
        Verdict::BreakGlass => "break glass".to_owned(),
    }
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
fn counted(count: u64, what: &str) -> String {
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
