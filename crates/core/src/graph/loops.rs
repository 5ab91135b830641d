//! The circles that a deployment closes, DESIGN §7.
//!
//! A deployment of S that contacts T closes a loop if T is S, or if a path of needs leads from T to S. Any
//! need may be on that path, for `run` or for `deploy`: what T needs to serve stops it when S is down, and
//! what it needs to be deployed keeps it down after both were.

use std::collections::{BTreeSet, HashMap};

use super::path::{Adjacency, Detours, Found, Search};
use super::recovery::Recovery;
use super::{Graph, NeedId, NodeId};
use crate::catalog::Phase;

/// Of which kind a loop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LoopKind {
    /// The deployment itself names what it contacts.
    Direct,
    /// A tool calls home.
    Hidden,
    /// What is contacted leads to the broken service through others.
    Transient,
}

impl LoopKind {
    /// As it is written in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Hidden => "hidden",
            Self::Transient => "transient",
        }
    }
}

/// A loop; one for each service that a deployment contacts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loop {
    /// What is deployed.
    pub deploys: NodeId,
    /// What its deployment contacts.
    pub contacts: NodeId,
    /// Its kind. None if it is declared only: then no run shows whether the deployment or a tool does it.
    pub kind: Option<LoopKind>,
    /// The kinds that its contacts have, one by one: where several processes contact the same service, some
    /// may be named and others not.
    pub kinds: BTreeSet<LoopKind>,
    /// The needs that close it, a circle from the deployed service back to it; the first is the deployment's.
    pub steps: Vec<NeedId>,
    /// No circle is shorter. It is so for each loop, unless there are so many in a large component that the
    /// search for the shortest was given up.
    pub shortest: bool,
    /// The component that it lies in, as [`Recovery::components`] counts them.
    pub component: usize,
}

/// How many steps the searches for shortest paths take in all, about a second's worth. Each may take its
/// share of what is left, and there is enough for exact answers unless a large component is full of
/// deployments, where nobody reads all loops.
const STEPS: u64 = 50_000_000;

/// Every loop, in the order of what is deployed and what is contacted. `protect` are the services that a
/// policy protects: with these, a loop is transient if one of them lies between on every path.
pub fn loops(graph: &Graph, recovery: &Recovery, protect: &[NodeId]) -> Vec<Loop> {
    let needs = (0..graph.needs.len()).map(NeedId::new);
    of_needs(graph, recovery, protect, needs)
}

/// The loops of one service's deployment.
pub fn loops_of(
    graph: &Graph,
    recovery: &Recovery,
    protect: &[NodeId],
    deploys: NodeId,
) -> Vec<Loop> {
    let needs = graph.needs_of(deploys).map(|(id, _)| id);
    of_needs(graph, recovery, protect, needs)
}

/// Services that cannot start without each other, and of which no deployment is part of it: they need each
/// other to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadlock<'r> {
    /// All of them, as [`Recovery::components`] has them.
    pub members: &'r [NodeId],
    /// Needs that close a circle through the first of them.
    pub steps: Vec<NeedId>,
}

/// Every component that no loop lies in, in the order of their members. Together with the loops these are all circles
/// that there are.
pub fn deadlocks<'r>(graph: &Graph, recovery: &'r Recovery) -> Vec<Deadlock<'r>> {
    let mut is_loop = vec![false; recovery.components().len()];
    for need in graph
        .needs
        .iter()
        .filter(|need| need.phase == Phase::Deploy)
    {
        if let Some(component) = recovery.component_of(need.from)
            && recovery.together(need.from, need.to)
        {
            is_loop[component] = true;
        }
    }
    let deadlocked = recovery
        .components()
        .zip(is_loop)
        .filter(|(_, is_loop)| !is_loop);
    let members: Vec<&[NodeId]> = deadlocked.map(|(members, _)| members).collect();
    if members.is_empty() {
        return Vec::new();
    }
    let adjacency = Adjacency::of(graph);
    let mut search = Search::new(&adjacency);
    let mut left = members.len() as u64;
    members
        .into_iter()
        .map(|members| {
            let share = STEPS.saturating_sub(search.steps) / left;
            left -= 1;
            let steps = circle(graph, recovery, &mut search, members, share);
            Deadlock { members, steps }
        })
        .collect()
}

/// A circle through the first of a component's members, a short one. Whoever needs itself is one.
fn circle(
    graph: &Graph,
    recovery: &Recovery,
    search: &mut Search<'_>,
    members: &[NodeId],
    most: u64,
) -> Vec<NeedId> {
    let first = members[0];
    let path = match graph.between(first, first).next() {
        Some(_) => vec![first],
        None => {
            // The first of its needs in the component leads back to it, as all of them do.
            let mut needed = graph.needs_of(first).map(|(_, need)| need.to);
            let next = needed.find(|to| recovery.together(first, *to));
            let next = next.unwrap_or(first);
            match search.path(next, first, most, |_| false) {
                Found::Path(path) => path,
                Found::None | Found::GaveUp => {
                    Detours::over(search.adjacency(), first).path(next, first)
                }
            }
        }
    };
    let steps = path.windows(2).map(|pair| (pair[0], pair[1]));
    std::iter::once((first, path[0]))
        .chain(steps)
        .filter_map(|(from, to)| graph.between(from, to).next())
        .collect()
}

