//! The page of a graph: what files declare and runs showed, without the time of any run.

use std::fmt;

use askama::Template as _;
use blackstart_core::catalog::Strength;
use blackstart_core::graph::findings::{GraphFinding, findings};
use blackstart_core::graph::loops::{Loop, deadlocks};
use blackstart_core::graph::recovery::Recovery;
use blackstart_core::graph::{Cut, Graph, Kind, NeedId, NodeId};
use blackstart_core::report::Severity;

use super::findings::{self as cards, Card};
use super::picture::Picture;
use super::run::Drawing;
use super::{Shell, grouped};
use crate::summary::counted;

/// No more services are listed.
const SERVICES: usize = 5_000;
/// Of one level, no more services are named, and of one service no more needs.
const NAMES: usize = 40;
const NEEDS: usize = 12;
/// No more levels, components and cut needs are shown.
const LEVELS: usize = 100;
const COMPONENTS: usize = 50;

/// What a page is made of.
pub(crate) struct Catalogued<'a> {
    /// The graph.
    pub(crate) graph: &'a Graph,
    /// Its order.
    pub(crate) recovery: &'a Recovery,
    /// Its circles.
    pub(crate) loops: &'a [Loop],
    /// Something that was named could not be read.
    pub(crate) partial: bool,
}

impl Catalogued<'_> {
    /// The whole page.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let graph = self.graph;
        let cuts = self.recovery.cuts(graph);
        let needs: Vec<NeedId> = cuts.iter().flat_map(|cut| cut.needs.clone()).collect();
        let after = (!needs.is_empty()).then(|| Recovery::without(graph, &needs));
        let deadlocks = deadlocks(graph, self.recovery);
        let of_loops = self.loops.iter().map(|it| it.steps.as_slice());
        let circles: Vec<_> = of_loops
            .chain(deadlocks.iter().map(|it| it.steps.as_slice()))
            .collect();
        let picture = Picture::of(graph, &circles, None);
        let why_not = picture.is_empty().then_some(match circles.is_empty() {
            true => "There is no circle, and the graph is too large to be drawn as a whole.",
            false => {
                "The circles are too large to be drawn, and so is the graph as a whole: see the findings."
            }
        });
        let no_circle = match circles.is_empty() {
            true => "No circle was found.",
            false => "No circle is drawn.",
        };
        let services = graph
            .nodes()
            .iter()
            .filter(|node| node.is_service())
            .count();
        let view = View {
            shell: Shell::new(),
            graph,
            recovery: self.recovery,
            services,
            circles: self.loops.len(),
            partial: self.partial,
            found: findings(graph, self.recovery, self.loops),
            drawing: Drawing {
                picture,
                why_not,
                no_circle,
            },
            cuts,
            after,
        };
        let mut text = String::new();
        view.render_into(&mut text).map_err(|_| fmt::Error)?;
        Ok(text)
    }
}

#[derive(askama::Template)]
#[template(path = "catalog.html")]
struct View<'a> {
    shell: Shell,
    graph: &'a Graph,
    recovery: &'a Recovery,
    services: usize,
    circles: usize,
    partial: bool,
    found: Vec<GraphFinding>,
    drawing: Drawing,
    cuts: Vec<Cut>,
    after: Option<Recovery>,
}

/// For whoever keeps the catalog, in the morning.
fn is_remark(finding: &GraphFinding) -> bool {
    finding.severity == Severity::Info
}

/// A level of recovery, or a component.
struct Group {
    number: usize,
    names: String,
    count: usize,
}

/// Services that cannot start without each other, and what to cut.
struct Deadlock {
    names: String,
    smallest: bool,
    needs: Vec<String>,
}

/// A row of the table.
struct Service {
    name: String,
    class: &'static str,
    kind: &'static str,
    owner: String,
    tier: Option<u32>,
    starts: String,
    starts_at: usize,
    needs: String,
    count: usize,
}

