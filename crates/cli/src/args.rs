//! What was typed. Nothing here looks at the system; [`crate::resolve`] finds out what it means.
//!
//! The doc comments are the reference: `--help` and `docs/reference/cli.md` are made from them.

mod agent;
mod amounts;
mod attach;
mod graph;
mod notify;
mod policy;
mod run;
mod runs;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use agent::*;
pub(crate) use attach::*;
pub(crate) use graph::*;
pub(crate) use notify::*;
pub(crate) use policy::*;
pub(crate) use run::*;
pub(crate) use runs::*;

/// See, and stop, what a deployment depends on.
///
/// Blackstart runs a command and records every outside dependency that it and its children reach for:
/// each name, address and unix socket, with the process that caused it. With a policy in enforce
/// mode, what the policy denies is refused in the kernel, for this run only; other processes on the
/// host are untouched.
#[derive(Debug, Parser)]
#[command(
    name = "blackstart",
    version,
    disable_help_subcommand = true,
    max_term_width = 100
)]
#[command(after_long_help = AFTER)]
pub(crate) struct Typed {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Typed {
    /// Is a command to be run whatever of ours fails?
    pub(crate) fn breaks_glass(&self) -> bool {
        matches!(&self.command, Command::Run(run) if run.run.break_glass.is_some())
    }
}

const AFTER: &str = "\
Examples:
  What can this host do?
    blackstart doctor

  Who reaches for what?
    blackstart run -- ./deploy.sh

Exit codes:
  `run` exits as the command does; see `blackstart run --help`.
  125  typed wrongly, or Blackstart failed and nothing ran

Environment:
  BLACKSTART_STATE       where runs keep their state, an absolute path; root uses none that somebody
                         else may change [default: /var/lib/blackstart]
  BLACKSTART_GUARDRAILS  where the host's guardrails are: policies that hold for every run, in the
                         order of their names [default: /etc/blackstart/policy.d]
  BLACKSTART_NOTIFY      a file with the targets that every run tells, one in a line, as `--notify`
                         takes them [default: /etc/blackstart/notify]
  BLACKSTART_AGENT       the socket of the agent that guards runs of callers without root, or `none`
                         [default: /run/blackstart/agent.sock, if that is there]
  BLACKSTART_LOG         what to log, such as `debug` or `blackstart_guard=trace`
                         [default: nothing]
  BLACKSTART_LOG_FILE    where to log to [default: standard error]
  NO_COLOR               if set and not empty, no colour";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<RunTyped>),
    Drill(Box<DrillTyped>),
    Reload(Reload),
    Attach(Box<Attach>),
    Agent(Agent),
    Doctor(Doctor),
    Sweep(Sweep),
    #[command(subcommand)]
    Policy(Policy),
    #[command(subcommand)]
    Graph(Graph),
    #[command(subcommand)]
    Runs(Runs),
    #[command(subcommand)]
    Notify(Notify),
    #[command(subcommand)]
    Report(Report),
}

/// Judge a run that is on by a changed policy, from its next attempt on.
///
/// The policy is read again from where the run's was read, guardrails and catalog included, unless another
/// file is named. No attempt is judged by half of two policies. Limits, and what becomes of leftovers,
/// stay as the run began. If anything is wrong with the new policy, the old one goes on judging.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_RELOAD)]
pub(crate) struct Reload {
    /// The run: its id, the beginning or the end of one, or the service that it deploys
    #[arg(value_name = "RUN")]
    pub(crate) run: String,

    /// Judge by this policy instead of the one that the run began with
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,

    /// Look services up in this catalog instead of the one that the run began with
    #[arg(long, value_name = "DIR")]
    pub(crate) catalog: Option<PathBuf>,
}

const AFTER_RELOAD: &str = "\
Examples:
    blackstart reload mysql
    blackstart reload 0193f8c2 --policy relaxed.yaml

Exit codes:
  0    the new policy judges
  1    no such run is on, or it could not be changed: the old policy goes on judging
  125  typed wrongly, or the policy is wrong";

/// Clean up after runs whose supervisor was killed, and do nothing else.
///
/// Every command does so first; this one is for a timer (`dist/systemd`). It finishes the record of each such run that has
/// no process left, and removes its programs and cgroup. A run whose processes go on is left under its guard. It says
/// nothing where there is nothing to clean up.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_SWEEP)]
pub(crate) struct Sweep {}

const AFTER_SWEEP: &str = "\
Exit codes:
  0    nothing is left to clean up
  1    something could not be cleaned up; standard error says what
  125  typed wrongly, or Blackstart failed";

/// Say what this host can do for a run, and what to mend.
///
/// One line for each fact: what it is, what it means for observe and for enforce, and what to do
/// where something is missing. Nothing is changed, but for what a run whose supervisor was killed left behind: every
/// command cleans that up first.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_DOCTOR)]
pub(crate) struct Doctor {
    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,
}

const AFTER_DOCTOR: &str = "\
Exit codes:
  0    enforce is possible
  1    only observe is possible, perhaps with gaps
  2    nothing can be seen: a run would be unguarded";