fn of_needs(
    graph: &Graph,
    recovery: &Recovery,
    protect: &[NodeId],
    needs: impl Iterator<Item = NeedId>,
) -> Vec<Loop> {
    // Whatever lies on a circle with another lies in one component with it.
    let closing: Vec<(NeedId, usize)> = needs
        .filter_map(|id| {
            let need = graph.need(id);
            let closes = need.phase == Phase::Deploy && recovery.together(need.from, need.to);
            Some((id, recovery.component_of(need.from)?)).filter(|_| closes)
        })
        .collect();
    if closing.is_empty() {
        return Vec::new();
    }
    let adjacency = Adjacency::of(graph);
    let mut finder = Finder {
        graph,
        recovery,
        protected: protect.iter().copied().collect(),
        search: Search::new(&adjacency),
        adjacency: &adjacency,
        detours: HashMap::new(),
    };
    let mut left = closing.len() as u64;
    closing
        .into_iter()
        .map(|(id, component)| {
            let share = STEPS.saturating_sub(finder.search.steps) / left;
            left -= 1;
            finder.find(id, component, share)
        })
        .collect()
}

struct Finder<'a> {
    graph: &'a Graph,
    recovery: &'a Recovery,
    protected: BTreeSet<NodeId>,
    adjacency: &'a Adjacency,
    search: Search<'a>,
    /// By component.
    detours: HashMap<usize, Detours>,
}

impl Finder<'_> {
    fn find(&mut self, id: NeedId, component: usize, most: u64) -> Loop {
        let need = self.graph.need(id);
        let (deploys, contacts) = (need.from, need.to);
        let (path, shortest) = match self.search.path(contacts, deploys, most, |_| false) {
            Found::Path(path) => (path, true),
            // There is one: the two are in one component.
            Found::None | Found::GaveUp => {
                let (adjacency, recovery) = (self.adjacency, self.recovery);
                let detours = self.detours.entry(component).or_insert_with(|| {
                    let hub = recovery
                        .components()
                        .nth(component)
                        .map_or(deploys, |c| c[0]);
                    Detours::over(adjacency, hub)
                });
                (detours.path(contacts, deploys), false)
            }
        };
        let is_transient = self.is_transient(&path);
        let kinds: BTreeSet<LoopKind> = need
            .contacts()
            .map(|contact| match (is_transient, contact.named) {
                (true, _) => LoopKind::Transient,
                (false, true) => LoopKind::Direct,
                (false, false) => LoopKind::Hidden,
            })
            .collect();
        let steps = path
            .windows(2)
            .filter_map(|pair| self.graph.between(pair[0], pair[1]).next());
        Loop {
            deploys,
            contacts,
            kind: if is_transient {
                Some(LoopKind::Transient)
            } else {
                kinds.first().copied()
            },
            kinds,
            steps: std::iter::once(id).chain(steps).collect(),
            shortest,
            component,
        }
    }

    /// `path` leads from what is contacted to what is deployed; where one need does, it is that need.
    fn is_transient(&mut self, path: &[NodeId]) -> bool {
        let (Some(&from), Some(&to), true) = (path.first(), path.last(), path.len() > 2) else {
            return false;
        };
        let protected = &self.protected;
        if protected.is_empty() {
            // Some service lies between on every path.
            return true;
        }
        let between = |id: &NodeId| *id != from && *id != to && protected.contains(id);
        path.iter().any(between)
            && self
                .search
                .path(from, to, u64::MAX, |id| protected.contains(&id))
                == Found::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Catalog, Place};
    use crate::graph::{Import, Input, build};

    /// A ring with chords.
    fn ring(services: usize) -> Graph {
        let import = |from: usize, to: usize, phase| Import {
            from: format!("s{from:03}"),
            to: format!("s{:03}", to % services),
            phase,
            format: "test".to_owned(),
            place: Place {
                file: "test".into(),
                line: 1,
                column: 1,
            },
        };
        let imports: Vec<Import> = (0..services)
            .flat_map(|n| {
                [
                    import(n, n + 1, Phase::Run),
                    import(n, n * 7 + 3, Phase::Deploy),
                ]
            })
            .collect();
        build(&Input {
            catalog: &Catalog::default(),
            runs: &[],
            imports: &imports,
        })
    }

    #[test]
    fn a_search_that_is_given_up_leaves_a_loop_all_the_same() {
        let graph = ring(100);
        let recovery = Recovery::of(&graph);
        let adjacency = Adjacency::of(&graph);
        let mut finder = Finder {
            graph: &graph,
            recovery: &recovery,
            protected: BTreeSet::new(),
            search: Search::new(&adjacency),
            adjacency: &adjacency,
            detours: HashMap::new(),
        };
        let mut given_up = 0;
        for best in loops(&graph, &recovery, &[]) {
            assert!(best.shortest);
            let found = finder.find(best.steps[0], best.component, 0);
            given_up += usize::from(!found.shortest);
            assert_eq!((found.kind, found.steps[0]), (best.kind, best.steps[0]));
            assert!(found.steps.len() >= best.steps.len());
            let steps: Vec<_> = found.steps.iter().map(|id| graph.need(*id)).collect();
            assert!(steps.windows(2).all(|pair| pair[0].to == pair[1].from));
            assert_eq!(steps[steps.len() - 1].to, found.deploys);
            let met: BTreeSet<NodeId> = steps.iter().map(|step| step.to).collect();
            assert_eq!(met.len(), steps.len(), "a node twice");
        }
        assert!(given_up > 50, "{given_up}");
    }

    #[test]
    fn of_one_service_are_those_of_all() {
        let graph = ring(60);
        let recovery = Recovery::of(&graph);
        let all = loops(&graph, &recovery, &[]);
        let each: Vec<Loop> = graph
            .ids()
            .flat_map(|id| loops_of(&graph, &recovery, &[], id))
            .collect();
        assert_eq!(all, each);
        assert!(!all.is_empty());
    }
}
