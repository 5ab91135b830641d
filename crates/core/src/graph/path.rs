//! Shortest paths of needs.
//!
//! One is wanted for every service that a deployment contacted, of which there may be as many as there are
//! needs. So a search goes from both ends, a level at a time, and its memory is used again for the next: in a
//! graph of a hundred thousand services it meets after a few hundred. (petgraph's searches go from one
//! end, and take memory for the whole graph each time.)

use std::collections::HashMap;

use super::{Graph, NodeId};

/// Who needs whom, each once, whatever for; without needs of oneself.
pub(super) struct Adjacency {
    /// The ones that are needed.
    needs: Lists,
    /// The ones that need.
    needed_by: Lists,
}

/// One sorted list for each node.
struct Lists {
    starts: Vec<u32>,
    items: Vec<NodeId>,
}

impl Lists {
    /// From pairs in the order of their first.
    fn of(nodes: usize, pairs: &[(NodeId, NodeId)]) -> Self {
        let mut starts = vec![0; nodes + 1];
        for (from, _) in pairs {
            starts[from.index() + 1] += 1;
        }
        for index in 0..nodes {
            starts[index + 1] += starts[index];
        }
        Self {
            starts,
            items: pairs.iter().map(|(_, to)| *to).collect(),
        }
    }

    fn get(&self, id: NodeId) -> &[NodeId] {
        &self.items[self.starts[id.index()] as usize..self.starts[id.index() + 1] as usize]
    }
}

impl Adjacency {
    pub(super) fn of(graph: &Graph) -> Self {
        let mut pairs: Vec<(NodeId, NodeId)> = graph
            .needs
            .iter()
            .filter(|need| need.from != need.to)
            .map(|need| (need.from, need.to))
            .collect();
        pairs.dedup();
        let needs = Lists::of(graph.nodes.len(), &pairs);
        for pair in &mut pairs {
            *pair = (pair.1, pair.0);
        }
        pairs.sort_unstable();
        let needed_by = Lists::of(graph.nodes.len(), &pairs);
        Self { needs, needed_by }
    }

    /// What a node needs, sorted.
    pub(super) fn needs(&self, id: NodeId) -> &[NodeId] {
        self.needs.get(id)
    }

    /// What needs a node, sorted.
    pub(super) fn needed_by(&self, id: NodeId) -> &[NodeId] {
        self.needed_by.get(id)
    }

    pub(super) fn has(&self, from: NodeId, to: NodeId) -> bool {
        self.needs(from).binary_search(&to).is_ok()
    }
}

/// One end of a search.
struct End {
    /// The round in which a node was reached, and from where; a round is one search.
    reached: Vec<(u32, NodeId)>,
    frontier: Vec<NodeId>,
}

impl End {
    fn new(nodes: usize) -> Self {
        Self {
            reached: vec![(0, NodeId(0)); nodes],
            frontier: Vec::new(),
        }
    }

    fn begin(&mut self, round: u32, at: NodeId) {
        self.frontier.clear();
        self.frontier.push(at);
        self.reached[at.index()] = (round, at);
    }

    fn has(&self, round: u32, id: NodeId) -> bool {
        self.reached[id.index()].0 == round
    }

    /// From a node that was reached to where the search began.
    fn back(&self, from: NodeId) -> impl Iterator<Item = NodeId> {
        std::iter::successors(Some(from), |&id| {
            let before = self.reached[id.index()].1;
            (before != id).then_some(before)
        })
    }
}

/// What a search came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// A shortest path, both ends included.
    Path(Vec<NodeId>),
    /// There is none.
    None,
    /// Nobody knows: it would have taken more steps than were given.
    GaveUp,
}

/// A search that can be made again.
pub(super) struct Search<'a> {
    adjacency: &'a Adjacency,
    round: u32,
    ahead: End,
    behind: End,
    /// How many needs have been looked at, in all searches.
    pub(super) steps: u64,
}

impl<'a> Search<'a> {
    pub(super) fn new(adjacency: &'a Adjacency) -> Self {
        let nodes = adjacency.needs.starts.len() - 1;
        Self {
            adjacency,
            round: 0,
            ahead: End::new(nodes),
            behind: End::new(nodes),
            steps: 0,
        }
    }

