//! What was told before: one finding, one alert.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ToldFinding, ToldRun};
use crate::history::Micros;
use crate::report::Severity;

/// A finding that was not met for so long is news when it comes back: seven days.
pub const FORGOTTEN_AFTER: Micros = 7 * 86_400_000_000;
/// More than any team mends; the ones that were not met for longest go first.
const MOST: usize = 10_000;

/// What each target was told of, and when that was last met.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// By target, then by what the run deployed and the finding's id.
    told: BTreeMap<String, BTreeMap<String, Known>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    severity: Severity,
    owner: Option<String>,
    met: Micros,
}

impl Memory {
    /// Is this finding news for this target? From then on it is not. It is again, if it gets worse, if it becomes
    /// another owner's, or after [`FORGOTTEN_AFTER`] without it.
    pub(super) fn tell(
        &mut self,
        target: &str,
        run: &ToldRun,
        finding: &ToldFinding,
        now: Micros,
    ) -> bool {
        let key = format!("{}\n{}", run.subject(), finding.id);
        let known = Known {
            severity: finding.severity,
            owner: finding.owner.clone(),
            met: now,
        };
        let of_target = self.told.entry(target.to_owned()).or_default();
        let before = of_target.insert(key, known);
        before.is_none_or(|before| {
            before.severity < finding.severity
                || before.owner != finding.owner
                || now.saturating_sub(before.met) >= FORGOTTEN_AFTER
        })
    }

    /// Let go of what was not met for long.
    pub fn forget(&mut self, now: Micros) {
        for of_target in self.told.values_mut() {
            of_target.retain(|_, known| now.saturating_sub(known.met) < FORGOTTEN_AFTER);
            if of_target.len() > MOST {
                let mut met: Vec<Micros> = of_target.values().map(|known| known.met).collect();
                met.sort_unstable_by(|a, b| b.cmp(a));
                let last = met[MOST - 1];
                of_target.retain(|_, known| known.met >= last);
            }
        }
        self.told.retain(|_, of_target| !of_target.is_empty());
    }
}
