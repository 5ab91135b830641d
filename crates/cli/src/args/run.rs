//! `run` and `drill`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use blackstart_guard::Need;
use clap::Args;
use clap::builder::PossibleValuesParser;

use super::amounts::time;
use super::{Fault, Format, Leftover, Mode, NotifyTyped};

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
    pub(super) run: Run,

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
