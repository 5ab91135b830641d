//! A finding as a card: what, by whom, why, and what to do.

use blackstart_core::catalog::Phase;
use blackstart_core::graph::findings::GraphFinding;
use blackstart_core::graph::loops::LoopKind;
use blackstart_core::graph::{Contact, Graph, NeedId};
use blackstart_core::policy::{Day, Rank, Reaction, Rule};
use blackstart_core::report::{Circle, Finding, Parts, Severity, image_script};

use super::command_line;
use super::destinations::place;
use super::paste::{self, Paste};
use crate::plain::cut;
use crate::summary::lineage::Lineage;
use crate::summary::{WAIVED_DAYS, written_at};

/// No more of them are shown.
pub(super) const SHOWN: usize = 500;
/// Of one step, no more evidence than this is shown.
const EVIDENCE: usize = 5;
/// The longest command line that is shown.
const COMMAND: usize = 400;
/// Of a component, no more services are named.
const MEMBERS: usize = 30;

/// A finding in words.
#[derive(Debug)]
pub(super) struct Card {
    pub(super) id: String,
    pub(super) severity: &'static str,
    pub(super) kind: String,
    pub(super) title: String,
    pub(super) by: Option<String>,
    pub(super) command: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) fix: Option<String>,
    pub(super) owner: Option<String>,
    pub(super) rule: Option<String>,
    pub(super) gates: bool,
    pub(super) steps: Vec<StepText>,
    pub(super) shortest: bool,
    pub(super) component: Option<String>,
    pub(super) runs: usize,
    pub(super) pastes: Vec<Paste>,
}

/// A need, and how it is known.
#[derive(Debug)]
pub(super) struct StepText {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) phase: String,
    pub(super) evidence: Vec<String>,
    pub(super) more: usize,
}

/// What the cards of a run are made of.
pub(super) struct OfRun<'a> {
    pub(super) report: &'a dyn Parts,
    pub(super) rules: &'a [Rule],
    pub(super) lines: &'a Lineage,
    /// The graph that the circles lie in, if there is one.
    pub(super) graph: Option<&'a Graph>,
}

impl OfRun<'_> {
    pub(super) fn card(&self, finding: &Finding) -> Card {
        let circle = finding.circle.as_ref();
        let rule = finding.rule.as_deref();
        Card {
            id: finding.id.clone(),
            severity: severity(finding.severity),
            kind: match circle {
                Some(circle) => format!("{} loop", circle.kind),
                None => finding.kind.replace('_', " "),
            },
            title: finding.title.clone(),
            by: finding
                .subjects
                .first()
                .map(|subject| self.lines.chain(Some(*subject))),
            command: command(finding.command.as_deref()),
            reason: finding.reason.clone(),
            fix: finding.fix.clone(),
            owner: finding.owner.clone(),
            rule: rule.map(|rule| match &finding.place {
                Some(place) => format!("{rule}{}", written_at(std::slice::from_ref(place))),
                None => format!("{rule}{}", place(self.rules, rule)),
            }),
            gates: finding.reaction == Some(Reaction::Fail),
            steps: circle.map(steps).unwrap_or_default(),
            shortest: circle.is_none_or(|circle| circle.shortest),
            component: circle.map(|circle| together(&circle.component)),
            runs: 0,
            pastes: self.pastes(finding),
        }
    }

    fn pastes(&self, finding: &Finding) -> Vec<Paste> {
        let owner = finding.owner.as_deref();
        let day = self.report.run().started.get(..10).and_then(Day::parse);
        let until = day.map(|day| day.plus(WAIVED_DAYS));
        let process = self.process(finding);
        let (reason, fix) = (finding.reason.as_deref(), finding.fix.as_deref());
        let list = match finding.kind.as_str() {
            "loop" => {
                let Some(first) = finding
                    .circle
                    .as_ref()
                    .and_then(|circle| circle.steps.first())
                else {
                    return Vec::new();
                };
                let contacted = self.contacted(&first.from, &first.to);
                vec![
                    paste::refuse_service(&first.to, &finding.title, fix),
                    contacted.and_then(|it| paste::waiver(&it, process.as_deref(), owner, until)),
                ]
            }
            "denied_dependency" | "would_deny" => {
                // The title ends with it, and it has no space.
                let Some((_, destination)) = finding.title.rsplit_once(' ') else {
                    return Vec::new();
                };
                let text = finding.rule.as_deref().unwrap_or_default();
                let place = finding.place.as_ref();
                let same = |rule: &&Rule| {
                    *rule.text == *text && place.is_none_or(|place| place.is_of(rule))
                };
                let written = self.rules.iter().find(same);
                let is_final = written.is_some_and(|rule| rule.rank == Rank::Final);
                let exception = written
                    .filter(|_| !is_final)
                    .and_then(|_| paste::waiver(destination, process.as_deref(), owner, until));
                vec![
                    (finding.kind == "would_deny")
                        .then(|| paste::enforce(text, reason, fix))
                        .flatten(),
                    (text == "default").then(|| paste::allow(destination)),
                    exception,
                ]
            }
            "unowned_destination" => {
                vec![between(&finding.title, " needs ", ", which").map(paste::provide)]
            }
            "seen_not_declared" => {
                let needed = between(&finding.title, " needs ", ", and no file");
                vec![
                    needed.map(|needed| {
                        paste::need(needed, finding.title.starts_with("the deploy of "))
                    }),
                ]
            }
            _ => Vec::new(),
        };
        list.into_iter().flatten().collect()
    }

    /// The program of the process behind it, where a policy can name it so: what a script is called depends on
    /// how it was started.
    fn process(&self, finding: &Finding) -> Option<String> {
        let subject = self.report.subject(*finding.subjects.first()?)?;
        if !subject.exe.starts_with('/') || image_script(&subject.exe, &subject.argv).is_some() {
            return None;
        }
        let name = subject.exe.rsplit('/').next()?;
        is_plain(name).then(|| name.to_owned())
    }

    /// The busiest destination by which one service's deployment reached another.
    fn contacted(&self, from: &str, to: &str) -> Option<String> {
        let graph = self.graph?;
        let id = graph.find_need(graph.find(from)?, graph.find(to)?, Phase::Deploy)?;
        let contacts = graph.need(id).contacts();
        let busiest = contacts.max_by_key(|contact| contact.attempts)?;
        Some(busiest.destination.clone())
    }
}

