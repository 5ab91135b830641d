//! `blackstart`: what was typed, what is shown, and how it exits. Everything else is in the crates below.
#![forbid(unsafe_code)]

mod agent;
mod agent_metrics;
mod answers;
mod args;
mod backtest;
mod catalog_files;
mod check;
mod deployed;
mod diagnostics;
mod doctor;
mod expectations;
mod explain;
mod graph;
mod history;
mod html;
mod layers;
mod learn;
mod live;
mod lock_file;
mod log;
mod meanwhile;
mod notify;
mod output;
mod plain;
mod promote;
mod reference;
mod reload;
mod report_file;
mod resolve;
mod run;
mod runs;
mod summary;
mod whole_file;

use std::path::Path;
use std::process::ExitCode;

use blackstart_guard::support::Support;
use clap::Parser as _;

use crate::args::{Check, Command, Doctor, Explain, Format, Notify, Policy, Report, Test, Typed};
use crate::output::Output;
use crate::resolve::Surroundings;

/// Blackstart failed, or was typed wrongly, and nothing ran.
const FAILED: u8 = 125;

fn main() -> ExitCode {
    let output = Output::of_process();
    let typed = match Typed::try_parse() {
        Ok(typed) => typed,
        Err(error) => {
            // Help and version come as an error too, one that goes to standard output.
            let wrong = error.use_stderr();
            return match error.print() {
                Ok(()) if !wrong => ExitCode::SUCCESS,
                _ => ExitCode::from(FAILED),
            };
        }
    };
    if let Err(message) = log::start() {
        // Nothing of ours is in the way of an emergency.
        if !typed.breaks_glass() {
            output.error(&message);
            return ExitCode::from(FAILED);
        }
        output.warning(&plain::plain(&message));
    }
    let code = match typed.command {
        // Sweeps on its own, in one go with looking for an orphan of the same service.
        Command::Run(typed) => run::run(typed.whole(), output),
        Command::Attach(typed) => run::attach(*typed, output),
        Command::Agent(typed) => agent::serve(typed, output),
        Command::Drill(typed) => run::run(typed.whole(), output),
        Command::Reload(typed) => after_sweep(output, || reload::reload(&typed, output)),
        Command::Sweep(_) => only_sweep(output),
        Command::Doctor(typed) => after_sweep(output, || doctor(&typed, output)),
        Command::Policy(Policy::Check(typed)) => {
            after_sweep(output, || finish_check(&typed, output))
        }
        Command::Policy(Policy::Explain(typed)) => {
            after_sweep(output, || finish_explain(&typed, output))
        }
        Command::Policy(Policy::Test(typed)) => after_sweep(output, || finish_test(&typed, output)),
        Command::Policy(Policy::Learn(typed)) => {
            after_sweep(output, || learn::learn(&typed, output))
        }
        Command::Policy(Policy::Backtest(typed)) => {
            after_sweep(output, || backtest::backtest(&typed, output))
        }
        Command::Policy(Policy::Diff(typed)) => {
            after_sweep(output, || backtest::diff(&typed, output))
        }
        Command::Policy(Policy::Promote(typed)) => {
            after_sweep(output, || promote::promote(&typed, output))
        }
        Command::Policy(Policy::Schema) => {
            after_sweep(output, || finish(output, &reference::policy_schema(), 0))
        }
        Command::Graph(typed) => after_sweep(output, || graph::graph(&typed, output)),
        Command::Runs(typed) => after_sweep(output, || runs::runs(&typed, output)),
        // Does not start another sender: it is one.
        Command::Notify(Notify::Flush(typed)) => notify::flush(&typed, output),
        Command::Notify(Notify::Meanwhile) => meanwhile::tell(output),
        Command::Report(Report::Schema) => {
            after_sweep(output, || finish(output, &reference::report_schema(), 0))
        }
    };
    ExitCode::from(code)
}

