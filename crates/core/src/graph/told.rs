//! What a run's report says of the graph: the findings that its own contacts show.

use std::collections::{BTreeSet, HashMap};

use super::findings::{GraphFinding, findings};
use super::loops::{Loop, LoopKind, loops_of};
use super::recovery::Recovery;
use super::{Contact, Evidence, Graph, Input, NodeId, Observed, build};
use crate::catalog::{Catalog, Phase};
use crate::report::{Circle, Finding, Report, Step, printable};

/// How much evidence of a step is written into a report.
const EVIDENCE: usize = 3;

/// What a run shows of the graph that the catalog describes, in the terms of a report. `protect` are names of
/// services, as in a policy; none of a run that does not say what it deploys.
pub fn of_run(report: &Report, catalog: &Catalog, protect: &[String]) -> Vec<Finding> {
    let runs = [Observed {
        report,
        phase: Phase::Deploy,
    }];
    let graph = build(&Input {
        catalog,
        runs: &runs,
        imports: &[],
    });
    let Some(deploys) = report.run.service.as_deref().and_then(|s| graph.find(s)) else {
        return Vec::new();
    };
    let protect: Vec<NodeId> = protect.iter().filter_map(|name| graph.find(name)).collect();
    let recovery = Recovery::of(&graph);
    let loops = loops_of(&graph, &recovery, &protect, deploys);
    let parents: HashMap<u64, Option<u64>> =
        report.subjects.iter().map(|s| (s.id, s.parent)).collect();
    let lens = Lens {
        graph: &graph,
        recovery: &recovery,
        loops: &loops,
        parents: &parents,
    };
    findings(&graph, &recovery, &loops)
        .iter()
        // A need that is only declared says nothing of this run; neither does one that it did not use.
        .filter(|found| found.runs.contains(&report.run.id) && found.about.0 == deploys)
        .map(|found| lens.told(found))
        .collect()
}

struct Lens<'a> {
    graph: &'a Graph,
    recovery: &'a Recovery,
    loops: &'a [Loop],
    parents: &'a HashMap<u64, Option<u64>>,
}

impl Lens<'_> {
    fn told(&self, found: &GraphFinding) -> Finding {
        let shows = |contact: &&Contact| shows(found.loop_kind, contact);
        let contacts = || {
            let needs = found.needs.iter().take(1);
            needs.flat_map(|id| self.graph.need(*id).contacts())
        };
        // The busiest speaks for all of them.
        let contact = contacts()
            .filter(shows)
            .max_by_key(|contact| (contact.attempts, std::cmp::Reverse(contact.subject)));
        let circle = found.loop_kind.and_then(|kind| self.circle(found, kind));
        Finding {
            id: found.id.clone(),
            kind: found.kind.to_owned(),
            severity: found.severity,
            title: found.title.clone(),
            owner: found.owner.clone(),
            command: contact.map(|contact| contact.command.clone()),
            subjects: contact
                .and_then(|contact| contact.subject)
                .map(|subject| self.chain(subject))
                .unwrap_or_default(),
            rule: None,
            reason: circle
                .as_ref()
                .map(|circle| reason(&circle.kind).to_owned()),
            fix: Some(found.fix.clone()),
            reaction: None,
            place: None,
            circle,
        }
    }

    fn circle(&self, found: &GraphFinding, kind: LoopKind) -> Option<Circle> {
        let it = self.loops.iter().find(|it| it.steps == found.needs)?;
        let steps = it.steps.iter().map(|id| {
            let need = self.graph.need(*id);
            Step {
                from: self.graph.node(need.from).name.clone(),
                to: self.graph.node(need.to).name.clone(),
                phase: need.phase.to_string(),
                // Of the deployment's own contacts, those that make it of this kind.
                evidence: need
                    .evidence
                    .iter()
                    .filter(|evidence| match evidence {
                        Evidence::Observed(contact) => shows(Some(kind), contact),
                        Evidence::Declared { .. } | Evidence::Imported { .. } => true,
                    })
                    .take(EVIDENCE)
                    .map(|evidence| printable(&evidence.to_string()))
                    .collect(),
            }
        });
        Some(Circle {
            kind: kind.as_str().to_owned(),
            steps: steps.collect(),
            shortest: it.shortest,
            component: self
                .recovery
                .components()
                .nth(it.component)
                .into_iter()
                .flatten()
                .map(|id| self.graph.node(*id).name.clone())
                .collect(),
        })
    }

    /// A process and its ancestors. What a report says may contradict itself.
    fn chain(&self, subject: u64) -> Vec<u64> {
        let mut met = BTreeSet::new();
        let mut chain = Vec::new();
        let mut next = Some(subject);
        while let Some(id) = next.filter(|id| met.insert(*id)) {
            let Some(parent) = self.parents.get(&id) else {
                break;
            };
            chain.push(id);
            next = *parent;
        }
        chain
    }
}

/// Is a contact one of those that make a loop of this kind?
fn shows(kind: Option<LoopKind>, contact: &Contact) -> bool {
    match kind {
        Some(LoopKind::Direct) => contact.named,
        Some(LoopKind::Hidden) => !contact.named,
        Some(LoopKind::Transient) | None => true,
    }
}

fn reason(kind: &str) -> &'static str {
    match kind {
        "direct" => "the deployment itself names what it contacts",
        "hidden" => "a tool contacts it by itself: nothing of the deployment names it",
        _ => "what is contacted needs what is deployed, through others",
    }
}
