//! What was typed. Nothing here looks at the system; [`crate::resolve`] finds out what it means.
//!
//! The doc comments are the reference: `--help` and `docs/reference/cli.md` are made from them.

mod agent;
mod amounts;
mod attach;
mod graph;
mod notify;
mod policy;
mod runs;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use blackstart_core::policy::read_time;
use blackstart_guard::Need;
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use agent::*;
pub(crate) use attach::*;
pub(crate) use graph::*;
pub(crate) use notify::*;
pub(crate) use policy::*;
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

/// Run a command and record what it reaches for; refuse what the policy denies.
///
/// Without a policy everything passes and is recorded. The command keeps its terminal, its standard
/// streams, its signals and its exit code.
///
/// While it runs, standard error gets one line for each new kind of refusal, and at the end a summary.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_RUN)]
pub(crate) struct RunTyped {
    #[command(flatten)]
    run: Run,

    /// Play the outage of these services for this run, and say whether it fails, hangs or manages
    ///
    /// What they provide, by the catalog, is out of reach for the command, and so is what cannot serve
    /// without them; nothing else is touched. No waiver goes before it. The report compares the time with
    /// that of the same command's earlier runs on this host. Names of services, with commas between them.
    #[arg(
        long,
        value_name = "SERVICE",
        value_delimiter = ',',
        conflicts_with = "break_glass",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    down: Vec<String>,
}

impl RunTyped {
    /// All of it.
    pub(crate) fn whole(self) -> Run {
        Run {
            down: self.down,
            ..self.run
        }
    }
}

/// Play the outage of services for a run, and say whether it fails, hangs or manages.
///
/// The same as `run --down`: what they provide, by the catalog, is out of reach for the command, and so is what
/// cannot serve without them; nothing else is touched.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_DRILL)]
pub(crate) struct DrillTyped {
    /// What is down: names of services, with commas between them
    #[arg(value_name = "SERVICE", value_parser = services, conflicts_with = "break_glass")]
    down: Services,

    #[command(flatten)]
    run: Run,
}

impl DrillTyped {
    /// The run that it is.
    pub(crate) fn whole(self) -> Run {
        Run {
            down: self.down.0,
            ..self.run
        }
    }
}

/// One word, several names.
#[derive(Debug, Clone)]
struct Services(Vec<String>);

fn services(text: &str) -> Result<Services, String> {
    let names: Vec<String> = text.split(',').map(str::to_owned).collect();
    if names.iter().any(String::is_empty) {
        return Err("write names of services, with commas between them".to_owned());
    }
    Ok(Services(names))
}

