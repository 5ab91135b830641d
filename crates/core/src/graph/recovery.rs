//! The order in which everything comes back from black.
//!
//! A service comes back only after everything that it needs, to be deployed and to run. Destinations that
//! no service provides are taken to be there: nobody here can bring them back.

use std::collections::HashMap;

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use super::path::Adjacency;
use super::{Cut, Graph, NeedId, NodeId, cut};

/// Components and levels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The strongly connected component of each node; what a component needs has a smaller number.
    component: Vec<u32>,
    /// Those that cannot start, in the order of their members.
    stuck: Vec<Vec<NodeId>>,
    /// The place in `stuck`, by the number among all.
    place: HashMap<u32, usize>,
    levels: Vec<Vec<NodeId>>,
    blocked: Vec<NodeId>,
}

impl Recovery {
    /// Of the whole graph.
    pub fn of(graph: &Graph) -> Self {
        Self::without(graph, &[])
    }

    /// Of the graph without some of its needs, as after they were cut.
    pub fn without(graph: &Graph, cut: &[NeedId]) -> Self {
        let mut gone = vec![false; graph.needs.len()];
        for id in cut {
            gone[id.index()] = true;
        }
        let kept = |(index, need): (usize, &super::Need)| {
            (!gone[index]).then_some((need.from.0, need.to.0))
        };
        let mut pairs: Vec<(u32, u32)> = graph.needs.iter().enumerate().filter_map(kept).collect();
        pairs.dedup();
        Self::of_pairs(graph, &pairs)
    }

    fn of_pairs(graph: &Graph, pairs: &[(u32, u32)]) -> Self {
        let nodes = graph.nodes.len();
        let mut shape: DiGraph<(), ()> = DiGraph::with_capacity(nodes, pairs.len());
        for _ in 0..nodes {
            shape.add_node(());
        }
        for &(from, to) in pairs {
            shape.add_edge(NodeIndex::from(from), NodeIndex::from(to), ());
        }
        // What is needed comes before what needs it.
        let components = kosaraju_scc(&shape);
        let mut component = vec![0; nodes];
        for (number, members) in components.iter().enumerate() {
            for member in members {
                component[member.index()] = number as u32;
            }
        }
        let mut is_stuck: Vec<bool> = components.iter().map(|c| c.len() > 1).collect();
        for &(from, to) in pairs {
            if from == to {
                is_stuck[component[from as usize] as usize] = true;
            }
        }
        // The level of each component that can start.
        let mut level: Vec<Option<usize>> = Vec::with_capacity(components.len());
        for (number, members) in components.iter().enumerate() {
            let mut here = (!is_stuck[number]).then_some(0);
            for needed in members.iter().flat_map(|&member| shape.neighbors(member)) {
                if !graph.nodes[needed.index()].is_service() {
                    continue;
                }
                let below = component[needed.index()] as usize;
                if below != number {
                    here = here.and_then(|here| Some(here.max(level[below]? + 1)));
                }
            }
            level.push(here);
        }
        let mut levels: Vec<Vec<NodeId>> = Vec::new();
        let mut blocked = Vec::new();
        for id in graph.ids().filter(|id| graph.node(*id).is_service()) {
            let number = component[id.index()] as usize;
            match level[number] {
                Some(level) => {
                    if levels.len() <= level {
                        levels.resize_with(level + 1, Vec::new);
                    }
                    levels[level].push(id);
                }
                None if is_stuck[number] => {}
                None => blocked.push(id),
            }
        }
        let mut stuck: Vec<(u32, Vec<NodeId>)> = components
            .iter()
            .zip(0..)
            .filter(|(_, number)| is_stuck[*number as usize])
            .map(|(members, number)| {
                let mut members: Vec<_> = members.iter().map(|m| NodeId::new(m.index())).collect();
                members.sort_unstable();
                (number, members)
            })
            .collect();
        stuck.sort_by(|a, b| a.1.cmp(&b.1));
        let place = stuck.iter().map(|(number, _)| *number).zip(0..).collect();
        Self {
            component,
            stuck: stuck.into_iter().map(|(_, members)| members).collect(),
            place,
            levels,
            blocked,
        }
    }

    /// The services that can start, in levels: each needs only those of the levels before it.
    pub fn levels(&self) -> &[Vec<NodeId>] {
        &self.levels
    }

    /// The services that cannot start without each other, or without themselves.
    pub fn components(&self) -> impl ExactSizeIterator<Item = &[NodeId]> {
        self.stuck.iter().map(Vec::as_slice)
    }

    /// The services that lie in none of these components, and cannot start because they need one.
    pub fn blocked(&self) -> &[NodeId] {
        &self.blocked
    }

    /// In which of [`Recovery::components`] a node lies.
    pub fn component_of(&self, id: NodeId) -> Option<usize> {
        self.place.get(&self.component[id.index()]).copied()
    }

    /// Do two nodes need each other, or are they the same?
    pub(super) fn together(&self, a: NodeId, b: NodeId) -> bool {
        self.component[a.index()] == self.component[b.index()]
    }

    /// For each of [`Recovery::components`], a set of needs without which it can start.
    pub fn cuts(&self, graph: &Graph) -> Vec<Cut> {
        let adjacency = Adjacency::of(graph);
        self.components()
            .map(|members| cut::cut(graph, &adjacency, members))
            .collect()
    }
}
