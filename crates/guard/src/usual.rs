//! How long a command usually takes, from what earlier runs on this host left.

use blackstart_core::report::Usual;

use crate::finished::FILES_KEPT;
use crate::state::{RunFile, StateDir};

/// How many of those that compare are taken.
const TAKEN: usize = 20;

/// The median of the latest runs of the same command for the same service that succeeded, with nothing played for
/// them; none if there was none.
pub(crate) fn of(state: &StateDir, run: &RunFile) -> Option<Usual> {
    let mut finished = state.finished().ok()?;
    // By id, which begins with the time.
    finished.sort_unstable_by(|a, b| b.cmp(a));
    let seconds: Vec<f64> = finished
        .iter()
        .take(FILES_KEPT)
        .filter_map(|path| seconds(&crate::state::RunDir::peek(path).ok()?, run))
        .take(TAKEN)
        .collect();
    median(seconds)
}

/// How long `earlier` took, if it compares with `run`.
fn seconds(earlier: &RunFile, run: &RunFile) -> Option<f64> {
    let same = earlier.service == run.service && earlier.command == run.command;
    let plain = earlier.drill.is_none() && earlier.break_glass.is_none();
    let succeeded = earlier.exit_code == Some(0);
    earlier
        .wall_seconds
        .filter(|seconds| same && plain && succeeded && seconds.is_finite())
}

fn median(mut seconds: Vec<f64>) -> Option<Usual> {
    let runs = seconds.len();
    seconds.sort_unstable_by(f64::total_cmp);
    let upper = *seconds.get(runs / 2)?;
    let lower = seconds[(runs - 1) / 2];
    Some(Usual {
        seconds: f64::midpoint(lower, upper),
        runs: runs as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_what_was() {
        let of =
            |seconds: &[f64]| median(seconds.to_vec()).map(|usual| (usual.seconds, usual.runs));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0]), Some((3.0, 1)));
        assert_eq!(of(&[9.0, 1.0, 2.0]), Some((2.0, 3)));
        assert_eq!(of(&[4.0, 1.0]), Some((2.5, 2)));
    }
}
