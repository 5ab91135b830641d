//! What was typed. Nothing here looks at the system; [`crate::resolve`] finds out what it means.
//!
//! The doc comments are the reference: `--help` and `docs/reference/cli.md` are made from them.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use blackstart_core::policy::read_time;
use blackstart_guard::Need;
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

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
  BLACKSTART_STATE       where runs keep their state, an absolute path
                         [default: /var/lib/blackstart]
  BLACKSTART_GUARDRAILS  where the host's guardrails are: policies that hold for every run, in the
                         order of their names [default: /etc/blackstart/policy.d]
  BLACKSTART_LOG         what to log, such as `debug` or `blackstart_guard=trace`
                         [default: nothing]
  BLACKSTART_LOG_FILE    where to log to [default: standard error]
  NO_COLOR               if set and not empty, no colour";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<Run>),
    Reload(Reload),
    Doctor(Doctor),
    #[command(subcommand)]
    Policy(Policy),
    #[command(subcommand)]
    Graph(Graph),
    #[command(subcommand)]
    Runs(Runs),
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
pub(crate) struct Run {
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
    /// deploys.
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

    /// Play the outage of these services for this run, and say whether it fails, hangs or manages
    ///
    /// What they provide, by the catalog, is out of reach for the command, and so is what cannot serve
    /// without them; nothing else is touched. No waiver goes before it. The report compares the time with
    /// that of the same command's earlier runs on this host. Names of services, with commas between them.
    #[arg(
        long,
        value_name = "SERVICE",
        value_delimiter = ',',
        requires = "catalog",
        conflicts_with = "break_glass",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub(crate) down: Vec<String>,

    /// Compare what is reached for with this lockfile
    ///
    /// It has the destinations that the deployment may reach, with the executables that reach them and
    /// their digests; what is new, changed or gone is told. Nothing is refused for it. Without this flag,
    /// `blackstart.lock` beside the command is taken, if it is there.
    #[arg(long, value_name = "FILE")]
    pub(crate) lock: Option<PathBuf>,

    /// Write the lockfile anew from this run, if its command succeeds
    #[arg(long, conflicts_with = "down")]
    pub(crate) update_lock: bool,

    /// How the outage of `--down` looks from outside
    #[arg(
        long,
        value_name = "FAULT",
        default_value = "refuse",
        requires = "down"
    )]
    pub(crate) fault: Fault,

    /// End the command after this time, such as `90s` or `1h30m`
    ///
    /// A policy's own limit holds as well; the shorter one counts. With `--down` there is always a limit:
    /// 15m, unless this or the policy says otherwise.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) time_limit: Option<Duration>,

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

/// Say what this host can do for a run, and what to mend.
///
/// One line for each fact: what it is, what it means for observe and for enforce, and what to do
/// where something is missing. Nothing is changed.
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

/// Work with policies.
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    Check(Check),
    Explain(Explain),
    Test(Test),
    Learn(Learn),
    Backtest(Backtest),
    Diff(PolicyDiff),
    /// Print the JSON Schema of a policy file, by which an editor completes and checks one.
    Schema,
}

/// Check policies, and show everything that is wrong with them.
///
/// Each is read as `run --policy` would read it on this host: after the host's guardrails, and with all
/// that it includes. A file in the guardrails' directory is read as a guardrail. Nothing is run, and no
/// privilege is needed.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_CHECK)]
pub(crate) struct Check {
    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// Take from this catalog what `protect:` and `service:` stand for
    #[arg(long, value_name = "DIR")]
    pub(crate) catalog: Option<PathBuf>,

    /// Read them as guardrails, wherever they lie
    #[arg(long)]
    pub(crate) guardrail: bool,

