//! What an outage does: which services go down with it, which deployments still work, and in which order
//! everything comes back.
//!
//! Everything here is said by evidence only. A need counts as hard where that was shown, or is claimed; where
//! neither is the case, what depends on it is unknown and not guessed at.

use std::collections::VecDeque;

use super::path::Adjacency;
use super::recovery::Recovery;
use super::{Evidence, Graph, NeedId, NodeId, Watched};
use crate::catalog::{Phase, Strength};

/// What becomes of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// It goes on serving.
    Up,
    /// It may be down: it needs something that is, or may be, and nobody knows how much.
    Unknown,
    /// It is down.
    Down,
}

/// What becomes of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It works.
    Works,
    /// It fails: these needs of it are hard, and down.
    Fails(Vec<NeedId>),
    /// Nobody knows: these needs of it are down, or may be, and it is not known that it manages without. None of them
    /// if all that is known of what it needs is up, and no run of it was seen to a good end.
    Unknown(Vec<NeedId>),
    /// Nobody knows: no run of it was seen, and no file says what it needs.
    NeverSeen,
}

/// What an outage does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impact {
    /// Of each node, in the graph's order.
    states: Vec<State>,
    /// Of each service, what becomes of its deployment, in the order of names.
    pub deploys: Vec<(NodeId, Outcome)>,
    /// The services that are or may be down, in levels in which they can come back; each needs only what is
    /// up and those of the levels before it. What cannot start, and what needs that, is in none.
    pub order: Vec<Vec<NodeId>>,
    /// Of these services, those that cannot start without each other.
    pub stuck: Vec<Vec<NodeId>>,
}

impl Impact {
    /// What becomes of a node.
    pub fn state(&self, id: NodeId) -> State {
        self.states[id.index()]
    }
}

/// What happens when `down` are down, all at once.
pub fn impact(graph: &Graph, down: &[NodeId]) -> Impact {
    let states = states(graph, down);
    let deploys = graph
        .ids()
        .filter(|id| graph.node(*id).is_service())
        .map(|id| (id, outcome(graph, id, &states)))
        .collect();
    let is_up = |id: NodeId| states[id.index()] == State::Up;
    // What is up is no obstacle: the order is that among the others.
    let elsewhere: Vec<NeedId> = graph
        .needs
        .iter()
        .enumerate()
        .filter(|(_, need)| is_up(need.from) || is_up(need.to))
        .map(|(index, _)| NeedId::new(index))
        .collect();
    let recovery = Recovery::without(graph, &elsewhere);
    let stuck = recovery.components().map(<[NodeId]>::to_vec).collect();
    let mut order: Vec<Vec<NodeId>> = recovery.levels().to_vec();
    for level in &mut order {
        level.retain(|id| !is_up(*id));
    }
    order.retain(|level| !level.is_empty());
    Impact {
        states,
        deploys,
        order,
        stuck,
    }
}

fn states(graph: &Graph, down: &[NodeId]) -> Vec<State> {
    let adjacency = Adjacency::of(graph);
    let mut states = vec![State::Up; graph.nodes.len()];
    let mut queue = VecDeque::new();
    for &id in down {
        states[id.index()] = State::Down;
        queue.push_back(id);
    }
    // Each node is visited at most twice: states only get worse.
    while let Some(id) = queue.pop_front() {
        for &user in adjacency.needed_by(id) {
            let Some(need) = graph.find_need(user, id, Phase::Run) else {
                continue;
            };
            let state = match graph.need(need).strength() {
                Some(Strength::Soft) => State::Up,
                Some(Strength::Hard) => states[id.index()],
                None => State::Unknown,
            };
            if state > states[user.index()] {
                states[user.index()] = state;
                queue.push_back(user);
            }
        }
    }
    states
}

fn outcome(graph: &Graph, id: NodeId, states: &[State]) -> Outcome {
    let mut fails = Vec::new();
    let mut unknown = Vec::new();
    let watched = graph.watched(id, Phase::Deploy);
    let mut known = watched == Watched::Whole;
    for (number, need) in graph.needs_of(id) {
        if need.phase != Phase::Deploy {
            continue;
        }
        known |= need
            .evidence
            .iter()
            .any(|evidence| !matches!(evidence, Evidence::Observed(_)));
        match (states[need.to.index()], need.strength()) {
            (State::Up, _) | (_, Some(Strength::Soft)) => {}
            (State::Down, Some(Strength::Hard)) => fails.push(number),
            (State::Down | State::Unknown, _) => unknown.push(number),
        }
    }
    if !fails.is_empty() {
        Outcome::Fails(fails)
    } else if !unknown.is_empty() {
        Outcome::Unknown(unknown)
    } else if known {
        Outcome::Works
    } else if watched == Watched::InPart {
        Outcome::Unknown(Vec::new())
    } else {
        Outcome::NeverSeen
    }
}