impl View<'_> {
    fn sentence(&self) -> String {
        let graph = self.graph;
        let mut text = format!(
            "{} with {}",
            counted(self.services as u64, "service"),
            counted(graph.needs().len() as u64, "need")
        );
        text.push_str(&match self.circles {
            0 => "; no deployment closes a circle that is known of".to_owned(),
            count => format!(
                "; {} that deployments close",
                counted(count as u64, "circle")
            ),
        });
        let alone = self
            .recovery
            .components()
            .filter(|it| it.len() == 1)
            .count();
        let stuck: usize = self.recovery.components().map(<[NodeId]>::len).sum();
        match (stuck, alone) {
            (0, _) => text.push_str("; everything can start from black"),
            (1, _) => text.push_str("; 1 service cannot start without itself"),
            (many, alone) if many == alone => {
                text.push_str(&format!(
                    "; {many} services cannot start without themselves"
                ));
            }
            (many, _) => text.push_str(&format!(
                "; {many} services cannot start without each other"
            )),
        }
        text
    }

    fn name(&self, id: NodeId) -> &str {
        &self.graph.node(id).name
    }

    fn names(&self, ids: &[NodeId]) -> String {
        let shown = ids.iter().take(NAMES).map(|id| self.name(*id));
        let shown = shown.collect::<Vec<_>>().join(", ");
        match ids.len().checked_sub(NAMES + 1) {
            Some(more) => format!("{shown} and {} more", grouped(more as u64 + 1)),
            None => shown,
        }
    }

    fn cards(&self) -> impl Iterator<Item = Card> {
        let shown = self
            .found
            .iter()
            .filter(|it| !is_remark(it))
            .take(cards::SHOWN);
        shown.map(|finding| cards::of_graph(self.graph, finding))
    }

    fn remarks(&self) -> impl Iterator<Item = Card> {
        let shown = self
            .found
            .iter()
            .filter(|it| is_remark(it))
            .take(cards::SHOWN);
        shown.map(|finding| cards::of_graph(self.graph, finding))
    }

    fn counted_remarks(&self) -> usize {
        self.found.iter().filter(|it| is_remark(it)).count()
    }

    fn remarks_text(&self) -> String {
        counted(self.counted_remarks() as u64, "remark")
    }

    fn findings_left_out(&self) -> usize {
        let remarks = self.counted_remarks();
        let others = self.found.len() - remarks;
        remarks.saturating_sub(cards::SHOWN) + others.saturating_sub(cards::SHOWN)
    }

    fn counted_findings(&self) -> String {
        grouped(self.found.len() as u64)
    }

    fn levels(&self, recovery: &Recovery) -> Vec<Group> {
        let levels = recovery.levels().iter().take(LEVELS).zip(1..);
        let group = |(ids, number): (&Vec<NodeId>, usize)| Group {
            number,
            names: self.names(ids),
            count: ids.len(),
        };
        levels.map(group).collect()
    }

    fn levels_left_out(&self) -> usize {
        self.recovery.levels().len().saturating_sub(LEVELS)
    }

    fn deadlocks(&self) -> Vec<Deadlock> {
        let need = |id: &NeedId| {
            let need = self.graph.need(*id);
            let strength = match need.strength() {
                Some(Strength::Hard) => ", which is hard",
                Some(Strength::Soft) => ", which is soft",
                None => "",
            };
            format!(
                "{} needs {} to {}{strength}",
                self.name(need.from),
                self.name(need.to),
                need.phase
            )
        };
        let deadlocks = self.recovery.components().zip(&self.cuts).take(COMPONENTS);
        deadlocks
            .map(|(ids, cut)| Deadlock {
                names: self.names(ids),
                smallest: cut.smallest,
                needs: cut.needs.iter().take(NAMES).map(need).collect(),
            })
            .collect()
    }

    fn deadlocks_left_out(&self) -> usize {
        self.recovery.components().len().saturating_sub(COMPONENTS)
    }

    fn blocked(&self) -> Option<String> {
        let blocked = self.recovery.blocked();
        (!blocked.is_empty()).then(|| self.names(blocked))
    }

    fn rows(&self) -> impl Iterator<Item = Service> {
        let mut starts = vec![0; self.graph.nodes().len()];
        for (level, number) in self.recovery.levels().iter().zip(1..) {
            level.iter().for_each(|id| starts[id.index()] = number);
        }
        self.graph
            .ids()
            .take(SERVICES)
            .map(move |id| self.row(id, starts[id.index()]))
    }

    fn row(&self, id: NodeId, level: usize) -> Service {
        let node = self.graph.node(id);
        let needs: Vec<String> = self
            .graph
            .needs_of(id)
            .map(|(_, need)| format!("{} ({})", self.name(need.to), need.phase))
            .collect();
        let mut text = needs
            .iter()
            .take(NEEDS)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        if let Some(more) = needs.len().checked_sub(NEEDS + 1) {
            text.push_str(&format!(" and {} more", more + 1));
        }
        let stuck = node.is_service() && level == 0;
        Service {
            name: node.name.clone(),
            class: if stuck { "refused" } else { "outside" },
            kind: match node.kind {
                Kind::Service => "service",
                Kind::Unlisted => "not in the catalog",
                Kind::Destination => "no service provides it",
            },
            owner: node.owner.clone().unwrap_or_default(),
            tier: node.tier,
            starts: match (node.is_service(), level) {
                (false, _) => String::new(),
                (true, 0) => "cannot".to_owned(),
                (true, level) => level.to_string(),
            },
            starts_at: if stuck { usize::MAX >> 16 } else { level },
            needs: text,
            count: needs.len(),
        }
    }

    fn rows_left_out(&self) -> usize {
        self.graph.nodes().len().saturating_sub(SERVICES)
    }

    fn shown_rows(&self) -> usize {
        self.graph.nodes().len().min(SERVICES)
    }

    fn unassigned(&self) -> &[String] {
        self.graph.unassigned()
    }
}