    /// The policies
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

const AFTER_CHECK: &str = "\
Examples:
    blackstart policy check deploy.yaml
    blackstart policy check --catalog catalog --format json policies/*.yaml

Exit codes:
  0    all are valid, perhaps with warnings
  1    at least one is not";

/// Say what would become of an attempt, by which rule, and what that rule goes before.
///
/// The policy is read as `run --policy` would read it on this host: after the host's guardrails, and with
/// all that it includes. Nothing is run or looked up, and no privilege is needed: an address counts only
/// if it is given. Loopback is known; the host's other addresses and its resolvers are not.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_EXPLAIN)]
pub(crate) struct Explain {
    /// Judge by this policy
    ///
    /// Without one, by the host's guardrails alone.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,

    /// Take from this catalog what `protect:` and `service:` stand for
    #[arg(long, value_name = "DIR")]
    pub(crate) catalog: Option<PathBuf>,

    /// The address that the name leads to
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<IpAddr>,

    /// What the process executes
    ///
    /// As it is given to exec: rules about a path want the whole path. That the process was started by
    /// another one cannot be said here: an `ancestor:` rule holds if it is about this program itself.
    #[arg(long, value_name = "PATH", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) process: Option<String>,

    /// With which protocol; `tcp` if not given
    #[arg(long, value_name = "PROTOCOL")]
    pub(crate) protocol: Option<Protocol>,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// A name or an address, with or without `:PORT`, or `unix:PATH`
    ///
    /// Of a name without a port only the lookup is judged, unless `--address` is given; an address without
    /// a port is judged by rules about all ports. An IPv6 address with a port is written `[::1]:443`.
    #[arg(value_name = "DEST")]
    pub(crate) destination: String,
}

const AFTER_EXPLAIN: &str = "\
Examples:
    blackstart policy explain --policy deploy.yaml api.github.com:443
    blackstart policy explain --policy deploy.yaml --address 10.20.3.4 --process /usr/bin/terraform db.internal:5432
    blackstart policy explain --policy deploy.yaml unix:/run/docker.sock

Exit codes:
  0    whatever the verdict is
  1    the policy is not valid
  125  typed wrongly";

/// Look whether policies do what the cases under their `tests:` expect.
///
/// Each file is judged by as a run with it would be, with all that it includes and with the waivers that
/// are in force today, but without the host's guardrails: the result is the same on every host. Nothing is
/// run, and no privilege is needed.
///
/// A case that expects `deny` is met by `would_deny` while the whole policy says `mode: observe`. The tests
/// of included files are not run; name these files, too.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_TEST)]
pub(crate) struct Test {
    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// Take from this catalog what `protect:` and `service:` stand for
    #[arg(long, value_name = "DIR")]
    pub(crate) catalog: Option<PathBuf>,

    /// Apply the host's guardrails, as a run on this host would
    #[arg(long)]
    pub(crate) with_guardrails: bool,

    /// The policies
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

const AFTER_TEST: &str = "\
Examples:
    blackstart policy test deploy.yaml
    blackstart policy test --catalog catalog policies/*.yaml

Exit codes:
  0    every case came out as expected
  1    at least one did not, or a file is not valid";

/// Make a policy from what the runs of a service did.
///
/// It is an allow-list (`default: deny`) of the names that runs asked for, on the ports that they reached;
/// addresses stand in it only where no name led to them. Each rule has its evidence in a comment. What a
/// policy denied, or a waiver or a broken glass let pass, is left out and told. A name stands for itself,
/// unless runs keep bringing new ones below it. Runs of which not everything is known are told at the top.
/// The policy goes to standard output, and observes until it says `mode: enforce`.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_LEARN)]
pub(crate) struct Learn {
    /// The service whose runs are looked at
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) service: String,

    /// Only runs that began within this time, such as `12h`, `30d` or `8w`
    #[arg(long, value_name = "TIME", value_parser = age)]
    pub(crate) since: Option<Duration>,

    /// How to show the result (on standard output)
    ///
    /// `human` is the policy; `json` has it as a text, with its rules and their evidence.
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,
}

const AFTER_LEARN: &str = "\
Examples:
    blackstart policy learn --service mysql --since 30d >mysql.yaml
    blackstart policy backtest mysql.yaml

Exit codes:
  0    done
  1    the history has no such run, or done with a report that could not be taken into it
  125  typed wrongly, or the history could not be read";

/// Which runs of the past a policy is held against.
#[derive(Debug, Args)]
pub(crate) struct Against {
    /// Only runs that deployed this
    ///
    /// If not given: what the policy says under `service:`, and all runs where it says nothing.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) service: Option<String>,

    /// Only runs that began within this time, such as `12h`, `30d` or `8w`
    #[arg(long, value_name = "TIME", value_parser = age)]
    pub(crate) since: Option<Duration>,

    /// Take from this catalog what `protect:` and `service:` stand for
    #[arg(long, value_name = "DIR")]
    pub(crate) catalog: Option<PathBuf>,

    /// Apply the host's guardrails, as a run on this host would
    #[arg(long)]
    pub(crate) with_guardrails: bool,
}

/// Say what a policy would have refused of what earlier runs did.
///
/// Every lookup, connection and contact of the history's runs is judged again, with the leases and the
/// processes that they had. The policy is taken as if it said `mode: enforce`; single rules that say
/// `mode: observe` still refuse nothing, and are told apart. A connection that follows a refused lookup is not
/// counted: it would not have come to pass. Waivers hold as of today.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_BACKTEST)]
pub(crate) struct Backtest {
    #[command(flatten)]
    pub(crate) against: Against,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// The policy
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

const AFTER_BACKTEST: &str = "\
Examples:
    blackstart policy backtest deploy.yaml --since 90d
    blackstart policy backtest --service mysql --format json deploy.yaml | jq .refusals

Exit codes:
  0    it would have refused nothing
  1    it would have, or it is not valid, or there is no run to hold it against, or a report could not be taken into
       the history
  125  typed wrongly, or the history could not be read";

/// Compare two policies by what they make of earlier runs, not by their texts.
///
/// Both are held against the history's runs as `policy backtest` does; what comes out otherwise is told.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_POLICY_DIFF)]
pub(crate) struct PolicyDiff {
    #[command(flatten)]
    pub(crate) against: Against,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// The policy before
    #[arg(value_name = "OLD")]
    pub(crate) old: PathBuf,

    /// The policy after
    #[arg(value_name = "NEW")]
    pub(crate) new: PathBuf,
}

const AFTER_POLICY_DIFF: &str = "\
Examples:
    blackstart policy diff deploy.yaml deploy.new.yaml --since 90d

Exit codes:
  0    nothing that runs did comes out otherwise
  1    something does, or one of them is not valid, or there is no run to hold them against, or a report could not be
       taken into the history
  125  typed wrongly, or the history could not be read";

/// Say which service needs which, prove the circles, and order the recovery.
///
/// The graph is made of a catalog, of reports of runs, or of both: what files declare, and what deployments
/// were seen to reach for. Nothing is run or looked up, and no privilege is needed.
#[derive(Debug, Subcommand)]
pub(crate) enum Graph {
    Show(GraphShow),
    Loops(GraphLoops),
    Order(GraphOrder),
    Impact(GraphImpact),
    Check(GraphCheck),
    Import(GraphImport),
    Export(GraphExport),
    /// Print the JSON Schema of a file of a catalog, by which an editor completes and checks one.
    Schema,
}

/// What a graph is made of.
#[derive(Debug, Args)]
pub(crate) struct GraphOf {
    /// The services: a directory with their files, or one such file
    #[arg(long, value_name = "DIR")]
    pub(crate) catalog: Option<PathBuf>,

    /// Reports of runs, or directories with such
    ///
    /// What a run reached for counts as a need of the service that it deployed. Takes all words up to the
    /// next flag: names of services go before it.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) runs: Vec<PathBuf>,
}

/// List the services with what each needs, and how that is known.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_GRAPH)]
pub(crate) struct GraphShow {
    #[command(flatten)]
    pub(crate) of: GraphOf,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// Only these services
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

/// List the circles that deployments close: a shortest one for each deployed and contacted service.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_GRAPH)]
pub(crate) struct GraphLoops {
    #[command(flatten)]
    pub(crate) of: GraphOf,

    /// Protect this service; may be given more than once
    ///
    /// With protected services, a circle is transient if one of them lies between on every path.
    #[arg(long, value_name = "SERVICE")]
    pub(crate) protect: Vec<String>,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,
}

/// Say in which order everything comes back from black, and what cannot start.
///
/// Levels: each service needs, to be deployed and to run, only services of the levels before its own. For
/// those that cannot start without each other, which needs to cut.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_GRAPH)]
pub(crate) struct GraphOrder {
    #[command(flatten)]
    pub(crate) of: GraphOf,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,
}

/// Say what an outage does: which deployments still work, which fail, which nobody knows of.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_GRAPH)]
pub(crate) struct GraphImpact {
    #[command(flatten)]
    pub(crate) of: GraphOf,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// What is down
    #[arg(value_name = "SERVICE", required = true)]
    pub(crate) down: Vec<String>,
}

/// Fail on findings that are new, for use in CI.
///
/// A baseline is a file of ids of findings that are known, one in each line; what follows an id is for
/// people.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_GRAPH_CHECK)]
pub(crate) struct GraphCheck {
    #[command(flatten)]
    pub(crate) of: GraphOf,

    /// Protect this service; may be given more than once
    #[arg(long, value_name = "SERVICE")]
    pub(crate) protect: Vec<String>,

    /// The findings that are known
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,

    /// Write the findings of now to the baseline, and exit with 0
    #[arg(long, requires = "baseline")]
    pub(crate) update_baseline: bool,

    /// Only findings as bad as this, or worse, fail
    #[arg(long, value_name = "SEVERITY", default_value = "warning")]
    pub(crate) fail_on: FailOn,

    /// Write SARIF 2.1.0 here
    #[arg(long, value_name = "FILE")]
    pub(crate) sarif: Option<PathBuf>,

    /// Write a summary in Markdown here
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,

    /// Print annotations as GitHub Actions reads them
    #[arg(long)]
    pub(crate) annotations: bool,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,
}

const AFTER_GRAPH_CHECK: &str = "\
Examples:
    blackstart graph check --catalog catalog --runs reports --baseline graph.baseline
    blackstart graph check --catalog catalog --sarif graph.sarif --annotations

Exit codes:
  0    nothing new
  1    new findings, or a file that could not be read in full
  125  typed wrongly, or there is nothing to look at";

/// Take services and needs from what another program knows, as a file of a catalog.
///
/// The file is JSON, which is YAML too: put it below the catalog's directory. What people wrote there goes
/// before it; a service of the same name gains what was found of it. Each need keeps the place that it was
/// found at, as its evidence.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_GRAPH_IMPORT)]
pub(crate) struct GraphImport {
    /// Write it here instead of on standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,

    /// Call a service by another name than the files do; may be given more than once
    #[arg(long = "as", value_name = "OLD=NEW", value_parser = renamed)]
    pub(crate) names: Vec<(String, String)>,

    /// The domain of the Kubernetes cluster
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub(crate) cluster_domain: String,

    /// What the files are
    #[arg(value_name = "FORMAT")]
    pub(crate) format: ImportFormat,

    /// The files
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

/// `OLD=NEW`
fn renamed(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.into(), new.into())),
        _ => Err("write OLD=NEW: the name that the file has, and the catalog's".to_owned()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImportFormat {
    /// Entities, as in `catalog-info.yaml`; the annotations `blackstart.dev/provides` and `blackstart.dev/tier` count
    Backstage,
    /// Dependencies as JSON, what `/api/dependencies` answers
    Jaeger,
    /// Metrics of the OpenTelemetry Collector's service graph connector, as OTLP JSON
    Otlp,
    /// Services, what `kubectl get services -A -o json` prints
    Kubernetes,
}

const AFTER_GRAPH_IMPORT: &str = "\
Examples:
    kubectl get services -A -o json >services.json
    blackstart graph import kubernetes services.json --out catalog/kubernetes.yaml
    blackstart graph import jaeger dependencies.json --as db-main=mysql --out catalog/jaeger.yaml

Exit codes:
  0    done
  1    done, with a file that could not be read in full: the result is partial
  125  typed wrongly, or nothing could be read or written";

/// Write the graph for another program.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_GRAPH)]
pub(crate) struct GraphExport {
    #[command(flatten)]
    pub(crate) of: GraphOf,

    /// In which language
    #[arg(long, value_name = "LANGUAGE", default_value = "json")]
    pub(crate) to: Language,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// JSON, with all evidence; versioned
    Json,
    /// Graphviz
    Dot,
    /// Mermaid
    Mermaid,
    /// A page by itself, for a browser
    Html,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FailOn {
    /// Everything that is new
    Info,
    /// What is worth mending
    Warning,
    /// What broke something, or will
    Error,
}

const AFTER_GRAPH: &str = "\
Examples:
    blackstart graph loops --catalog catalog --runs reports/*.json
    blackstart graph impact github --catalog catalog --runs reports
    blackstart graph order --catalog catalog --format json | jq .levels

Exit codes:
  0    done
  1    done, with a file that could not be read in full: the result is partial
  125  typed wrongly, or there is nothing to look at";

/// Look at the history of this host's runs.
///
/// Each run is taken in when it ends; what could not be then is taken in by the next of these commands. The
/// history is one file, `history.db`, in the directory of the runs' state.
#[derive(Debug, Subcommand)]
pub(crate) enum Runs {
    List(RunsList),
    Show(RunsShow),
    Diff(RunsDiff),
    Export(RunsExport),
    Prune(RunsPrune),
}

/// Which runs.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Only runs that deployed this
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) service: Option<String>,

    /// Only runs that began within this time, such as `12h`, `30d` or `8w`
    #[arg(long, value_name = "TIME", value_parser = age)]
    pub(crate) since: Option<Duration>,
}

/// List runs, the latest first.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_RUNS)]
pub(crate) struct RunsList {
    #[command(flatten)]
    pub(crate) which: Which,

    /// No more than so many; 0 for all
    #[arg(long, value_name = "COUNT", default_value = "50")]
    pub(crate) limit: u64,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,
}

/// Show a run: its summary, its report, or its page.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_RUNS)]
pub(crate) struct RunsShow {
    /// Write the report here; may be given more than once
    ///
    /// As `run --report` does: `.json` is for programs, `.html` a page for people.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Vec<PathBuf>,

    /// Draw the graph of this catalog into a page
    #[arg(long, value_name = "DIR", requires = "report")]
    pub(crate) catalog: Option<PathBuf>,

    /// How to show the result (on standard output)
    ///
    /// `human` is the summary that the run ended with, `json` its report, byte by byte.
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// The run: its id, the beginning or the end of one, or `latest`
    #[arg(value_name = "RUN")]
    pub(crate) run: String,
}

/// Say what a run reached for, looked up and executed that earlier ones did not, and the other way round.
///
/// Of one run: against all earlier runs of its service. New is what none of them had; gone what each of the
/// ten before it had. Of two runs: from the first to the second.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_RUNS)]
pub(crate) struct RunsDiff {
    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// The run, or the first of two: an id, the beginning or the end of one, or `latest`
    #[arg(value_name = "RUN")]
    pub(crate) run: String,

    /// The second
    #[arg(value_name = "RUN")]
    pub(crate) other: Option<String>,
}

/// Write reports as JSON lines: one report in each line, the earliest run first.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_RUNS)]
pub(crate) struct RunsExport {
    #[command(flatten)]
    pub(crate) which: Which,

    /// Write them here instead of on standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Remove runs from the history, with their reports in the directory of the runs' state.
///
/// What is to go is shown, and then removed. Room is given back to the file system.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_RUNS)]
#[group(id = "what", required = true, multiple = true, args = ["older_than", "larger_than"])]
pub(crate) struct RunsPrune {
    /// Remove runs that began longer ago, such as `90d`
    #[arg(long, value_name = "TIME", value_parser = age)]
    pub(crate) older_than: Option<Duration>,

    /// Remove the earliest runs until the history is no larger than this, such as `2GiB`
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) larger_than: Option<u64>,

    /// Only show what would go
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,
}

const AFTER_RUNS: &str = "\
Examples:
    blackstart runs list --service mysql --since 30d
    blackstart runs show latest --report page.html
    blackstart runs diff latest
    blackstart runs export --since 7d >reports.jsonl
    blackstart runs prune --older-than 90d --larger-than 2GiB --dry-run

Exit codes:
  0    done
  1    no such run, or done with a report that could not be taken in: the result is partial
  125  typed wrongly, or the history could not be read or written";

/// How long ago: `12h`, `30d`, `8w`.
fn age(text: &str) -> Result<Duration, String> {
    let split = text.len() - text.chars().last().map_or(0, char::len_utf8);
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err("write a number and its unit: `90m`, `12h`, `30d` or `8w`".to_owned()),
    };
    let number: u64 = whole(number).ok_or("write a whole number before the unit, such as `30d`")?;
    let time = number
        .checked_mul(seconds)
        .filter(|it| *it <= 1000 * 366 * 86_400);
    match time {
        Some(0) => Err("it is no time at all".to_owned()),
        Some(time) => Ok(Duration::from_secs(time)),
        None => Err("it is longer than a thousand years".to_owned()),
    }
}

/// `500MiB`, `2GiB`
fn size(text: &str) -> Result<u64, String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let bytes: u64 = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err("write a whole number and its unit: `500MiB` or `2GiB`".to_owned()),
    };
    whole(number)
        .and_then(|number| number.checked_mul(bytes))
        .ok_or_else(|| "write a whole number and its unit: `500MiB` or `2GiB`".to_owned())
}

/// No sign and no blank, as parsing alone would take.
fn whole(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

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
        let words = ["blackstart", "run"].iter().chain(words);
        match Typed::try_parse_from(words)?.command {
            Command::Run(run) => Ok(*run),
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn definitions_hold_together() {
        Typed::command().debug_assert();
    }

    #[test]
    fn ages_and_sizes_have_units() {
        assert_eq!(age("30d").unwrap().as_secs(), 30 * 86_400);
        assert_eq!(age("8w").unwrap(), age("56d").unwrap());
        for wrong in [
            "",
            "30",
            "d",
            "+3d",
            "3 d",
            "0d",
            "1.5d",
            "99999999999999999w",
            "3ä",
            "9999999d",
        ] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
        assert_eq!(size("2GiB").unwrap(), 2 << 30);
        assert_eq!(size("0MiB").unwrap(), 0);
        for wrong in ["", "2", "GiB", "2GB", "-1GiB", "2 GiB", "99999999999TiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
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
        assert_eq!(typed.command, [odd]);
    }
}
