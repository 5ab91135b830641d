//! Rules that leave nothing of an allow-list.

use super::super::{Effect, Rule, Target};

/// The index of each rule that allows a port of every address, for a policy whose default is to deny; with what to say
/// of it, and what to do. On all ports none can stand in a policy: that is an error where it is read.
pub(super) fn wide(rules: &[Rule]) -> Vec<(usize, String, &'static str)> {
    let wide = |rule: &Rule| {
        let what = match &rule.target {
            // A name may be looked up if it could be reached, and then every name could.
            Target::Any => "every address, so it also lets every name be looked up",
            Target::Net(net) if net.prefix_len() == 0 => "every address of its kind",
            Target::Net(_) | Target::Name(_) | Target::Unix(_) => return None,
        };
        let message = format!(
            "under `default: deny`, `{}` lets these ports be reached at {what}",
            rule.text
        );
        (rule.effect == Effect::Allow).then_some(message)
    };
    let help = "allow the names or networks that are needed, each with this port";
    (0..)
        .zip(rules)
        .filter_map(|(index, rule)| Some((index, wide(rule)?, help)))
        .collect()
}