/// What `run` and `drill` have in common.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// What is down in a drill.
    #[arg(skip)]
    pub(crate) down: Vec<String>,

    /// Judge by this policy
    ///
    /// It is the last of the layers: the host's guardrails come before it. Without a policy and without
    /// guardrails, the run is observed and nothing is refused.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,

    /// Find circles with this catalog, and take from it what `protect:` and `service:` stand for
    ///
    /// A directory with the files of services, or one such file. With `--service`, the report says which
    /// circles the deployment closes: it needs a service that needs, directly or through others, what it
    /// deploys. Where it is not given, the catalog is where BLACKSTART_CATALOG says, or in
    /// /etc/blackstart/catalog, if that is there; for `--down` it may also be `catalog` in the working directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) catalog: Option<PathBuf>,

    /// Name what this run deploys
    ///
    /// Goes before the policy's own `service:`. A second run of the same service is refused while an
    /// earlier one still lives without its supervisor, unless `--concurrent` is given.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) service: Option<String>,

    /// Observe or enforce, whatever the policy says
    ///
    /// Goes before the policy's own `mode:`, in either direction: `observe` lets everything pass and
    /// records what would have been refused, whatever single rules say; `enforce` refuses it, or exits
    /// with 125 before anything ran if this host cannot, and rules that say `mode: observe` go on
    /// observing. A guardrail of the host that says `mode: enforce` cannot be lowered.
    #[arg(long, value_name = "MODE")]
    pub(crate) mode: Option<Mode>,

    /// Write the report here when the run has ended; may be given more than once
    ///
    /// The name's ending says how: `.json` is for programs, `.html` a page for people, by itself and
    /// readable without a network. The file is replaced as a whole or not at all. If it
    /// cannot be written after the run, the report goes to standard error instead, and the exit code
    /// stays the command's.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) notify: NotifyTyped,

    /// Mask what this regular expression matches in command lines; may be given more than once
    ///
    /// What looks like a secret is masked anyway: passwords and tokens after the usual flags, in URLs and
    /// headers, and in the usual forms.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) redact: Vec<String>,

    /// How to show the result
    ///
    /// `human` prints the summary on standard error. `json` prints the report, the same document as
    /// `--report`, on standard output once the command has ended, after whatever the command itself
    /// wrote there; use `--report` to keep the two apart.
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// What becomes of processes that outlive the command
    ///
    /// If not given: `release`, or `kill` where the policy says `default: deny`.
    #[arg(long, value_name = "WHAT")]
    pub(crate) leftover: Option<Leftover>,

    /// Enforce although this gap is open; may be given more than once
    ///
    /// In enforce mode a host that lacks something exits with 125 and names the gap. With this flag
    /// the run goes on without it, and the report lists it.
    #[arg(long, value_name = "KIND", value_parser = PossibleValuesParser::new(Need::ALL.map(Need::kind)))]
    pub(crate) accept_gap: Vec<String>,

    /// Take from the command what it could undo its guard with, root's privileges included
    ///
    /// It has its own process ids and cgroup to see, cannot write to any cgroup or to where BPF programs are kept,
    /// and root in it cannot mount, trace, load modules, make raw sockets or change the network. sudo and su go on
    /// working. This is so anyway where an enforced policy says `default: deny`.
    #[arg(long, conflicts_with = "break_glass")]
    pub(crate) contain: bool,

    /// Leave the command its privileges, under an enforced `default: deny`, too
    ///
    /// For a rehearsal of what needs them: mounts, network set-up, containers. Root inside can then walk around the
    /// policy, and the report says that it could.
    #[arg(long, conflicts_with = "contain")]
    pub(crate) no_contain: bool,

    /// Put unix sockets that `unix:` rules deny out of the command's reach, in mounts of its own
    ///
    /// Something else lies over each of them that is there at the start, and over every other place where it is mounted, so that
    /// links and bind mounts lead to it neither; to connect is refused (ECONNREFUSED). Before kernel 6.7, without `bpf` among its LSMs,
    /// an enforced `unix:` rule needs this. What the command mounts is then not seen by the host. A rule about an abstract name, or about some
    /// processes only, cannot be held so. Root inside could take the cover off, unless the command is contained.
    #[arg(long, conflicts_with = "break_glass")]
    pub(crate) hide_sockets: bool,

    /// Run although an earlier run of the same service still lives without its supervisor
    #[arg(long)]
    pub(crate) concurrent: bool,

    /// Emergency: run the command whatever of Blackstart fails, refuse nothing, and say why
    ///
    /// A policy that cannot be read, a host that cannot enforce, a guardrail that would refuse: none of
    /// them stops the command. What would have been refused is recorded as let through, and the report
    /// is marked with the reason. Limits of the policy still hold. Needs no network, and no policy can
    /// ask for it.
    #[arg(long, value_name = "REASON", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) break_glass: Option<String>,

    /// Compare what is reached for with this lockfile
    ///
    /// It has the destinations that the deployment may reach, with the executables that reach them and
    /// their digests; what is new, changed or gone is told. Nothing is refused for it. Without this flag,
    /// `blackstart.lock` beside the command's own script (`./deploy.sh`, and in `bash ./deploy.sh` too) is taken, if it is
    /// there; none of what is installed on the host.
    #[arg(long, value_name = "FILE")]
    pub(crate) lock: Option<PathBuf>,

    /// Write the lockfile anew from this run, if its command succeeds
    #[arg(long, conflicts_with = "down")]
    pub(crate) update_lock: bool,

    /// How an outage that is played looks from outside
    #[arg(
        long,
        value_name = "FAULT",
        default_value = "refuse",
        requires = "down"
    )]
    pub(crate) fault: Fault,

    /// End the command after this time, such as `90s` or `1h30m`
    ///
    /// A policy's own limit holds as well; the shorter one counts. In a drill there is always a limit:
    /// 15m, unless this or the policy says otherwise.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) time_limit: Option<Duration>,

    /// Have the agent that listens at this socket guard the command
    ///
    /// Without root that is so anyway where an agent is there; BLACKSTART_AGENT may name another, or `none`. The agent
    /// judges by its host's guardrails, its own catalog and this policy; the command is your own process, and
    /// reports are written with your rights. With `--break-glass` no agent is asked.
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["break_glass", "catalog"])]
    pub(crate) agent: Option<PathBuf>,

    /// No line for each new kind of refusal while the command runs
    ///
    /// The summary at the end has them all the same. Warnings and errors are shown.
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// The command and its arguments
    ///
    /// Put `--` before it. Everything after the command's name belongs to the command.
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}

/// A duration as a policy has it.
fn time(text: &str) -> Result<Duration, String> {
    read_time(text).map_err(|(message, help)| match help {
        Some(help) => format!("{message}; {help}"),
        None => message,
    })
}

const AFTER_DRILL: &str = "\
Examples:
    blackstart drill github --service mysql -- ./deploy.sh
    blackstart drill github,vault --fault blackhole --time-limit 2m -- ./deploy.sh

Exit codes: those of `blackstart run`";

const AFTER_RUN: &str = "\
Examples:
  Who reaches for what?
    blackstart run -- ./deploy.sh

  Refuse what the policy denies, and keep the report:
    blackstart run --policy deploy.yaml --report out.json -- ./deploy.sh

  Try an enforcing policy without refusing anything:
    blackstart run --policy deploy.yaml --mode observe -- ./deploy.sh

  Does it work while github is down, when connections to it hang?
    blackstart run --service mysql --catalog catalog --down github --fault blackhole -- ./deploy.sh

  Only the report, on standard output:
    blackstart run -q --format json -- ./quiet-deploy.sh | jq .flows

Exit codes:
  the command's own
  120    the command succeeded, and a rule with `reaction: fail` refused something
  124    a time limit ended the command: the policy's, or that of `--time-limit` or `--down`
  125    Blackstart failed, and nothing ran
  126    the command was found but could not be executed
  127    the command was not found
  128+n  the command was ended by signal n";

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
