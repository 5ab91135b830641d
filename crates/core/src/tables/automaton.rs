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

use super::compile::{CompileError, MAX_PORT_RULINGS, MAX_STATES};
use super::rulings::{Classes, Numbered, ProfileId};
use super::{NameState, StateId};
use crate::name::{Pattern, Reach};

/// States that the `*`s inside patterns may add to the trie.
const MAX_EXTRA_STATES: usize = 1 << 16;
/// Bound on the work of determinising, in edges and nodes looked at: several times what a trie of the
/// largest size needs.
const MAX_WORK: usize = 1 << 23;

#[derive(Default)]
struct Node<'r> {
    children: BTreeMap<&'r [u8], usize>,
    star: Option<usize>,
    /// Rules that match the name that ends here.
    end: Vec<Numbered<'r>>,
    /// Rules that match every name below.
    below: Vec<Numbered<'r>>,
    /// Every name below is one of the search list's.
    search: bool,
}

/// The patterns' labels from the right.
pub(super) struct Trie<'r> {
    nodes: Vec<Node<'r>>,
    /// Some pattern has a `*` inside.
    starred: bool,
}

impl<'r> Trie<'r> {
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![Node::default()],
            starred: false,
        }
    }

    fn node(&mut self, pattern: &'r Pattern) -> &mut Node<'r> {
        self.starred |= pattern.has_star();
        let mut at = 0;
        for label in pattern.labels_from_root() {
            let fresh = self.nodes.len();
            let next = match label {
                Some(label) => *self.nodes[at].children.entry(label).or_insert(fresh),
                None => *self.nodes[at].star.get_or_insert(fresh),
            };
            if next == fresh {
                self.nodes.push(Node::default());
            }
            at = next;
        }
        &mut self.nodes[at]
    }

    pub(super) fn insert(&mut self, pattern: &'r Pattern, numbered: Numbered<'r>) {
        let node = self.node(pattern);
        match pattern.reach() {
            Reach::Exact => node.end.push(numbered),
            Reach::Below => node.below.push(numbered),
            Reach::Subtree => {
                node.end.push(numbered);
                node.below.push(numbered);
            }
        }
    }

    pub(super) fn insert_search(&mut self, pattern: &'r Pattern) {
        self.node(pattern).search = true;
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
    nodes: Vec<usize>,
    /// What names here get from rules with fewer labels.
    inherited: ProfileId,
    search: bool,
}

struct Determiniser<'a, 'r> {
    trie: &'a Trie<'r>,
    classes: &'a mut Classes,
    states: Vec<NameState>,
    ids: HashMap<Place, StateId>,
    queue: VecDeque<Place>,
    work: usize,
}

impl Determiniser<'_, '_> {
    fn run(mut self) -> Result<Vec<NameState>, CompileError> {
        self.state(Place {
            nodes: vec![0],
            inherited: 0,
            search: false,
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
        if self.trie.starred
            && let Some(&id) = self.ids.get(&place)
        {
            return Ok(id);
        }
        if self.states.len() >= MAX_STATES.min(self.trie.nodes.len() + MAX_EXTRA_STATES) {
            return Err(CompileError::TooManyStates);
        }
        let id = self.states.len() as StateId;
        self.states.push(NameState {
            end: 0,
            below: 0,
            star: 0,
            edges: BTreeMap::new(),
        });
        if self.trie.starred {
            self.ids.insert(place.clone(), id);
        }
        self.queue.push_back(place);
        Ok(id)
    }

    fn expand(&mut self, id: usize, place: &Place) -> Result<(), CompileError> {
        let trie = self.trie;
        let nodes = || place.nodes.iter().map(|&n| &trie.nodes[n]);

        let end_rules: Vec<_> = nodes().flat_map(|n| n.end.iter().copied()).collect();
        let below_rules: Vec<_> = nodes().flat_map(|n| n.below.iter().copied()).collect();
        let end = self.classes.overlay(place.inherited, &end_rules);
        let below = self.classes.overlay(place.inherited, &below_rules);
        let search_below = place.search || nodes().any(|n| n.search);
        if self.classes.stretches > MAX_PORT_RULINGS {
            return Err(CompileError::TooManyPortRulings);
        }
        self.states[id].end = self.classes.of_name(end, place.search);
        self.states[id].below = self.classes.of_name(below, search_below);

        let stars: Vec<usize> = nodes().filter_map(|n| n.star).collect();
        let mut targets: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
        for node in nodes() {
            self.work += 1 + node.children.len();
            for (label, &child) in &node.children {
                targets.entry(label).or_default().push(child);
            }
        }
        self.work += targets.len() * stars.len();
        if self.work > MAX_WORK {
            return Err(CompileError::TooManyStates);
        }
        let place_of = |mut nodes: Vec<usize>| {
            nodes.sort_unstable();
            nodes.dedup();
            Place {
                nodes,
                inherited: below,
                search: search_below,
            }
        };
        for (label, mut children) in targets {
            children.extend_from_slice(&stars);
            let next = self.state(place_of(children))?;
            self.states[id].edges.insert(label.into(), next);
        }
        if !stars.is_empty() {
            self.states[id].star = self.state(place_of(stars))?;
        }
        Ok(())
    }
}