/// A card of a finding of the graph.
pub(super) fn of_graph(graph: &Graph, finding: &GraphFinding) -> Card {
    let name = |id| graph.node(id).name.as_str();
    let (_, to) = finding.about;
    let is_loop = finding.kind == "loop";
    let pastes = match finding.kind {
        "loop" => {
            let refused = paste::refuse_service(name(to), &finding.title, Some(&finding.fix));
            vec![refused, waiver_of(graph, finding)]
        }
        "unowned_destination" => vec![Some(paste::provide(name(to)))],
        "seen_not_declared" => {
            let deploy =
                finding.needs.first().map(|id| graph.need(*id).phase) == Some(Phase::Deploy);
            vec![Some(paste::need(name(to), deploy))]
        }
        _ => Vec::new(),
    };
    Card {
        id: finding.id.clone(),
        severity: severity(finding.severity),
        kind: match (is_loop, finding.loop_kind) {
            (true, kind) => format!("{} loop", kind.map_or("declared", LoopKind::as_str)),
            (false, _) => finding.kind.replace('_', " "),
        },
        title: finding.title.clone(),
        by: None,
        command: None,
        reason: None,
        fix: Some(finding.fix.clone()),
        owner: finding.owner.clone(),
        rule: None,
        gates: false,
        steps: finding.needs.iter().map(|id| step(graph, *id)).collect(),
        shortest: true,
        component: None,
        runs: finding.runs.len(),
        pastes: pastes.into_iter().flatten().collect(),
    }
}

/// For the busiest of the contacts that make a loop what it is; none of one that is only declared.
fn waiver_of(graph: &Graph, finding: &GraphFinding) -> Option<Paste> {
    let shows = |contact: &&Contact| match finding.loop_kind {
        Some(LoopKind::Direct) => contact.named,
        Some(LoopKind::Hidden) => !contact.named,
        Some(LoopKind::Transient) | None => true,
    };
    let contacts = graph.need(*finding.needs.first()?).contacts();
    let contact = contacts
        .filter(shows)
        .max_by_key(|contact| contact.attempts)?;
    // What a script is called depends on how it was started: its interpreter is the first word then.
    let program = contact.command.first()?.rsplit('/').next()?;
    let process = contact.chain.first().filter(|name| *name == program);
    let until = Day::parse(contact.started.get(..10)?).map(|day| day.plus(WAIVED_DAYS));
    let process = process.map(String::as_str).filter(|name| is_plain(name));
    paste::waiver(
        &contact.destination,
        process,
        finding.owner.as_deref(),
        until,
    )
}

/// Can a policy name a process so?
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
    !name.is_empty() && name.chars().all(plain)
}

fn step(graph: &Graph, id: NeedId) -> StepText {
    let need = graph.need(id);
    StepText {
        from: graph.node(need.from).name.clone(),
        to: graph.node(need.to).name.clone(),
        phase: need.phase.to_string(),
        evidence: need
            .evidence
            .iter()
            .take(EVIDENCE)
            .map(ToString::to_string)
            .collect(),
        more: need.evidence.len().saturating_sub(EVIDENCE),
    }
}

fn steps(circle: &Circle) -> Vec<StepText> {
    let steps = circle.steps.iter().map(|step| StepText {
        from: step.from.clone(),
        to: step.to.clone(),
        phase: step.phase.clone(),
        evidence: step.evidence.clone(),
        more: 0,
    });
    steps.collect()
}

/// What is wrong with a component.
fn together(names: &[String]) -> String {
    let without = match names {
        [_] => "itself",
        _ => "each other",
    };
    format!("{} cannot start without {without}", members(names))
}

fn members(names: &[String]) -> String {
    let shown = names
        .iter()
        .take(MEMBERS)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().checked_sub(MEMBERS + 1) {
        Some(more) => format!("{shown} and {} more", more + 1),
        None => shown,
    }
}

fn command(argv: Option<&[String]>) -> Option<String> {
    let line = command_line(argv?);
    (!line.is_empty()).then(|| cut(&line, COMMAND))
}

pub(super) fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    }
}

fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}
