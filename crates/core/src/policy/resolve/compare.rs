//! Rules of one layer about exactly the same thing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::super::{Rank, Rule};

/// The index of each rule that says again, or the contrary of, what an earlier one says; with what to say of it, and
/// what to do.
pub(super) fn repeated(rules: &[Rule]) -> Vec<(usize, String, &'static str)> {
    let mut first: HashMap<_, &Rule> = HashMap::with_capacity(rules.len());
    let mut found = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let same = (
            &rule.target,
            rule.ports,
            rule.protocol,
            rule.process.as_ref(),
            rule.rank,
        );
        let earlier = match first.entry(same) {
            Entry::Vacant(entry) => {
                entry.insert(rule);
                continue;
            }
            Entry::Occupied(entry) => *entry.get(),
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
