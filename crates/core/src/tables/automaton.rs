//! From patterns to the automaton over labels.
//!
//! First a trie of the patterns' labels from the right, in which a `*` inside a pattern is an edge of its
//! own kind. A name may walk several of its paths at once, so the trie is determinised: a state is the set
//! of nodes that a name may have come to, with what it inherited on the way. Without `*` inside there is
//! one path to each node and the automaton is exactly the trie.
//!
//! All nodes of a state lie at the same depth, so a rule that a state adds fixes more labels than any that
//! it inherits, and simply lies over those of its rank.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::compile::{CompileError, Limit, MAX_STATES};
use super::rulings::{Classes, Numbered, ProfileId};
use super::{NameState, RuleId, StateId};
use crate::name::{Pattern, Reach};
use crate::policy::Target;

/// States that the `*`s inside patterns may add to the trie.
const MAX_EXTRA_STATES: usize = 1 << 16;
/// Bound on the work of determinising, in edges and nodes looked at: several times what a trie of the
/// largest size needs.
const MAX_WORK: usize = 1 << 23;

type NodeId = u32;

/// A label, compared by its first octets before the rest of it is fetched from wherever its pattern lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Label<'r> {
    first: [u8; 8],
    octets: &'r [u8],
}

impl<'r> Label<'r> {
    fn new(octets: &'r [u8]) -> Self {
        let mut first = [0; 8];
        let held = octets.len().min(first.len());
        first[..held].copy_from_slice(&octets[..held]);
        Self { first, octets }
    }
}

#[derive(Default)]
struct Node<'r> {
    children: BTreeMap<Label<'r>, NodeId>,
    star: Option<NodeId>,
    /// By which built-in rule every name below may be looked up.
    search: Option<RuleId>,
}

/// Rules of nodes, in the order of the nodes: nearly every node has one or none, and a list for each would take
/// more than all else.
#[derive(Default)]
struct OfNodes<'r> {
    rules: Vec<(NodeId, Numbered<'r>)>,
    /// Where those of each node begin, once sorted; nodes that came later have none.
    first: Vec<u32>,
}

impl<'r> OfNodes<'r> {
    fn sort(&mut self, nodes: usize) {
        self.rules
            .sort_unstable_by_key(|(node, rule)| (*node, rule.id));
        let mut at = 0;
        for node in 0..=nodes as NodeId {
            while self.rules.get(at).is_some_and(|(of, _)| *of < node) {
                at += 1;
            }
            self.first.push(at as u32);
        }
    }

    fn of(&self, node: NodeId) -> impl Iterator<Item = Numbered<'r>> {
        let at = |node: usize| {
            self.first
                .get(node)
                .map_or(self.rules.len(), |&at| at as usize)
        };
        let range = at(node as usize)..at(node as usize + 1);
        self.rules[range].iter().map(|(_, rule)| *rule)
    }
}

/// The patterns' labels from the right.
pub(super) struct Trie<'r> {
    nodes: Vec<Node<'r>>,
    /// Rules that match the name that ends at a node.
    end: OfNodes<'r>,
    /// Rules that match every name below it.
    below: OfNodes<'r>,
    /// The last rule whose pattern has a `*` inside.
    starred: Option<RuleId>,
}

impl<'r> Trie<'r> {
    /// Of those of the rules that are about names.
    pub(super) fn new(rules: &[Numbered<'r>]) -> Self {
        let mut trie = Self {
            nodes: vec![Node::default()],
            end: OfNodes::default(),
            below: OfNodes::default(),
            starred: None,
        };
        for &numbered in rules {
            let Target::Name(pattern) = &numbered.rule.target else {
                continue;
            };
            if pattern.has_star() {
                trie.starred = Some(numbered.id);
            }
            let node = trie.node(pattern);
            let reach = pattern.reach();
            if reach != Reach::Below {
                trie.end.rules.push((node, numbered));
            }
            if reach != Reach::Exact {
                trie.below.rules.push((node, numbered));
            }
        }
        let nodes = trie.nodes.len();
        trie.end.sort(nodes);
        trie.below.sort(nodes);
        trie
    }

    fn node(&mut self, pattern: &'r Pattern) -> NodeId {
        let mut at = 0;
        for label in pattern.labels_from_root() {
            let fresh = self.nodes.len() as NodeId;
            let from = &mut self.nodes[at as usize];
            let next = match label {
                Some(label) => *from.children.entry(Label::new(label)).or_insert(fresh),
                None => *from.star.get_or_insert(fresh),
            };
            if next == fresh {
                self.nodes.push(Node::default());
            }
            at = next;
        }
        at
    }

    pub(super) fn insert_search(&mut self, pattern: &'r Pattern, rule: RuleId) {
        let node = self.node(pattern);
        self.nodes[node as usize].search = Some(rule);
    }

    /// Determinise; classes are added to `classes`.
    pub(super) fn into_states(self, classes: &mut Classes) -> Result<Vec<NameState>, CompileError> {
        Determiniser {
            trie: &self,
            classes,
            states: Vec::new(),
            ids: HashMap::new(),
            queue: VecDeque::new(),
            work: 0,
        }
        .run()
    }
}

/// What a state is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    /// Sorted.
    nodes: Box<[NodeId]>,
    /// What names here get from rules with fewer labels.
    inherited: ProfileId,
    search: Option<RuleId>,
}