/// Every command first cleans up what a killed supervisor left behind, and then does its own `work`.
fn after_sweep(output: Output, work: impl FnOnce() -> u8) -> u8 {
    match resolve::state_directory(std::env::var_os("BLACKSTART_STATE").as_deref()) {
        Ok(state) => {
            // Whoever may not clean up, or cannot, still gets what they asked for.
            if let Err(error) = sweep(&state, output) {
                tracing::debug!(%error, "sweep");
            }
            let code = work();
            notify::send_what_is_due(&state);
            code
        }
        Err(message) => {
            output.error(&message);
            FAILED
        }
    }
}

/// What could not be cleaned up.
const UNSWEPT: u8 = 1;

/// Cleans up, for its own sake.
fn only_sweep(output: Output) -> u8 {
    let state = match resolve::state_directory(std::env::var_os("BLACKSTART_STATE").as_deref()) {
        Ok(state) => state,
        Err(message) => {
            output.error(&message);
            return FAILED;
        }
    };
    let swept = sweep(&state, output);
    notify::send_what_is_due(&state);
    match swept {
        Ok(true) => 0,
        Ok(false) => UNSWEPT,
        Err(error) => {
            output.error(&format!(
                "runs without a supervisor cannot be looked for in {}: {error}",
                plain::plain(&state.to_string_lossy())
            ));
            UNSWEPT
        }
    }
}

/// Cleans up after runs whose supervisor is gone, and tells of it. Is nothing left that could not be cleaned up?
fn sweep(state: &Path, output: Output) -> std::io::Result<bool> {
    let swept = blackstart_guard::sweep(state)?;
    let clean = swept.failed.is_empty();
    for report in swept.adopted {
        output.say(&format!(
            "blackstart: cleaned up after a run whose supervisor had ended; its report is {}\n",
            plain::plain(&report.to_string_lossy())
        ));
        notify::tell_of_adopted(&report, state, output);
    }
    for (run, why) in swept.lost {
        output.warning(&format!(
            "nothing is known any more of the run in {}: {}",
            plain::plain(&run.to_string_lossy()),
            plain::plain(&why)
        ));
    }
    for failed in swept.failed {
        let run = plain::plain(&failed.path.to_string_lossy());
        output.warning(&format!(
            "cannot clean up after the run in {run}: {}",
            plain::plain(&failed.why)
        ));
    }
    Ok(clean)
}

fn doctor(typed: &Doctor, output: Output) -> u8 {
    let lines = doctor::lines(&Support::probe());
    let text = match typed.format {
        Format::Human => doctor::human(&lines, output.out),
        Format::Json => format!("{:#}\n", doctor::document(&lines)),
    };
    finish(output, &text, doctor::Fitness::of(&lines).exit_code())
}

fn finish_check(typed: &Check, output: Output) -> u8 {
    let checked = check::check(typed, &Surroundings::of_process(), output.out);
    finish(output, &checked.text, u8::from(!checked.valid))
}

fn finish_explain(typed: &Explain, output: Output) -> u8 {
    let around = Surroundings {
        all_final: typed.as_user,
        ..Surroundings::of_process()
    };
    match explain::explain(typed, &around, output.out) {
        Ok(text) => finish(output, &text, 0),
        Err(wrong) => {
            run::show_all(wrong.problems(), output);
            wrong.exit_code()
        }
    }
}

fn finish_test(typed: &Test, output: Output) -> u8 {
    let tested = expectations::test(typed, &Surroundings::of_process(), output.out);
    finish(output, &tested.text, u8::from(!tested.passed))
}

/// Shows a result; a result that could not be shown is a failure.
fn finish(output: Output, text: &str, code: u8) -> u8 {
    match output.result(|out| out.write_all(text.as_bytes())) {
        Ok(()) => code,
        Err(error) => {
            output.error(&format!("cannot write to standard output: {error}"));
            FAILED
        }
    }
}
