//! `blackstart reload`: a changed policy for a run that is on.

use blackstart_guard::{GivenPolicy, Running, running};

use crate::args::Reload;
use crate::output::Output;
use crate::plain::plain;
use crate::resolve::{self, Effective, Surroundings};
use crate::run::show_all;
use crate::{FAILED, diagnostics};

/// The old policy goes on judging.
const UNCHANGED: u8 = 1;

/// Reads the policy, hands it to the run's supervisor, and says how to exit.
pub(crate) fn reload(typed: &Reload, output: Output) -> u8 {
    let mut around = Surroundings::of_caller();
    let state = match resolve::trusted_state(around.state.as_deref()) {
        Ok(state) => state,
        Err(message) => {
            output.error(&message);
            return FAILED;
        }
    };
    let run = match running(&state, &typed.run) {
        Ok(found) => match one(found, &typed.run) {
            Ok(run) => run,
            Err(message) => {
                output.error(&plain(&message));
                return UNCHANGED;
            }
        },
        Err(error) => {
            output.error(&format!(
                "the runs in {} cannot be looked at: {error}",
                plain(&state.to_string_lossy())
            ));
            return UNCHANGED;
        }
    };
    around.all_final |= run.origin.all_final;
    let effective = match resolve::reload(typed, &run.origin, &around) {
        Ok(Some(effective)) => effective,
        Ok(None) => {
            output.error("the run began without a policy: name one with --policy");
            return FAILED;
        }
        Err(problems) => {
            show_all(&problems, output);
            return FAILED;
        }
    };
    let Effective {
        source,
        policy,
        warnings,
        texts,
        remarks,
        ..
    } = effective;
    output.say(&diagnostics::human(&warnings, &texts, output.err));
    for remark in &remarks {
        output.warning(&plain(remark));
    }
    let rules = policy.rules.len();
    match run.reload(&GivenPolicy { policy, source }) {
        Ok(()) => {
            output.say(&format!(
                "blackstart: run {} is judged by the new policy from here on ({rules} {})\n",
                plain(&run.id),
                if rules == 1 { "rule" } else { "rules" }
            ));
            0
        }
        Err(why) => {
            output.error(&format!(
                "run {} goes on under its old policy: {}",
                plain(&run.id),
                plain(&why)
            ));
            UNCHANGED
        }
    }
}

/// The one run that is meant.
fn one(mut found: Vec<Running>, which: &str) -> Result<Running, String> {
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(format!(
            "no run that is on is called {which}, or deploys it: `blackstart reload` takes the id that the run's directory has below the state directory, or a service; a run whose supervisor has ended keeps its policy"
        )),
        _ => {
            let ids: Vec<_> = found.iter().map(|run| run.id.as_str()).collect();
            Err(format!(
                "several runs are meant by {which}; name one of {}",
                ids.join(", ")
            ))
        }
    }
}