struct Determiniser<'a, 'r> {
    trie: &'a Trie<'r>,
    classes: &'a mut Classes,
    states: Vec<NameState>,
    ids: HashMap<Place, StateId>,
    queue: VecDeque<Place>,
    work: usize,
}

impl<'r> Determiniser<'_, 'r> {
    fn run(mut self) -> Result<Vec<NameState>, CompileError> {
        self.state(Place {
            nodes: [0].into(),
            inherited: 0,
            search: None,
        })?;
        let mut id = 0;
        // States are numbered in the order in which they join the queue.
        while let Some(place) = self.queue.pop_front() {
            self.expand(id, &place)?;
            id += 1;
        }
        Ok(self.states)
    }

    fn state(&mut self, place: Place) -> Result<StateId, CompileError> {
        // Where no name can walk two paths, every place is come to once.
        if self.trie.starred.is_some()
            && let Some(&id) = self.ids.get(&place)
        {
            return Ok(id);
        }
        if self.states.len() >= MAX_STATES.min(self.trie.nodes.len() + MAX_EXTRA_STATES) {
            return Err(Limit::TooManyStates.by(self.trie.starred));
        }
        let id = self.states.len() as StateId;
        self.states.push(NameState {
            end: 0,
            below: 0,
            star: 0,
            edges: BTreeMap::new(),
        });
        if self.trie.starred.is_some() {
            self.ids.insert(place.clone(), id);
        }
        self.queue.push_back(place);
        Ok(id)
    }

    fn expand(&mut self, id: usize, place: &Place) -> Result<(), CompileError> {
        let trie = self.trie;
        let nodes = || place.nodes.iter().map(|&n| &trie.nodes[n as usize]);

        let rules = |of: &'_ OfNodes<'r>| -> Vec<Numbered<'r>> {
            place.nodes.iter().flat_map(|&n| of.of(n)).collect()
        };
        let (of_end, of_below) = (rules(&trie.end), rules(&trie.below));
        let end = self.classes.overlay(place.inherited, &of_end);
        let below = self.classes.overlay(place.inherited, &of_below);
        let search_below = place.search.or_else(|| nodes().find_map(|n| n.search));
        self.states[id].end = self.classes.of_name(end, place.search);
        self.states[id].below = self.classes.of_name(below, search_below);
        self.classes.fit(&of_end)?;
        self.classes.fit(&of_below)?;

        let stars: Vec<NodeId> = nodes().filter_map(|n| n.star).collect();
        let mut targets: Vec<(Label<'_>, NodeId)> = Vec::new();
        for node in nodes() {
            self.work += 1 + node.children.len();
            targets.extend(node.children.iter().map(|(label, &child)| (*label, child)));
        }
        if place.nodes.len() > 1 {
            targets.sort_unstable();
        }
        let targets = targets.chunk_by(|(a, _), (b, _)| a == b);
        self.work += targets.clone().count() * stars.len();
        if self.work > MAX_WORK {
            return Err(Limit::TooManyStates.by(self.trie.starred));
        }
        let place_at = |nodes: Box<[NodeId]>| Place {
            nodes,
            inherited: below,
            search: search_below,
        };
        let place_of = |mut nodes: Vec<NodeId>| {
            nodes.sort_unstable();
            nodes.dedup();
            place_at(nodes.into())
        };
        let mut edges: Vec<(Box<[u8]>, StateId)> = Vec::new();
        for same in targets {
            let place = match same {
                // Nearly always one path leads on.
                &[(_, only)] if stars.is_empty() => place_at([only].into()),
                several => {
                    let children = several.iter().map(|&(_, child)| child);
                    place_of(children.chain(stars.iter().copied()).collect())
                }
            };
            edges.push((same[0].0.octets.into(), self.state(place)?));
        }
        // From a sorted list it is filled without gaps.
        self.states[id].edges = edges.into_iter().collect();
        if !stars.is_empty() {
            self.states[id].star = self.state(place_of(stars))?;
        }
        Ok(())
    }
}
