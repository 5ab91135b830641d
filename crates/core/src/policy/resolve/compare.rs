//! Rules of one layer about exactly the same thing.

use std::hash::{BuildHasher as _, Hash};

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::super::{Rank, Rule};

/// What two rules have in common that are about exactly the same.
fn about(rule: &Rule) -> impl Eq + Hash {
    (
        &rule.target,
        rule.ports,
        rule.protocol,
        rule.process.as_ref(),
        rule.rank,
    )
}

/// The index of each rule that says again, or the contrary of, what an earlier one says; with what to say of it, and
/// what to do.
pub(super) fn repeated(rules: &[Rule]) -> Vec<(usize, String, &'static str)> {
    // By index: a map from what they are about would hold more than the rules themselves. Why not the standard
    // library's hash is told in `crate::tables`, where values are kept once.
    let hasher = DefaultHashBuilder::default();
    let hash = |rule: &Rule| hasher.hash_one(about(rule));
    let mut first: HashTable<usize> = HashTable::with_capacity(rules.len());
    let mut found = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let same = |&earlier: &usize| about(&rules[earlier]) == about(rule);
        let earlier = match first.entry(hash(rule), same, |&at| hash(&rules[at])) {
            Entry::Vacant(entry) => {
                entry.insert(index);
                continue;
            }
            Entry::Occupied(entry) => &rules[*entry.get()],
        };
        // The catalog says many things twice, and that is nothing to be mended.
        if rule.derived.is_some() && (earlier.derived.is_some() || earlier.effect == rule.effect) {
            continue;
        }
        let place = if earlier.file == rule.file {
            format!("line {}", earlier.line)
        } else {
            format!("{}:{}", earlier.file, earlier.line)
        };
        found.push(if earlier.effect == rule.effect {
            let what = if rule.rank == Rank::Waiver {
                "covers the same as"
            } else {
                "says the same as"
            };
            let message = format!("`{}` {what} {place}", rule.text);
            (index, message, "keep one of the two")
        } else {
            let message = format!("`{}` contradicts {place}, `{}`", rule.text, earlier.text);
            let help = "the deny holds, whichever comes first; remove one of the two";
            (index, message, help)
        });
    }
    found
}
