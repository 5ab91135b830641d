//! Which needs to cut so that a component can start.
//!
//! A smallest such set is a minimum feedback arc set, for which no fast method is known. Small components
//! are solved exactly; for others petgraph's heuristic gives a small one, from which everything is taken
//! back that closes no circle. That it is a smallest one after all is said where as many circles were
//! found that share no need.

use std::collections::{HashMap, HashSet};

use petgraph::algo::greedy_feedback_arc_set;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef as _;

use super::path::Adjacency;
use super::{Graph, NeedId, NodeId};
use crate::catalog::Strength;

/// Components of at most so many nodes are solved exactly, in time and memory that double with each.
const EXACT: usize = 16;
/// How many steps the taking back, and the search for circles, may take in a large component.
const STEPS: usize = 20_000_000;

/// A set of needs without which a component can start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The needs, in the order of the graph's.
    pub needs: Vec<NeedId>,
    /// No set is smaller. Otherwise this one is small, and nobody knows whether a smaller one exists.
    pub smallest: bool,
}

/// What the cutting of a pair of nodes takes: first how many needs, then how dear they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Price {
    needs: u32,
    dear: u32,
}

impl Price {
    fn plus(self, other: Self) -> Self {
        Self {
            needs: self.needs + other.needs,
            dear: self.dear + other.dear,
        }
    }

    /// Of all needs of one node of another. What was seen to be soft is cheapest, what is hard is dearest.
    fn of(graph: &Graph, from: NodeId, to: NodeId) -> Self {
        graph
            .between(from, to)
            .map(|id| {
                let need = graph.need(id);
                let dear = match (need.shown(), need.claimed()) {
                    (Some(Strength::Soft), _) => 0,
                    (None, Some(Strength::Soft)) => 1,
                    (None, None) => 2,
                    (Some(Strength::Hard), _) | (None, Some(Strength::Hard)) => 3,
                };
                Self { needs: 1, dear }
            })
            .fold(Self::default(), Self::plus)
    }
}

/// A component with nodes of its own numbers.
struct Part {
    members: Vec<NodeId>,
    /// Between different nodes, sorted.
    edges: Vec<(usize, usize, Price)>,
}

pub(super) fn cut(graph: &Graph, adjacency: &Adjacency, members: &[NodeId]) -> Cut {
    let numbers: HashMap<NodeId, usize> = members.iter().copied().zip(0..).collect();
    let edges = members
        .iter()
        .enumerate()
        .flat_map(|(from, &id)| adjacency.needs(id).iter().map(move |to| (from, id, to)))
        .filter_map(|(from, id, to)| Some((from, *numbers.get(to)?, Price::of(graph, id, *to))))
        .collect();
    let part = Part {
        members: members.to_vec(),
        edges,
    };
    let (pairs, smallest) = if members.len() <= EXACT {
        (part.exact(), true)
    } else {
        part.small()
    };
    // A need of oneself has to go in any case.
    let own = members.iter().map(|&id| (id, id));
    let mut needs: Vec<NeedId> = pairs
        .into_iter()
        .map(|(from, to)| (part.members[from], part.members[to]))
        .chain(own)
        .flat_map(|(from, to)| graph.between(from, to))
        .collect();
    needs.sort_unstable();
    Cut { needs, smallest }
}

impl Part {
    /// Over all orders in which the nodes could start: what a node needs of those that start after it is
    /// cut. The best order of a set ends with some node, and begins with the best order of the rest.
    fn exact(&self) -> Vec<(usize, usize)> {
        let count = self.members.len();
        // What each node needs, with its price.
        let mut needs: Vec<Vec<(usize, Price)>> = vec![Vec::new(); count];
        for &(from, to, price) in &self.edges {
            needs[from].push((to, price));
        }
        let mut best: Vec<(Price, u8)> = vec![(Price::default(), 0); 1 << count];
        for set in 1usize..1 << count {
            let mut least: Option<(Price, u8)> = None;
            for last in (0..count).filter(|node| set >> node & 1 == 1) {
                // `last` starts when the rest of the set has: what it needs outside of the set is cut.
                let cut = needs[last]
                    .iter()
                    .filter(|(to, _)| set >> to & 1 == 0)
                    .fold(best[set & !(1 << last)].0, |sum, (_, p)| sum.plus(*p));
                if least.is_none_or(|(price, _)| cut < price) {
                    least = Some((cut, last as u8));
                }
            }
            best[set] = least.unwrap_or_default();
        }
        let mut pairs = Vec::new();
        let mut set = (1usize << count) - 1;
        while set != 0 {
            let last = usize::from(best[set].1);
            pairs.extend(
                needs[last]
                    .iter()
                    .filter(|(to, _)| set >> to & 1 == 0)
                    .map(|(to, _)| (last, *to)),
            );
            set &= !(1 << last);
        }
        pairs
    }

