//! From a catalog, imports and reports to the graph.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::observe::{self, Reach};
use super::{Contact, Evidence, Graph, Kind, Need, Node, NodeId, Watched};
use crate::catalog::{Catalog, Phase, Place};
use crate::report::exit_code::GATED;
use crate::report::{Guarded, Report};

/// What a graph is made of.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The services.
    pub catalog: &'a Catalog,
    /// What runs were seen to reach for. The same run twice is one run.
    pub runs: &'a [Observed<'a>],
    /// Needs from elsewhere.
    pub imports: &'a [Import],
}

/// A report, and what the run that it is of was for.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// The report.
    pub report: &'a Report,
    /// A run deploys its service, unless the service itself was watched.
    pub phase: Phase,
}

/// A need from elsewhere. Services that the catalog does not have become nodes too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Who needs.
    pub from: String,
    /// What is needed.
    pub to: String,
    /// For what.
    pub phase: Phase,
    /// From what kind of thing, such as `jaeger`.
    pub format: String,
    /// Where it was found.
    pub place: Place,
}

/// Make the graph.
pub fn build(input: &Input<'_>) -> Graph {
    let runs = distinct(input.runs);
    let mut graph = Graph::default();
    let mut seen = Vec::new();
    for run in &runs {
        let Some(service) = &run.report.run.service else {
            graph.unassigned.push(run.report.run.id.clone());
            continue;
        };
        for (reach, contact) in observe::contacts(run.report, service, input.catalog) {
            seen.push((service.as_str(), run.phase, reach, contact));
        }
    }
    let ids = nodes(&mut graph, input, &runs, &seen);

    let mut found: Vec<((NodeId, NodeId, Phase), Evidence)> = Vec::new();
    for id in input.catalog.ids() {
        for need in &input.catalog.service(id).needs {
            let evidence = match &need.format {
                Some(format) => Evidence::Imported {
                    format: format.to_string(),
                    place: need.place.clone(),
                },
                None => Evidence::Declared {
                    place: need.place.clone(),
                    claim: need.claim,
                    reason: need.reason.clone(),
                },
            };
            let key = (NodeId(id.0), NodeId(need.service.0), need.phase);
            found.push((key, evidence));
        }
    }
    for import in input.imports {
        let key = (
            ids.service(&import.from),
            ids.service(&import.to),
            import.phase,
        );
        let evidence = Evidence::Imported {
            format: import.format.clone(),
            place: import.place.clone(),
        };
        found.push((key, evidence));
    }
    for (service, phase, reach, contact) in seen {
        let from = ids.service(service);
        let to = match reach {
            Reach::Own => {
                graph.selves.push((from, contact));
                continue;
            }
            Reach::Service(id) => NodeId(id.0),
            Reach::Unowned => ids.destinations[&contact.destination],
        };
        found.push(((from, to, phase), Evidence::Observed(Box::new(contact))));
    }
    for run in &runs {
        if let Some(service) = &run.report.run.service {
            let key = (ids.service(service), run.phase);
            let known = graph.watched.entry(key).or_insert(Watched::Never);
            *known = watched(run.report).max(*known);
        }
    }
    // Stable, so that evidence stays in the order of its kinds.
    found.sort_by_key(|(key, _)| *key);
    graph.needs = Vec::with_capacity(found.len());
    for ((from, to, phase), evidence) in found {
        match graph.needs.last_mut() {
            Some(last) if (last.from, last.to, last.phase) == (from, to, phase) => {
                last.evidence.push(evidence);
            }
            _ => graph.needs.push(Need {
                from,
                to,
                phase,
                evidence: vec![evidence],
            }),
        }
    }
    graph.starts = (0..=graph.nodes.len())
        .map(|index| {
            graph
                .needs
                .partition_point(|need| need.from.index() < index) as u32
        })
        .collect();
    graph
}

/// How much a run shows of what its service needs.
fn watched(report: &Report) -> Watched {
    match (report.run.guarded, report.run.exit_code) {
        (Guarded::No, _) => Watched::Never,
        (_, Some(0 | GATED)) if report.coverage.lost == 0 => Watched::Whole,
        _ => Watched::InPart,
    }
}

/// Each run once, in the order of their start.
fn distinct<'a>(runs: &[Observed<'a>]) -> Vec<Observed<'a>> {
    let by_id: BTreeMap<_, _> = runs
        .iter()
        .rev()
        .map(|run| {
            let of = &run.report.run;
            ((&of.started, &of.id, run.phase), *run)
        })
        .collect();
    by_id.into_values().collect()
}

struct Ids<'a> {
    services: HashMap<&'a str, NodeId>,
    destinations: HashMap<String, NodeId>,
}

impl Ids<'_> {
    /// All that are asked for are there: they were collected from the same input.
    fn service(&self, name: &str) -> NodeId {
        self.services[name]
    }
}

fn nodes<'a>(
    graph: &mut Graph,
    input: &Input<'a>,
    runs: &[Observed<'a>],
    seen: &[(&str, Phase, Reach, Contact)],
) -> Ids<'a> {
    let mut services = HashMap::new();
    for service in input.catalog.services() {
        services.insert(service.name.as_str(), NodeId::new(graph.nodes.len()));
        graph.nodes.push(Node {
            name: service.name.clone(),
            kind: Kind::Service,
            owner: service.owner.clone(),
            tier: service.tier,
            place: Some(service.place.clone()),
        });
    }
    let imported = input
        .imports
        .iter()
        .flat_map(|import| [import.from.as_str(), import.to.as_str()]);
    let unlisted: BTreeSet<&str> = runs
        .iter()
        .filter_map(|run| run.report.run.service.as_deref())
        .chain(imported)
        .filter(|name| !services.contains_key(name))
        .collect();
    let mut add = |name: &str, kind| {
        let id = NodeId::new(graph.nodes.len());
        graph.nodes.push(Node {
            name: name.to_owned(),
            kind,
            owner: None,
            tier: None,
            place: None,
        });
        id
    };
    for name in unlisted {
        services.insert(name, add(name, Kind::Unlisted));
    }
    let unowned: BTreeSet<&str> = seen
        .iter()
        .filter(|(_, _, reach, _)| *reach == Reach::Unowned)
        .map(|(.., contact)| contact.destination.as_str())
        .collect();
    let destinations = unowned
        .into_iter()
        .map(|name| (name.to_owned(), add(name, Kind::Destination)))
        .collect();
    Ids {
        services,
        destinations,
    }
}
