//! `blackstart run`: from what was typed to an exit code.

use crate::FAILED;
use crate::args;
use crate::diagnostics;
use crate::output::Output;
use crate::resolve::{self, Problem};

/// Runs it, tells about it, and says how to exit.
pub(crate) fn run(typed: args::Run, output: Output) -> u8 {
    let state = std::env::var_os("BLACKSTART_STATE");
    let _order = match resolve::run(typed, state.as_deref()) {
        Ok(order) => order,
        Err(problems) => {
            problems.iter().for_each(|problem| show(problem, output));
            return FAILED;
        }
    };
    output.error("cannot run anything yet: this build has no guard");
    FAILED
}

fn show(problem: &Problem, output: Output) {
    match problem {
        Problem::Message(message) => output.error(message),
        Problem::Policy { text, diagnostics } => {
            output.say(&diagnostics::human(diagnostics, text, output.err))
        }
    }
}