/// Work with reports.
#[derive(Debug, Subcommand)]
pub(crate) enum Report {
    /// Print the JSON Schema of the report.
    Schema,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// Names resolve, and connections are refused at once
    Refuse,
    /// Names resolve, and what is sent is lost
    Blackhole,
    /// Names do not resolve, and connections to addresses are refused
    Nxdomain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Everything passes; what would be refused is recorded
    Observe,
    /// What the policy denies is refused
    Enforce,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    /// Without ports
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people; may change at any time
    Human,
    /// For programs; versioned
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Leftover {
    /// Let them go on, no longer guarded; each is listed
    Release,
    /// End them
    Kill,
    /// Let them go on, still guarded
    Keep,
    /// Wait until they have ended
    Wait,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn run(words: &[&str]) -> Result<Run, clap::Error> {
        drilled(&[&["run"], words].concat())
    }

    fn drilled(words: &[&str]) -> Result<Run, clap::Error> {
        let words = ["blackstart"].iter().chain(words);
        match Typed::try_parse_from(words)?.command {
            Command::Run(run) => Ok(run.whole()),
            Command::Drill(drill) => Ok(drill.whole()),
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn definitions_hold_together() {
        Typed::command().debug_assert();
    }

    #[test]
    fn what_follows_the_command_is_the_commands() {
        let typed = run(&["-q", "--", "curl", "--report", "x.json", "-q", "--", "y"]).unwrap();
        assert!(typed.quiet);
        assert_eq!(
            typed.command,
            ["curl", "--report", "x.json", "-q", "--", "y"]
        );
        assert!(typed.report.is_empty());

        let typed = run(&["curl", "--report", "x.json"]).unwrap();
        assert_eq!(typed.command, ["curl", "--report", "x.json"]);
        assert!(typed.report.is_empty());
    }

    #[test]
    fn a_command_may_look_like_a_flag_after_the_dashes() {
        assert_eq!(run(&["--", "--mode"]).unwrap().command, ["--mode"]);
    }

    #[test]
    fn reports_and_gaps_add_up() {
        let typed = run(&[
            "--report",
            "a.json",
            "--report=b.json",
            "--accept-gap",
            "names",
            "--",
            "true",
        ])
        .unwrap();
        assert_eq!(
            typed.report,
            [PathBuf::from("a.json"), PathBuf::from("b.json")]
        );
        assert_eq!(typed.accept_gap, ["names"]);
    }

    #[test]
    fn what_is_not_said_is_not_decided() {
        let typed = run(&["true"]).unwrap();
        assert_eq!(
            (typed.mode, typed.leftover, typed.format),
            (None, None, Format::Human)
        );
        assert_eq!((typed.policy, typed.service), (None, None));
    }

    #[test]
    fn wrong_words_are_errors() {
        for wrong in [
            &[][..],
            &["--"],
            &["--mode", "enforced", "--", "true"],
            &["--leftover", "burn", "--", "true"],
            &["--accept-gap", "nams", "--", "true"],
            &["--polcy", "p.yaml", "--", "true"],
            &["--service", "", "--", "true"],
            &["--policy", "a", "--policy", "b", "--", "true"],
        ] {
            assert!(run(wrong).unwrap_err().use_stderr(), "{wrong:?}");
        }
    }

    #[test]
    fn a_drill_is_a_run_with_something_down() {
        let by_flag = run(&[
            "--down", "a,b", "--fault", "nxdomain", "-q", "--", "x", "-q",
        ])
        .unwrap();
        for words in [
            &["drill", "a,b", "--fault", "nxdomain", "-q", "--", "x", "-q"][..],
            &["drill", "--fault=nxdomain", "-q", "a,b", "x", "-q"],
        ] {
            let by_verb = drilled(words).unwrap();
            assert_eq!(format!("{by_verb:?}"), format!("{by_flag:?}"));
        }
        for wrong in [
            &["drill", "a"][..],
            &["drill", "--", "a"],
            &["drill", "", "--", "x"],
            &["drill", "a,", "--", "x"],
            &["drill", "a", "--break-glass=x", "--", "x"],
            &["drill", "a", "--update-lock", "--", "x"],
            &["run", "--down=a", "--update-lock", "--", "x"],
            &["run", "--fault=refuse", "--", "x"],
        ] {
            assert!(drilled(wrong).unwrap_err().use_stderr(), "{wrong:?}");
        }
    }

    #[test]
    fn arguments_need_not_be_text() {
        use std::ffi::OsString;
        use std::os::unix::ffi::OsStringExt as _;
        let odd = OsString::from_vec(vec![b'a', 0xff]);
        let words = ["blackstart", "run", "--"]
            .map(OsString::from)
            .into_iter()
            .chain([odd.clone()]);
        let Command::Run(typed) = Typed::try_parse_from(words).unwrap().command else {
            panic!()
        };
        assert_eq!(typed.whole().command, [odd]);
    }
}