    fn small(&self) -> (Vec<(usize, usize)>, bool) {
        let mut shape: DiGraph<(), Price> = DiGraph::new();
        for _ in &self.members {
            shape.add_node(());
        }
        for &(from, to, price) in &self.edges {
            shape.add_edge(NodeIndex::new(from), NodeIndex::new(to), price);
        }
        let mut dropped: Vec<(Price, usize, usize)> = greedy_feedback_arc_set(&shape)
            .map(|edge| (*edge.weight(), edge.source().index(), edge.target().index()))
            .collect();
        // The dearest are taken back first.
        dropped.sort_by(|a, b| b.0.cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let gone: HashSet<(usize, usize)> = dropped.iter().map(|&(_, f, t)| (f, t)).collect();
        let mut kept: Vec<Vec<usize>> = vec![Vec::new(); self.members.len()];
        for &(from, to, _) in &self.edges {
            if !gone.contains(&(from, to)) {
                kept[from].push(to);
            }
        }
        let mut walk = Walk::new(self.members.len());
        dropped.retain(|&(_, from, to)| {
            let closes = walk
                .path(&kept, to, from)
                .is_none_or(|path| !path.is_empty());
            if !closes {
                kept[from].push(to);
            }
            closes
        });
        let price = dropped
            .iter()
            .fold(Price::default(), |sum, (price, ..)| sum.plus(*price));
        let smallest = self.disjoint_circles(&dropped) >= price.needs;
        let pairs = dropped
            .into_iter()
            .map(|(_, from, to)| (from, to))
            .collect();
        (pairs, smallest)
    }

    /// How many needs have to go at least: circles that share none, each at the price of its cheapest pair.
    /// Each goes through one of the needs that were dropped, as every circle does.
    fn disjoint_circles(&self, dropped: &[(Price, usize, usize)]) -> u32 {
        let mut left: Vec<Vec<usize>> = vec![Vec::new(); self.members.len()];
        let mut needs: HashMap<(usize, usize), u32> = HashMap::with_capacity(self.edges.len());
        for &(from, to, price) in &self.edges {
            left[from].push(to);
            needs.insert((from, to), price.needs);
        }
        let mut walk = Walk::new(self.members.len());
        let mut found = 0;
        for &(_, from, to) in dropped {
            if !left[from].contains(&to) {
                continue;
            }
            let Some(mut circle) = walk.path(&left, to, from).filter(|path| !path.is_empty())
            else {
                continue;
            };
            circle.push(to);
            found += circle
                .windows(2)
                .map(|pair| needs[&(pair[0], pair[1])])
                .min()
                .unwrap_or(0);
            for pair in circle.windows(2) {
                left[pair[0]].retain(|&to| to != pair[1]);
            }
        }
        found
    }
}

/// A search that stops for good when it has taken too many steps.
struct Walk {
    steps: usize,
    round: usize,
    reached: Vec<(usize, usize)>,
}

impl Walk {
    fn new(nodes: usize) -> Self {
        Self {
            steps: 0,
            round: 0,
            reached: vec![(0, 0); nodes],
        }
    }

    /// A shortest path, both ends included; empty if there is none; `None` if nobody looked any more.
    fn path(&mut self, lists: &[Vec<usize>], from: usize, to: usize) -> Option<Vec<usize>> {
        self.round += 1;
        self.reached[from] = (self.round, from);
        let mut queue = std::collections::VecDeque::from([from]);
        while let Some(at) = queue.pop_front() {
            if at == to {
                let mut path: Vec<usize> = std::iter::successors(Some(to), |&at| {
                    let before = self.reached[at].1;
                    (before != at).then_some(before)
                })
                .collect();
                path.reverse();
                return Some(path);
            }
            self.steps += 1 + lists[at].len();
            if self.steps > STEPS {
                return None;
            }
            for &next in &lists[at] {
                if self.reached[next].0 != self.round {
                    self.reached[next] = (self.round, at);
                    queue.push_back(next);
                }
            }
        }
        Some(Vec::new())
    }
}
