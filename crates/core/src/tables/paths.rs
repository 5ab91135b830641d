//! All path patterns as one automaton over octets: what matches a path is known after reading it once,
//! whatever the number of patterns.

use std::collections::HashMap;

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};

use super::compile::Limit;

/// Bounds on the work and the memory of making one.
const MAX_DETERMINISE: usize = 32 << 20;
const MAX_AUTOMATON: usize = 8 << 20;
/// Bound on states times kinds of octets: 256 KiB in the kernel.
const MAX_TRANSITIONS: usize = 1 << 16;

/// An automaton over the octets of a path. Without patterns it has no states.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Paths {
    /// Kind of each octet: octets of one kind lead to the same states.
    pub kind: Vec<u8>,
    /// Kinds that there are.
    pub kinds: u32,
    /// Next state, at `state * kinds + kind`. State 0 matches nothing, whatever follows; the walk begins in state 1.
    pub next: Vec<u32>,
    /// The patterns that match a path which ends in this state: indices, ascending.
    pub matching: Vec<Vec<u32>>,
}

impl Paths {
    /// Of regular expressions, which are known by their index from here on.
    pub(crate) fn new(texts: &[impl AsRef<str>]) -> Result<Self, Limit> {
        if texts.is_empty() {
            return Ok(Self::default());
        }
        let dfa = dense::Builder::new()
            .configure(
                dense::Config::new()
                    .start_kind(StartKind::Anchored)
                    .match_kind(MatchKind::All)
                    .determinize_size_limit(Some(MAX_DETERMINISE))
                    .dfa_size_limit(Some(MAX_AUTOMATON)),
            )
            .thompson(thompson::Config::new().utf8(false))
            .syntax(
                regex_automata::util::syntax::Config::new()
                    .unicode(false)
                    .utf8(false),
            )
            .build_many(texts)
            .map_err(|_| Limit::TooManyPaths)?;
        let start = dfa
            .start_state(&start::Config::new().anchored(Anchored::Yes))
            .map_err(|_| Limit::TooManyPaths)?;

        let mut ids: HashMap<StateID, u32> = HashMap::from([(start, 1)]);
        let mut order = vec![None, Some(start)];
        let mut rows: Vec<[u32; 256]> = vec![[0; 256]];
        let mut matching = vec![Vec::new()];
        let mut at = 1;
        while let Some(&Some(state)) = order.get(at) {
            let mut row = [0; 256];
            for octet in 0..=u8::MAX {
                let next = dfa.next_state(state, octet);
                if dfa.is_dead_state(next) || dfa.is_quit_state(next) {
                    continue;
                }
                row[usize::from(octet)] = *ids.entry(next).or_insert_with(|| {
                    order.push(Some(next));
                    order.len() as u32 - 1
                });
            }
            let end = dfa.next_eoi_state(state);
            let mut found: Vec<u32> = if dfa.is_match_state(end) {
                (0..dfa.match_len(end))
                    .map(|index| dfa.match_pattern(end, index).as_u32())
                    .collect()
            } else {
                Vec::new()
            };
            found.sort_unstable();
            found.dedup();
            matching.push(found);
            rows.push(row);
            at += 1;
            if rows.len() > MAX_TRANSITIONS {
                return Err(Limit::TooManyPaths);
            }
        }

        // Octets whose columns are the same are of one kind.
        let mut columns: HashMap<Vec<u32>, u8> = HashMap::new();
        let mut representatives = Vec::new();
        let kind = (0..=u8::MAX)
            .map(|octet| {
                let column: Vec<u32> = rows.iter().map(|row| row[usize::from(octet)]).collect();
                let fresh = columns.len() as u8;
                *columns.entry(column).or_insert_with(|| {
                    representatives.push(octet);
                    fresh
                })
            })
            .collect();
        let kinds = representatives.len();
        if rows.len() * kinds > MAX_TRANSITIONS {
            return Err(Limit::TooManyPaths);
        }
        let next = rows
            .iter()
            .flat_map(|row| representatives.iter().map(|&octet| row[usize::from(octet)]))
            .collect();
        Ok(Self {
            kind,
            kinds: kinds as u32,
            next,
            matching,
        })
    }

    /// The state in which a path ends.
    pub fn walk(&self, path: &[u8]) -> u32 {
        if self.next.is_empty() {
            return 0;
        }
        path.iter().fold(1, |state, &octet| {
            let kind = u32::from(self.kind[usize::from(octet)]);
            self.next[(state * self.kinds + kind) as usize]
        })
    }
}
