//! What somebody ought to look at, each with an id that is the same over runs and hosts.

use std::collections::BTreeSet;

use super::loops::{Deadlock, Loop, LoopKind, deadlocks};
use super::recovery::Recovery;
use super::{Evidence, Graph, Kind, NeedId, NodeId, Watched};
use crate::catalog::{Phase, Place};
use crate::report::{Severity, printable, stable_id};

/// A problem in the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphFinding {
    /// Stable over runs and hosts: from the kind and the services.
    pub id: String,
    /// `loop`, `cannot_start`, `tier_inversion`, `unowned_destination`, `declared_never_seen`, `seen_not_declared`.
    pub kind: &'static str,
    /// How bad.
    pub severity: Severity,
    /// One line.
    pub title: String,
    /// Whom to ask, where the catalog names them.
    pub owner: Option<String>,
    /// What needs, and what is needed.
    pub about: (NodeId, NodeId),
    /// For a loop, its kind; none where it is declared only.
    pub loop_kind: Option<LoopKind>,
    /// The needs that it consists of; of what closes a circle its steps.
    pub needs: Vec<NeedId>,
    /// The runs that show it, sorted.
    pub runs: Vec<String>,
    /// Where a file says so, of any of the needs; or else where what needs, or what is needed, is described.
    pub place: Option<Place>,
    /// What to do.
    pub fix: String,
}

/// Of services that cannot start without each other, no more are named.
const NAMES: usize = 8;

/// All findings, the worst first.
pub fn findings(graph: &Graph, recovery: &Recovery, loops: &[Loop]) -> Vec<GraphFinding> {
    let mut found: Vec<GraphFinding> = loops.iter().flat_map(|it| of_loop(graph, it)).collect();
    let deadlocks = deadlocks(graph, recovery);
    found.extend(
        deadlocks
            .iter()
            .map(|deadlock| of_deadlock(graph, deadlock)),
    );
    for (index, need) in graph.needs.iter().enumerate() {
        let id = NeedId::new(index);
        found.extend(tier_inversion(graph, id).filter(|_| {
            // One for both needs of a pair.
            graph.between(need.from, need.to).next() == Some(id)
        }));
        found.extend(unowned(graph, id));
        found.extend(never_seen(graph, id));
        found.extend(not_declared(graph, id));
    }
    found.sort_by(|a, b| {
        b.severity
            .cmp(&a.severity)
            .then_with(|| (a.kind, a.about, &a.id).cmp(&(b.kind, b.about, &b.id)))
    });
    found
}

/// One for each kind that the contacts have: a deployment's own download and a tool that calls home at the
/// same service are mended in different places.
fn of_loop(graph: &Graph, it: &Loop) -> Vec<GraphFinding> {
    let kinds: Vec<Option<LoopKind>> = match (it.kind, it.kinds.is_empty()) {
        (kind, true) => vec![kind],
        (_, false) => it.kinds.iter().copied().map(Some).collect(),
    };
    let name = |id: NodeId| graph.node(id).name.as_str();
    let (deploys, contacts) = (name(it.deploys), name(it.contacts));
    let then: String = it.steps[1..]
        .iter()
        .map(|step| format!(", which needs {}", name(graph.need(*step).to)))
        .collect();
    let title = if it.deploys == it.contacts {
        format!("the deploy of {deploys} needs {deploys} itself")
    } else {
        format!("the deploy of {deploys} needs {contacts}{then}")
    };
    kinds
        .into_iter()
        .map(|kind| {
            let word = kind.map_or("declared", LoopKind::as_str);
            let fix = match kind {
                Some(LoopKind::Direct) => {
                    format!("let the deployment get from elsewhere what it gets from {contacts}")
                }
                Some(LoopKind::Hidden) => {
                    format!("keep the tool from contacting {contacts}, or use one that does not")
                }
                Some(LoopKind::Transient) => format!(
                    "let the deployment do without {contacts}, or {contacts} without what it needs"
                ),
                None => format!("make the deployment of {deploys} do without {contacts}"),
            };
            let shows = |named: bool| match kind {
                Some(LoopKind::Direct) => named,
                Some(LoopKind::Hidden) => !named,
                _ => true,
            };
            let runs: BTreeSet<&str> = graph
                .need(it.steps[0])
                .contacts()
                .filter(|contact| shows(contact.named))
                .map(|contact| contact.run.as_str())
                .collect();
            GraphFinding {
                loop_kind: kind,
                runs: runs.into_iter().map(str::to_owned).collect(),
                ..finding(
                    graph,
                    "loop",
                    &[word],
                    Severity::Error,
                    &it.steps,
                    title.clone(),
                    fix,
                )
            }
        })
        .collect()
}