    /// What it searches in.
    pub(super) fn adjacency(&self) -> &'a Adjacency {
        self.adjacency
    }

    /// A shortest path of needs from one node to another that has none between them of which `shut` says
    /// so, in about `most` steps. Of several paths the same one each time.
    pub(super) fn path(
        &mut self,
        from: NodeId,
        to: NodeId,
        most: u64,
        shut: impl Fn(NodeId) -> bool,
    ) -> Found {
        if from == to {
            return Found::Path(vec![from]);
        }
        if self.adjacency.has(from, to) {
            return Found::Path(vec![from, to]);
        }
        let last = self.steps.saturating_add(most);
        self.round = match self.round.checked_add(1) {
            Some(round) => round,
            // Only after 2^32 searches, which would take days.
            None => return Found::GaveUp,
        };
        self.ahead.begin(self.round, from);
        self.behind.begin(self.round, to);
        loop {
            if self.ahead.frontier.is_empty() || self.behind.frontier.is_empty() {
                return Found::None;
            }
            if self.steps >= last {
                return Found::GaveUp;
            }
            if let Some((near, far)) = self.level(&shut) {
                let mut path: Vec<NodeId> = self.ahead.back(near).collect();
                path.reverse();
                path.extend(self.behind.back(far));
                return Found::Path(path);
            }
        }
    }

    /// Go one step further from the end that has less before it. Where that comes to what the other end has
    /// reached, the path over it is a shortest one: were there a shorter, the ends would have met a level
    /// before. The two nodes that met are given, first the one that was reached from ahead.
    fn level(&mut self, shut: impl Fn(NodeId) -> bool) -> Option<(NodeId, NodeId)> {
        let goes_ahead = self.ahead.frontier.len() <= self.behind.frontier.len();
        let (end, other, lists) = if goes_ahead {
            (&mut self.ahead, &self.behind, &self.adjacency.needs)
        } else {
            (&mut self.behind, &self.ahead, &self.adjacency.needed_by)
        };
        let round = self.round;
        let frontier = std::mem::take(&mut end.frontier);
        for &id in &frontier {
            let next = lists.get(id);
            self.steps += 1 + next.len() as u64;
            for &reached in next {
                if other.has(round, reached) {
                    return Some(if goes_ahead {
                        (id, reached)
                    } else {
                        (reached, id)
                    });
                }
                if end.has(round, reached) || shut(reached) {
                    continue;
                }
                end.reached[reached.index()] = (round, id);
                end.frontier.push(reached);
            }
        }
        None
    }
}

/// Some path from one node of a component to another, in no time: over one node that all of them reach.
/// It need not be a short one.
pub(super) struct Detours {
    /// From each node towards the hub, and from the hub towards each node; the first and the last step
    /// before it. The hub's own is itself.
    towards: Vec<NodeId>,
    from: Vec<NodeId>,
}

impl Detours {
    /// In the component that `hub` lies in.
    pub(super) fn over(adjacency: &Adjacency, hub: NodeId) -> Self {
        let nodes = adjacency.needs.starts.len() - 1;
        let walk = |lists: &Lists| {
            let unknown = NodeId(u32::MAX);
            let mut before = vec![unknown; nodes];
            before[hub.index()] = hub;
            let mut queue = std::collections::VecDeque::from([hub]);
            while let Some(id) = queue.pop_front() {
                for &next in lists.get(id) {
                    if before[next.index()] == unknown {
                        before[next.index()] = id;
                        queue.push_back(next);
                    }
                }
            }
            before
        };
        Self {
            towards: walk(&adjacency.needed_by),
            from: walk(&adjacency.needs),
        }
    }

    /// A path without a node twice, both ends included. Both must lie in the hub's component.
    pub(super) fn path(&self, from: NodeId, to: NodeId) -> Vec<NodeId> {
        let follow = |steps: &'_ [NodeId], begin: NodeId| -> Vec<NodeId> {
            std::iter::successors(Some(begin), |id| {
                let next = steps[id.index()];
                (next != *id).then_some(next)
            })
            .collect()
        };
        let mut whole = follow(&self.towards, from);
        let mut back = follow(&self.from, to);
        back.reverse();
        whole.extend(back.into_iter().skip(1));
        // Where it comes to a node again, what lies between was for nothing.
        let mut last: HashMap<NodeId, usize> = HashMap::with_capacity(whole.len());
        for (index, id) in whole.iter().enumerate() {
            last.insert(*id, index);
        }
        let mut path = Vec::new();
        let mut at = 0;
        while let Some(id) = whole.get(at) {
            path.push(*id);
            at = last[id] + 1;
        }
        path
    }
}