/// About all of its members, so that one that comes to them makes it another: then it is mended elsewhere.
fn of_deadlock(graph: &Graph, deadlock: &Deadlock<'_>) -> GraphFinding {
    let names: Vec<&str> = deadlock
        .members
        .iter()
        .map(|id| graph.node(*id).name.as_str())
        .collect();
    let shown = names
        .iter()
        .take(NAMES)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    let title = match names.len() {
        1 => format!("{shown} needs itself to run, and cannot start from black"),
        few if few <= NAMES => format!("{shown} cannot start without each other"),
        many => format!(
            "{shown} and {} more cannot start without each other",
            many - NAMES
        ),
    };
    let fix = match names.len() {
        1 => "let it start without itself, or remove the need if it is none",
        _ => {
            "let one of them start without another; `blackstart graph order` says which needs to cut"
        }
    };
    let severity = Severity::Warning;
    let whole: Vec<&str> = std::iter::once("cannot_start").chain(names).collect();
    GraphFinding {
        id: stable_id(&whole),
        ..finding(
            graph,
            "cannot_start",
            &[],
            severity,
            &deadlock.steps,
            title,
            fix.to_owned(),
        )
    }
}

fn tier_inversion(graph: &Graph, id: NeedId) -> Option<GraphFinding> {
    let need = graph.need(id);
    let (from, to) = (graph.node(need.from), graph.node(need.to));
    let (critical, less) = (from.tier?, to.tier?);
    (critical < less).then(|| {
        let title = format!(
            "{} (tier {critical}) needs {} (tier {less}), which is less critical",
            from.name, to.name
        );
        let fix = format!(
            "make {} as critical as what needs it, or make {} do without",
            to.name, from.name
        );
        let needs: Vec<NeedId> = graph.between(need.from, need.to).collect();
        finding(
            graph,
            "tier_inversion",
            &[],
            Severity::Warning,
            &needs,
            title,
            fix,
        )
    })
}

fn unowned(graph: &Graph, id: NeedId) -> Option<GraphFinding> {
    let need = graph.need(id);
    let to = graph.node(need.to);
    (to.kind == Kind::Destination).then(|| {
        let title = format!(
            "{} needs {}, which no service provides",
            graph.node(need.from).name,
            to.name
        );
        let fix = format!(
            "say in the catalog which service provides {}: whether it closes a loop cannot be told",
            to.name
        );
        let phase = need.phase.to_string();
        finding(
            graph,
            "unowned_destination",
            &[&phase],
            Severity::Info,
            &[id],
            title,
            fix,
        )
    })
}

fn never_seen(graph: &Graph, id: NeedId) -> Option<GraphFinding> {
    let need = graph.need(id);
    let unseen = need.contacts().next().is_none();
    (unseen && graph.watched(need.from, need.phase) == Watched::Whole).then(|| {
        let (from, to) = (&graph.node(need.from).name, &graph.node(need.to).name);
        let title = match need.phase {
            Phase::Deploy => {
                format!("the deploy of {from} is said to need {to}, and no run was seen to")
            }
            Phase::Run => format!("{from} is said to need {to}, and was not seen to"),
        };
        let fix = format!("remove the need of {to}, if it is one no more");
        let phase = need.phase.to_string();
        finding(
            graph,
            "declared_never_seen",
            &[&phase],
            Severity::Info,
            &[id],
            title,
            fix,
        )
    })
}

fn not_declared(graph: &Graph, id: NeedId) -> Option<GraphFinding> {
    let need = graph.need(id);
    let to = graph.node(need.to);
    (!need.is_declared() && to.is_service() && need.from != need.to).then(|| {
        let from = &graph.node(need.from).name;
        let title = match need.phase {
            Phase::Deploy => format!(
                "the deploy of {from} needs {}, and no file says so",
                to.name
            ),
            Phase::Run => format!("{from} needs {}, and no file says so", to.name),
        };
        let fix = match need.phase {
            Phase::Deploy => format!(
                "add `- {{ service: {}, for: deploy }}` to the needs of {from}",
                to.name
            ),
            Phase::Run => format!("add `- {}` to the needs of {from}", to.name),
        };
        let phase = need.phase.to_string();
        finding(
            graph,
            "seen_not_declared",
            &[&phase],
            Severity::Info,
            &[id],
            title,
            fix,
        )
    })
}

/// About the first of the needs. `also` is what tells it from others of its kind about the same two.
fn finding(
    graph: &Graph,
    kind: &'static str,
    also: &[&str],
    severity: Severity,
    needs: &[NeedId],
    title: String,
    fix: String,
) -> GraphFinding {
    let first = graph.need(needs[0]);
    let (from, to) = (graph.node(first.from), graph.node(first.to));
    let mut parts = vec![kind, &from.name, &to.name];
    parts.extend(also);
    let runs: BTreeSet<&str> = needs
        .iter()
        .flat_map(|id| graph.need(*id).contacts())
        .map(|contact| contact.run.as_str())
        .collect();
    let mut evidence = needs.iter().flat_map(|id| &graph.need(*id).evidence);
    let said = evidence.find_map(|evidence| match evidence {
        Evidence::Declared { place, .. } | Evidence::Imported { place, .. } => Some(place),
        Evidence::Observed(_) => None,
    });
    let place = said.or(from.place.as_ref()).or(to.place.as_ref()).cloned();
    GraphFinding {
        id: stable_id(&parts),
        kind,
        severity,
        title: printable(&title),
        owner: from.owner.clone(),
        about: (first.from, first.to),
        loop_kind: None,
        needs: needs.to_vec(),
        runs: runs.into_iter().map(str::to_owned).collect(),
        place,
        fix: printable(&fix),
    }
}
